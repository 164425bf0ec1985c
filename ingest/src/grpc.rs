//! OTLP access logs over gRPC: `opentelemetry.proto.collector.logs.v1.LogsService/Export`, on the port of everything
//! else (HTTP/2 without TLS, or with it where Farebox ends TLS). The token is the metadata `x-farebox-token` or
//! `authorization: Bearer`, the source `x-farebox-source`. As over HTTP, success is said only after the log has every
//! record safely on disk; what cannot be kept right now is `UNAVAILABLE`, which OTLP exporters try again.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::problem::Problem;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use prost::Message;
use tokio::sync::Semaphore;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Status};
use utoipa_axum::router::OpenApiRouter;

use crate::events::{on_a_thread_when_large, source_of};
use crate::intake::{Batch, Intake, received_now};
use crate::limits::Uncharged;
use crate::logs::{format_of, read, response};

/// Requests that are read at once, and the largest of them: together they bound what is held before it is parsed.
const AT_ONCE: usize = 16;
const MAX_MESSAGE: usize = 4 << 20;
/// How long a request may take in all.
const WITHIN: Duration = Duration::from_secs(30);

pub fn router(app: &App, intake: Arc<Intake>) -> OpenApiRouter<App> {
    let service = LogsServiceServer::new(Logs(intake))
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(MAX_MESSAGE);
    let door = Door { app: app.clone(), free: Arc::new(Semaphore::new(AT_ONCE)) };
    OpenApiRouter::new()
        .route_service("/opentelemetry.proto.collector.logs.v1.LogsService/Export", service)
        .layer(from_fn_with_state(door, enter))
}

#[derive(Clone)]
struct Door {
    app: App,
    free: Arc<Semaphore>,
}

/// Whether a call speaks gRPC, so that a refusal must, too.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

/// A problem as the whole answer.
pub fn refusal(problem: &Problem) -> Response {
    status_of(problem).into_http::<axum::body::Body>().into_response()
}

/// Who calls is known, and there is room, before anything of the body is read.
async fn enter(State(door): State<Door>, request: Request, next: Next) -> Response {
    let refuse = |status: Status| status.into_http::<axum::body::Body>().into_response();
    let (mut parts, body) = request.into_parts();
    let caller = Caller::from_request_parts(&mut parts, &door.app).await;
    let caller = match caller.and_then(|caller| caller.0.require(Scope::Ingest).map(|()| caller)) {
        Ok(caller) => caller,
        Err(problem) => return refusal(&problem),
    };
    let Ok(_place) = door.free.try_acquire() else {
        return refuse(Status::unavailable("More is under way than can be kept in memory. Nothing was acknowledged; send the same again."));
    };
    parts.extensions.insert(caller);
    let answer = tokio::time::timeout(WITHIN, next.run(Request::from_parts(parts, body))).await;
    answer.unwrap_or_else(|_| refuse(Status::unavailable("The request came too slowly. Nothing was acknowledged; send the same again.")))
}

struct Logs(Arc<Intake>);

#[tonic::async_trait]
impl LogsService for Logs {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        if let Some(uncharged) = extensions.get::<Uncharged>() {
            uncharged.charge(request.encoded_len()).map_err(|problem| status_of(&problem))?;
        }
        let caller = extensions.get::<Caller>().cloned().ok_or_else(|| Status::unauthenticated("Send a workspace token."))?;
        self.take(&caller, metadata.into_headers(), request).await.map(tonic::Response::new).map_err(|problem| status_of(&problem))
    }
}

impl Logs {
    async fn take(
        &self,
        caller: &Caller,
        headers: HeaderMap,
        request: ExportLogsServiceRequest,
    ) -> Result<ExportLogsServiceResponse, Problem> {
        let intake = &self.0;
        let source = source_of(&headers, caller)?;
        let format = format_of(intake, &caller.0.workspace, &source).await?;
        let received_at = received_now();
        let bytes = request.encoded_len();
        let share = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let _share = intake.budget.try_acquire_many(share).map_err(|_| {
            Problem::unavailable("More is under way than can be kept in memory. Nothing was acknowledged; send the same again.", 1)
        })?;
        // The dead letters' origin: the same when the same request comes again.
        let body = Bytes::from(request.encode_to_vec());
        let (limits, reader) = (intake.app.config.ingest.clone(), format.clone());
        let records = on_a_thread_when_large(bytes, move || read(request, &reader, &limits)).await??;
        let batch = Batch { workspace: &caller.0.workspace, source: &source, format, received_at, body: Some(&body), records };
        Ok(response(&intake.take(batch).await?))
    }
}

/// What a problem is in gRPC: whoever is told `UNAVAILABLE` or `RESOURCE_EXHAUSTED` may try again.
fn status_of(problem: &Problem) -> Status {
    let code = match StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR) {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        status if status.is_client_error() => Code::InvalidArgument,
        _ => Code::Internal,
    };
    match problem.retry_after_s() {
        None => Status::new(code, problem.detail.clone()),
        Some(seconds) => Status::with_details(code, problem.detail.clone(), retry_info(code, &problem.detail, seconds)),
    }
}

/// `google.rpc.Status` with one `google.rpc.RetryInfo`: OTLP exporters try `RESOURCE_EXHAUSTED` again only where it says
/// when (<https://opentelemetry.io/docs/specs/otlp/#otlpgrpc-throttling>).
fn retry_info(code: Code, message: &str, seconds: u64) -> Bytes {
    use prost::encoding::{bytes, int32, int64, string};
    let nested = |tag: u32, write: &dyn Fn(&mut Vec<u8>)| {
        let (mut inner, mut outer) = (Vec::new(), Vec::new());
        write(&mut inner);
        bytes::encode(tag, &inner, &mut outer);
        outer
    };
    let delay = nested(1, &|duration| int64::encode(1, &i64::try_from(seconds).unwrap_or(i64::MAX), duration));
    let any = nested(3, &|any| {
        string::encode(1, &"type.googleapis.com/google.rpc.RetryInfo".to_owned(), any);
        bytes::encode(2, &delay, any);
    });
    let mut status = Vec::new();
    int32::encode(1, &i32::from(code), &mut status);
    string::encode(2, &message.to_owned(), &mut status);
    status.extend(any);
    status.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_try_again_is_told_when() {
        let refused = status_of(&Problem::too_many_requests("Slow.", 7));
        assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "Slow."));
        let expected = [
            &[0x08, 8, 0x12, 5][..],
            b"Slow.",
            &[0x1a, 48, 0x0a, 40],
            b"type.googleapis.com/google.rpc.RetryInfo",
            &[0x12, 4, 0x0a, 2, 0x08, 7],
        ];
        assert_eq!(refused.details(), expected.concat());
        assert_eq!(status_of(&Problem::unavailable("Later.", 1)).code(), Code::Unavailable);
        assert!(status_of(&Problem::not_found("format")).details().is_empty());
    }
}
