//! What came together (a body, a message) to single records: an object, an array, or one record a line. Each record has
//! a verdict of its own; what cannot be taken apart is one record with one verdict.

use std::borrow::Cow;

use bytes::Bytes;
use farebox_core::config;
use serde_json::value::RawValue;

use crate::formats::{Draft, Format};
use crate::intake::{Ordinals, Raw, Read};
use crate::place::Place;
use crate::verdict::{Reason, Rejection};

/// By its first character an array; several lines of which the first is closed are a record each; all else is one.
pub fn split(payload: &Bytes, format: &Format) -> Vec<Bytes> {
    let start = payload.trim_ascii_start();
    if start.first() == Some(&b'[')
        && let Some(elements) = elements(payload, format)
    {
        return elements;
    }
    let lines = || start.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let first_is_closed = lines().next().is_some_and(|line| line.ends_with(b"}"));
    let several = lines().nth(1).is_some();
    if several && (first_is_closed || serde_json::from_slice::<&RawValue>(payload).is_err()) {
        return lines().map(|line| payload.slice_ref(line)).collect();
    }
    vec![payload.clone()]
}

/// None when it is no JSON array.
fn elements(payload: &Bytes, format: &Format) -> Option<Vec<Bytes>> {
    // Gateways pass on what clients sent, so that one element can be no UTF-8: see `fields::log_text`.
    let repaired = match String::from_utf8_lossy(payload) {
        Cow::Borrowed(_) => payload.clone(),
        Cow::Owned(_) if *format == Format::cloudevents() => return None,
        Cow::Owned(text) => Bytes::from(text),
    };
    let elements: Vec<&RawValue> = serde_json::from_slice(&repaired).ok()?;
    Some(elements.into_iter().map(|raw| repaired.slice_ref(raw.get().as_bytes())).collect())
}

/// Decodes one record of at most so many bytes.
pub fn decode(raw: &[u8], format: &Format, limits: &config::Ingest) -> Result<Draft, Rejection> {
    let most = limits.max_event_bytes;
    if raw.len() > most {
        return Err(Rejection::new(Reason::TooLarge, "", format!("An event has at most {most} bytes. Log less of bodies and headers.")));
    }
    format.decode(raw)
}

/// The records of a body. What carries no id gets one from its place in a file where that is told, else from a hash of
/// the record and its ordinal among equal ones of the body.
pub fn of_body(body: &Bytes, pieces: Vec<Bytes>, format: &Format, place: Option<&Place>, limits: &config::Ingest) -> Vec<Read> {
    let mut ordinals = Ordinals::default();
    let read = |raw: Bytes| {
        let decoded = decode(&raw, format, limits);
        let fallback_id = match &decoded {
            Ok(Draft { id: Some(_), .. }) => String::new(),
            _ => place.map_or_else(|| ordinals.id_of(&raw), |place| place.id_of(body, &raw)),
        };
        Read { decoded, origin: place.map(|place| place.origin(body, &raw)), fallback_id, raw: Raw::Bytes(raw) }
    };
    pieces.into_iter().map(read).collect()
}

/// The records of a Kafka message that stands at `place`.
pub fn of_message(payload: &Bytes, place: &str, format: &Format, limits: &config::Ingest) -> Vec<Read> {
    let read = |index: usize, raw: Bytes, decoded| Read {
        decoded,
        raw: Raw::Bytes(raw),
        origin: Some(format!("kafka/{place}/{index}")),
        fallback_id: format!("{place}/{index}"),
    };
    let pieces = split(payload, format);
    if pieces.len() > limits.max_events_per_batch {
        let most = limits.max_events_per_batch;
        let rejection = Rejection::new(Reason::TooLarge, "", format!("A message has at most {most} events. Send smaller batches."));
        return vec![read(0, payload.clone(), Err(rejection))];
    }
    let decoded = pieces.into_iter().map(|raw| (decode(&raw, format, limits), raw));
    decoded.enumerate().map(|(index, (decoded, raw))| read(index, raw, decoded)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn format(name: &str) -> Format {
        Format::parse(name).expect("it is in the list")
    }

    fn pieces(payload: &[u8]) -> Vec<String> {
        split(&Bytes::copy_from_slice(payload), &format("nginx")).iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect()
    }

    #[test]
    fn objects_arrays_and_lines_are_told_apart() {
        assert_eq!(pieces(b" {\"a\":1} "), [" {\"a\":1} "]);
        assert_eq!(pieces(b"[{\"a\":1}, 7 ,\n\"x\"]"), ["{\"a\":1}", "7", "\"x\""]);
        assert_eq!(pieces(b"{\"a\":1}\n\n{\"b\":2}\r\n7"), ["{\"a\":1}", "{\"b\":2}", "7"]);
        assert_eq!(pieces(b"{\n \"a\": {}\n}"), ["{\n \"a\": {}\n}"], "one object over several lines");
        assert_eq!(pieces(b"{\n{\"a\":1}"), ["{", "{\"a\":1}"]);
        assert_eq!(pieces(b"WARN {\"a\":1}\nWARN {\"b\":1}"), ["WARN {\"a\":1}", "WARN {\"b\":1}"]);
        assert_eq!(pieces(b"[{]"), ["[{]"]);
        assert_eq!(pieces(b""), [""]);
    }

    #[test]
    fn an_element_that_is_no_utf8_does_not_spoil_the_others() {
        assert_eq!(pieces(b"[{\"uri\":\"/\xff\"},{\"a\":1}]").len(), 2);
        let strict = split(&Bytes::from_static(b"[{\"uri\":\"/\xff\"},{\"a\":1}]"), &format("cloudevents"));
        assert_eq!(strict.len(), 1, "CloudEvents are UTF-8");
    }

    #[test]
    fn an_object_of_a_topic_is_one_record_and_an_array_as_many_as_it_has() {
        let log = r#"{"request":{},"response":{"status":200},"start_time":1795268435453}"#;
        let limits = config::Ingest { max_events_per_batch: 2, ..config::Ingest::default() };
        let read = |text: &str, place: &str| of_message(&Bytes::copy_from_slice(text.as_bytes()), place, &format("apisix"), &limits);
        let ids = |read: &[Read]| read.iter().map(|r| r.fallback_id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&read(log, "t/0/7/1")), ["t/0/7/1/0"]);
        let two = read(&format!(" [{log},7]"), "t/0/8/1");
        assert_eq!(ids(&two), ["t/0/8/1/0", "t/0/8/1/1"]);
        assert!(two[0].decoded.is_ok());
        assert_eq!(two[1].decoded.as_ref().expect_err("a number").reason, Reason::NotAnObject);
        let many = read("[1,2,3]", "t/0/9/1");
        assert_eq!(many.len(), 1);
        assert_eq!(many[0].decoded.as_ref().expect_err("three").reason, Reason::TooLarge);
        for payload in ["", "[", "\u{0}", "[{]"] {
            let read = read(payload, "t/0/7/1");
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].decoded.as_ref().expect_err(payload).reason, Reason::InvalidJson, "{payload}");
        }
    }

    #[test]
    fn equal_records_of_a_body_stay_two_and_a_retry_is_the_same_two() {
        let body = Bytes::from_static(b"[{\"a\":1},{\"a\":1}]");
        let ids = || of_body(&body, split(&body, &format("nginx")), &format("nginx"), None, &config::Ingest::default());
        let ids = || ids().into_iter().map(|read| read.fallback_id).collect::<Vec<_>>();
        assert_ne!(ids()[0], ids()[1]);
        assert_eq!(ids(), ids());
    }

    proptest! {
        /// Whatever comes is taken apart into records that have a verdict each, and nothing is lost on the way.
        #[test]
        fn no_payload_panics(bytes in prop::collection::vec(prop::sample::select(b"[]{}\",:1a\n\r \\\xff".to_vec()), 0..60)) {
            let payload = Bytes::from(bytes);
            let read = of_message(&payload, "t/0/0/0", &format("wso2"), &config::Ingest::default());
            let is_empty_array = serde_json::from_slice::<Vec<&RawValue>>(&payload).is_ok_and(|items| items.is_empty());
            prop_assert!(!read.is_empty() || is_empty_array);
        }
    }
}
