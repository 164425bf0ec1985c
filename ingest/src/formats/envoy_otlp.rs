//! Envoy's OpenTelemetry access log: an OTLP log record, with the attributes of `deploy/gateways/envoy/envoy.yaml`. Read
//! as [`super::envoy`] is.
//!
//! Units: `time_unix_nano` nanoseconds (when the request began), `duration_us` microseconds, `bytes_in` and `bytes_out`
//! bytes of bodies without headers. Envoy writes every attribute as a text, with `-` for unset. The principal, plan and
//! decision are what `/v1/decide` answered, kept by Envoy as metadata that no caller can set.
//!
//! Id: the decision; else `farebox.id` (the request id) joined with the start in nanoseconds, because an Envoy whose
//! configuration keeps a client's `x-request-id` would let a client make many calls look like one; else none.

use chrono::DateTime;
use opentelemetry_proto::tonic::logs::v1::LogRecord;

use super::otlp::{self, Attributes};
use super::{Draft, envoy};
use crate::verdict::{Reason, Rejection};

pub fn decode(record: &[u8]) -> Result<Draft, Rejection> {
    decode_record(&otlp::record(record)?)
}

pub fn decode_record(record: &LogRecord) -> Result<Draft, Rejection> {
    let attributes = Attributes::of(record);
    envoy::named(&attributes, || {
        let nanos = i64::try_from(record.time_unix_nano).ok().filter(|n| *n > 0);
        let time = nanos.and_then(|n| DateTime::from_timestamp_micros(n / 1000));
        let time =
            time.ok_or_else(|| Rejection::new(Reason::InvalidTime, "/timeUnixNano", "/timeUnixNano must be nanoseconds since 1970."))?;
        envoy::draft(&attributes, time, "http.response.status_code", || record.time_unix_nano.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::sample;

    fn with(key: &str, value: &str) -> String {
        let mut record: serde_json::Value = serde_json::from_str(sample("envoy_otlp")).expect("a true sample");
        let attributes = record["attributes"].as_array_mut().expect("an array");
        attributes.retain(|a| a["key"] != key);
        attributes.push(serde_json::json!({"key": key, "value": {"stringValue": value}}));
        record.to_string()
    }

    #[test]
    fn a_call_is_read_whole() {
        insta::assert_debug_snapshot!(decode(sample("envoy_otlp").as_bytes()).expect("a true sample"));
    }

    #[test]
    fn a_dash_is_unset_and_a_status_must_be_there() {
        let draft = decode(with("farebox.consumer", "-").as_bytes()).expect("anonymous");
        assert_eq!(draft.subject, "");
        let unrouted = decode(with("http.route", "GET -").as_bytes()).expect("no route");
        assert_eq!((unrouted.data.route.as_str(), unrouted.data.api.as_str()), ("", ""));
        let unanswered = decode(with("http.response.status_code", "-").as_bytes()).expect_err("no status");
        assert_eq!((unanswered.reason, unanswered.pointer.as_str()), (Reason::MissingField, "http.response.status_code"));
        assert_eq!(decode(with("duration_us", "fast").as_bytes()).expect_err("no number").reason, Reason::WrongType);
    }

    #[test]
    fn a_clients_request_id_does_not_make_two_calls_one() {
        let undecided = with("farebox.decision", "-");
        let other = undecided.replace("1795268435453021000", "1795268435453021001");
        let id = |record: &str| decode(record.as_bytes()).expect("a true sample").id;
        assert_ne!(id(&undecided), id(&other));
    }
}
