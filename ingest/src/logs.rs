//! `POST /v1/logs`: OTLP over HTTP, as Envoy's OpenTelemetry access logger sends it
//! (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).

use std::sync::Arc;

use axum::Extension;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use farebox_core::auth::{Caller, Scope};
use farebox_core::config;
use farebox_core::problem::Problem;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;

use crate::body;
use crate::events::{on_a_thread_when_large, source_of};
use crate::fields::is_shallow;
use crate::formats::{Format, envoy_otlp};
use crate::intake::{Batch, Intake, Ordinals, Raw, Read, Receipt, received_now};
use crate::verdict::{Reason, Rejection};

/// Send access logs by OTLP
///
/// `ExportLogsServiceRequest` in protobuf or JSON, gzip or not. `X-Farebox-Source` names the gateway. Answered 200 only
/// after the log has every record safely on disk; rejected records are counted in `partialSuccess` and are in the dead
/// letters.
#[utoipa::path(
    post, path = "/v1/logs", tag = "ingest",
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses(
        (status = 200, description = "ExportLogsServiceResponse"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 503, body = Problem, description = "Nothing was acknowledged; send the same again after `Retry-After`")
    )
)]
pub async fn post(caller: Caller, Extension(intake): Extension<Arc<Intake>>, request: Request) -> Result<Response, Problem> {
    caller.0.require(Scope::Ingest)?;
    let (parts, body) = request.into_parts();
    let encoding = Encoding::of(&parts.headers)?;
    let source = source_of(&parts.headers, &caller)?;
    let received_at = received_now();
    let held = body::read(&intake, &parts.headers, body).await?;
    let (body, limits) = (held.bytes.clone(), intake.app.config.ingest.clone());
    let records = on_a_thread_when_large(body.len(), move || read(encoding, &body, &limits)).await??;
    let batch =
        Batch { workspace: &caller.0.workspace, source: &source, format: Format::EnvoyOtlp, received_at, body: Some(&held.bytes), records };
    let receipt = intake.take(batch).await?;
    Ok(encoding.answer(&receipt))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

impl Encoding {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let content_type = headers.get(header::CONTENT_TYPE).map_or("", |v| v.to_str().unwrap_or_default());
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/x-protobuf" => Ok(Self::Protobuf),
            "application/json" => Ok(Self::Json),
            _ => Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The content type is not read",
                "Send OTLP logs as `application/x-protobuf` or `application/json`.",
            )),
        }
    }

    fn answer(self, receipt: &Receipt) -> Response {
        let partial_success = receipt.rejected.first().map(|first| ExportLogsPartialSuccess {
            rejected_log_records: i64::try_from(receipt.rejected.len()).unwrap_or(i64::MAX),
            error_message: format!("The first of them: {} ({}). All are in the dead letters.", first.detail, first.reason.as_str()),
        });
        let answer = ExportLogsServiceResponse { partial_success };
        match self {
            Self::Protobuf => ([(header::CONTENT_TYPE, "application/x-protobuf")], answer.encode_to_vec()).into_response(),
            Self::Json => axum::Json(answer).into_response(),
        }
    }
}

fn read(encoding: Encoding, body: &Bytes, limits: &config::Ingest) -> Result<Vec<Read>, Problem> {
    let request = match encoding {
        Encoding::Protobuf => ExportLogsServiceRequest::decode(body.clone())
            .map_err(|e| Problem::bad_request("invalid-protobuf", format!("The body is no ExportLogsServiceRequest: {e}.")))?,
        Encoding::Json => {
            if !std::str::from_utf8(body).is_ok_and(is_shallow) {
                return Err(Problem::bad_request("invalid-json", "The body is not UTF-8, or nested too deep."));
            }
            serde_json::from_slice(body)
                .map_err(|e| Problem::bad_request("invalid-json", format!("The body is no ExportLogsServiceRequest: {e}.")))?
        }
    };
    let records: Vec<LogRecord> = request.resource_logs.into_iter().flat_map(|r| r.scope_logs).flat_map(|s| s.log_records).collect();
    if records.len() > limits.max_events_per_batch {
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-many-events",
            "The batch has too many records",
            format!("At most {} records are taken at once. Send smaller batches.", limits.max_events_per_batch),
        ));
    }
    let mut ordinals = Ordinals::default();
    Ok(records.into_iter().map(|record| read_record(record, &mut ordinals, limits.max_event_bytes)).collect())
}

fn read_record(record: LogRecord, ordinals: &mut Ordinals, most: usize) -> Read {
    let encoded = record.encode_to_vec();
    let decoded = if encoded.len() > most {
        Err(Rejection::new(Reason::TooLarge, "", format!("A record has at most {most} bytes. Log fewer attributes.")))
    } else {
        envoy_otlp::decode_record(&record)
    };
    Read { decoded, origin: None, fallback_id: ordinals.id_of(&encoded), raw: Raw::Otlp(Box::new(record)) }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
    use proptest::prelude::*;

    use super::*;

    fn request(records: Vec<LogRecord>) -> ExportLogsServiceRequest {
        let scope_logs = vec![ScopeLogs { log_records: records, ..ScopeLogs::default() }];
        ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] }
    }

    #[test]
    fn protobuf_and_json_say_the_same_and_equal_records_stay_two() {
        let record: LogRecord = serde_json::from_str(
            r#"{"timeUnixNano":"1795268435453021000","attributes":[{"key":"http.response.status_code","value":{"intValue":"200"}}]}"#,
        )
        .expect("a record");
        let request = request(vec![record.clone(), record]);
        let limits = config::Ingest::default();
        let from_protobuf = read(Encoding::Protobuf, &Bytes::from(request.encode_to_vec()), &limits).expect("it parses");
        let from_json =
            read(Encoding::Json, &Bytes::from(serde_json::to_vec(&request).expect("it serialises")), &limits).expect("it parses");
        let ids = |records: &[Read]| records.iter().map(|r| r.fallback_id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&from_protobuf), ids(&from_json));
        assert_ne!(from_json[0].fallback_id, from_json[1].fallback_id);
        assert_eq!(from_json[0].decoded.as_ref().expect("it is right").data.status, 200);
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let body = Bytes::from(body);
            let limits = config::Ingest::default();
            let _ = read(Encoding::Protobuf, &body, &limits);
            let _ = read(Encoding::Json, &body, &limits);
        }
    }
}
