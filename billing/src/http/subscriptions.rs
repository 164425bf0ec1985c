use axum::extract::{Path, State};
use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::audit_log;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page, Paging, Params};
use farebox_core::ids::{AddOnId, ConsumerId, SubscriptionId};
use farebox_core::money::{BigDecimal, Currency, decimal_string, plain};
use farebox_core::problem::Problem;
use serde::Deserialize;
use serde_json::json;

use super::{now, optional_decimal};
use crate::catalog;
use crate::preview::Preview;
use crate::subscriptions::{self, Start, Subscription, When};

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
    /// For what is charged per seat; 1 unless given.
    #[serde(default, with = "optional_decimal")]
    #[schema(value_type = Option<String>)]
    quantity: Option<BigDecimal>,
    /// As the consumer is billed unless given.
    #[schema(value_type = Option<String>)]
    currency: Option<Currency>,
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
    let start = Start {
        consumer: &new.consumer,
        plan: &new.plan,
        version: new.version,
        from,
        quantity: new.quantity.unwrap_or_else(|| BigDecimal::from(1)),
        currency: new.currency,
    };
    let created = subscriptions::start(&mut transaction, ws, start).await?;
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
    /// Whether what was paid in advance beyond the end is given back.
    #[serde(default = "yes")]
    credit: bool,
}

fn yes() -> bool {
    true
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
    let canceled = subscriptions::cancel(&mut transaction, &caller.workspace, &id_of(&id)?, cancel.when, cancel.credit).await?;
    let detail = json!({ "when": cancel.when, "credit": cancel.credit });
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "subscription.cancel", &id, &detail).await?;
    transaction.commit().await?;
    Ok(axum::Json(canceled))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pause {
    #[serde(default = "now_by_default")]
    when: When,
}

/// Takes it out of force until it is resumed. What was paid in advance for the time is given back.
#[utoipa::path(
    post, path = "/api/v1/subscriptions/{id}/pause", tag = "subscriptions", params(("id" = String, Path)), request_body = Pause,
    responses((status = 200, body = Subscription), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn pause(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(pause): Json<Pause>,
) -> Result<axum::Json<Subscription>, Problem> {
    caller.require(Scope::Manage)?;
    let mut transaction = app.pg.begin().await?;
    let paused = subscriptions::pause(&mut transaction, &caller.workspace, &id_of(&id)?, pause.when).await?;
    let detail = json!({ "when": pause.when });
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "subscription.pause", &id, &detail).await?;
    transaction.commit().await?;
    Ok(axum::Json(paused))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {
    /// Now unless given.
    from: Option<DateTime<Utc>>,
}

/// Puts a paused subscription into force again, with the plan it had.
#[utoipa::path(
    post, path = "/api/v1/subscriptions/{id}/resume", tag = "subscriptions", params(("id" = String, Path)), request_body = Resume,
    responses((status = 200, body = Subscription), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn resume(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(resume): Json<Resume>,
) -> Result<axum::Json<Subscription>, Problem> {
    caller.require(Scope::Manage)?;
    let mut transaction = app.pg.begin().await?;
    let from = match resume.from {
        Some(from) => from,
        None => now(&mut transaction, &caller.workspace).await?,
    };
    let resumed = subscriptions::resume(&mut transaction, &caller.workspace, &id_of(&id)?, from).await?;
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "subscription.resume", &id, &json!({ "from": from }))
        .await?;
    transaction.commit().await?;
    Ok(axum::Json(resumed))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Quantity {
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    quantity: BigDecimal,
    #[serde(default = "now_by_default")]
    when: When,
}

/// Another quantity of what is charged per seat.
#[utoipa::path(
    post, path = "/api/v1/subscriptions/{id}/quantity", tag = "subscriptions", params(("id" = String, Path)), request_body = Quantity,
    responses((status = 200, body = Subscription), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn quantity(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(wanted): Json<Quantity>,
) -> Result<axum::Json<Subscription>, Problem> {
    caller.require(Scope::Manage)?;
    let mut transaction = app.pg.begin().await?;
    let changed = subscriptions::set_quantity(&mut transaction, &caller.workspace, &id_of(&id)?, &wanted.quantity, wanted.when).await?;
    let detail = json!({ "quantity": plain(&wanted.quantity), "when": wanted.when });
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "subscription.quantity", &id, &detail).await?;
    transaction.commit().await?;
    Ok(axum::Json(changed))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAddOn {
    /// A price as in the catalogue.
    #[schema(value_type = Object)]
    price: serde_json::Value,
    #[serde(default, with = "optional_decimal")]
    #[schema(value_type = Option<String>)]
    quantity: Option<BigDecimal>,
    /// Now unless given.
    from: Option<DateTime<Utc>>,
}

/// Attaches a price to the subscription.
#[utoipa::path(
    post, path = "/api/v1/subscriptions/{id}/add-ons", tag = "subscriptions", params(("id" = String, Path)), request_body = NewAddOn,
    responses((status = 201, body = Subscription), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn add(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(new): Json<NewAddOn>,
) -> Result<(axum::http::StatusCode, axum::Json<Subscription>), Problem> {
    caller.require(Scope::Manage)?;
    let mut transaction = app.pg.begin().await?;
    let (ws, id) = (&caller.workspace, id_of(&id)?);
    let currency = subscriptions::get(&mut transaction, ws, &id).await?.ok_or_else(|| Problem::not_found("subscription"))?.currency;
    let currency = currency.parse().map_err(|e: farebox_core::money::MoneyError| Problem::internal(&e))?;
    let price = catalog::parse_price(&new.price.to_string(), currency).map_err(|errors| catalog::field_problem("/price", &errors))?;
    let from = match new.from {
        Some(from) => from,
        None => now(&mut transaction, ws).await?,
    };
    let quantity = new.quantity.unwrap_or_else(|| BigDecimal::from(1));
    let changed = subscriptions::add(&mut transaction, ws, &id, &price, &quantity, from).await?;
    let detail = json!({ "price": price.name, "quantity": plain(&quantity), "from": from });
    audit_log::record(&mut transaction, ws, caller.token.as_str(), "subscription.add_on", id.as_str(), &detail).await?;
    transaction.commit().await?;
    Ok((axum::http::StatusCode::CREATED, axum::Json(changed)))
}

/// Ends an add-on now.
#[utoipa::path(
    delete, path = "/api/v1/subscriptions/{id}/add-ons/{add_on}", tag = "subscriptions",
    params(("id" = String, Path), ("add_on" = String, Path)),
    responses((status = 200, body = Subscription), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn remove(
    State(app): State<App>,
    Caller(caller): Caller,
    Path((id, add_on)): Path<(String, String)>,
) -> Result<axum::Json<Subscription>, Problem> {
    caller.require(Scope::Manage)?;
    let add_on: AddOnId = add_on.parse().map_err(|_| Problem::not_found("add-on"))?;
    let mut transaction = app.pg.begin().await?;
    let at = now(&mut transaction, &caller.workspace).await?;
    let changed = subscriptions::remove(&mut transaction, &caller.workspace, &id_of(&id)?, &add_on, at).await?;
    let detail = json!({ "add_on": add_on });
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "subscription.remove_add_on", &id, &detail).await?;
    transaction.commit().await?;
    Ok(axum::Json(changed))
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
