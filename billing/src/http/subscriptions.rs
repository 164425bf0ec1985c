use axum::extract::{Path, State};
use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::audit_log;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page, Paging};
use farebox_core::ids::{ConsumerId, SubscriptionId};
use farebox_core::problem::Problem;
use serde::Deserialize;
use serde_json::json;

use super::Params;
use crate::preview::Preview;
use crate::subscriptions::{self, Subscription, When};

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Of this consumer (id).
    consumer: Option<String>,
}

fn id_of(text: &str) -> Result<SubscriptionId, Problem> {
    text.parse().map_err(|_| Problem::not_found("subscription"))
}

/// Subscriptions with their phases.
#[utoipa::path(get, path = "/api/v1/subscriptions", tag = "subscriptions", params(Paging, Filter), responses((status = 200, body = Page<Subscription>)))]
pub(super) async fn list(
    State(app): State<App>,
    Caller(caller): Caller,
    Params(paging): Params<Paging>,
    Params(filter): Params<Filter>,
) -> Result<axum::Json<Page<Subscription>>, Problem> {
    caller.require(Scope::Read)?;
    let (limit, after) = paging.resolve()?;
    let consumer: Option<ConsumerId> = filter
        .consumer
        .map(|id| id.parse())
        .transpose()
        .map_err(|e: farebox_core::ids::InvalidId| Problem::invalid_field("consumer", e.to_string()))?;
    let rows = subscriptions::list(&mut *app.pg.acquire().await?, &caller.workspace, consumer.as_ref(), limit + 1, &after).await?;
    Ok(axum::Json(Page::from_rows(rows, limit, |subscription| subscription.id.to_string())))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSubscription {
    consumer: ConsumerId,
    /// The plan's name; its newest version, unless `version` says another.
    plan: String,
    version: Option<i32>,
    /// Now unless given; may lie in the past, and usage since then is attributed to it and billed.
    from: Option<DateTime<Utc>>,
}

/// Subscribes a consumer to a plan. A consumer has one subscription per product at a time.
#[utoipa::path(
    post, path = "/api/v1/subscriptions", tag = "subscriptions", request_body = NewSubscription,
    responses((status = 201, body = Subscription), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn create(
    State(app): State<App>,
    Caller(caller): Caller,
    Json(new): Json<NewSubscription>,
) -> Result<(axum::http::StatusCode, axum::Json<Subscription>), Problem> {
    caller.require(Scope::Manage)?;
    let mut transaction = app.pg.begin().await?;
    let ws = &caller.workspace;
    let from = match new.from {
        Some(from) => from,
        None => now(&mut transaction, ws).await?,
    };
    let created = subscriptions::subscribe_to_version(&mut transaction, ws, &new.consumer, &new.plan, new.version, from).await?;
    audit_log::record(
        &mut transaction,
        ws,
        caller.token.as_str(),
        "subscription.create",
        created.id.as_str(),
        &json!({ "plan": new.plan }),
    )
    .await?;
    transaction.commit().await?;
    Ok((axum::http::StatusCode::CREATED, axum::Json(created)))
}

async fn now(conn: &mut sqlx::PgConnection, ws: &farebox_core::ids::WorkspaceId) -> Result<DateTime<Utc>, Problem> {
    let workspace = farebox_core::workspace::by_id(conn, ws).await.map_err(|e| Problem::internal(&e))?;
    Ok(workspace.ok_or_else(|| Problem::not_found("workspace"))?.clock.now())
}

/// One subscription with its phases.
#[utoipa::path(
    get, path = "/api/v1/subscriptions/{id}", tag = "subscriptions", params(("id" = String, Path)),
    responses((status = 200, body = Subscription), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<Subscription>, Problem> {
    caller.require(Scope::Read)?;
    let found = subscriptions::get(&mut *app.pg.acquire().await?, &caller.workspace, &id_of(&id)?).await?;
    found.map(axum::Json).ok_or_else(|| Problem::not_found("subscription"))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangePlan {
    /// Of the same product.
    plan: String,
    #[serde(default = "now_by_default")]
    when: When,
}

fn now_by_default() -> When {
    When::Now
}

/// Moves to another plan, now or when the period ends.
#[utoipa::path(
    post, path = "/api/v1/subscriptions/{id}/change", tag = "subscriptions", params(("id" = String, Path)), request_body = ChangePlan,
    responses((status = 200, body = Subscription), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn change(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(change): Json<ChangePlan>,
) -> Result<axum::Json<Subscription>, Problem> {
    caller.require(Scope::Manage)?;
    let mut transaction = app.pg.begin().await?;
    let changed = subscriptions::change(&mut transaction, &caller.workspace, &id_of(&id)?, &change.plan, change.when).await?;
    let detail = json!({ "plan": change.plan, "when": change.when });
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "subscription.change", &id, &detail).await?;
    transaction.commit().await?;
    Ok(axum::Json(changed))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Cancel {
    #[serde(default = "period_end_by_default")]
    when: When,
}

fn period_end_by_default() -> When {
    When::PeriodEnd
}

/// Ends it, when the period ends unless told otherwise.
#[utoipa::path(
    post, path = "/api/v1/subscriptions/{id}/cancel", tag = "subscriptions", params(("id" = String, Path)), request_body = Cancel,
    responses((status = 200, body = Subscription), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn cancel(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(cancel): Json<Cancel>,
) -> Result<axum::Json<Subscription>, Problem> {
    caller.require(Scope::Manage)?;
    let mut transaction = app.pg.begin().await?;
    let canceled = subscriptions::cancel(&mut transaction, &caller.workspace, &id_of(&id)?, cancel.when).await?;
    let detail = json!({ "when": cancel.when });
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "subscription.cancel", &id, &detail).await?;
    transaction.commit().await?;
    Ok(axum::Json(canceled))
}

/// The invoice that is gathering: the current period with the usage so far.
#[utoipa::path(
    post, path = "/api/v1/subscriptions/{id}/preview", tag = "subscriptions", params(("id" = String, Path)),
    responses((status = 200, body = Preview), (status = 404, body = Problem))
)]
pub(super) async fn preview(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<Preview>, Problem> {
    caller.require(Scope::Finance)?;
    Ok(axum::Json(crate::preview::preview(&app, &caller.workspace, &id_of(&id)?).await?))
}
