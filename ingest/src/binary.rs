//! CloudEvents' binary mode: attributes in headers, data as the body (HTTP) or value (Kafka). Written as the structured
//! event it is, so that all that follows (dead letters, replay) knows one form.

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rdkafka::Message;
use rdkafka::message::{Headers, OwnedMessage};
use serde_json::Value;
use serde_json::value::RawValue;

/// HTTP: `ce-*` headers, percent-encoded.
pub fn of_http(headers: &HeaderMap, body: &Bytes) -> Bytes {
    let attributes = headers.iter().filter_map(|(name, value)| {
        let attribute = name.as_str().strip_prefix("ce-")?;
        Some((attribute, percent_decoded(value.as_bytes())))
    });
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    structured(attributes, content_type, body)
}

/// Kafka: `ce_*` headers in UTF-8. None when the message is not in binary mode.
pub fn of_kafka(message: &OwnedMessage, payload: &Bytes) -> Option<Bytes> {
    let headers = message.headers()?;
    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    let all: Vec<(&str, String)> = headers.iter().map(|header| (header.key, text(header.value))).collect();
    if !all.iter().any(|(key, _)| *key == "ce_specversion") {
        return None;
    }
    let content_type = all.iter().find(|(key, _)| key.eq_ignore_ascii_case("content-type")).map(|(_, value)| value.clone());
    let attributes = all.into_iter().filter_map(|(key, value)| Some((key.strip_prefix("ce_")?, value)));
    Some(structured(attributes, content_type.as_deref(), payload))
}

fn structured<'a>(attributes: impl Iterator<Item = (&'a str, String)>, content_type: Option<&str>, data: &[u8]) -> Bytes {
    let quoted = |text: &str| Value::from(text).to_string();
    let mut members: Vec<String> = attributes.map(|(name, value)| format!("{}:{}", quoted(name), quoted(&value))).collect();
    // Only what is a whole JSON value may stand in the event: anything else could bring attributes of its own.
    let json = std::str::from_utf8(data).ok().filter(|text| is_json(content_type) && serde_json::from_str::<&RawValue>(text).is_ok());
    match json {
        Some(json) => members.push(format!("\"data\":{}", json.trim())),
        None if data.trim_ascii().is_empty() => {}
        None => members.push(format!("\"data_base64\":\"{}\"", STANDARD.encode(data))),
    }
    Bytes::from(format!("{{{}}}", members.join(",")))
}

/// `application/json` and `…+json`; JSON is what holds without a word.
fn is_json(content_type: Option<&str>) -> bool {
    let media = content_type.map_or("application/json", |c| c.split(';').next().unwrap_or_default().trim()).to_ascii_lowercase();
    media.ends_with("/json") || media.ends_with("+json")
}

fn percent_decoded(value: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, tail @ ..] = rest {
        let hex = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                decoded.push(hex(*high).unwrap_or(0) * 16 + hex(*low).unwrap_or(0));
                rest = after;
            }
            _ => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders};

    use super::*;
    use crate::formats::cloudevents::decode;
    use crate::verdict::Reason;

    fn http(content_type: &str, body: &'static str) -> Bytes {
        let pairs = [
            ("content-type", content_type),
            ("ce-specversion", "1.0"),
            ("ce-id", "a%20b\""),
            ("ce-source", "edge"),
            ("ce-type", "farebox.request.v1"),
        ];
        let headers = pairs.into_iter().map(|(k, v)| (k.parse().expect("a name"), v.parse().expect("a value"))).collect();
        of_http(&headers, &Bytes::from(body))
    }

    #[test]
    fn it_is_the_same_event() {
        let draft = decode(&http("application/json; charset=utf-8", r#" {"status":204} "#)).expect("it is right");
        assert_eq!((draft.id.as_deref(), draft.data.status), (Some("a b\""), 204));
        assert_eq!(decode(&http("application/json", "")).expect("no data").data.status, 0);
    }

    #[test]
    fn data_brings_no_attributes_of_its_own() {
        for (content_type, body) in [
            ("application/json", r#"{"status":200},"subject":"victim""#),
            ("application/json", "{"),
            ("text/xml", "<a/>"),
            ("text/plain", "7"),
        ] {
            assert_eq!(decode(&http(content_type, body)).expect_err(body).reason, Reason::UnsupportedData, "{body}");
        }
    }

    #[test]
    fn kafkas_headers_are_read_where_they_are() {
        let message = |pairs: &[(&str, &str)]| {
            let headers = pairs.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
            OwnedMessage::new(Some(br#"{"status":204}"#.to_vec()), None, "t".to_owned(), Timestamp::NotAvailable, 0, 0, Some(headers))
        };
        let binary = message(&[
            ("ce_specversion", "1.0"),
            ("ce_id", "ü%20"),
            ("ce_source", "edge"),
            ("ce_type", "farebox.request.v1"),
            ("content-type", "application/json"),
        ]);
        let payload = Bytes::from_static(br#"{"status":204}"#);
        let draft = decode(&of_kafka(&binary, &payload).expect("binary mode")).expect("it is right");
        assert_eq!((draft.id.as_deref(), draft.data.status), (Some("ü%20"), 204), "not percent-encoded");
        assert!(of_kafka(&message(&[("content-type", "application/cloudevents+json")]), &payload).is_none());
    }
}
