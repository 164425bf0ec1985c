//! Apache APISIX, as `kafka-logger` and `http-logger` write it by default.
//!
//! Units: `start_time` epoch milliseconds (when the request began), `latency` milliseconds with a fraction,
//! `request.size` and `response.size` bytes with headers. `consumer.username` is the principal, absent when anonymous;
//! `service_id` may be `""`; `route_id` is absent when no route matched; `upstream` is absent when APISIX answered
//! itself. Not kept: headers, query string, address.
//!
//! Id: a top-level `decision` (what `/v1/decide` gave, added to the log by the operator) is the best; else a top-level
//! `request_id`, joined with the start and the latency, because a client may choose its own `X-Request-Id` and must
//! not make many calls look like one; else none.

use chrono::DateTime;
use farebox_core::api_path;
use farebox_core::event::{AnsweredBy, REQUEST, RequestData};

use super::{Draft, latency, status, without_secret};
use crate::fields::{Object, scaled};
use crate::verdict::{Reason, Rejection};

pub fn decode(record: &[u8]) -> Result<Draft, Rejection> {
    let log = Object::from_record(record)?;
    let request = log.object("request", "/request")?.ok_or_else(|| Rejection::missing("/request"))?;
    let response = log.object("response", "/response")?.ok_or_else(|| Rejection::missing("/response"))?;

    let start = log.get("start_time").ok_or_else(|| Rejection::missing("/start_time"))?;
    let start_us = scaled(start, 3, "/start_time")?;
    let time = i64::try_from(start_us).ok().and_then(DateTime::from_timestamp_micros).ok_or_else(|| {
        Rejection::new(Reason::InvalidTime, "/start_time", "/start_time must be milliseconds since 1970, such as 1699596164550.")
    })?;
    let latency_us = log.get("latency").map_or(Ok(0), |raw| scaled(raw, 3, "/latency"))?;
    let answer = response.get("status").ok_or_else(|| Rejection::missing("/response/status"))?;

    let route = log.text("route_id", "/route_id")?;
    let uri = request.text("uri", "/request/uri")?;
    let (from_path, api_version) = api_path::api_and_version(api_path::without_query(&uri));
    let service = log.text("service_id", "/service_id")?;
    // A path that matched no route names nothing of ours.
    let (api, api_version) = match (route.is_empty(), service.is_empty()) {
        (true, _) => (service, String::new()),
        (false, true) => (from_path, api_version),
        (false, false) => (service, api_version),
    };
    let consumer = log.object("consumer", "/consumer")?.map_or(Ok(String::new()), |c| c.text("username", "/consumer/username"))?;
    let request_id = log.text("request_id", "/request_id")?;

    Ok(Draft {
        source: None,
        id: (!request_id.is_empty()).then(|| format!("{request_id}/{start_us}/{latency_us}")),
        kind: REQUEST.to_owned(),
        time: Some(time),
        subject: without_secret(consumer),
        data: RequestData {
            api,
            api_version,
            route,
            method: request.text("method", "/request/method")?,
            status: status(scaled(answer, 0, "/response/status")?, "/response/status")?,
            latency_us: latency(latency_us),
            request_bytes: request.whole("size", "/request/size")?,
            response_bytes: response.whole("size", "/response/size")?,
            answered_by: if log.text("upstream", "/upstream")?.is_empty() { AnsweredBy::Gateway } else { AnsweredBy::Upstream },
            decision: log.text("decision", "/decision")?,
            gateway: "apisix".to_owned(),
            ..RequestData::default()
        },
    })
}

#[cfg(test)]
pub(super) const SAMPLE: &str = r#"{"latency":12.00001335144,"request":{"querystring":{"token":"s3cret"},"headers":{"host":"api.example.test","apikey":"s3cret"},"method":"GET","size":83,"uri":"/v1/orders/7?token=s3cret","url":"http://api.example.test:9080/v1/orders/7?token=s3cret"},"response":{"headers":{"content-type":"application/json"},"status":200,"size":475},"route_id":"orders-v1","client_ip":"192.0.2.7","server":{"hostname":"edge-1","version":"3.16.0"},"apisix_latency":1.00001335144,"service_id":"","consumer":{"username":"initech-prod"},"upstream_latency":11,"start_time":1795268435453,"upstream":"192.0.2.80:8080"}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_log_is_read_and_nothing_secret_kept() {
        let draft = decode(SAMPLE.as_bytes()).expect("a true sample");
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
