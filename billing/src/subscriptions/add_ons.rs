//! Add-ons: prices attached to a subscription for a time, with a quantity. They keep to the plan's periods and end with
//! the subscription.

use std::collections::HashMap;

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{AddOnId, PlanVersionId, SubscriptionId, WorkspaceId};
use farebox_core::period::floor_minute;
use sqlx::PgConnection;

use super::change::{check_open, currency_of, lock, reschedule};
use super::{AddOn, Subscription, get};
use crate::BillingError;
use crate::rating::plan::{Model, Price};

/// Attaches a price from `from` on. Its quantity multiplies a flat fee; usage has a quantity of its own.
pub async fn add(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    id: &SubscriptionId,
    price: &Price,
    quantity: &BigDecimal,
    from: DateTime<Utc>,
) -> Result<Subscription, BillingError> {
    let subscription = lock(conn, ws, id).await?;
    let (from, one) = (floor_minute(from).max(subscription.started_at), BigDecimal::from(1));
    check_open(&subscription, from)?;
    if *quantity <= BigDecimal::from(0) {
        return Err(BillingError::invalid("/quantity", "must be above 0"));
    }
    let flat = matches!(price.model, Model::Flat { .. });
    if !flat && *quantity != one {
        return Err(BillingError::invalid("/quantity", "is for flat fees; a price that follows usage has its meter's quantity"));
    }
    let currency = currency_of(&subscription)?;
    let amounts = price.model.amounts().into_iter().chain(&price.minimum).chain(&price.maximum);
    if amounts.into_iter().any(|amounts| amounts.get(currency).is_none()) {
        let detail = format!("`{}` has no amount in {currency}, the subscription's currency. Add it.", price.name);
        return Err(BillingError::conflict("no-price-in-currency", detail));
    }
    if let Some(meter) = &price.meter
        && farebox_metering::meters::get(conn, ws, meter).await?.is_none()
    {
        return Err(BillingError::invalid("/price/meter", format!("there is no meter named `{meter}`")));
    }
    let beside = subscription.at(from).or(subscription.phases.last());
    let beside = beside.ok_or_else(|| BillingError::conflict("not-in-force", "The subscription is not in force; resume it first."))?;
    let price = Price { per_seat: flat, ..price.clone() };
    let json = serde_json::to_value(&price).map_err(|e| BillingError::unreadable("a price", e))?;
    let fresh = AddOnId::new();
    sqlx::query!(
        "INSERT INTO subscription_add_ons (id, workspace_id, subscription_id, price, quantity, from_at, created_at, beside)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        fresh.as_str(),
        ws.as_str(),
        id.as_str(),
        json,
        quantity,
        from,
        clock::now(),
        beside.plan_version.as_str()
    )
    .execute(&mut *conn)
    .await?;
    reread(conn, ws, id).await
}

/// Ends an add-on at `at`; one that had not begun by then is gone.
pub async fn remove(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    id: &SubscriptionId,
    add_on: &AddOnId,
    at: DateTime<Utc>,
) -> Result<Subscription, BillingError> {
    let subscription = lock(conn, ws, id).await?;
    let found = subscription.add_ons.iter().find(|own| own.id == *add_on).ok_or(BillingError::NotFound("add-on"))?;
    let at = floor_minute(at).max(found.from);
    check_open(&subscription, at)?;
    sqlx::query!(
        "UPDATE subscription_add_ons SET to_at = $3 WHERE subscription_id = $1 AND id = $2 AND (to_at IS NULL OR to_at > $3)",
        id.as_str(),
        add_on.as_str(),
        at
    )
    .execute(&mut *conn)
    .await?;
    reread(conn, ws, id).await
}

async fn reread(conn: &mut PgConnection, ws: &WorkspaceId, id: &SubscriptionId) -> Result<Subscription, BillingError> {
    let subscription = get(conn, ws, id).await?.ok_or(BillingError::NotFound("subscription"))?;
    reschedule(conn, ws, &subscription).await?;
    Ok(subscription)
}

/// Of several subscriptions, by their ids.
pub(super) async fn of(conn: &mut PgConnection, subscriptions: &[String]) -> Result<HashMap<String, Vec<AddOn>>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id: AddOnId", subscription_id, price, quantity, from_at, to_at, beside AS "beside: PlanVersionId" FROM subscription_add_ons
           WHERE subscription_id = ANY($1) AND (to_at IS NULL OR from_at < to_at) ORDER BY from_at, id"#,
        subscriptions
    )
    .fetch_all(conn)
    .await?;
    let mut found: HashMap<String, Vec<AddOn>> = HashMap::new();
    for row in rows {
        let price = serde_json::from_value(row.price).map_err(|e| BillingError::unreadable("an add-on", e))?;
        found.entry(row.subscription_id).or_default().push(AddOn {
            id: row.id,
            price,
            beside: row.beside,
            quantity: row.quantity,
            from: row.from_at,
            to: row.to_at,
        });
    }
    Ok(found)
}
