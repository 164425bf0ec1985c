use axum::extract::{Path, State};
use axum::http::StatusCode;
use farebox_core::App;
use farebox_core::audit_log;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::Json;
use farebox_core::ids::ConsumerId;
use farebox_core::problem::Problem;
use serde::Deserialize;
use serde_json::json;

use crate::contracts;
use crate::plans::Plan;
use crate::settings::{self, BillingSettings, ConsumerBilling};

fn consumer_of(text: &str) -> Result<ConsumerId, Problem> {
    text.parse().map_err(|_| Problem::not_found("consumer"))
}

/// How the workspace bills.
#[utoipa::path(get, path = "/api/v1/billing-settings", tag = "workspace", responses((status = 200, body = BillingSettings)))]
pub(super) async fn get(State(app): State<App>, Caller(caller): Caller) -> Result<axum::Json<BillingSettings>, Problem> {
    caller.require(Scope::Finance)?;
    Ok(axum::Json(settings::of(&mut *app.pg.acquire().await?, &caller.workspace).await?))
}

/// Sets how the workspace bills.
#[utoipa::path(put, path = "/api/v1/billing-settings", tag = "workspace", request_body = BillingSettings, responses((status = 200, body = BillingSettings)))]
pub(super) async fn put(
    State(app): State<App>,
    Caller(caller): Caller,
    Json(wanted): Json<BillingSettings>,
) -> Result<axum::Json<BillingSettings>, Problem> {
    caller.require(Scope::Finance)?;
    let mut transaction = app.pg.begin().await?;
    settings::set(&mut transaction, &caller.workspace, &wanted).await?;
    let detail = serde_json::to_value(&wanted).map_err(|e| Problem::internal(&e))?;
    let ws = &caller.workspace;
    audit_log::record(&mut transaction, ws, caller.token.as_str(), "billing.settings", ws.as_str(), &detail).await?;
    let now = settings::of(&mut transaction, ws).await?;
    transaction.commit().await?;
    Ok(axum::Json(now))
}

/// How a consumer is billed.
#[utoipa::path(
    get, path = "/api/v1/consumers/{id}/billing", tag = "consumers", params(("id" = String, Path)),
    responses((status = 200, body = ConsumerBilling))
)]
pub(super) async fn get_consumer(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<ConsumerBilling>, Problem> {
    caller.require(Scope::Finance)?;
    let (mut conn, consumer) = (app.pg.acquire().await?, consumer_of(&id)?);
    if farebox_metering::consumers::get(&mut conn, &caller.workspace, &consumer).await?.is_none() {
        return Err(crate::BillingError::NotFound("consumer").into());
    }
    Ok(axum::Json(settings::of_consumer(&mut conn, &caller.workspace, &consumer).await?))
}

/// Sets a consumer's currency and whether tax is charged.
#[utoipa::path(
    put, path = "/api/v1/consumers/{id}/billing", tag = "consumers", params(("id" = String, Path)), request_body = ConsumerBilling,
    responses((status = 200, body = ConsumerBilling), (status = 404, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn put_consumer(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(wanted): Json<ConsumerBilling>,
) -> Result<axum::Json<ConsumerBilling>, Problem> {
    caller.require(Scope::Finance)?;
    let mut transaction = app.pg.begin().await?;
    settings::set_consumer(&mut transaction, &caller.workspace, &consumer_of(&id)?, &wanted).await?;
    let detail = serde_json::to_value(&wanted).map_err(|e| Problem::internal(&e))?;
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "consumer.billing", &id, &detail).await?;
    transaction.commit().await?;
    Ok(axum::Json(wanted))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewContract {
    /// The plan it departs from, newest version.
    plan: String,
    /// What is different, as in the catalogue's entry of a plan; prices replace those of the same name.
    #[schema(value_type = Object)]
    changes: serde_json::Value,
}

/// Agrees a plan with one consumer: published for them alone, to be subscribed to by its name.
#[utoipa::path(
    post, path = "/api/v1/consumers/{id}/contracts", tag = "plans", params(("id" = String, Path)), request_body = NewContract,
    responses((status = 201, body = Plan), (status = 404, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn contract(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(new): Json<NewContract>,
) -> Result<(StatusCode, axum::Json<Plan>), Problem> {
    caller.require(Scope::Manage)?;
    let mut transaction = app.pg.begin().await?;
    let plan = contracts::agree(&mut transaction, &caller.workspace, &consumer_of(&id)?, &new.plan, &new.changes).await?;
    let detail = json!({ "plan": plan.name, "version": plan.version });
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "contract.agree", &id, &detail).await?;
    transaction.commit().await?;
    Ok((StatusCode::CREATED, axum::Json(plan)))
}
