//! Apache APISIX, as `kafka-logger` and `http-logger` write it by default. A custom `log_format` is whatever its operator
//! wrote: read it by a field map (see [`super::mapped`]).
//!
//! Units: `start_time` epoch milliseconds (when the request began), `latency` milliseconds with a fraction,
//! `request.size` and `response.size` bytes with headers. `consumer.username` is the principal, absent when anonymous;
//! `service_id` may be `""` or a host; `route_id` is absent when no route matched; `upstream` is absent when APISIX
//! answered itself.
//!
//! Id: a top-level `decision` (what `/v1/decide` gave, added to the log by the operator) is the best; else a top-level
//! `request_id`, joined with the start and the latency, because a client may choose its own `X-Request-Id` and must
//! not make many calls look like one; else none.

use farebox_core::event::{AnsweredBy, RequestData};

use super::{Draft, api_of, decision, joined, latency, method, status, times};
use crate::fields::{Log, Object, log_text};
use crate::verdict::Rejection;

pub fn decode(record: &[u8]) -> Result<Draft, Rejection> {
    let text = log_text(record);
    let log = Object::from_text(&text)?;
    let request = log.object("request")?.ok_or_else(|| Rejection::missing("/request"))?;
    let response = log.object("response")?.ok_or_else(|| Rejection::missing("/response"))?;

    let time = times::epoch(&log, "start_time", 3)?.ok_or_else(|| Rejection::missing("/start_time"))?;
    let latency_us = log.amount("latency", 3)?.unwrap_or(0);
    let answer = response.amount("status", 0)?.ok_or_else(|| Rejection::missing("/response/status"))?;
    let route = log.said("route_id")?;
    let (api, api_version) = api_of(log.said("service_id")?, &request.said("uri")?, !route.is_empty());
    let consumer = log.object("consumer")?.map_or(Ok(String::new()), |c| c.said("username"))?;
    let own = || format!("{}/{latency_us}", time.timestamp_micros());

    let data = RequestData {
        api,
        api_version,
        route,
        method: method(request.said("method")?),
        status: status(answer, || response.at("status"))?,
        latency_us: latency(latency_us),
        request_bytes: request.amount("size", 0)?.unwrap_or(0),
        response_bytes: response.amount("size", 0)?.unwrap_or(0),
        answered_by: if log.said("upstream")?.is_empty() { AnsweredBy::Gateway } else { AnsweredBy::Upstream },
        decision: decision(log.said("decision")?),
        gateway: "apisix".to_owned(),
        ..RequestData::default()
    };
    Ok(Draft::call(time, joined(&log.said("request_id")?, own), consumer, data))
}

#[cfg(test)]
mod tests {
    use crate::formats::sample;
    use crate::verdict::Reason;

    use super::*;

    #[test]
    fn the_default_log_is_read_and_nothing_secret_kept() {
        let draft = decode(sample("apisix").as_bytes()).expect("a true sample");
        assert!(!format!("{draft:?}").contains("s3cret"));
        insta::assert_debug_snapshot!(draft);
    }

    #[test]
    fn an_anonymous_unrouted_call_answered_by_the_gateway() {
        let draft = decode(br#"{"latency":0.9,"request":{"method":"GET","size":70,"uri":"/nowhere"},"response":{"status":404,"size":50},"service_id":"","start_time":1795268435453}"#)
            .expect("it is right");
        assert_eq!((draft.subject.as_str(), draft.data.route.as_str(), draft.data.api.as_str()), ("", "", ""));
        assert_eq!((draft.data.answered_by, draft.data.latency_us, draft.id), (AnsweredBy::Gateway, 900, None));
    }

    #[test]
    fn a_clients_request_id_does_not_make_two_calls_one() {
        let log = |start: u64| {
            format!(r#"{{"latency":1.5,"request":{{"size":1}},"response":{{"status":200}},"start_time":{start},"request_id":"same"}}"#)
        };
        let id = |start| decode(log(start).as_bytes()).expect("it is right").id;
        assert_eq!(id(1_795_268_435_453).as_deref(), Some("same/1795268435453000/1500"));
        assert_ne!(id(1_795_268_435_453), id(1_795_268_435_454));
    }

    #[test]
    fn seconds_or_text_for_the_start_are_told() {
        let with_start = |start: &str| format!(r#"{{"request":{{}},"response":{{"status":200}},"start_time":{start}}}"#);
        for (start, reason) in [
            ("\"soon\"", Reason::WrongType),
            ("1e300", Reason::OutOfRange),
            ("-5", Reason::OutOfRange),
            ("null", Reason::MissingField),
            ("9223372036854775", Reason::InvalidTime),
        ] {
            assert_eq!(decode(with_start(start).as_bytes()).expect_err(start).reason, reason, "{start}");
        }
    }
}
