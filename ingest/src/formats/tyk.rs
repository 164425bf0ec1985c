//! Tyk's analytics record, as Tyk Pump writes it to Kafka.
//!
//! Units: `timestamp` is RFC 3339 and the **end** of the request, so the start is earlier by the duration;
//! `request_time_ms` (`request_time` in other pumps) milliseconds; `content_length` bytes of the request's body, -1 when
//! unknown. There is no size of the response. `api_key` is the raw key by default: it is hashed at once, and only the
//! hash (`sha256:<hex>`) is the principal; `00000000` is the anonymous one. `tags`, which repeat the key, and the raw
//! request and response are never kept. The API is `api_id`, its version `api_version` (`Non Versioned` is none), the
//! route the `path`.
//!
//! Id: none is in the record.

use farebox_core::event::RequestData;

use super::{Draft, began, latency, method, route_of, secret, status, times};
use crate::fields::{Log, Object, log_text};
use crate::verdict::Rejection;

pub fn decode(record: &[u8]) -> Result<Draft, Rejection> {
    let text = log_text(record);
    let log = Object::from_text(&text)?;
    let end = match log.said("timestamp")? {
        written if written.is_empty() => return Err(Rejection::missing("/timestamp")),
        written => times::iso(&written, || log.at("timestamp"))?,
    };
    let answer = log.amount("response_code", 0)?.ok_or_else(|| Rejection::missing("/response_code"))?;
    let latency_us = log.first_amount(&[("request_time_ms", 3), ("request_time", 3)])?.unwrap_or(0);
    let version = log.said("api_version")?;
    let data = RequestData {
        api: log.first_said(&["api_id", "api_name"])?,
        api_version: if version.eq_ignore_ascii_case("Non Versioned") { String::new() } else { version },
        route: route_of(&log.first_said(&["path", "raw_path"])?),
        method: method(log.said("method")?),
        status: status(answer, || log.at("response_code"))?,
        latency_us: latency(latency_us),
        request_bytes: log.amount("content_length", 0)?.unwrap_or(0),
        client_country: country(&log)?,
        gateway: "tyk".to_owned(),
        ..RequestData::default()
    };
    Ok(Draft::call(began(end, latency_us), None, principal(&log)?, data))
}

/// Keyless calls and calls refused for want of a key have zeros instead of one.
fn principal(log: &Object) -> Result<String, Rejection> {
    match log.get("api_key") {
        Some(key) if !key.get().trim_matches('"').bytes().all(|b| b == b'0') => secret(key, || log.at("api_key")),
        _ => Ok(String::new()),
    }
}

/// From `geo.country.iso_code`, where the pump looks addresses up; what is no code is left out.
fn country(log: &Object) -> Result<String, Rejection> {
    let Some(country) = log.object("geo")?.map_or(Ok(None), |geo| geo.object("country"))? else { return Ok(String::new()) };
    let code = country.said("iso_code")?;
    Ok(if code.len() == 2 && code.bytes().all(|b| b.is_ascii_alphabetic()) { code.to_ascii_uppercase() } else { String::new() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::formats::sample;
    use crate::verdict::Reason;

    fn with(key: &str, value: Value) -> Result<Draft, Rejection> {
        let mut log: Value = serde_json::from_str(sample("tyk")).expect("a true sample");
        log[key] = value;
        decode(log.to_string().as_bytes())
    }

    #[test]
    fn the_start_is_the_end_less_the_duration() {
        insta::assert_debug_snapshot!(decode(sample("tyk").as_bytes()).expect("a true sample"));
        let draft = with("request_time_ms", json!(1500)).expect("it is right");
        assert_eq!(draft.time.expect("a time").to_rfc3339(), "2026-11-21T13:40:33.953+00:00");
        let vast = with("request_time_ms", json!(u64::MAX / 1000)).expect("it is right");
        assert_eq!(vast.data.latency_us, u32::MAX);
    }

    #[test]
    fn the_key_is_hashed_and_zeros_are_nobody() {
        let draft = decode(sample("tyk").as_bytes()).expect("a true sample");
        assert!(!format!("{draft:?}").contains("s3cret"), "neither the key nor a tag with it");
        assert_eq!(draft.subject, super::super::hashed("6129dc1e8b64c6b4s3cret"));
        let kept = crate::mask::masked(sample("tyk").as_bytes(), &[]);
        assert!(!String::from_utf8_lossy(&kept).contains("s3cret"), "nor in a dead letter");
        assert_eq!(decode(&kept).expect("as before").subject, draft.subject);
        assert_eq!(with("api_key", json!("00000000")).expect("anonymous").subject, "");
        assert_eq!(with("api_key", json!("")).expect("anonymous").subject, "");
    }

    #[test]
    fn other_pumps_names_and_unknown_lengths() {
        let mut log: Value = serde_json::from_str(sample("tyk")).expect("a true sample");
        let object = log.as_object_mut().expect("an object");
        object.remove("request_time_ms");
        object.insert("request_time".into(), json!(7));
        object.insert("content_length".into(), json!(-1));
        object.insert("api_version".into(), json!("Non Versioned"));
        let data = decode(log.to_string().as_bytes()).expect("it is right").data;
        assert_eq!((data.latency_us, data.request_bytes, data.api_version.as_str()), (7000, 0, ""));
    }

    #[test]
    fn a_time_without_a_zone_is_told() {
        assert_eq!(with("timestamp", json!("2026-11-21T13:40:35")).expect_err("no zone").reason, Reason::InvalidTime);
        assert_eq!(with("timestamp", json!(null)).expect_err("no time").reason, Reason::MissingField);
    }
}
