//! What the targets share: any bytes have a verdict, what is accepted can be written, and what is kept of a rejected record
//! has its secrets masked once and for all, and decodes as it did.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use farebox_core::config;
use farebox_core::field_map::{FieldMap, reading};
use farebox_core::ids::WorkspaceId;
use farebox_ingest::admit::{Arrival, Permissions, admit};
use farebox_ingest::formats::mapped::Mapped;
use farebox_ingest::formats::{Draft, Format};
use farebox_ingest::records;
use farebox_ingest::verdict::Rejection;

/// A record of a format that comes with Farebox: by itself, and as it would come in a message.
pub fn record(name: &str, data: &[u8]) {
    let format = Format::parse(name).expect("it comes with Farebox");
    judge(&format, data);
    for read in records::of_message(&Bytes::copy_from_slice(data), "topic/0/0/0", &format, &config::Ingest::default()) {
        verdict(read.decoded);
    }
}

/// A record of an operator's own, by a map with every kind of field.
pub fn mapped(data: &[u8]) {
    let fields = [
        ("end_time", "/t", Some("epoch"), Some("ms")),
        ("latency", "/took", None, Some("s")),
        ("status", "/http/code", None, None),
        ("method", "/http/verb", None, None),
        ("path", "/uri", None, None),
        ("subject", "/who/0/name", None, None),
        ("credential", "/key", Some("secret"), None),
        ("response_bytes", "/sent", None, Some("kB")),
        ("request_id", "/a~1b", None, None),
        ("cached", "/hit", None, None),
        ("client_country", "/country", None, None),
        ("marker", "/marker", None, None),
        ("answered_by", "/by", None, None),
    ];
    let fields =
        fields.map(|(field, pointer, kind, unit)| reading(field, pointer, kind, unit, &["nobody".to_owned()]).expect("it is right"));
    let map = FieldMap {
        name: "own".to_owned(),
        event: "call".to_owned(),
        fields: fields.into(),
        properties: vec!["/who".to_owned(), "/x/y".to_owned()],
    };
    judge(&Format::Mapped(Mapped::new(map).into()), data);
}

fn judge(format: &Format, data: &[u8]) {
    let decoded = format.decode(data);
    let kept = format.masked(data);
    assert_eq!(format.masked(&kept), kept);
    if decoded.is_ok() {
        assert_eq!(format.decode(&kept), decoded);
    }
    verdict(decoded);
}

fn verdict(decoded: Result<Draft, Rejection>) {
    let received_at: DateTime<Utc> = "2026-11-21T14:00:00Z".parse().expect("a time");
    let workspace = "wsp_fuzz".parse().unwrap_or_else(|_| WorkspaceId::new());
    let arrival = Arrival { workspace: &workspace, source: "edge", received_at, fallback_id: "f" };
    match decoded.and_then(|draft| admit(draft, &arrival, &Permissions::default())) {
        Ok(event) => assert!(serde_json::to_vec(&event).is_ok_and(|json| json.len() < 1 << 20)),
        Err(rejection) => assert!(!rejection.detail.is_empty()),
    }
}

/// A datagram, and a stream that is cut into messages.
pub fn syslog(data: &[u8]) {
    let format = Format::parse("nginx").expect("it comes with Farebox");
    for read in farebox_ingest::syslog::read_all(data, &format, &config::Ingest::default()) {
        verdict(read.decoded);
    }
}
