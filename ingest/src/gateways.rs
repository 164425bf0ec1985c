//! `POST /v1/ingest/{format}`: what gateways post by themselves, such as Kong's http-log and APISIX' http-logger.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use farebox_core::auth::{Caller, Scope};
use farebox_core::problem::Problem;

use crate::events::{on_a_thread_when_large, source_of};
use crate::formats::{BUILT_IN, Format};
use crate::intake::{Batch, Intake, Receipt, received_now};
use crate::place::Place;
use crate::{body, records};

/// Send a gateway's log
///
/// A body in the named format: `apisix`, `kong`, `envoy`, `aws`, `tyk`, `traefik`, `nginx`, `wso2`, `cloudevents`, or one of
/// the workspace's own formats (`formats` in the catalogue). One record, a JSON array, or one record a line; gzip or not.
/// `X-Farebox-Source` names the gateway, else the token's name does. Answered 202 once every record has its verdict and
/// the log has it safely on disk: rejected ones are in the receipt and the dead letters, so that a gateway which sends the
/// body again never holds up the good ones.
#[utoipa::path(
    post, path = "/v1/ingest/{format}", tag = "ingest", params(("format" = String, Path)),
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses(
        (status = 202, body = Receipt),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem, description = "No such format"),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem, description = "Nothing was acknowledged; send the same again after `Retry-After`")
    )
)]
pub async fn post(
    caller: Caller,
    Extension(intake): Extension<Arc<Intake>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.0.require(Scope::Ingest)?;
    let format = format(&intake, &caller, &name).await?;
    let (parts, body) = request.into_parts();
    let source = source_of(&parts.headers, &caller)?;
    let place = Place::of(&parts.headers)?;
    let received_at = received_now();
    let held = body::read(&intake, &parts.headers, body).await?;
    let (body, limits, reader) = (held.bytes.clone(), intake.app.config.ingest.clone(), format.clone());
    let read = move || {
        let pieces = if body.trim_ascii().is_empty() { Vec::new() } else { records::split(&body, &reader) };
        if pieces.len() > limits.max_events_per_batch {
            return Err(too_many(limits.max_events_per_batch));
        }
        Ok(records::of_body(&body, pieces, &reader, place.as_ref(), &limits))
    };
    let records = on_a_thread_when_large(held.bytes.len(), read).await??;
    let batch = Batch { workspace: &caller.0.workspace, source: &source, format, received_at, body: Some(&held.bytes), records };
    let receipt = intake.take(batch).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(receipt)).into_response())
}

pub fn too_many(most: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too-many-events",
        "The batch has too many events",
        format!("At most {most} events are taken at once. Send smaller batches."),
    )
}

/// One that comes with Farebox needs no look-up, so that it is read while PostgreSQL is away.
async fn format(intake: &Intake, caller: &Caller, name: &str) -> Result<Format, Problem> {
    if let Some(format) = Format::parse(name) {
        return Ok(format);
    }
    let registered = intake.known(&caller.0.workspace).await?;
    registered.format(name).ok_or_else(|| {
        let known: Vec<&str> = BUILT_IN.iter().map(|format| format.name).chain(registered.own()).collect();
        let mut problem = Problem::not_found("format");
        problem.detail =
            format!("There is no format `{name}`. Known are {}; your own are written under `formats` in the catalogue.", known.join(", "));
        problem
    })
}
