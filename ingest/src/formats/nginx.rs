//! nginx's access log in JSON (`log_format ... escape=json`), with nginx's own names or those of
//! `deploy/gateways/nginx`; other keys are read by a field map (see [`super::mapped`]). Also what nginx sends by syslog.
//!
//! Units: `msec` (`$msec`) epoch **seconds** with milliseconds, else `time` (`$time_iso8601`) with its offset; both are
//! the moment of logging, which is the end of the request, so the start is earlier by the duration (by its whole seconds
//! only where the time has whole seconds). `request_time` is **seconds** with milliseconds. `bytes_in`
//! (`$request_length`) counts headers too, `body_bytes_sent` or `bytes_out` the body. nginx knows no routes: `route` is
//! what the operator set, else the path. The principal is `consumer` (what `/v1/decide` answered), else `remote_user`.
//! `escape=json` passes bytes of the client as they are, so a line can be no UTF-8.
//!
//! Id: `decision`; else `request_id` (or `id`), nginx's `$request_id`, which it makes itself and no client can choose;
//! else none.

use chrono::{DateTime, Timelike, Utc};
use farebox_core::event::{AnsweredBy, RequestData};

use super::{Draft, api_of, began, decision, latency, method, route_of, status, times, without_secret};
use crate::fields::{Log, Object, log_text};
use crate::verdict::Rejection;

pub fn decode(record: &[u8]) -> Result<Draft, Rejection> {
    let text = log_text(record);
    let log = Object::from_text(&text)?;
    let id = log.first_said(&["request_id", "id"])?;
    draft(&log, &id).map_err(|rejection| rejection.of_event("", &id))
}

fn draft(log: &Object, id: &str) -> Result<Draft, Rejection> {
    let latency_us = log.amount("request_time", 6)?.unwrap_or(0);
    let answer = log.amount("status", 0)?.ok_or_else(|| Rejection::missing("/status"))?;
    let path = log.first_said(&["path", "uri", "request_uri"])?;
    let named = log.said("route")?;
    let route = if named.is_empty() { route_of(&path) } else { named };
    let (api, api_version) = api_of(log.said("api")?, &path, !route.is_empty());
    let data = RequestData {
        api,
        api_version,
        route,
        method: method(log.first_said(&["method", "request_method"])?),
        status: status(answer, || log.at("status"))?,
        latency_us: latency(latency_us),
        request_bytes: log.first_amount(&[("bytes_in", 0), ("request_length", 0)])?.unwrap_or(0),
        response_bytes: log.first_amount(&[("body_bytes_sent", 0), ("bytes_out", 0)])?.unwrap_or(0),
        answered_by: answered_by(log)?,
        decision: decision(log.said("decision")?),
        credential: without_secret(log.said("credential")?),
        gateway: "nginx".to_owned(),
        ..RequestData::default()
    };
    let subject = log.first_said(&["consumer", "remote_user"])?;
    Ok(Draft::call(start(log, latency_us)?, (!id.is_empty()).then(|| id.to_owned()), subject, data))
}

fn start(log: &Object, latency_us: u64) -> Result<DateTime<Utc>, Rejection> {
    if let Some(end) = times::epoch(log, "msec", 0)? {
        return Ok(began(end, latency_us));
    }
    let key = ["time", "time_iso8601", "time_local"].into_iter().find(|key| log.said(key).is_ok_and(|said| !said.is_empty()));
    let Some(key) = key else { return Err(Rejection::missing("/msec")) };
    let written = log.said(key)?;
    let place = || log.at(key);
    let end = if key == "time_local" { times::clf(&written, place)? } else { times::iso(&written, place)? };
    // A time in whole seconds was cut off: taking off a fraction could reach into the second, minute or month before.
    let whole_seconds = end.nanosecond() == 0;
    Ok(began(end, if whole_seconds { latency_us / 1_000_000 * 1_000_000 } else { latency_us }))
}

/// `upstream_response_time` (or `upstream_time`) is a time when an upstream was asked, and empty when not.
fn answered_by(log: &Object) -> Result<AnsweredBy, Rejection> {
    const TIME: [&str; 2] = ["upstream_response_time", "upstream_time"];
    if log.said("upstream_cache_status")? == "HIT" {
        return Ok(AnsweredBy::Cache);
    }
    Ok(match log.first_said(&TIME)?.as_str() {
        "" if TIME.iter().any(|key| log.get(key).is_some()) => AnsweredBy::Gateway,
        "" => AnsweredBy::Unknown,
        _ => AnsweredBy::Upstream,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::formats::sample;
    use crate::verdict::Reason;

    /// With the names that nginx's own variables have.
    const PLAIN: &str = r#"{"time":"2026-11-21T14:40:35+01:00","remote_addr":"192.0.2.7","remote_user":"alice","request_method":"GET","request_uri":"/v1/users?token=s3cret","status":200,"body_bytes_sent":1534,"http_referer":"https://app.example.test","http_user_agent":"Mozilla/5.0...","request_time":0.052,"upstream_response_time":"0.050","request_id":"a1b2c3d4e5f60718293a4b5c6d7e8f90"}"#;

    fn with(pairs: &[(&str, Value)]) -> Result<Draft, Rejection> {
        let mut log: Value = serde_json::from_str(sample("nginx")).expect("a true sample");
        for (key, value) in pairs {
            log[*key] = value.clone();
        }
        decode(log.to_string().as_bytes())
    }

    #[test]
    fn both_sets_of_names_are_read() {
        insta::assert_debug_snapshot!("nginx_of_farebox", decode(sample("nginx").as_bytes()).expect("a true sample"));
        let draft = decode(PLAIN.as_bytes()).expect("a true sample");
        assert!(!format!("{draft:?}").contains("s3cret"));
        insta::assert_debug_snapshot!("nginx_plain", draft);
    }

    #[test]
    fn the_start_is_the_end_less_the_duration() {
        let time = |pairs: &[(&str, Value)]| with(pairs).expect("it is right").time.expect("a time").to_rfc3339();
        assert_eq!(time(&[("request_time", json!(1.25))]), "2026-11-21T13:40:52.068+00:00");
        let iso = |took: f64, at: &str| time(&[("msec", json!(null)), ("time", json!(at)), ("request_time", json!(took))]);
        assert_eq!(iso(0.9, "2026-12-01T00:00:00+01:00"), "2026-11-30T23:00:00+00:00", "not into the month before");
        assert_eq!(iso(2.9, "2026-12-01T00:00:05+01:00"), "2026-11-30T23:00:03+00:00");
        assert_eq!(
            with(&[("msec", json!(1_795_268_453_318_u64))]).expect("far ahead").time.map(|t| t.timestamp() > 4_000_000_000),
            Some(true)
        );
        assert_eq!(with(&[("msec", json!(""))]).expect_err("no time").reason, Reason::MissingField);
        assert_eq!(with(&[("msec", json!(0))]).expect_err("1970").reason, Reason::InvalidTime);
    }

    #[test]
    fn bytes_that_are_no_utf8_do_not_make_a_call_free() {
        let mut record = PLAIN.replace("/v1/users", "/v1/USERS").into_bytes();
        let at = record.windows(5).position(|w| w == b"USERS").expect("it is there");
        record[at..at + 5].copy_from_slice(b"\xff\xfe\x80\xc3\x28");
        assert_eq!(decode(&record).expect("it is read").data.status, 200);
    }

    #[test]
    fn what_a_client_makes_long_is_cut_not_refused() {
        let draft = with(&[("route", json!("")), ("path", json!("/é".repeat(900))), ("method", json!("M".repeat(900)))]);
        let data = draft.expect("it is right").data;
        assert!(data.route.len() <= 512 && data.api.len() <= 128 && data.method.len() <= 32);
    }

    #[test]
    fn a_decision_that_is_a_status_is_none() {
        assert_eq!(with(&[("decision", json!("200"))]).expect("it is right").data.decision, "");
    }

    #[test]
    fn anonymous_and_vanished_clients() {
        let draft = with(&[("consumer", json!("")), ("remote_user", json!("-")), ("status", json!("499")), ("upstream_time", json!(""))]);
        let draft = draft.expect("it is right");
        assert_eq!((draft.subject.as_str(), draft.data.status, draft.data.answered_by), ("", 499, AnsweredBy::Gateway));
    }
}
