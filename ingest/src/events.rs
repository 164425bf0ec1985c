//! `POST /v1/events`: CloudEvents, structured, batch, binary, or one per line.

use std::sync::Arc;

use axum::Extension;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use farebox_core::auth::{Caller, Scope};
use farebox_core::config;
use farebox_core::problem::{FieldError, Problem};
use serde_json::value::RawValue;

use crate::formats::{Format, cloudevents};
use crate::gateways::too_many;
use crate::intake::{Batch, Intake, Raw, Read, Receipt, Rejected, received_now};
use crate::place::Place;
use crate::verdict::{Reason, Rejection};
use crate::{binary, body};

/// Send events
///
/// A CloudEvent 1.0 in JSON (`application/cloudevents+json`), a batch (`application/cloudevents-batch+json`), one in
/// binary mode (`ce-*` headers), or one a line (`application/x-ndjson`); `application/json` is either of the first two.
/// Answered only after the log has it safely on disk. A batch that parses is always 202, its rejected events being in
/// the dead letters; `accepted`, `duplicates_in_batch` and `rejected` add up to the events sent.
#[utoipa::path(
    post, path = "/v1/events", tag = "ingest",
    request_body(content = serde_json::Value, content_type = "application/cloudevents-batch+json"),
    responses(
        (status = 202, body = Receipt),
        (status = 400, body = Problem, description = "A body that does not parse, or a single event that is rejected"),
        (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 503, body = Problem, description = "Nothing was acknowledged; send the same again after `Retry-After`")
    )
)]
pub async fn post(caller: Caller, Extension(intake): Extension<Arc<Intake>>, request: Request) -> Result<Response, Problem> {
    caller.0.require(Scope::Ingest)?;
    let (parts, body) = request.into_parts();
    let mode = Mode::of(&parts.headers)?;
    let source = source_of(&parts.headers, &caller)?;
    let received_at = received_now();
    let held = body::read(&intake, &parts.headers, body).await?;
    let (body, limits) = (held.bytes.clone(), intake.app.config.ingest.clone());
    let read = move || read(mode, &parts.headers, &body, &limits);
    let read = on_a_thread_when_large(held.bytes.len(), read).await??;
    let batch = Batch {
        workspace: &caller.0.workspace,
        source: &source,
        format: Format::cloudevents(),
        received_at,
        body: Some(&held.bytes),
        records: read.records,
    };
    let receipt = intake.take(batch).await?;
    match (read.single, receipt.rejected.first()) {
        (true, Some(rejected)) => Err(refusal(rejected)),
        _ => Ok((StatusCode::ACCEPTED, axum::Json(receipt)).into_response()),
    }
}

/// Parsing megabytes would hold up every other connection of this thread.
pub async fn on_a_thread_when_large<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    if bytes < 128 << 10 {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|e| Problem::internal(&e))
}

/// The source that a body came through: `X-Farebox-Source`, else the token's name.
pub fn source_of(headers: &HeaderMap, caller: &Caller) -> Result<String, Problem> {
    let Some(value) = headers.get("x-farebox-source") else { return Ok(caller.0.name.chars().take(128).collect()) };
    match value.to_str() {
        Ok(name) if !name.is_empty() && name.len() <= 128 => Ok(name.to_owned()),
        _ => Err(Problem::invalid_field("X-Farebox-Source", "must be 1 to 128 visible ASCII characters")),
    }
}

fn refusal(rejected: &Rejected) -> Problem {
    let status = if rejected.reason == Reason::TooLarge { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
    let slug = rejected.reason.as_str().replace('_', "-");
    let mut problem = Problem::new(status, &slug, "The event was rejected", rejected.detail.clone());
    problem.errors.push(FieldError::new(rejected.pointer.clone(), rejected.detail.clone()));
    problem
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Structured,
    Batch,
    /// `application/json`: an array is a batch.
    Either,
    Lines,
    Binary,
}

impl Mode {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let content_type = headers.get(header::CONTENT_TYPE).map_or("application/json", |v| v.to_str().unwrap_or("?"));
        let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media.as_str() {
            "application/cloudevents+json" => Ok(Self::Structured),
            "application/cloudevents-batch+json" => Ok(Self::Batch),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Self::Lines),
            _ if headers.contains_key("ce-specversion") => Ok(Self::Binary),
            "application/json" => Ok(Self::Either),
            _ => Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The content type is not read",
                "Send `application/cloudevents+json`, `application/cloudevents-batch+json` or `application/x-ndjson`.",
            )),
        }
    }
}

struct Records {
    records: Vec<Read>,
    /// One event by itself, whose rejection is the answer.
    single: bool,
}

fn read(mode: Mode, headers: &HeaderMap, body: &Bytes, limits: &config::Ingest) -> Result<Records, Problem> {
    let starts_array = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[');
    let pieces: Vec<Bytes> = match mode {
        Mode::Batch => elements(body)?,
        Mode::Either if starts_array => elements(body)?,
        Mode::Lines => {
            let lines = body.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty());
            lines.map(|line| body.slice_ref(line)).collect()
        }
        Mode::Binary => vec![binary::of_http(headers, body)],
        Mode::Structured | Mode::Either => vec![body.clone()],
    };
    if pieces.len() > limits.max_events_per_batch {
        return Err(too_many(limits.max_events_per_batch));
    }
    let single = matches!(mode, Mode::Structured | Mode::Binary) || (mode == Mode::Either && !starts_array);
    if single && mode != Mode::Binary {
        // A body that is no JSON at all is no event that could be kept.
        serde_json::from_slice::<&RawValue>(body).map_err(|e| unparsable(&e))?;
    }
    let place = Place::of(headers)?.filter(|_| mode == Mode::Lines);
    let records = pieces.into_iter().map(|raw| Read {
        decoded: decode(&raw, limits.max_event_bytes),
        origin: place.as_ref().map(|place| place.origin(body, &raw)),
        raw: Raw::Bytes(raw),
        fallback_id: String::new(),
    });
    Ok(Records { records: records.collect(), single })
}

fn decode(raw: &[u8], most: usize) -> Result<crate::formats::Draft, Rejection> {
    if raw.len() > most {
        return Err(Rejection::new(Reason::TooLarge, "", format!("An event has at most {most} bytes. Leave out what is not measured.")));
    }
    cloudevents::decode(raw)
}

fn elements(body: &Bytes) -> Result<Vec<Bytes>, Problem> {
    let elements: Vec<&RawValue> = serde_json::from_slice(body).map_err(|e| unparsable(&e))?;
    Ok(elements.into_iter().map(|raw| body.slice_ref(raw.get().as_bytes())).collect())
}

fn unparsable(error: &serde_json::Error) -> Problem {
    if error.is_data() {
        return Problem::bad_request("not-an-array", "A batch is a JSON array of events.");
    }
    Problem::bad_request("invalid-json", format!("The body is not valid JSON: {error}. Nothing of it was taken."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().expect("a name"), v.parse().expect("a value"))).collect()
    }

    fn read_as(content_type: &str, body: &'static str) -> Result<Records, Problem> {
        let headers = headers(&[("content-type", content_type)]);
        read(Mode::of(&headers)?, &headers, &Bytes::from(body), &config::Ingest { max_events_per_batch: 3, ..config::Ingest::default() })
    }

    #[test]
    fn json_is_one_or_many_by_its_first_character() {
        let one = read_as("application/json; charset=utf-8", r#" {"id":"1"}"#).expect("it parses");
        assert!(one.single && one.records.len() == 1);
        let many = read_as("application/json", r#" [{"id":"1"},7]"#).expect("it parses");
        assert!(!many.single && many.records.len() == 2);
    }

    #[test]
    fn what_does_not_parse_is_no_event() {
        for (content_type, body, slug) in [
            ("application/cloudevents+json", "{", "invalid-json"),
            ("application/cloudevents-batch+json", "{}", "not-an-array"),
            ("application/cloudevents-batch+json", "[{},{}", "invalid-json"),
            ("application/xml", "<a/>", "unsupported-media-type"),
            ("application/cloudevents-batch+json", "[1,2,3,4]", "too-many-events"),
        ] {
            let problem = read_as(content_type, body).err().expect(body);
            assert_eq!(problem.kind, format!("urn:farebox:problem:{slug}"), "{body}");
        }
    }

    #[test]
    fn a_bad_line_leaves_the_others_alone() {
        let lines = read_as("application/x-ndjson", "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"s\",\"type\":\"t\"}\n{\n\n")
            .expect("lines");
        let fine: Vec<bool> = lines.records.iter().map(|r| r.decoded.is_ok()).collect();
        assert_eq!(fine, [true, false]);
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..300), mode in 0_usize..5) {
            let mode = [Mode::Structured, Mode::Batch, Mode::Either, Mode::Lines, Mode::Binary][mode];
            let _ = read(mode, &headers(&[("ce-id", "%zz%")]), &Bytes::from(body), &config::Ingest::default());
        }
    }
}
