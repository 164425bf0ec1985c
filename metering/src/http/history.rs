//! `/api/v1/backfills`: history as a job.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::Json as Answer;
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page, Paging, Params};
use farebox_core::ids::JobId;
use farebox_core::problem::Problem;
use serde::Deserialize;

use crate::history::{self, Job, New, Preview, Taken};

/// Bytes of a chunk, at most.
const CHUNK: usize = 16 << 20;

pub(super) fn limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(CHUNK)
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BackfillCommit)]
pub(super) struct Commit {
    /// `new` of the preview: refuse when it is another number by now.
    expected_events: u64,
}

fn id_of(id: &str) -> Result<JobId, Problem> {
    id.parse().map_err(|_| Problem::not_found("backfill"))
}

/// Bring history in
///
/// Of a file, whose chunks follow, or of a Kafka topic. Nothing counts before the commit.
#[utoipa::path(post, path = "/api/v1/backfills", tag = "usage", request_body = New,
    responses((status = 201, body = Job), (status = 422, body = Problem)))]
pub(super) async fn create(State(app): State<App>, caller: Caller, Json(new): Json<New>) -> Result<(StatusCode, Answer<Job>), Problem> {
    caller.0.require(Scope::Manage)?;
    let job = history::create(&app, &caller.0.workspace, new, caller.0.token.as_str()).await?;
    Ok((StatusCode::CREATED, Answer(job)))
}

/// Backfills, the newest first
#[utoipa::path(get, path = "/api/v1/backfills", tag = "usage", params(Paging), responses((status = 200, body = Page<Job>)))]
pub(super) async fn list(State(app): State<App>, caller: Caller, Params(paging): Params<Paging>) -> Result<Answer<Page<Job>>, Problem> {
    caller.0.require(Scope::Read)?;
    let (limit, before) = paging.resolve()?;
    let rows = history::list(&mut *app.pg.acquire().await?, &caller.0.workspace, limit + 1, &before).await?;
    Ok(Answer(Page::from_rows(rows, limit, |job| job.id.to_string())))
}

/// One backfill, and how far it is
#[utoipa::path(get, path = "/api/v1/backfills/{id}", tag = "usage", responses((status = 200, body = Job), (status = 404, body = Problem)))]
pub(super) async fn get(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer<Job>, Problem> {
    caller.0.require(Scope::Read)?;
    let job = history::get(&mut *app.pg.acquire().await?, &caller.0.workspace, &id_of(&id)?).await?;
    Ok(Answer(job.ok_or_else(|| Problem::not_found("backfill"))?))
}

/// A chunk of the file
///
/// Records one a line, or an array, as the format has them: at most 16 MiB. Chunks are numbered from 0; one that was
/// taken is passed over, so that a sender can go on at `next_chunk` after whatever happened.
#[utoipa::path(put, path = "/api/v1/backfills/{id}/chunks/{number}", tag = "usage", request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = 200, body = Taken), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn chunk(
    State(app): State<App>,
    caller: Caller,
    Path((id, number)): Path<(String, String)>,
    body: Bytes,
) -> Result<Answer<Taken>, Problem> {
    caller.0.require(Scope::Manage)?;
    let (workspace, id) = (&caller.0.workspace, id_of(&id)?);
    if history::get(&mut *app.pg.acquire().await?, workspace, &id).await?.is_none() {
        return Err(Problem::not_found("backfill"));
    }
    let number = number.parse().ok().filter(|n| *n >= 0);
    let number = number.ok_or_else(|| Problem::invalid_field("number", "is the chunk's number, from 0"))?;
    Ok(Answer(history::take(&app, workspace, &id, number, body).await?))
}

/// What the backfill would bring
///
/// How many events would be new, by consumer and day, and what that means for meters and subscriptions, in units and
/// money. Nothing is changed.
#[utoipa::path(get, path = "/api/v1/backfills/{id}/preview", tag = "usage",
    responses((status = 200, body = Preview), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn preview(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer<Preview>, Problem> {
    caller.0.require(Scope::Read)?;
    Ok(Answer(history::preview(&app, &caller.0.workspace, &id_of(&id)?).await?))
}

/// Take the backfill over
///
/// In the background, through the same recomputation as ever; it goes on after a crash. See its progress.
#[utoipa::path(post, path = "/api/v1/backfills/{id}/commit", tag = "usage", request_body = Commit,
    responses((status = 202, body = Job), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn commit(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Commit>,
) -> Result<(StatusCode, Answer<Job>), Problem> {
    caller.0.require(Scope::Manage)?;
    let job = history::commit(&app, &caller.0.workspace, &id_of(&id)?, body.expected_events, caller.0.token.as_str()).await?;
    Ok((StatusCode::ACCEPTED, Answer(job)))
}

/// Forget the backfill, before its commit
#[utoipa::path(delete, path = "/api/v1/backfills/{id}", tag = "usage",
    responses((status = 200, body = Job), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn cancel(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer<Job>, Problem> {
    caller.0.require(Scope::Manage)?;
    Ok(Answer(history::cancel(&app, &caller.0.workspace, &id_of(&id)?, caller.0.token.as_str()).await?))
}
