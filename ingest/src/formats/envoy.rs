//! Envoy's access log as JSON, with the names that Envoy Gateway gives by default (`response_code`, `route_name`, ...) or
//! those of `deploy/gateways/envoy` (`status`, `route`, ...); [`super::envoy_otlp`] is the same log by OTLP. An operator
//! who chose other names reads the log by a field map (see [`super::mapped`]).
//!
//! Units: `start_time` RFC 3339 (when the request began), `duration` milliseconds, `latency_us` microseconds (taken
//! before), `bytes_received` and `bytes_sent` bytes of bodies without headers. Envoy 1.40 writes real numbers and null
//! for unset, older ones texts and `-`. `response_code` 0 says that the client vanished before an answer. The route is
//! `route_name`; the principal is what `/v1/decide` answered (`consumer`), or none.
//!
//! Id: `decision`, which no client can choose; else `x-request-id`, which Envoy takes from clients unless told not to, so
//! that it is joined with a hash of the record; else none. The decision's id tells of mirrored traffic, too; a log's own word
//! for it could be a client's header, and is not read.

use chrono::{DateTime, Utc};
use farebox_core::event::{AnsweredBy, RequestData};

use super::{Draft, api_of, decision, joined, latency, method, own_hash, status, times, without_secret};
use crate::fields::{Log, Object, log_text};
use crate::verdict::Rejection;

const DECISION: &[&str] = &["decision", "farebox.decision", "x-farebox-decision"];
const REQUEST_ID: &[&str] = &["x-request-id", "id", "farebox.id", "request_id"];
const CONSUMER: &[&str] = &["consumer", "farebox.consumer", "x-farebox-consumer"];
const CREDENTIAL: &[&str] = &["credential", "farebox.credential", "x-farebox-credential"];
const ROUTE: &[&str] = &["route_name", "route", "http.route"];
const METHOD: &[&str] = &["method", "http.request.method"];
const PATH: &[&str] = &["x-envoy-origin-path", "path", "url.path"];
const STATUS: &[(&str, i64)] = &[("response_code", 0), ("status", 0), ("http.response.status_code", 0)];
/// With the power of ten that makes microseconds of it.
const LATENCY: &[(&str, i64)] = &[("latency_us", 0), ("duration_us", 0), ("duration", 3), ("latency_ms", 3)];
const RECEIVED: &[(&str, i64)] = &[("bytes_received", 0), ("bytes_in", 0)];
const SENT: &[(&str, i64)] = &[("bytes_sent", 0), ("bytes_out", 0)];
const DETAILS: &[&str] = &["response_code_details", "details"];
const FLAGS: &[&str] = &["response_flags", "flags"];

pub fn decode(record: &[u8]) -> Result<Draft, Rejection> {
    let text = log_text(record);
    let log = Object::from_text(&text)?;
    named(&log, || {
        let time = match log.said("start_time")? {
            written if written.is_empty() => return Err(Rejection::missing("/start_time")),
            written => times::iso(&written, || log.at("start_time"))?,
        };
        draft(&log, time, STATUS[0].0, || own_hash(record))
    })
}

/// A rejection that names the event, as far as its id can be read.
pub(super) fn named(log: &impl Log, read: impl FnOnce() -> Result<Draft, Rejection>) -> Result<Draft, Rejection> {
    read().map_err(|rejection| {
        let ids = [DECISION, REQUEST_ID].into_iter().filter_map(|keys| log.first_said(keys).ok());
        rejection.of_event("", &ids.into_iter().find(|id| !id.is_empty()).unwrap_or_default())
    })
}

/// `status_name` is how this way of logging names the status; `own` is what no client can choose.
pub(super) fn draft(log: &impl Log, time: DateTime<Utc>, status_name: &str, own: impl FnOnce() -> String) -> Result<Draft, Rejection> {
    let named = STATUS.iter().find(|(key, _)| log.said(key).is_ok_and(|said| !said.is_empty()));
    let place = || log.place(named.map_or(status_name, |(key, _)| key));
    let answer = log.first_amount(STATUS)?.ok_or_else(|| Rejection::missing(place()))?;
    let route = route(log.first_said(ROUTE)?);
    let (api, api_version) = api_of(String::new(), &log.first_said(PATH)?, !route.is_empty());
    let given = |key: &str, else_: String| log.said(key).map(|said| if said.is_empty() { else_ } else { said });
    let data = RequestData {
        api: given("farebox.api", api)?,
        api_version: given("farebox.api_version", api_version)?,
        route,
        method: method(log.first_said(METHOD)?),
        status: status(answer, place)?,
        latency_us: latency(log.first_amount(LATENCY)?.unwrap_or(0)),
        request_bytes: log.first_amount(RECEIVED)?.unwrap_or(0),
        response_bytes: log.first_amount(SENT)?.unwrap_or(0),
        answered_by: answered_by(&log.first_said(DETAILS)?, &log.first_said(FLAGS)?),
        decision: decision(log.first_said(DECISION)?),
        credential: without_secret(log.first_said(CREDENTIAL)?),
        gateway: "envoy".to_owned(),
        ..RequestData::default()
    };
    // The decision is the identity: nothing has to be joined.
    let id = if data.decision.is_empty() { joined(&log.first_said(REQUEST_ID)?, own) } else { Some(data.decision.clone()) };
    Ok(Draft::call(time, id, log.first_said(CONSUMER)?, data))
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::formats::sample;
    use crate::verdict::Reason;

    fn with(pairs: &[(&str, Value)]) -> Result<Draft, Rejection> {
        let mut log: Value = serde_json::from_str(sample("envoy")).expect("a true sample");
        for (key, value) in pairs {
            log[*key] = value.clone();
        }
        decode(log.to_string().as_bytes())
    }

    /// As Envoy Gateway writes it by default: real numbers, null for unset.
    const GATEWAY: &str = r#"{":authority":"api.example.test","bytes_received":7,"bytes_sent":18,"connection_termination_details":null,"downstream_remote_address":"192.0.2.7:40937","duration":12,"method":"POST","protocol":"HTTP/1.1","response_code":429,"response_code_details":"local_rate_limited","response_flags":"RL","route_name":"httproute/default/orders/rule/0/match/0/api","start_time":"2026-11-21T13:40:35.573Z","upstream_cluster":"httproute/default/orders/rule/0","upstream_host":null,"user-agent":"curl/8.7.1","x-envoy-origin-path":"/v1/orders?token=s3cret","x-forwarded-for":"192.0.2.7","x-request-id":"e52f5442-5bb7-47bb-97e1-652f56bb6ad6"}"#;

    #[test]
    fn both_sets_of_names_are_read() {
        insta::assert_debug_snapshot!("envoy_of_farebox", decode(sample("envoy").as_bytes()).expect("a true sample"));
        let draft = decode(GATEWAY.as_bytes()).expect("a true sample");
        assert!(!format!("{draft:?}").contains("s3cret"));
        insta::assert_debug_snapshot!("envoy_gateway", draft);
    }

    #[test]
    fn older_ones_write_texts_and_dashes() {
        let older = GATEWAY.replace("null", "\"-\"").replace(":429,", ":\"429\",").replace(":12,", ":\"12\",").replace(":18,", ":\"18\",");
        assert_ne!(older, GATEWAY);
        let (older, newer) = (decode(older.as_bytes()).expect("it is right"), decode(GATEWAY.as_bytes()).expect("it is right"));
        assert_eq!(older.data, newer.data);
    }

    #[test]
    fn a_client_that_vanished_has_status_0() {
        let draft = with(&[("status", json!(0)), ("flags", json!("DC")), ("details", json!("downstream_remote_disconnect"))]);
        let data = draft.expect("it is right").data;
        assert_eq!((data.status, data.answered_by), (0, AnsweredBy::Unknown));
        assert_eq!(with(&[("status", json!(null))]).expect_err("no status").reason, Reason::MissingField);
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
        let id = |port: u16| {
            let record = GATEWAY.replace("40937", &port.to_string());
            decode(record.as_bytes()).expect("it is right").id.expect("an id")
        };
        assert!(id(1).starts_with("e52f5442-5bb7-47bb-97e1-652f56bb6ad6/"));
        assert_eq!(id(1), id(1));
        assert_ne!(id(1), id(2));
    }

    #[test]
    fn a_marker_that_a_client_could_have_sent_is_not_read() {
        for name in ["marker", "farebox.marker", "x-farebox-marker"] {
            assert_eq!(with(&[(name, json!("mirror"))]).expect("it is right").data.marker, "", "{name}");
        }
    }

    #[test]
    fn what_is_no_decision_makes_no_calls_one() {
        assert_eq!(with(&[("decision", json!("200"))]).expect("it is right").data.decision, "");
        assert_eq!(with(&[("decision", json!(null))]).expect("it is right").data.decision, "");
    }
}
