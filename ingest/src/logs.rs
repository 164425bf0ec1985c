//! OTLP access logs over HTTP: `POST /v1/logs` (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>). Over gRPC:
//! [`crate::grpc`]. Which gateway's attributes a record has, the source's registered format says: Envoy's where nothing
//! is registered, Traefik's, or those that a field map of the catalogue names.

use std::sync::Arc;

use axum::Extension;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use farebox_core::auth::{Caller, Scope};
use farebox_core::config;
use farebox_core::ids::WorkspaceId;
use farebox_core::problem::Problem;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;

use crate::body;
use crate::events::{on_a_thread_when_large, source_of};
use crate::fields::is_shallow;
use crate::formats::{Draft, Format, envoy_otlp, otlp, traefik_otlp};
use crate::gateways::too_many;
use crate::intake::{Batch, Intake, Ordinals, Raw, Read, Receipt, received_now};
use crate::records;
use crate::verdict::{Reason, Rejection};

/// Send access logs by OTLP
///
/// `ExportLogsServiceRequest` in protobuf or JSON, gzip or not. `X-Farebox-Source` names the gateway; its format in the
/// catalogue (`envoy`, `traefik`, or one of your own) says which attributes are read, `envoy`'s where it is not registered.
/// Answered 200 only after the log has every record safely on disk; rejected records are counted in `partialSuccess` and
/// are in the dead letters.
#[utoipa::path(
    post, path = "/v1/logs", tag = "ingest",
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses(
        (status = 200, description = "ExportLogsServiceResponse"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem, description = "Nothing was acknowledged; send the same again after `Retry-After`")
    )
)]
pub async fn post(caller: Caller, Extension(intake): Extension<Arc<Intake>>, request: Request) -> Result<Response, Problem> {
    caller.0.require(Scope::Ingest)?;
    let (parts, body) = request.into_parts();
    let encoding = Encoding::of(&parts.headers)?;
    let source = source_of(&parts.headers, &caller)?;
    let format = format_of(&intake, &caller.0.workspace, &source).await?;
    let received_at = received_now();
    let held = body::read(&intake, &parts.headers, body).await?;
    let (body, limits, reader) = (held.bytes.clone(), intake.app.config.ingest.clone(), format.clone());
    let records = on_a_thread_when_large(body.len(), move || read(encoding.parse(&body)?, &reader, &limits)).await??;
    let batch = Batch { workspace: &caller.0.workspace, source: &source, format, received_at, body: Some(&held.bytes), records };
    let receipt = intake.take(batch).await?;
    Ok(encoding.answer(&response(&receipt)))
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

    fn parse(self, body: &Bytes) -> Result<ExportLogsServiceRequest, Problem> {
        match self {
            Self::Protobuf => ExportLogsServiceRequest::decode(body.clone())
                .map_err(|e| Problem::bad_request("invalid-protobuf", format!("The body is no ExportLogsServiceRequest: {e}."))),
            Self::Json => {
                if !std::str::from_utf8(body).is_ok_and(is_shallow) {
                    return Err(Problem::bad_request("invalid-json", "The body is not UTF-8, or nested too deep."));
                }
                serde_json::from_slice(body)
                    .map_err(|e| Problem::bad_request("invalid-json", format!("The body is no ExportLogsServiceRequest: {e}.")))
            }
        }
    }

    fn answer(self, answer: &ExportLogsServiceResponse) -> Response {
        match self {
            Self::Protobuf => ([(header::CONTENT_TYPE, "application/x-protobuf")], answer.encode_to_vec()).into_response(),
            Self::Json => axum::Json(answer).into_response(),
        }
    }
}

/// Full success says nothing more; else how many were rejected, and why the first of them.
pub fn response(receipt: &Receipt) -> ExportLogsServiceResponse {
    let partial_success = receipt.rejected.first().map(|first| ExportLogsPartialSuccess {
        rejected_log_records: i64::try_from(receipt.rejected.len()).unwrap_or(i64::MAX),
        error_message: format!("The first of them: {} ({}). All are in the dead letters.", first.detail, first.reason.as_str()),
    });
    ExportLogsServiceResponse { partial_success }
}

/// As what the OTLP records of this source are read.
pub async fn format_of(intake: &Intake, workspace: &WorkspaceId, source: &str) -> Result<Format, Problem> {
    let registered = intake.known(workspace).await?;
    let name = registered.source(source).map_or("envoy", |source| source.format.as_str());
    let by_otlp = match name {
        "envoy" | "envoy_otlp" => Format::parse("envoy_otlp"),
        "traefik" | "traefik_otlp" => Format::parse("traefik_otlp"),
        name => registered.format(name).filter(|format| matches!(format, Format::Mapped(_))),
    };
    by_otlp.ok_or_else(|| {
        let detail = format!(
            "names a source whose format is `{name}`, which is not sent by OTLP. Give it the format `envoy`, `traefik` or one of your own"
        );
        Problem::invalid_field("X-Farebox-Source", detail)
    })
}

/// Each record with its verdict or what it says.
pub fn read(request: ExportLogsServiceRequest, format: &Format, limits: &config::Ingest) -> Result<Vec<Read>, Problem> {
    let records: Vec<LogRecord> = request.resource_logs.into_iter().flat_map(|r| r.scope_logs).flat_map(|s| s.log_records).collect();
    if records.len() > limits.max_events_per_batch {
        return Err(too_many(limits.max_events_per_batch));
    }
    let mut ordinals = Ordinals::default();
    Ok(records.into_iter().map(|record| read_record(record, format, &mut ordinals, limits)).collect())
}

fn read_record(record: LogRecord, format: &Format, ordinals: &mut Ordinals, limits: &config::Ingest) -> Read {
    if let Format::Mapped(_) = format {
        let raw = Bytes::from(otlp::as_json(&record));
        let decoded = records::decode(&raw, format, limits);
        return Read { fallback_id: fallback_id(&decoded, &record, ordinals), decoded, origin: None, raw: Raw::Bytes(raw) };
    }
    let decoded = decode(&record, format, limits.max_event_bytes);
    let fallback_id = fallback_id(&decoded, &record, ordinals);
    Read { decoded, origin: None, fallback_id, raw: Raw::Otlp(Box::new(record)) }
}

fn fallback_id(decoded: &Result<Draft, Rejection>, record: &LogRecord, ordinals: &mut Ordinals) -> String {
    match decoded {
        Ok(Draft { id: Some(_), .. }) => String::new(),
        _ => ordinals.id_of(&record.encode_to_vec()),
    }
}

fn decode(record: &LogRecord, format: &Format, most: usize) -> Result<Draft, Rejection> {
    if record.encoded_len() > most {
        return Err(Rejection::new(Reason::TooLarge, "", format!("A record has at most {most} bytes. Log fewer attributes.")));
    }
    match format.as_str() {
        "traefik_otlp" => traefik_otlp::decode_record(record),
        _ => envoy_otlp::decode_record(record),
    }
}

#[cfg(test)]
mod tests {
    use farebox_core::field_map;
    use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
    use proptest::prelude::*;

    use super::*;
    use crate::formats::mapped::Mapped;

    fn envoy() -> Format {
        Format::parse("envoy_otlp").expect("it is in the list")
    }

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
        let read_as = |encoding: Encoding, body: Vec<u8>| {
            let request = encoding.parse(&Bytes::from(body)).expect("it parses");
            read(request, &envoy(), &config::Ingest::default()).expect("not too many")
        };
        let from_protobuf = read_as(Encoding::Protobuf, request.encode_to_vec());
        let from_json = read_as(Encoding::Json, serde_json::to_vec(&request).expect("it serialises"));
        let ids = |records: &[Read]| records.iter().map(|r| r.fallback_id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&from_protobuf), ids(&from_json));
        assert_ne!(from_json[0].fallback_id, from_json[1].fallback_id);
        assert_eq!(from_json[0].decoded.as_ref().expect("it is right").data.status, 200);
    }

    /// Attributes that an operator named, read by a field map; the dead letter keeps what the map was read from.
    #[test]
    fn an_operators_attributes_are_read_by_the_map() {
        let record: LogRecord = serde_json::from_str(
            r#"{"timeUnixNano":"1795268435453021000","attributes":[{"key":"code","value":{"intValue":"404"}},{"key":"ok","value":{"boolValue":true}},{"key":"who","value":{"kvlistValue":{"values":[{"key":"name","value":{"stringValue":"initech"}}]}}}]}"#,
        )
        .expect("a record");
        let field = |name, pointer, kind, unit| field_map::reading(name, pointer, kind, unit, &[]).expect("a field");
        let map = field_map::FieldMap {
            name: "mesh".to_owned(),
            event: "farebox.request.v1".to_owned(),
            fields: [
                field("time", "/timeUnixNano", Some("epoch"), Some("ns")),
                field("status", "/code", None, None),
                field("subject", "/who/name", None, None),
                field("cached", "/ok", None, None),
            ]
            .into(),
            properties: Vec::new(),
        };
        let format = Format::Mapped(Arc::new(Mapped::new(map)));
        let read = read(request(vec![record]), &format, &config::Ingest::default()).expect("not too many").remove(0);
        let draft = read.decoded.expect("it is right");
        assert_eq!((draft.data.status, draft.subject.as_str(), draft.data.cached), (404, "initech", true));
        assert_eq!(draft.time.map(|t| t.timestamp_micros()), Some(1_795_268_435_453_021));
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let body = Bytes::from(body);
            for encoding in [Encoding::Protobuf, Encoding::Json] {
                let _ = encoding.parse(&body).and_then(|request| read(request, &envoy(), &config::Ingest::default()));
            }
        }
    }
}
