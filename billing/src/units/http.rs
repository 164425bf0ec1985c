//! Prepaid units through the API.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::audit_log;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page, Params};
use farebox_core::ids::{ConsumerId, GrantId};
use farebox_core::money::{BigDecimal, Currency, Money, decimal_string, plain};
use farebox_core::problem::Problem;
use farebox_core::workspace;
use serde::Deserialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{NewUnitGrant, UnitEntry, UnitGrant, UnitRollover};
use crate::credits::GrantKind;
use crate::http::optional_decimal;

pub(crate) fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(list, grant)).routes(routes!(entries)).routes(routes!(void)).with_state(app.clone())
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Of this consumer (id).
    consumer: Option<String>,
}

fn id_of(text: &str) -> Result<GrantId, Problem> {
    text.parse().map_err(|_| Problem::not_found("grant"))
}

/// Grants of prepaid units with their balances, in the order of use.
#[utoipa::path(
    get, path = "/api/v1/credits/units", tag = "credits", params(Filter),
    responses((status = 200, body = Page<UnitGrant>))
)]
async fn list(
    State(app): State<App>,
    Caller(caller): Caller,
    Params(filter): Params<Filter>,
) -> Result<axum::Json<Page<UnitGrant>>, Problem> {
    caller.require(Scope::Finance)?;
    let consumer: Option<ConsumerId> = filter.consumer.map(|id| id.parse()).transpose().map_err(|_| Problem::not_found("consumer"))?;
    let data = super::list(&mut *app.pg.acquire().await?, &caller.workspace, consumer.as_ref()).await?;
    Ok(axum::Json(Page { data, next_cursor: None }))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct NewUnits {
    consumer: ConsumerId,
    #[serde(default = "units_by_default")]
    name: String,
    /// paid or promotional.
    kind: GrantKind,
    meter: String,
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    units: BigDecimal,
    /// What they were paid for with, all together and without tax, for the books; only of those that are paid.
    #[serde(default, deserialize_with = "optional_decimal::deserialize")]
    #[schema(value_type = Option<String>)]
    price: Option<BigDecimal>,
    /// Of the price.
    #[schema(value_type = Option<String>)]
    currency: Option<Currency>,
    /// Lower is used first.
    #[serde(default)]
    priority: i32,
    /// Now unless given. Units serve the periods that end while they are valid.
    effective_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    rollover: Option<NewUnitRollover>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct NewUnitRollover {
    /// At most so many of what is left go on.
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    most: BigDecimal,
    days: i32,
}

fn units_by_default() -> String {
    "Prepaid units".to_owned()
}

/// Grants prepaid units of a meter to a consumer.
#[utoipa::path(
    post, path = "/api/v1/credits/units", tag = "credits", request_body = NewUnits,
    responses((status = 201, body = UnitGrant), (status = 404, body = Problem), (status = 422, body = Problem))
)]
async fn grant(
    State(app): State<App>,
    Caller(caller): Caller,
    Json(new): Json<NewUnits>,
) -> Result<(StatusCode, axum::Json<UnitGrant>), Problem> {
    caller.require(Scope::Finance)?;
    let mut transaction = app.pg.begin().await?;
    let ws = &caller.workspace;
    let effective_at = match new.effective_at {
        Some(at) => at,
        None => {
            let own = workspace::by_id(&mut transaction, ws).await.map_err(|e| Problem::internal(&e))?;
            own.ok_or_else(|| Problem::not_found("workspace"))?.clock.now()
        }
    };
    let price = match (&new.price, new.currency) {
        (Some(price), Some(currency)) => Some(Money::exact(price, currency).map_err(|e| Problem::invalid_field("/price", e.to_string()))?),
        (Some(_), None) => return Err(Problem::invalid_field("/currency", "a price needs its currency, such as \"EUR\"")),
        (None, Some(_)) => {
            return Err(Problem::invalid_field("/price", "what the units cost; leave `currency` out where nothing is booked"));
        }
        (None, None) => None,
    };
    let grant = NewUnitGrant {
        consumer: new.consumer,
        name: new.name,
        kind: new.kind,
        meter: new.meter,
        units: new.units,
        price,
        priority: new.priority,
        effective_at,
        expires_at: new.expires_at,
        rollover: new.rollover.map(|rollover| UnitRollover { most: rollover.most, days: rollover.days }),
    };
    let made = super::grant(&mut transaction, ws, grant).await?;
    let detail = json!({ "consumer": made.consumer, "meter": made.meter, "units": plain(&made.units), "kind": made.kind, "price": made.price, "currency": made.currency });
    audit_log::record(&mut transaction, ws, caller.token.as_str(), "credits.grant", made.id.as_str(), &detail).await?;
    transaction.commit().await?;
    Ok((StatusCode::CREATED, axum::Json(made)))
}

/// The ledger of a grant of units: from where and to where they went.
#[utoipa::path(
    get, path = "/api/v1/credits/units/{id}/entries", tag = "credits", params(("id" = String, Path)),
    responses((status = 200, body = Page<UnitEntry>), (status = 404, body = Problem))
)]
async fn entries(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<axum::Json<Page<UnitEntry>>, Problem> {
    caller.require(Scope::Finance)?;
    let (id, mut conn) = (id_of(&id)?, app.pg.acquire().await?);
    if super::get(&mut conn, &caller.workspace, &id).await?.is_none() {
        return Err(Problem::not_found("grant"));
    }
    let data = super::entries(&mut conn, &caller.workspace, &id).await?;
    Ok(axum::Json(Page { data, next_cursor: None }))
}

/// Takes back what is left of a grant of units.
#[utoipa::path(
    post, path = "/api/v1/credits/units/{id}/void", tag = "credits", params(("id" = String, Path)),
    responses((status = 200, body = UnitGrant), (status = 404, body = Problem))
)]
async fn void(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<axum::Json<UnitGrant>, Problem> {
    caller.require(Scope::Finance)?;
    let id = id_of(&id)?;
    let mut transaction = app.pg.begin().await?;
    let voided = super::void(&mut transaction, &caller.workspace, &id).await?;
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "credits.void", id.as_str(), &json!({})).await?;
    transaction.commit().await?;
    Ok(axum::Json(voided))
}
