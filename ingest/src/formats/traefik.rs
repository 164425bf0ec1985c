//! Traefik's JSON access log; [`super::traefik_otlp`] is the same log by OTLP.
//!
//! Units: `StartUTC` RFC 3339 with nanoseconds (by OTLP a number of nanoseconds; when the request began), `Duration`
//! **nanoseconds**, `RequestContentSize` and `DownstreamContentSize` bytes of bodies. `RouterName` is absent when no
//! router matched; `ClientUsername` is `-` when there is none.
//!
//! What `/v1/decide` answered stands in kept headers: on a call that went through in those that the forwardAuth
//! middleware set on the request (`request_X-Farebox-*`), on a refusal in those of the answer (`downstream_X-Farebox-*`),
//! read in this order of trust: where no upstream was asked, the answer's come first, because the request's may still
//! be the client's. On a call that matched no router the request's are not believed at all.
//!
//! Id: the decision; else `request_X-Request-Id` (or `request_X-Request-ID`), which a client may choose, joined with
//! start and duration in nanoseconds, so that the file's line and OTLP's record are one call; else none.

use chrono::{DateTime, Utc};
use farebox_core::event::{AnsweredBy, RequestData};

use super::{Draft, api_of, decision, joined, latency, method, status, times, without_secret};
use crate::fields::{Log, Object, log_text};
use crate::verdict::Rejection;

pub fn decode(record: &[u8]) -> Result<Draft, Rejection> {
    let text = log_text(record);
    draft(&Object::from_text(&text)?)
}

pub(super) fn draft(log: &impl Log) -> Result<Draft, Rejection> {
    let time = start(log)?;
    let answer = log.amount("DownstreamStatus", 0)?.ok_or_else(|| Rejection::missing(log.place("DownstreamStatus")))?;
    let nanos = log.amount("Duration", 0)?.unwrap_or(0);
    let route = log.said("RouterName")?;
    let (api, api_version) = api_of(String::new(), &log.said("RequestPath")?, !route.is_empty());
    let answered_by = match log.amount("OriginStatus", 0)? {
        None | Some(0) => AnsweredBy::Gateway,
        Some(_) => AnsweredBy::Upstream,
    };
    let ours = |name: &str| {
        let (request, answer) = (format!("request_X-Farebox-{name}"), format!("downstream_X-Farebox-{name}"));
        match (answered_by, route.is_empty()) {
            (AnsweredBy::Upstream, false) => log.said(&request),
            (_, false) => log.first_said(&[&answer, &request]),
            (_, true) => log.said(&answer),
        }
    };
    let consumer = ours("Consumer")?;
    let id = joined(&log.first_said(&["request_X-Request-Id", "request_X-Request-ID"])?, || {
        let start = time.timestamp_nanos_opt().map_or_else(|| time.to_rfc3339(), |n| n.to_string());
        format!("{start}/{nanos}")
    });
    let data = RequestData {
        api,
        api_version,
        route: route.clone(),
        method: method(log.said("RequestMethod")?),
        status: status(answer, || log.place("DownstreamStatus"))?,
        latency_us: latency(nanos / 1000),
        request_bytes: log.amount("RequestContentSize", 0)?.unwrap_or(0),
        response_bytes: log.amount("DownstreamContentSize", 0)?.unwrap_or(0),
        answered_by,
        decision: decision(ours("Decision")?),
        credential: without_secret(ours("Credential")?),
        gateway: "traefik".to_owned(),
        ..RequestData::default()
    };
    Ok(Draft::call(time, id, if consumer.is_empty() { log.said("ClientUsername")? } else { consumer }, data))
}

fn start(log: &impl Log) -> Result<DateTime<Utc>, Rejection> {
    let written = log.said("StartUTC")?;
    if written.is_empty() {
        return Err(Rejection::missing(log.place("StartUTC")));
    }
    match written.parse::<i64>() {
        Ok(nanos) if nanos / 1_000_000_000 >= times::LEAST => Ok(DateTime::from_timestamp_nanos(nanos)),
        _ => times::iso(&written, || log.place("StartUTC")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::formats::sample;
    use crate::verdict::Reason;

    fn with(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Result<Draft, Rejection> {
        let mut log: Value = serde_json::from_str(sample("traefik")).expect("a true sample");
        change(log.as_object_mut().expect("an object"));
        decode(log.to_string().as_bytes())
    }

    #[test]
    fn nanoseconds_become_microseconds() {
        let draft = decode(sample("traefik").as_bytes()).expect("a true sample");
        assert!(!format!("{draft:?}").contains("s3cret"));
        insta::assert_debug_snapshot!(draft);
    }

    #[test]
    fn an_unrouted_call_is_nobodys_whatever_the_client_sent() {
        let draft = with(|log| {
            log.remove("RouterName");
            log.remove("OriginStatus");
            log.insert("DownstreamStatus".into(), json!(404));
        });
        let draft = draft.expect("it is right");
        assert_eq!((draft.subject.as_str(), draft.data.route.as_str(), draft.data.api.as_str()), ("", "", ""));
        assert_eq!((draft.data.decision.as_str(), draft.data.credential.as_str()), ("", ""), "the client's own headers");
        assert_eq!(draft.data.answered_by, AnsweredBy::Gateway);
    }

    #[test]
    fn a_refusal_carries_what_was_answered_not_what_was_asked() {
        let draft = with(|log| {
            log.insert("OriginStatus".into(), json!(0));
            log.insert("DownstreamStatus".into(), json!(429));
            log.insert("downstream_X-Farebox-Decision".into(), json!("6f1206b76382480bb56ceb98f3f8200c"));
            log.insert("downstream_X-Farebox-Consumer".into(), json!("con_33"));
        });
        let draft = draft.expect("it is right");
        assert_eq!((draft.subject.as_str(), draft.data.decision.as_str()), ("con_33", "6f1206b76382480bb56ceb98f3f8200c"));
    }

    #[test]
    fn a_user_name_is_the_principal_where_nothing_was_decided() {
        let name = |name: &str| {
            let draft = with(|log| {
                log.remove("request_X-Farebox-Consumer");
                log.insert("ClientUsername".into(), json!(name));
            });
            draft.expect("it is right").subject
        };
        assert_eq!(name("initech"), "initech");
        assert_eq!(name("-"), "");
    }

    #[test]
    fn a_clients_request_id_does_not_make_two_calls_one() {
        let id = |duration: u64| {
            let draft = with(|log| {
                log.insert("request_X-Request-Id".into(), json!("mine"));
                log.insert("Duration".into(), json!(duration));
            });
            draft.expect("it is right").id
        };
        assert_eq!(id(7).as_deref(), Some("mine/1795268435453743849/7"));
        assert_ne!(id(7), id(8));
        assert_eq!(with(|_| {}).expect("it is right").id, None);
    }

    #[test]
    fn a_time_must_be_there_and_readable() {
        assert_eq!(with(|log| drop(log.remove("StartUTC"))).expect_err("none").reason, Reason::MissingField);
        assert_eq!(with(|log| drop(log.insert("StartUTC".into(), json!(1_795_268_435)))).expect_err("seconds").reason, Reason::InvalidTime);
    }
}
