use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::audit_log;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page};
use farebox_core::ids::{CouponId, SubscriptionId};
use farebox_core::money::BigDecimal;
use farebox_core::problem::Problem;
use serde::Deserialize;
use serde_json::json;

use super::{now, optional_decimal};
use crate::coupons::{self, Coupon, NewCoupon};
use crate::rating::plan::Amounts;

/// Coupons, by code.
#[utoipa::path(get, path = "/api/v1/coupons", tag = "coupons", responses((status = 200, body = Page<Coupon>)))]
pub(super) async fn list(State(app): State<App>, Caller(caller): Caller) -> Result<axum::Json<Page<Coupon>>, Problem> {
    caller.require(Scope::Finance)?;
    let data = coupons::list(&mut *app.pg.acquire().await?, &caller.workspace).await?;
    Ok(axum::Json(Page { data, next_cursor: None }))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    code: String,
    /// As it stands on invoices; the code unless given.
    #[serde(default)]
    name: String,
    /// Either a share (`"0.25"` is 25 %), or amounts by currency.
    #[serde(default, with = "optional_decimal")]
    #[schema(value_type = Option<String>)]
    share: Option<BigDecimal>,
    #[schema(value_type = Option<Object>)]
    amounts: Option<Amounts>,
    /// 1 for once; for ever unless given.
    periods: Option<i32>,
    /// Only from prices of these names.
    #[serde(default)]
    prices: Vec<String>,
    /// Only on these plans.
    #[serde(default)]
    plans: Vec<String>,
    redeem_by: Option<DateTime<Utc>>,
    max_redemptions: Option<i32>,
}

/// Makes a coupon.
#[utoipa::path(
    post, path = "/api/v1/coupons", tag = "coupons", request_body = Create,
    responses((status = 201, body = Coupon), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn create(
    State(app): State<App>,
    Caller(caller): Caller,
    Json(new): Json<Create>,
) -> Result<(StatusCode, axum::Json<Coupon>), Problem> {
    caller.require(Scope::Finance)?;
    let mut transaction = app.pg.begin().await?;
    let detail = json!({ "code": new.code });
    let new = NewCoupon {
        code: new.code,
        name: new.name,
        share: new.share,
        amounts: new.amounts,
        periods: new.periods,
        prices: new.prices,
        plans: new.plans,
        redeem_by: new.redeem_by,
        max_redemptions: new.max_redemptions,
    };
    let coupon = coupons::create(&mut transaction, &caller.workspace, new).await?;
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "coupon.create", coupon.id.as_str(), &detail).await?;
    transaction.commit().await?;
    Ok((StatusCode::CREATED, axum::Json(coupon)))
}

/// Nobody can redeem it any more; where it was redeemed it goes on.
#[utoipa::path(
    delete, path = "/api/v1/coupons/{id}", tag = "coupons", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem))
)]
pub(super) async fn archive(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    caller.require(Scope::Finance)?;
    let id: CouponId = id.parse().map_err(|_| Problem::not_found("coupon"))?;
    let mut transaction = app.pg.begin().await?;
    coupons::archive(&mut transaction, &caller.workspace, &id).await?;
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "coupon.archive", id.as_str(), &json!({})).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Redeem {
    code: String,
}

/// Redeems a coupon for a subscription; it holds from the next invoice on.
#[utoipa::path(
    post, path = "/api/v1/subscriptions/{id}/coupons", tag = "coupons", params(("id" = String, Path)), request_body = Redeem,
    responses((status = 200, body = Coupon), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn redeem(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(redeem): Json<Redeem>,
) -> Result<axum::Json<Coupon>, Problem> {
    caller.require(Scope::Manage)?;
    let id: SubscriptionId = id.parse().map_err(|_| Problem::not_found("subscription"))?;
    let mut transaction = app.pg.begin().await?;
    let now = now(&mut transaction, &caller.workspace).await?;
    let coupon = coupons::redeem(&mut transaction, &caller.workspace, &id, &redeem.code, now).await?;
    let detail = json!({ "code": redeem.code });
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "subscription.coupon", id.as_str(), &detail).await?;
    transaction.commit().await?;
    Ok(axum::Json(coupon))
}

/// Takes a coupon off a subscription, from the next invoice on.
#[utoipa::path(
    delete, path = "/api/v1/subscriptions/{id}/coupons/{code}", tag = "coupons", params(("id" = String, Path), ("code" = String, Path)),
    responses((status = 204), (status = 404, body = Problem))
)]
pub(super) async fn remove(
    State(app): State<App>,
    Caller(caller): Caller,
    Path((id, code)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    caller.require(Scope::Manage)?;
    let id: SubscriptionId = id.parse().map_err(|_| Problem::not_found("subscription"))?;
    let mut transaction = app.pg.begin().await?;
    let now = now(&mut transaction, &caller.workspace).await?;
    coupons::remove(&mut transaction, &caller.workspace, &id, &code, now).await?;
    let detail = json!({ "code": code });
    audit_log::record(&mut transaction, &caller.workspace, caller.token.as_str(), "subscription.remove_coupon", id.as_str(), &detail)
        .await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
