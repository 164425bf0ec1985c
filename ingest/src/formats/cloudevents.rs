//! CloudEvents 1.0 in JSON (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).
//!
//! `farebox.request.v1` is one API request; its `data` is [`RequestData`]: `latency_us` in microseconds, sizes in
//! bytes, all numbers whole. Members of `data` that have no meaning of their own, and those of `data.properties`, are
//! kept as properties. Any other type is a custom usage event: its whole `data` is properties. Properties are kept
//! by JSON pointer with the number's digits as sent. Identity: `source` and `id`, unless `data.decision` is there.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use farebox_core::api_path;
use farebox_core::event::{AnsweredBy, REQUEST, RequestData};
use serde_json::value::RawValue;

use super::{Draft, latency, micros, status, without_secret};
use crate::fields::{Object, escape, read, text};
use crate::verdict::{Reason, Rejection};

/// Properties of one event, at most, and the longest value.
const MAX_PROPERTIES: usize = 128;
const MAX_PROPERTY: usize = 4096;

pub fn decode(record: &[u8]) -> Result<Draft, Rejection> {
    let event = Object::from_record(record)?;
    // Leniently, so that a rejection can name the event.
    let named = |key| event.get(key).and_then(|raw| text(raw, String::new).ok()).unwrap_or_default();
    draft(&event).map_err(|rejection| rejection.of_event(&named("source"), &named("id")))
}

fn draft(event: &Object) -> Result<Draft, Rejection> {
    let version = event.get("specversion").ok_or_else(|| Rejection::missing("/specversion"))?;
    if read(version, || "/specversion".to_owned())? != "1.0" {
        return Err(Rejection::new(Reason::UnsupportedSpecversion, "/specversion", "/specversion must be \"1.0\"."));
    }
    let source = event.required_text("source")?;
    let id = event.required_text("id")?;
    let kind = event.required_text("type")?;
    let subject = without_secret(event.text("subject")?);
    let time = event.get("time").map(time).transpose()?;
    if event.get("data_base64").is_some() {
        return Err(Rejection::new(Reason::UnsupportedData, "/data_base64", "Binary data is not read. Send JSON in /data."));
    }
    let data = match (event.get("data"), kind == REQUEST) {
        (None, _) => RequestData::default(),
        (Some(raw), true) => request(&Object::from_value(raw, "/data".to_owned())?)?,
        (Some(raw), false) => RequestData { properties: properties(raw)?, ..RequestData::default() },
    };
    Ok(Draft { source: Some(source), id: Some(id), kind, time, subject, data })
}

fn time(raw: &RawValue) -> Result<DateTime<Utc>, Rejection> {
    let written = read(raw, || "/time".to_owned())?;
    let time = DateTime::parse_from_rfc3339(&written)
        .map_err(|_| Rejection::new(Reason::InvalidTime, "/time", "/time must be RFC 3339, such as 2026-11-21T13:40:35.123Z."))?;
    Ok(micros(time.with_timezone(&Utc)))
}

fn request(data: &Object) -> Result<RequestData, Rejection> {
    let mut request = RequestData::default();
    for (key, raw) in data.iter().filter(|(_, raw)| raw.get() != "null") {
        let at = || data.at(key);
        match key {
            "api" => request.api = text(raw, at)?,
            "api_version" => request.api_version = text(raw, at)?,
            "route" => api_path::without_query(&read(raw, at)?).clone_into(&mut request.route),
            "method" => request.method = read(raw, at)?.to_ascii_uppercase(),
            "status" => request.status = status(number(raw, at)?, at)?,
            "latency_us" => request.latency_us = latency(number(raw, at)?),
            "request_bytes" => request.request_bytes = number(raw, at)?,
            "response_bytes" => request.response_bytes = number(raw, at)?,
            "cached" => request.cached = serde_json::from_str(raw.get()).map_err(|_| Rejection::wrong_type(at(), "true or false"))?,
            "answered_by" => request.answered_by = answered_by(&read(raw, at)?, at)?,
            "decision" => request.decision = text(raw, at)?,
            "credential" => request.credential = without_secret(text(raw, at)?),
            "environment" => request.environment = text(raw, at)?,
            "gateway" => request.gateway = text(raw, at)?,
            "client_country" => request.client_country = country(&read(raw, at)?, at)?,
            "marker" => request.marker = marker(&read(raw, at)?, at)?,
            "properties" => {
                let members = Object::from_value(raw, at())?;
                for (name, value) in members.iter() {
                    flatten(value, format!("/{}", escape(name)), &mut request.properties)?;
                }
            }
            _ => flatten(raw, format!("/{}", escape(key)), &mut request.properties)?,
        }
    }
    Ok(request)
}

/// Whole numbers only, and not in quotes: a CloudEvent is written for us, so what deviates is a mistake.
fn number(raw: &RawValue, pointer: impl FnOnce() -> String) -> Result<u64, Rejection> {
    if raw.get().starts_with('"') {
        return Err(Rejection::wrong_type(pointer(), "a number, without quotes"));
    }
    crate::fields::scaled(raw, 0, pointer)
}

pub(super) fn answered_by(value: &str, pointer: impl FnOnce() -> String) -> Result<AnsweredBy, Rejection> {
    match value {
        "upstream" => Ok(AnsweredBy::Upstream),
        "gateway" => Ok(AnsweredBy::Gateway),
        "cache" => Ok(AnsweredBy::Cache),
        "" | "unknown" => Ok(AnsweredBy::Unknown),
        _ => Err(Rejection::out_of_range(pointer(), "`upstream`, `gateway`, `cache` or `unknown`")),
    }
}

pub(super) fn country(value: &str, pointer: impl FnOnce() -> String) -> Result<String, Rejection> {
    let fits = value.is_empty() || (value.len() == 2 && value.bytes().all(|b| b.is_ascii_alphabetic()));
    if fits { Ok(value.to_ascii_uppercase()) } else { Err(Rejection::out_of_range(pointer(), "an ISO 3166-1 code of two letters")) }
}

pub(super) fn marker(value: &str, pointer: impl FnOnce() -> String) -> Result<String, Rejection> {
    match value {
        "" | "mirror" | "health_check" | "retry" => Ok(value.to_owned()),
        _ => Err(Rejection::out_of_range(pointer(), "`mirror`, `health_check` or `retry`")),
    }
}

fn properties(data: &RawValue) -> Result<BTreeMap<String, String>, Rejection> {
    let mut properties = BTreeMap::new();
    flatten(data, String::new(), &mut properties)?;
    Ok(properties)
}

/// Scalars by their pointer; nulls are left out. Bounded in depth by [`crate::fields::MAX_DEPTH`].
fn flatten(raw: &RawValue, pointer: String, into: &mut BTreeMap<String, String>) -> Result<(), Rejection> {
    let written = raw.get();
    let value = match written.as_bytes().first() {
        Some(b'{') => {
            for (key, value) in Object::from_value(raw, pointer.clone())?.iter() {
                flatten(value, format!("{pointer}/{}", escape(key)), into)?;
            }
            return Ok(());
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(written).map_err(|_| Rejection::wrong_type(&pointer, "an array"))?;
            for (index, value) in items.into_iter().enumerate() {
                flatten(value, format!("{pointer}/{index}"), into)?;
            }
            return Ok(());
        }
        Some(b'"') => text(raw, || pointer.clone())?,
        Some(b'n') => return Ok(()),
        _ => written.to_owned(),
    };
    if value.len() > MAX_PROPERTY || pointer.len() > MAX_PROPERTY {
        return Err(Rejection::out_of_range(crate::fields::shorten(&pointer), "at most 4096 bytes long"));
    }
    into.insert(pointer, value);
    if into.len() > MAX_PROPERTIES {
        return Err(Rejection::new(Reason::OutOfRange, "/data", format!("An event has at most {MAX_PROPERTIES} properties.")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::sample;

    fn reason(record: &str) -> (Reason, String) {
        let rejection = decode(record.as_bytes()).expect_err(record);
        (rejection.reason, rejection.pointer)
    }

    #[test]
    fn a_request_is_read_whole() {
        insta::assert_debug_snapshot!(decode(sample("cloudevents").as_bytes()).expect("a true sample"));
    }

    #[test]
    fn a_custom_event_keeps_its_numbers_as_sent() {
        let draft = decode(br#"{"specversion":"1.0","id":"1","source":"app","type":"llm.completion","subject":"a","data":{"total_tokens":12.340,"m/n":[true,null,"x"]}}"#)
            .expect("it is right");
        let expected = [("/total_tokens", "12.340"), ("/m~1n/0", "true"), ("/m~1n/2", "x")];
        assert_eq!(draft.data.properties, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(draft.time, None);
    }

    #[test]
    fn each_mistake_has_its_reason() {
        let event = |data: &str| format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"farebox.request.v1","data":{data}}}"#);
        let cases = [
            ("{".to_owned(), Reason::InvalidJson, ""),
            ("[]".to_owned(), Reason::NotAnObject, ""),
            ("7".to_owned(), Reason::NotAnObject, ""),
            (r#"{"specversion":"0.3"}"#.to_owned(), Reason::UnsupportedSpecversion, "/specversion"),
            (r#"{"specversion":"1.0","source":"s","type":"t"}"#.to_owned(), Reason::MissingField, "/id"),
            (r#"{"specversion":"1.0","source":"s","type":"t","id":""}"#.to_owned(), Reason::MissingField, "/id"),
            (r#"{"specversion":"1.0","source":"s","type":"t","id":7}"#.to_owned(), Reason::WrongType, "/id"),
            (r#"{"specversion":"1.0","source":"s","type":"t","id":"1","time":"yesterday"}"#.to_owned(), Reason::InvalidTime, "/time"),
            (
                r#"{"specversion":"1.0","source":"s","type":"t","id":"1","data_base64":"AA=="}"#.to_owned(),
                Reason::UnsupportedData,
                "/data_base64",
            ),
            (event("[]"), Reason::WrongType, "/data"),
            (event(r#"{"status":"200"}"#), Reason::WrongType, "/data/status"),
            (event(r#"{"status":700}"#), Reason::OutOfRange, "/data/status"),
            (event(r#"{"latency_us":-1}"#), Reason::OutOfRange, "/data/latency_us"),
            (event(r#"{"response_bytes":1e30}"#), Reason::OutOfRange, "/data/response_bytes"),
            (event(r#"{"status":200,"status":200}"#), Reason::DuplicateKey, "/data"),
            (event(&format!("{}{}", "[".repeat(99), "]".repeat(99))), Reason::TooDeep, ""),
            (event(r#"{"status":NaN}"#), Reason::InvalidJson, ""),
        ];
        for (record, expected, pointer) in cases {
            assert_eq!(reason(&record), (expected, pointer.to_owned()), "{record}");
        }
        let named = decode(br#"{"specversion":"1.0","source":"s","id":"n-1"}"#).expect_err("no type");
        assert_eq!((named.source.as_str(), named.id.as_str()), ("s", "n-1"));
    }
}
