//! Logs of an operator's own making (APISIX `log_format`, nginx, Envoy, AWS, anything that is JSON), read by a field map
//! of the catalogue: JSON pointer, type and unit per field ([`farebox_core::field_map`]).
//!
//! Numbers in quotes are numbers; null, an empty text, `-` and the map's own words say "not set". The time and, where it
//! is mapped, the status must be there; all else may be missing. Without a time zone a time is refused.
//!
//! Id: `decision`; else `id`; else `request_id`, joined with a hash of the record; else none.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, Timelike, Utc};
use farebox_core::event::{AnsweredBy, RequestData};
use farebox_core::field_map::{Field, FieldMap, Kind, Reading, Unit};
use serde_json::value::RawValue;

use super::cloudevents::{answered_by, country, marker};
use super::{Draft, api_of, began, clipped, decision, hashed, joined, latency, method, route_of, secret, status, times};
use crate::fields::{Object, amount, log_text, said};
use crate::intake::hash_of;
use crate::mask::{masked, masked_hash};
use crate::verdict::Rejection;

/// Properties have at most so many bytes each; longer ones are cut.
const MAX_PROPERTY: usize = 4096;

/// A field map, ready to read with.
#[derive(Debug, PartialEq, Eq)]
pub struct Mapped {
    map: FieldMap,
    /// The pointers' parts.
    ways: BTreeMap<Field, Vec<String>>,
    properties: Vec<(String, Vec<String>)>,
    /// Names of members with secrets, as [`crate::mask`] compares them.
    secrets: Vec<String>,
}

impl Mapped {
    pub fn new(map: FieldMap) -> Self {
        let ways: BTreeMap<Field, Vec<String>> = map.fields.iter().map(|(field, reading)| (*field, parts(&reading.pointer))).collect();
        let properties = map.properties.iter().map(|pointer| (pointer.clone(), parts(pointer))).collect();
        let named = |field: &Field, reading: &Reading| {
            let name = (reading.kind == Kind::Secret).then(|| ways.get(field)?.last())??;
            Some(name.to_ascii_lowercase().replace('_', "-"))
        };
        let secrets = map.fields.iter().filter_map(|(field, reading)| named(field, reading)).collect();
        Self { map, ways, properties, secrets }
    }

    pub fn name(&self) -> &str {
        &self.map.name
    }

    /// Without secrets, those among them that the map names.
    pub fn masked<'a>(&self, record: &'a [u8]) -> Cow<'a, [u8]> {
        masked(record, &self.secrets)
    }

    pub fn decode(&self, record: &[u8]) -> Result<Draft, Rejection> {
        let text = log_text(record);
        let log = Record { mapped: self, log: Object::from_text(&text)? };
        let (id, request_id) = (log.text(Field::Id)?, log.text(Field::RequestId)?);
        let named = if id.is_empty() { request_id.clone() } else { id.clone() };
        let id = if id.is_empty() { joined(&request_id, || hash_of(&self.masked(record))) } else { Some(id) };
        log.draft(id).map_err(|rejection| rejection.of_event("", &named))
    }
}

fn parts(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect()
}

struct Record<'a> {
    mapped: &'a Mapped,
    log: Object<'a>,
}

impl Record<'_> {
    fn draft(&self, id: Option<String>) -> Result<Draft, Rejection> {
        let latency_us = self.number(Field::Latency, 6)?.unwrap_or(0);
        let time = self.time(latency_us)?;
        let path = self.text(Field::Path)?;
        let named = self.text(Field::Route)?;
        let route = if named.is_empty() { route_of(&path) } else { named };
        let (api, version_in_path) = api_of(self.text(Field::Api)?, &path, !route.is_empty());
        let version = self.text(Field::ApiVersion)?;
        let at = |field| move || self.pointer(field).to_owned();
        let answer = match self.number(Field::Status, 0)? {
            None if self.reading(Field::Status).is_some() => return Err(Rejection::missing(self.pointer(Field::Status))),
            answer => answer.unwrap_or(0),
        };
        let cached = self.truth(Field::Cached)?;
        let told = answered_by(&self.text(Field::AnsweredBy)?, at(Field::AnsweredBy))?;
        let data = RequestData {
            api,
            api_version: if version.is_empty() { version_in_path } else { version },
            route,
            method: method(self.text(Field::Method)?),
            status: status(answer, at(Field::Status))?,
            latency_us: latency(latency_us),
            request_bytes: self.number(Field::RequestBytes, 0)?.unwrap_or(0),
            response_bytes: self.number(Field::ResponseBytes, 0)?.unwrap_or(0),
            cached,
            answered_by: if cached && told == AnsweredBy::Unknown { AnsweredBy::Cache } else { told },
            decision: decision(self.text(Field::Decision)?),
            credential: self.text(Field::Credential)?,
            environment: self.text(Field::Environment)?,
            gateway: self.text(Field::Gateway)?,
            client_country: country(&self.text(Field::ClientCountry)?, at(Field::ClientCountry))?,
            marker: marker(&self.text(Field::Marker)?, at(Field::Marker))?,
            properties: self.properties()?,
        };
        let draft = Draft::call(time, id, self.text(Field::Subject)?, data);
        Ok(Draft { kind: self.mapped.map.event.clone(), ..draft })
    }

    fn reading(&self, field: Field) -> Option<&Reading> {
        self.mapped.map.fields.get(&field)
    }

    fn pointer(&self, field: Field) -> &str {
        self.reading(field).map_or("", |reading| &reading.pointer)
    }

    /// The field's value, None when it is not mapped, not there, or not set.
    fn raw(&self, field: Field) -> Result<Option<&RawValue>, Rejection> {
        let (Some(reading), Some(way)) = (self.reading(field), self.mapped.ways.get(&field)) else { return Ok(None) };
        let Some(raw) = find(&self.log, way)? else { return Ok(None) };
        if !reading.unset.is_empty() {
            let is_unset = match masked_hash(raw.get()).filter(|_| reading.kind == Kind::Secret) {
                Some(hash) => reading.unset.iter().any(|word| hashed(word).ends_with(hash)),
                None => reading.unset.contains(&said(raw, || reading.pointer.clone())?),
            };
            if is_unset {
                return Ok(None);
            }
        }
        Ok(Some(raw))
    }

    fn text(&self, field: Field) -> Result<String, Rejection> {
        let Some(raw) = self.raw(field)? else { return Ok(String::new()) };
        let read = if self.reading(field).is_some_and(|reading| reading.kind == Kind::Secret) { secret } else { said };
        read(raw, || self.pointer(field).to_owned())
    }

    /// A number of seconds or bytes, or of whatever is ten to the `-power` of them.
    fn number(&self, field: Field, power: i64) -> Result<Option<u64>, Rejection> {
        let Some(raw) = self.raw(field)? else { return Ok(None) };
        let unit = self.reading(field).and_then(|reading| reading.unit).map_or(0, Unit::power);
        amount(raw, power + unit, || self.pointer(field).to_owned())
    }

    fn truth(&self, field: Field) -> Result<bool, Rejection> {
        match self.text(field)?.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "hit" => Ok(true),
            "" | "false" | "0" | "no" | "miss" | "bypass" | "expired" | "stale" => Ok(false),
            _ => Err(Rejection::wrong_type(self.pointer(field), "true or false")),
        }
    }

    fn time(&self, latency_us: u64) -> Result<DateTime<Utc>, Rejection> {
        let field = if self.reading(Field::Time).is_some() { Field::Time } else { Field::EndTime };
        let place = || self.pointer(field).to_owned();
        let kind = self.reading(field).map_or(Kind::Rfc3339, |reading| reading.kind);
        let time = match kind {
            Kind::Epoch => times::at_least(self.number(field, 6)?, place)?,
            _ => match self.text(field)? {
                written if written.is_empty() => None,
                written if kind == Kind::Clf => Some(times::clf(&written, place)?),
                written => Some(times::iso(&written, place)?),
            },
        };
        let time = time.ok_or_else(|| Rejection::missing(self.pointer(field)))?;
        if field == Field::Time {
            return Ok(time);
        }
        // An end in whole seconds was cut off: taking off a fraction could reach into the period before.
        let whole_seconds = time.nanosecond() == 0;
        Ok(began(time, if whole_seconds { latency_us / 1_000_000 * 1_000_000 } else { latency_us }))
    }

    fn properties(&self) -> Result<BTreeMap<String, String>, Rejection> {
        let mut properties = BTreeMap::new();
        for (pointer, way) in &self.mapped.properties {
            if let Some(raw) = find(&self.log, way)? {
                properties.insert(pointer.clone(), clipped(said(raw, || pointer.clone())?, MAX_PROPERTY));
            }
        }
        Ok(properties)
    }
}

/// The value at the end of the way; None when it is not there, or null.
fn find<'a>(log: &Object<'a>, way: &[String]) -> Result<Option<&'a RawValue>, Rejection> {
    let Some((first, rest)) = way.split_first() else { return Ok(None) };
    let Some(mut raw) = log.get(first) else { return Ok(None) };
    let mut pointer = log.at(first);
    for part in rest {
        let next = match raw.get().as_bytes().first() {
            Some(b'{') => {
                let object = Object::from_value(raw, pointer)?;
                pointer = object.at(part);
                object.get(part)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
                pointer = format!("{pointer}/{part}");
                part.parse::<usize>().ok().and_then(|index| items.get(index).copied()).filter(|raw| raw.get() != "null")
            }
            _ => None,
        };
        match next {
            None => return Ok(None),
            Some(next) => raw = next,
        }
    }
    Ok(Some(raw))
}

#[cfg(test)]
mod tests {
    use farebox_core::field_map::reading;
    use serde_json::{Value, json};

    use super::*;
    use crate::verdict::Reason;

    fn mapped(fields: &[(&str, &str, Option<&str>, Option<&str>)], properties: &[&str]) -> Mapped {
        let unset = |name: &str| if name == "subject" { vec!["anonymous".to_owned()] } else { Vec::new() };
        let fields = fields.iter().map(|(name, pointer, kind, unit)| reading(name, pointer, *kind, *unit, &unset(name)).expect("a field"));
        Mapped::new(FieldMap {
            name: "edge-log".to_owned(),
            event: farebox_core::event::REQUEST.to_owned(),
            fields: fields.collect(),
            properties: properties.iter().map(|p| (*p).to_owned()).collect(),
        })
    }

    /// What APISIX writes with a `log_format` of its operator's: numbers as texts, times in whole seconds.
    fn apisix() -> Mapped {
        mapped(
            &[
                ("end_time", "/@timestamp", Some("rfc3339"), None),
                ("decision", "/decision", None, None),
                ("request_id", "/rid", None, None),
                ("subject", "/consumer_name", None, None),
                ("route", "/route_id", None, None),
                ("path", "/request/uri", None, None),
                ("method", "/request/method", None, None),
                ("status", "/status", None, None),
                ("latency", "/took", None, Some("s")),
                ("response_bytes", "/sent", None, Some("kB")),
                ("credential", "/key", Some("secret"), None),
                ("cached", "/cache", None, None),
            ],
            &["/env", "/edge/0/pop"],
        )
    }

    const CUSTOM: &str = r#"{"@timestamp":"2026-11-21T13:40:35+00:00","host":"192.0.2.7","route_id":"orders-v1","consumer_name":"initech-prod","request":{"method":"GET","uri":"/v1/orders/7?token=s3cret"},"status":"200","took":"1.052","sent":"1.5","key":"s3cret","cache":"HIT","rid":"mine","env":"dev","edge":[{"pop":"fra"}]}"#;

    fn with(key: &str, value: Value) -> Result<Draft, Rejection> {
        let mut log: Value = serde_json::from_str(CUSTOM).expect("a record");
        log[key] = value;
        apisix().decode(log.to_string().as_bytes())
    }

    #[test]
    fn an_operators_log_is_read_by_its_map() {
        let draft = apisix().decode(CUSTOM.as_bytes()).expect("it is right");
        assert!(!format!("{draft:?}").contains("s3cret"));
        insta::assert_debug_snapshot!(draft);
    }

    #[test]
    fn what_is_not_set_is_not_there() {
        assert_eq!(with("consumer_name", json!("anonymous")).expect("it is right").subject, "");
        assert_eq!(with("consumer_name", json!(null)).expect("it is right").subject, "");
        assert_eq!(with("sent", json!("-")).expect("it is right").data.response_bytes, 0);
        assert_eq!(with("@timestamp", json!("")).expect_err("no time").reason, Reason::MissingField);
        assert_eq!(with("status", json!("-")).expect_err("no status").reason, Reason::MissingField);
        let wrong = with("status", json!({})).expect_err("no number");
        assert_eq!((wrong.reason, wrong.pointer.as_str(), wrong.id.as_str()), (Reason::WrongType, "/status", "mine"));
        assert_eq!(with("request", json!("GET /")).expect("the way ends early").data.method, "");
    }

    #[test]
    fn each_unit_is_what_it_says() {
        for (unit, number) in [
            ("s", json!(1_795_268_435.453_021)),
            ("ms", json!("1795268435453.021")),
            ("us", json!(1_795_268_435_453_021_u64)),
            ("ns", json!(1_795_268_435_453_021_999_u64)),
        ] {
            let map = mapped(&[("time", "/a~1b", Some("epoch"), Some(unit)), ("latency", "/t", None, Some(unit))], &[]);
            let draft = map.decode(json!({ "a/b": number, "t": number }).to_string().as_bytes()).expect("it is right");
            assert_eq!(draft.time.expect("a time").to_rfc3339(), "2026-11-21T13:40:35.453021+00:00", "{unit}");
            assert_eq!(draft.data.latency_us, u32::MAX);
            let early = map.decode(json!({ "a/b": 5 }).to_string().as_bytes()).expect_err("1970");
            assert_eq!(early.reason, Reason::InvalidTime);
        }
        let map = mapped(&[("end_time", "/t", Some("clf"), None), ("latency", "/l", None, Some("ms"))], &[]);
        let draft = map.decode(br#"{"t":"[21/Nov/2026:14:40:35 +0100]","l":2500}"#).expect("it is right");
        assert_eq!(draft.time.expect("a time").to_rfc3339(), "2026-11-21T13:40:33+00:00");
    }

    #[test]
    fn a_clients_id_is_joined_and_a_gateways_is_not() {
        let id = |took: &str| with("took", json!(took)).expect("it is right").id.expect("an id");
        assert!(id("1").starts_with("mine/"));
        assert_ne!(id("1"), id("2"));
        let map = mapped(&[("time", "/t", None, None), ("id", "/i", None, None)], &[]);
        let draft = map.decode(br#"{"t":"2026-11-21T13:40:35Z","i":77}"#).expect("it is right");
        assert_eq!(draft.id.as_deref(), Some("77"));
    }
}
