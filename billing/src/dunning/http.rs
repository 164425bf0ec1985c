use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page, Params};
use farebox_core::ids::ConsumerId;
use farebox_core::problem::Problem;
use farebox_core::{App, audit_log};
use serde::Deserialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::failed::{self, FailedPayment};
use super::policy::{self, Policy};

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(get, put)).routes(routes!(pause, resume)).routes(routes!(failed_payments)).with_state(app.clone())
}

/// What is done about unpaid invoices.
#[utoipa::path(get, path = "/api/v1/dunning", tag = "dunning", responses((status = 200, body = Policy)))]
async fn get(State(app): State<App>, Caller(caller): Caller) -> Result<axum::Json<Policy>, Problem> {
    caller.require(Scope::Finance)?;
    Ok(axum::Json(policy::policy(&mut *app.pg.acquire().await?, &caller.workspace).await?))
}

/// Sets what is done about unpaid invoices. Holds for open invoices too.
#[utoipa::path(
    put, path = "/api/v1/dunning", tag = "dunning", request_body = Policy,
    responses((status = 200, body = Policy), (status = 422, body = Problem))
)]
async fn put(State(app): State<App>, Caller(caller): Caller, Json(new): Json<Policy>) -> Result<axum::Json<Policy>, Problem> {
    caller.require(Scope::Finance)?;
    let mut tx = app.pg.begin().await?;
    policy::set_policy(&mut tx, &caller.workspace, &new).await?;
    let detail = serde_json::to_value(&new).map_err(|e| Problem::internal(&e))?;
    audit_log::record(&mut tx, &caller.workspace, caller.token.as_str(), "dunning.set", caller.workspace.as_str(), &detail).await?;
    tx.commit().await?;
    Ok(axum::Json(new))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Of {
    /// Of this consumer (id).
    consumer: Option<String>,
}

/// Invoices whose payment failed, and how that stands: open ones first.
#[utoipa::path(
    get, path = "/api/v1/dunning/failed-payments", tag = "dunning", params(Of), responses((status = 200, body = Page<FailedPayment>))
)]
async fn failed_payments(
    State(app): State<App>,
    Caller(caller): Caller,
    Params(of): Params<Of>,
) -> Result<axum::Json<Page<FailedPayment>>, Problem> {
    caller.require(Scope::Finance)?;
    let data = failed::list(&mut *app.pg.acquire().await?, &caller.workspace, of.consumer.as_deref()).await?;
    Ok(axum::Json(Page { data, next_cursor: None }))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DunningPause)]
struct Pause {
    until: DateTime<Utc>,
    /// Why, for whoever asks later.
    reason: String,
}

fn id_of(text: &str) -> Result<ConsumerId, Problem> {
    text.parse().map_err(|_| Problem::not_found("consumer"))
}

/// Neither reminds nor refuses a consumer until an instant: a promise to pay, a dispute under discussion.
#[utoipa::path(
    put, path = "/api/v1/dunning/pauses/{consumer}", tag = "dunning", params(("consumer" = String, Path)), request_body = Pause,
    responses((status = 204), (status = 404, body = Problem), (status = 422, body = Problem))
)]
async fn pause(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(consumer): Path<String>,
    Json(pause): Json<Pause>,
) -> Result<StatusCode, Problem> {
    caller.require(Scope::Finance)?;
    let consumer = id_of(&consumer)?;
    let mut tx = app.pg.begin().await?;
    policy::pause(&mut tx, &caller.workspace, &consumer, pause.until, &pause.reason).await?;
    let detail = json!({ "until": pause.until, "reason": pause.reason });
    audit_log::record(&mut tx, &caller.workspace, caller.token.as_str(), "dunning.pause", consumer.as_str(), &detail).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a pause.
#[utoipa::path(
    delete, path = "/api/v1/dunning/pauses/{consumer}", tag = "dunning", params(("consumer" = String, Path)),
    responses((status = 204), (status = 404, body = Problem))
)]
async fn resume(State(app): State<App>, Caller(caller): Caller, Path(consumer): Path<String>) -> Result<StatusCode, Problem> {
    caller.require(Scope::Finance)?;
    let consumer = id_of(&consumer)?;
    let mut tx = app.pg.begin().await?;
    if !policy::resume(&mut tx, &caller.workspace, &consumer).await? {
        return Err(Problem::not_found("pause"));
    }
    audit_log::record(&mut tx, &caller.workspace, caller.token.as_str(), "dunning.resume", consumer.as_str(), &json!({})).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
