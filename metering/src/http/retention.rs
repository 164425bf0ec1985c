//! How long raw events are kept, and erasure.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Json as Answer;
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page};
use farebox_core::ids::ConsumerId;
use farebox_core::problem::Problem;
use serde::Deserialize;

use crate::consumers;
use crate::erasure::{self, Erasure};
use crate::retention::{self, Retention};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewRetention)]
pub(super) struct Body {
    /// Days, at least 62; null: for ever.
    keep_days: Option<i32>,
}

/// How long raw events are kept
///
/// And the months whose events have expired, each with what proves its numbers.
#[utoipa::path(get, path = "/api/v1/retention", tag = "usage", responses((status = 200, body = Retention)))]
pub(super) async fn get(State(app): State<App>, caller: Caller) -> Result<Answer<Retention>, Problem> {
    caller.0.require(Scope::Read)?;
    Ok(Answer(retention::get(&mut *app.pg.acquire().await?, &caller.0.workspace).await?))
}

/// Keep raw events so long
///
/// Whole months expire, some minutes after they are due. Usage of expired months stays as it is: their numbers are
/// frozen, events and corrections for them are refused, and questions that need the events themselves say so.
#[utoipa::path(put, path = "/api/v1/retention", tag = "usage", request_body = Body,
    responses((status = 200, body = Retention), (status = 422, body = Problem)))]
pub(super) async fn put(State(app): State<App>, caller: Caller, Json(body): Json<Body>) -> Result<Answer<Retention>, Problem> {
    caller.0.require(Scope::Manage)?;
    let workspace = &caller.0.workspace;
    let mut transaction = app.pg.begin().await?;
    retention::set(&mut transaction, workspace, body.keep_days, caller.0.token.as_str()).await?;
    let retention = retention::get(&mut transaction, workspace).await?;
    transaction.commit().await?;
    Ok(Answer(retention))
}

/// Erase a consumer's personal data
///
/// Subjects and keys in events become pseudonyms, properties that no meter reads are dropped, and name, address and keys
/// are forgotten. No total changes. Issued invoices keep the buyer they were sealed with. Cannot be undone; safe to
/// repeat.
#[utoipa::path(post, path = "/api/v1/consumers/{id}/erasures", tag = "consumers",
    responses((status = 201, body = Erasure), (status = 404, body = Problem)))]
pub(super) async fn erase(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<(StatusCode, Answer<Erasure>), Problem> {
    caller.0.require(Scope::Manage)?;
    let consumer: ConsumerId = id.parse().map_err(|_| Problem::not_found("consumer"))?;
    let erasure = erasure::erase(&app, &caller.0.workspace, &consumer, caller.0.token.as_str()).await?;
    Ok((StatusCode::CREATED, Answer(erasure)))
}

/// Erasures of a consumer, the newest first
#[utoipa::path(get, path = "/api/v1/consumers/{id}/erasures", tag = "consumers",
    responses((status = 200, body = Page<Erasure>), (status = 404, body = Problem)))]
pub(super) async fn erasures(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer<Page<Erasure>>, Problem> {
    caller.0.require(Scope::Read)?;
    let consumer: ConsumerId = id.parse().map_err(|_| Problem::not_found("consumer"))?;
    if consumers::get(&mut *app.pg.acquire().await?, &caller.0.workspace, &consumer).await?.is_none() {
        return Err(Problem::not_found("consumer"));
    }
    let data = erasure::list(&app, &caller.0.workspace, &consumer).await?;
    Ok(Answer(Page { data, next_cursor: None }))
}
