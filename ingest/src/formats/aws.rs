//! AWS API Gateway, as its access log is written in JSON with the names of its `$context` variables as keys
//! (`{"extendedRequestId": "$context.extendedRequestId", ...}`); other keys are read by a field map (see
//! [`super::mapped`]).
//!
//! Units: every value is a text and `-` is unset. `requestTimeEpoch` is epoch milliseconds, `requestTime` the common log
//! format's time in whole seconds and used only without it; `responseLatency` milliseconds, `responseLength` bytes of
//! the body. The principal is `apiKeyId` (the key's id, not the key); `consumer` before it where an authorizer put it
//! there. The route is `resourcePath` (REST) or `routeKey` (HTTP APIs); `$default` and unset are no route.
//!
//! Id: `decision`, where a Lambda authorizer hands on what `/v1/decide` gave; else `extendedRequestId`, which no client
//! can choose; else `requestId`, which clients can override, so that it is joined with a hash of the record; else none.

use farebox_core::api_path;
use farebox_core::event::{AnsweredBy, RequestData};

use super::{Draft, api_of, decision, joined, latency, method, own_hash, status, times, without_secret};
use crate::fields::{Log, Object, log_text};
use crate::verdict::Rejection;

pub fn decode(record: &[u8]) -> Result<Draft, Rejection> {
    let text = log_text(record);
    let log = Object::from_text(&text)?;
    let extended = log.said("extendedRequestId")?;
    let id = if extended.is_empty() { joined(&log.said("requestId")?, || own_hash(record)) } else { Some(extended) };
    let named = id.clone().unwrap_or_default();
    draft(&log, id).map_err(|rejection| rejection.of_event("", &named))
}

fn draft(log: &Object, id: Option<String>) -> Result<Draft, Rejection> {
    let time = match times::epoch(log, "requestTimeEpoch", 3)? {
        Some(time) => time,
        None => match log.said("requestTime")? {
            written if written.is_empty() => return Err(Rejection::missing("/requestTimeEpoch")),
            written => times::clf(&written, || log.at("requestTime"))?,
        },
    };
    let answer = log.amount("status", 0)?.ok_or_else(|| Rejection::missing("/status"))?;
    let route = log.first_said(&["resourcePath", "routeKey"])?;
    // A template has no query, unless somebody wrote one: it is none to be kept.
    let route = if route == "$default" { String::new() } else { api_path::without_query(&route).to_owned() };
    let (api, api_version) = api_of(log.first_said(&["apiName", "apiId"])?, &log.first_said(&["resourcePath", "path"])?, !route.is_empty());
    let key = log.said("apiKeyId")?;
    let consumer = log.said("consumer")?;
    let data = RequestData {
        api,
        api_version,
        route,
        method: method(log.said("httpMethod")?),
        status: status(answer, || log.at("status"))?,
        latency_us: latency(log.amount("responseLatency", 3)?.unwrap_or(0)),
        response_bytes: log.amount("responseLength", 0)?.unwrap_or(0),
        answered_by: answered_by(log)?,
        decision: decision(log.said("decision")?),
        credential: without_secret(log.first_said(&["credential", "apiKeyId"])?),
        gateway: "aws".to_owned(),
        ..RequestData::default()
    };
    Ok(Draft::call(time, id, if consumer.is_empty() { key } else { consumer }, data))
}

/// An integration that took time has answered; one that is logged but unset was not asked.
fn answered_by(log: &Object) -> Result<AnsweredBy, Rejection> {
    let logged = log.get("integrationLatency").is_some() || log.get("integrationStatus").is_some();
    Ok(match log.first_said(&["integrationLatency", "integrationStatus"])?.as_str() {
        "" if logged => AnsweredBy::Gateway,
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

    fn with(pairs: &[(&str, Value)]) -> Result<Draft, Rejection> {
        let mut log: Value = serde_json::from_str(sample("aws")).expect("a true sample");
        for (key, value) in pairs {
            log[*key] = value.clone();
        }
        decode(log.to_string().as_bytes())
    }

    #[test]
    fn texts_are_numbers_and_a_dash_is_unset() {
        insta::assert_debug_snapshot!(decode(sample("aws").as_bytes()).expect("a true sample"));
        let refused = with(&[
            ("apiKeyId", json!("-")),
            ("integrationLatency", json!("-")),
            ("integrationStatus", json!("-")),
            ("responseLatency", json!("-")),
            ("status", json!("429")),
        ]);
        let refused = refused.expect("it is right");
        assert_eq!((refused.subject.as_str(), refused.data.credential.as_str(), refused.data.latency_us), ("", "", 0));
        assert_eq!((refused.data.answered_by, refused.data.status), (AnsweredBy::Gateway, 429));
    }

    #[test]
    fn the_time_is_in_milliseconds_else_in_the_common_log_format() {
        let time = |pairs: &[(&str, Value)]| with(pairs).map(|d| d.time.expect("a time").to_rfc3339());
        assert_eq!(time(&[("requestTimeEpoch", json!("1795268435453"))]).as_deref(), Ok("2026-11-21T13:40:35.453+00:00"));
        let clf = [("requestTimeEpoch", json!(null)), ("requestTime", json!("21/Nov/2026:14:40:35 +0100"))];
        assert_eq!(time(&clf).as_deref(), Ok("2026-11-21T13:40:35+00:00"));
        assert_eq!(with(&[("requestTimeEpoch", json!("1795268435"))]).expect_err("seconds").reason, Reason::InvalidTime);
        assert_eq!(
            with(&[("requestTimeEpoch", json!("-")), ("requestTime", json!("-"))]).expect_err("no time").reason,
            Reason::MissingField
        );
    }

    #[test]
    fn an_id_that_a_client_can_override_does_not_make_two_calls_one() {
        assert_eq!(with(&[]).expect("it is right").id.as_deref(), Some("KqXyzEXAMPLEabc="));
        let only = |latency: &str| {
            with(&[("extendedRequestId", json!("-")), ("requestId", json!("mine")), ("responseLatency", json!(latency))])
                .expect("it is right")
                .id
        };
        assert!(only("12").expect("an id").starts_with("mine/"));
        assert_eq!(only("12"), only("12"));
        assert_ne!(only("12"), only("13"));
    }

    #[test]
    fn an_http_api_has_a_route_key() {
        let route = |key: &str| with(&[("resourcePath", json!(null)), ("routeKey", json!(key))]).expect("it is right").data.route;
        assert_eq!(route("GET /orders/{id}"), "GET /orders/{id}");
        assert_eq!(route("$default"), "");
        assert_eq!(route("GET /orders?token=s3cret"), "GET /orders");
        assert_eq!(route("-"), "");
    }
}
