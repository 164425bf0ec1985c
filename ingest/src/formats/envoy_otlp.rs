//! Envoy's OpenTelemetry access log, with the attributes of `deploy/gateways/envoy/envoy.yaml`.
//!
//! Units: `time_unix_nano` nanoseconds (when the request began), `duration_us` microseconds, `bytes_in` and `bytes_out`
//! bytes of bodies without headers. Envoy writes every attribute as a text, with `-` for unset. The principal, plan and
//! decision are what `/v1/decide` answered, kept by Envoy as metadata that no caller can set.
//!
//! Id: the decision; else `farebox.id` (the request id) joined with the start in nanoseconds, because an Envoy whose
//! configuration keeps a client's `x-request-id` would let a client make many calls look like one; else none.

use std::collections::HashMap;

use chrono::DateTime;
use farebox_core::api_path;
use farebox_core::event::{AnsweredBy, REQUEST, RequestData};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;

use super::{Draft, latency, status, without_secret};
use crate::fields::{MAX_DEPTH, decimal, is_shallow};
use crate::verdict::{Reason, Rejection};

/// Reads a record as OTLP/JSON, which is how dead letters keep it.
pub fn decode(record: &[u8]) -> Result<Draft, Rejection> {
    let text = std::str::from_utf8(record).map_err(|_| Rejection::new(Reason::InvalidJson, "", "The record is not UTF-8."))?;
    if !is_shallow(text) {
        return Err(Rejection::new(Reason::TooDeep, "", format!("The record is nested more than {MAX_DEPTH} deep.")));
    }
    let record: LogRecord = serde_json::from_str(text)
        .map_err(|e| Rejection::new(Reason::InvalidJson, "", format!("The record is not an OTLP log record in JSON: {e}.")))?;
    decode_record(&record)
}

pub fn decode_record(record: &LogRecord) -> Result<Draft, Rejection> {
    let attributes = Attributes::of(record);
    let decision = attributes.text("farebox.decision");
    let request_id = attributes.text("farebox.id");
    draft(record, &attributes).map_err(|rejection| {
        let id = if decision.is_empty() { &request_id } else { &decision };
        rejection.of_event("", id)
    })
}

fn draft(record: &LogRecord, attributes: &Attributes) -> Result<Draft, Rejection> {
    let nanos = i64::try_from(record.time_unix_nano).ok().filter(|n| *n > 0);
    let time = nanos.and_then(|n| DateTime::from_timestamp_micros(n / 1000));
    let time = time.ok_or_else(|| Rejection::new(Reason::InvalidTime, "/timeUnixNano", "/timeUnixNano must be nanoseconds since 1970."))?;
    let answer = attributes.number("http.response.status_code")?.ok_or_else(|| Rejection::missing("http.response.status_code"))?;

    let route = route(attributes.text("http.route"));
    let (api, api_version) = if route.is_empty() {
        Default::default()
    } else {
        api_path::api_and_version(api_path::without_query(&attributes.text("url.path")))
    };
    let request_id = attributes.text("farebox.id");
    let subject = without_secret(attributes.text("farebox.consumer"));
    Ok(Draft {
        source: None,
        id: (!request_id.is_empty()).then(|| format!("{request_id}/{}", record.time_unix_nano)),
        kind: REQUEST.to_owned(),
        time: Some(time),
        subject,
        data: RequestData {
            api: attributes.given("farebox.api").unwrap_or(api),
            api_version: attributes.given("farebox.api_version").unwrap_or(api_version),
            route,
            method: attributes.text("http.request.method"),
            status: status(answer, "http.response.status_code")?,
            latency_us: latency(attributes.number("duration_us")?.unwrap_or(0)),
            request_bytes: attributes.number("bytes_in")?.unwrap_or(0),
            response_bytes: attributes.number("bytes_out")?.unwrap_or(0),
            answered_by: answered_by(&attributes.text("response_code_details"), &attributes.text("response_flags")),
            decision: attributes.text("farebox.decision"),
            credential: without_secret(attributes.text("farebox.credential")),
            gateway: "envoy".to_owned(),
            ..RequestData::default()
        },
    })
}

/// `METHOD name`, where Envoy writes `-` for a name when no route matched.
fn route(written: String) -> String {
    if written.ends_with(" -") { String::new() } else { written }
}

/// By Envoy's own word (`via_upstream`) where it is logged, else by the response flags: without any, the upstream
/// answered; when the client hung up (`DC`) it cannot be told; every other flag names why Envoy answered itself.
fn answered_by(details: &str, flags: &str) -> AnsweredBy {
    match (details, flags) {
        ("via_upstream", _) | ("", "") => AnsweredBy::Upstream,
        (_, flags) if flags.split(',').any(|f| f == "DC") => AnsweredBy::Unknown,
        _ => AnsweredBy::Gateway,
    }
}

/// The attributes that are texts or whole numbers; of a name that stands twice, the first.
struct Attributes<'a>(HashMap<&'a str, Scalar<'a>>);

enum Scalar<'a> {
    Text(&'a str),
    Int(i64),
}

impl<'a> Attributes<'a> {
    fn of(record: &'a LogRecord) -> Self {
        let mut known = HashMap::with_capacity(record.attributes.len());
        for attribute in &record.attributes {
            let scalar = match attribute.value.as_ref().and_then(|v| v.value.as_ref()) {
                Some(Value::StringValue(text)) => Scalar::Text(text),
                Some(Value::IntValue(number)) => Scalar::Int(*number),
                _ => continue,
            };
            known.entry(attribute.key.as_str()).or_insert(scalar);
        }
        Self(known)
    }

    /// None when absent, empty or `-`.
    fn given(&self, key: &str) -> Option<String> {
        let text = match self.0.get(key)? {
            Scalar::Text(text) => (*text).to_owned(),
            Scalar::Int(number) => number.to_string(),
        };
        (!text.is_empty() && text != "-").then_some(text)
    }

    fn text(&self, key: &str) -> String {
        self.given(key).unwrap_or_default()
    }

    fn number(&self, key: &str) -> Result<Option<u64>, Rejection> {
        let Some(text) = self.given(key) else { return Ok(None) };
        match decimal(&text, 0) {
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => Err(Rejection::out_of_range(key, "a number from 0 to 18446744073709551615")),
            None => Err(Rejection::wrong_type(key, "a number")),
        }
    }
}

#[cfg(test)]
pub(super) const SAMPLE: &str = r#"{"timeUnixNano":"1795268435453021000","body":{"stringValue":"GET /v1/orders/7"},"attributes":[{"key":"farebox.id","value":{"stringValue":"4e497d36-3498-40d9-8262-ae6f2d5f26c5"}},{"key":"farebox.consumer","value":{"stringValue":"con_77"}},{"key":"farebox.credential","value":{"stringValue":"cred_9"}},{"key":"farebox.decision","value":{"stringValue":"3be4d158fa374d81a5ae5790f7e4a953"}},{"key":"http.route","value":{"stringValue":"GET /orders/{id}"}},{"key":"http.request.method","value":{"stringValue":"GET"}},{"key":"url.path","value":{"stringValue":"/v1/orders/7"}},{"key":"http.response.status_code","value":{"stringValue":"200"}},{"key":"duration_us","value":{"stringValue":"3231"}},{"key":"bytes_in","value":{"stringValue":"0"}},{"key":"bytes_out","value":{"stringValue":"443"}},{"key":"response_flags","value":{"stringValue":"-"}}]}"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: &str) -> String {
        let mut record: serde_json::Value = serde_json::from_str(SAMPLE).expect("a true sample");
        let attributes = record["attributes"].as_array_mut().expect("an array");
        attributes.retain(|a| a["key"] != key);
        attributes.push(serde_json::json!({"key": key, "value": {"stringValue": value}}));
        record.to_string()
    }

    #[test]
    fn a_call_is_read_whole() {
        insta::assert_debug_snapshot!(decode(SAMPLE.as_bytes()).expect("a true sample"));
    }

    #[test]
    fn a_dash_is_unset_and_a_status_must_be_there() {
        let draft = decode(with("farebox.consumer", "-").as_bytes()).expect("anonymous");
        assert_eq!(draft.subject, "");
        let unrouted = decode(with("http.route", "GET -").as_bytes()).expect("no route");
        assert_eq!((unrouted.data.route.as_str(), unrouted.data.api.as_str()), ("", ""));
        assert_eq!(decode(with("http.response.status_code", "-").as_bytes()).expect_err("no status").reason, Reason::MissingField);
        assert_eq!(decode(with("duration_us", "fast").as_bytes()).expect_err("no number").reason, Reason::WrongType);
    }

    #[test]
    fn who_answered_is_told_by_details_or_flags() {
        assert_eq!(answered_by("via_upstream", ""), AnsweredBy::Upstream);
        assert_eq!(answered_by("", ""), AnsweredBy::Upstream);
        assert_eq!(answered_by("ext_authz_denied", "UAEX"), AnsweredBy::Gateway);
        assert_eq!(answered_by("", "UF,URX"), AnsweredBy::Gateway);
        assert_eq!(answered_by("downstream_remote_disconnect", "DC"), AnsweredBy::Unknown);
    }

    #[test]
    fn a_clients_request_id_does_not_make_two_calls_one() {
        let other = SAMPLE.replace("1795268435453021000", "1795268435453021001");
        let id = |record: &str| decode(record.as_bytes()).expect("a true sample").id;
        assert_ne!(id(SAMPLE), id(&other));
    }
}
