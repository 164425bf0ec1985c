//! `/api/v1/dead-letters` and `/api/v1/verdicts`: what was rejected and why, and how much came in.

use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page, Paging, Params, Stretch};
use farebox_core::problem::Problem;
use serde::{Deserialize, Serialize};

use crate::dead_letter::DeadLetter;
use crate::dead_letters::{self, Filter, LetterCount};
use crate::replay::{self, Report};
use crate::tally::{self, VerdictCount};
use crate::verdict::Reason;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// Only those rejected for this reason.
    pub reason: Option<String>,
    /// Only those that came through this source.
    pub source: Option<String>,
    /// Only those with this text in the event as it came, its id, source or origin, or the detail.
    pub text: Option<String>,
    /// Only those received at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Only those received before this time.
    pub until: Option<DateTime<Utc>>,
    /// Those too that a replay has brought in.
    #[serde(default)]
    pub with_resolved: bool,
    pub limit: Option<i64>,
    pub cursor: Option<String>,
}

/// A rejected event.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Letter {
    pub id: String,
    pub source: String,
    pub format: String,
    /// Where it stood: `http/<hash of the body>/<index>`, `kafka/<topic>/<partition>/<offset>/<timestamp>/<index>`, or
    /// `file/<file>/<offset>`.
    pub origin: String,
    pub received_at: DateTime<Utc>,
    pub reason: String,
    pub detail: String,
    /// The event's own source and id, as far as they could be read.
    pub event_source: String,
    pub event_id: String,
    /// The bytes as text, when they are.
    pub body: Option<String>,
    /// The bytes as they came, but for secrets.
    pub body_base64: String,
    pub truncated: bool,
}

impl From<DeadLetter> for Letter {
    fn from(letter: DeadLetter) -> Self {
        let text = STANDARD.decode(&letter.body).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        Self {
            id: letter.id.to_string(),
            source: letter.source,
            format: letter.format,
            origin: letter.origin,
            received_at: letter.received_at,
            reason: letter.reason,
            detail: letter.detail,
            event_source: letter.event_source,
            event_id: letter.event_id,
            body: text,
            body_base64: letter.body,
            truncated: letter.truncated,
        }
    }
}

fn known(reason: Option<&str>) -> Result<(), Problem> {
    match reason {
        Some(name) if Reason::parse(name).is_none() => {
            let all: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
            Err(Problem::invalid_field("reason", format!("must be one of {}", all.join(", "))))
        }
        _ => Ok(()),
    }
}

/// List dead letters
///
/// Rejected events as they came, but for secrets, the latest first.
#[utoipa::path(get, path = "/api/v1/dead-letters", tag = "ingest", params(Which), responses((status = 200, body = Page<Letter>)))]
pub async fn list(State(app): State<App>, caller: Caller, Params(which): Params<Which>) -> Result<axum::Json<Page<Letter>>, Problem> {
    caller.0.require(Scope::Read)?;
    known(which.reason.as_deref())?;
    let (limit, cursor) = Paging { limit: which.limit, cursor: which.cursor }.resolve()?;
    let bad_cursor = || Problem::invalid_field("cursor", "is not a `next_cursor` that Farebox gave; leave it out for the first page");
    let after = match cursor.split_once('/') {
        None if cursor.is_empty() => None,
        None => return Err(bad_cursor()),
        Some((us, id)) => Some((us.parse::<i64>().map_err(|_| bad_cursor())?, id)),
    };
    let Which { reason, source, text, since, until, with_resolved, .. } = which;
    let filter = Filter { reason, source, text, since, until, with_resolved, id: None };
    let one_more = u64::try_from(limit).unwrap_or(50) + 1;
    let letters = dead_letters::list(&app, &caller.0.workspace, &filter, one_more, after).await?;
    let rows: Vec<Letter> = letters.into_iter().map(Letter::from).collect();
    let key = |letter: &Letter| format!("{}/{}", letter.received_at.timestamp_micros(), letter.id);
    Ok(axum::Json(Page::from_rows(rows, limit, key)))
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Counts {
    pub data: Vec<LetterCount>,
}

/// Count dead letters
///
/// By source, format and reason.
#[utoipa::path(get, path = "/api/v1/dead-letters/counts", tag = "ingest", responses((status = 200, body = Counts)))]
pub async fn counts(State(app): State<App>, caller: Caller) -> Result<axum::Json<Counts>, Problem> {
    caller.0.require(Scope::Read)?;
    Ok(axum::Json(Counts { data: dead_letters::counts(&app, &caller.0.workspace).await? }))
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// Only those rejected for this reason.
    pub reason: Option<String>,
    /// Only those that came through this source.
    pub source: Option<String>,
    /// Only those with this text in the event as it came, its id, source or origin, or the detail.
    pub text: Option<String>,
    /// Only those received at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Only those received before this time.
    pub until: Option<DateTime<Utc>>,
}

/// Replay dead letters
///
/// Judges them again, and lets in what is right now, with the id it had.
#[utoipa::path(
    post, path = "/api/v1/dead-letters/replay", tag = "ingest", request_body = ReplayRequest,
    responses((status = 200, body = Report), (status = 422, body = Problem))
)]
pub async fn replay(State(app): State<App>, caller: Caller, Json(request): Json<ReplayRequest>) -> Result<axum::Json<Report>, Problem> {
    caller.0.require(Scope::Manage)?;
    known(request.reason.as_deref())?;
    let ReplayRequest { reason, source, text, since, until } = request;
    let filter = Filter { reason, source, text, since, until, with_resolved: false, id: None };
    Ok(axum::Json(replay::replay(&app, &caller.0.workspace, &filter).await?))
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Verdicts {
    pub data: Vec<VerdictCount>,
}

/// Count verdicts
///
/// How many records were accepted or rejected, by source, format and reason, by the time they came.
#[utoipa::path(get, path = "/api/v1/verdicts", tag = "ingest", params(Stretch), responses((status = 200, body = Verdicts)))]
pub async fn verdicts(State(app): State<App>, caller: Caller, Params(stretch): Params<Stretch>) -> Result<axum::Json<Verdicts>, Problem> {
    caller.0.require(Scope::Read)?;
    Ok(axum::Json(Verdicts { data: tally::counts(&app, &caller.0.workspace, stretch.period()?).await? }))
}
