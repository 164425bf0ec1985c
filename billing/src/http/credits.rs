use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::audit_log;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page, Params};
use farebox_core::ids::{ConsumerId, GrantId};
use farebox_core::money::{BigDecimal, Currency, Money, decimal_string};
use farebox_core::problem::Problem;
use serde::Deserialize;
use serde_json::json;

use super::now;
use crate::credits::{self, Entry, Grant, GrantKind, NewGrant, Rollover};

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Of this consumer (id).
    consumer: Option<String>,
}

fn id_of(text: &str) -> Result<GrantId, Problem> {
    text.parse().map_err(|_| Problem::not_found("grant"))
}

/// Grants of prepaid credits with their balances, in the order of use.
#[utoipa::path(get, path = "/api/v1/credits", tag = "credits", params(Filter), responses((status = 200, body = Page<Grant>)))]
pub(super) async fn list(
    State(app): State<App>,
    Caller(caller): Caller,
    Params(filter): Params<Filter>,
) -> Result<axum::Json<Page<Grant>>, Problem> {
    caller.require(Scope::Finance)?;
    let consumer: Option<ConsumerId> = filter.consumer.map(|id| id.parse()).transpose().map_err(|_| Problem::not_found("consumer"))?;
    let data = credits::list(&mut *app.pg.acquire().await?, &caller.workspace, consumer.as_ref()).await?;
    Ok(axum::Json(Page { data, next_cursor: None }))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCredits {
    consumer: ConsumerId,
    #[serde(default = "credits_by_default")]
    name: String,
    kind: GrantKind,
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    amount: BigDecimal,
    #[schema(value_type = String)]
    currency: Currency,
    /// It stands for money already taxed, and is used after tax.
    #[serde(default)]
    taxed: bool,
    /// Lower is used first.
    #[serde(default)]
    priority: i32,
    /// Now unless given. Credits serve the periods that end while they are valid.
    effective_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    rollover: Option<NewRollover>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRollover {
    /// At most so much of what is left goes on.
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    most: BigDecimal,
    days: i32,
}

fn credits_by_default() -> String {
    "Prepaid credits".to_owned()
}

/// Grants prepaid credits to a consumer.
#[utoipa::path(
    post, path = "/api/v1/credits", tag = "credits", request_body = NewCredits,
    responses((status = 201, body = Grant), (status = 404, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn grant(
    State(app): State<App>,
    Caller(caller): Caller,
    Json(new): Json<NewCredits>,
) -> Result<(StatusCode, axum::Json<Grant>), Problem> {
    caller.require(Scope::Finance)?;
    let money =
        |amount: &BigDecimal, field: &str| Money::exact(amount, new.currency).map_err(|e| Problem::invalid_field(field, e.to_string()));
    let mut transaction = app.pg.begin().await?;
    let rollover = match &new.rollover {
        Some(rollover) => Some(Rollover { most: money(&rollover.most, "/rollover/most")?, days: rollover.days }),
        None => None,
    };
    let effective_at = match new.effective_at {
        Some(at) => at,
        None => now(&mut transaction, &caller.workspace).await?,
    };
    let grant = NewGrant {
        amount: money(&new.amount, "/amount")?,
        consumer: new.consumer,
        name: new.name,
        kind: new.kind,
        taxed: new.taxed,
        priority: new.priority,
        effective_at,
        expires_at: new.expires_at,
        rollover,
    };
    let made = credits::grant(&mut transaction, &caller.workspace, grant).await?;
    let detail = json!({ "consumer": made.consumer, "amount": made.amount, "currency": made.currency, "kind": made.kind });
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "credits.grant", made.id.as_str(), &detail).await?;
    transaction.commit().await?;
    Ok((StatusCode::CREATED, axum::Json(made)))
}

/// The ledger of a grant: every amount, from where and to where.
#[utoipa::path(
    get, path = "/api/v1/credits/{id}/entries", tag = "credits", params(("id" = String, Path)),
    responses((status = 200, body = Page<Entry>), (status = 404, body = Problem))
)]
pub(super) async fn entries(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<Page<Entry>>, Problem> {
    caller.require(Scope::Finance)?;
    let (id, mut conn) = (id_of(&id)?, app.pg.acquire().await?);
    if credits::get(&mut conn, &caller.workspace, &id).await?.is_none() {
        return Err(Problem::not_found("grant"));
    }
    let data = credits::entries(&mut conn, &caller.workspace, &id).await?;
    Ok(axum::Json(Page { data, next_cursor: None }))
}

/// Takes back what is left of a grant.
#[utoipa::path(
    post, path = "/api/v1/credits/{id}/void", tag = "credits", params(("id" = String, Path)),
    responses((status = 200, body = Grant), (status = 404, body = Problem))
)]
pub(super) async fn void(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<axum::Json<Grant>, Problem> {
    caller.require(Scope::Finance)?;
    let id = id_of(&id)?;
    let mut transaction = app.pg.begin().await?;
    let voided = credits::void(&mut transaction, &caller.workspace, &id).await?;
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "credits.void", id.as_str(), &json!({})).await?;
    transaction.commit().await?;
    Ok(axum::Json(voided))
}
