//! `/api/v1/alerts`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page, Paging, Params};
use farebox_core::ids::{AlertId, ConsumerId};
use farebox_core::problem::Problem;
use farebox_core::{App, audit_log};
use serde::Deserialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::fire::{self, Firing, FiringFilter, For};
use super::store::{self, Alert, NewAlert};

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(update, remove)).routes(routes!(fired)).with_state(app.clone())
}

fn id_of(text: &str) -> Result<AlertId, Problem> {
    text.parse().map_err(|_| Problem::not_found("alert"))
}

/// The provider's alerts. Those that consumers set about themselves are theirs.
#[utoipa::path(get, path = "/api/v1/alerts", tag = "alerts", responses((status = 200, body = Page<Alert>)))]
async fn list(State(app): State<App>, Caller(caller): Caller) -> Result<axum::Json<Page<Alert>>, Problem> {
    caller.require(Scope::Read)?;
    let data = store::list(&mut *app.pg.acquire().await?, &caller.workspace).await?;
    Ok(axum::Json(Page { data, next_cursor: None }))
}

/// Tells when usage or money reaches a threshold
///
/// Once for each subscription and period: by the webhooks that want `alert.fired`, and by e-mail.
#[utoipa::path(
    post, path = "/api/v1/alerts", tag = "alerts", request_body = NewAlert,
    responses((status = 201, body = Alert), (status = 409, body = Problem), (status = 422, body = Problem))
)]
async fn create(
    State(app): State<App>,
    Caller(caller): Caller,
    Json(new): Json<NewAlert>,
) -> Result<(StatusCode, axum::Json<Alert>), Problem> {
    caller.require(Scope::Manage)?;
    let mut tx = app.pg.begin().await?;
    let alert = store::create(&mut tx, &caller.workspace, &new).await?;
    let detail = serde_json::to_value(&alert).map_err(|e| Problem::internal(&e))?;
    audit_log::record(&mut tx, &caller.workspace, caller.token.as_str(), "alert.create", alert.id.as_str(), &detail).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, axum::Json(alert)))
}

/// Another threshold, and whom to tell
///
/// A threshold that is raised may be told again in the same period. What the alert is about stays.
#[utoipa::path(
    put, path = "/api/v1/alerts/{id}", tag = "alerts", params(("id" = String, Path)), request_body = NewAlert,
    responses((status = 200, body = Alert), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
async fn update(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(new): Json<NewAlert>,
) -> Result<axum::Json<Alert>, Problem> {
    caller.require(Scope::Manage)?;
    let id = id_of(&id)?;
    let mut tx = app.pg.begin().await?;
    let alert = store::update(&mut tx, &caller.workspace, &id, &new).await?;
    let detail = serde_json::to_value(&alert).map_err(|e| Problem::internal(&e))?;
    audit_log::record(&mut tx, &caller.workspace, caller.token.as_str(), "alert.update", id.as_str(), &detail).await?;
    tx.commit().await?;
    Ok(axum::Json(alert))
}

/// Removes an alert; what it told stays on record.
#[utoipa::path(
    delete, path = "/api/v1/alerts/{id}", tag = "alerts", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem))
)]
async fn remove(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    caller.require(Scope::Manage)?;
    let id = id_of(&id)?;
    let mut tx = app.pg.begin().await?;
    if !store::remove(&mut tx, &caller.workspace, &id).await? {
        return Err(Problem::not_found("alert"));
    }
    audit_log::record(&mut tx, &caller.workspace, caller.token.as_str(), "alert.remove", id.as_str(), &json!({})).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Of this consumer (id).
    consumer: Option<String>,
    /// How many to return: 1 to 500, 50 unless given.
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// When thresholds of the provider's alerts were reached, newest first
///
/// Those of `spend` say amounts, and are only in the list with the scope `finance`.
#[utoipa::path(
    get, path = "/api/v1/alerts/firings", tag = "alerts", params(Asked),
    responses((status = 200, body = Page<Firing>), (status = 404, body = Problem), (status = 422, body = Problem))
)]
async fn fired(State(app): State<App>, Caller(caller): Caller, Params(asked): Params<Asked>) -> Result<axum::Json<Page<Firing>>, Problem> {
    caller.require(Scope::Read)?;
    let consumer: Option<ConsumerId> = asked.consumer.map(|id| id.parse()).transpose().map_err(|_| Problem::not_found("consumer"))?;
    let (limit, after) = Paging { limit: asked.limit, cursor: asked.cursor }.resolve()?;
    let without_amounts = caller.require(Scope::Finance).is_err();
    let filter = FiringFilter { eyes: For::Provider, consumer: consumer.as_ref(), without_amounts };
    let rows = fire::firings(&mut *app.pg.acquire().await?, &caller.workspace, &filter, limit + 1, &after).await?;
    Ok(axum::Json(Page::from_rows(rows, limit, |row| row.id.to_string())))
}
