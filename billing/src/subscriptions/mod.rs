//! Subscriptions: what a consumer agreed to for a product, as phases on a timeline. A consumer has at most one in
//! force per product at an instant; metering's timeline refuses a second. Boundaries are whole minutes.
//!
//! [`change`] starts, changes, pauses and ends them, [`add_ons`] attaches prices, [`migrate`] moves many to another
//! version, and [`period`] says which of their periods is invoiced next. What was invoiced keeps its plan.

mod add_ons;
mod change;
#[cfg(test)]
pub(crate) mod histories;
mod migrate;
mod period;

use chrono::{DateTime, Utc};
use farebox_core::ids::{AddOnId, ConsumerId, PlanVersionId, SubscriptionId, WorkspaceId};
use farebox_core::money::{BigDecimal, decimal_string};
use farebox_core::period::Period;
use serde::Serialize;
use sqlx::PgConnection;

pub use add_ons::{add, remove};
pub use change::{
    Cancel, Start, When, cancel, cancel_at, change, change_at, pause, resume, set_quantity, start, subscribe, subscribe_to_version,
};
pub(crate) use change::{billed_until, currency_of, lock, lock_all, reschedule};
pub use migrate::{Migrated, Migration, migrate};
pub use period::Plans;

use crate::BillingError;
use crate::rating::plan::Price;

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Subscription {
    pub id: SubscriptionId,
    pub consumer: ConsumerId,
    pub product: String,
    /// ISO 4217.
    pub currency: String,
    pub started_at: DateTime<Utc>,
    /// Known in advance when it ends at a period's end.
    pub ended_at: Option<DateTime<Utc>>,
    /// What was paid in advance beyond the end is given back.
    pub credit_at_end: bool,
    /// Not in force until it is resumed.
    pub paused: bool,
    /// Everything before it is invoiced, or had nothing to invoice.
    pub closed_until: Option<DateTime<Utc>>,
    /// Following each other in time.
    pub phases: Vec<Phase>,
    pub add_ons: Vec<AddOn>,
}

/// [from, to): the plan version in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Phase {
    pub plan_version: PlanVersionId,
    pub plan: String,
    pub version: i32,
    pub from: DateTime<Utc>,
    pub to: Option<DateTime<Utc>>,
    /// Nothing is charged in a trial.
    pub trial: bool,
    /// For what is charged per seat.
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub quantity: BigDecimal,
}

impl Phase {
    pub fn is_in_force_in(&self, period: Period) -> bool {
        self.from < period.end && self.to.is_none_or(|to| to > period.start)
    }
}

/// A price attached for a time: [from, to).
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AddOn {
    pub id: AddOnId,
    /// As a price of the catalogue.
    #[schema(value_type = Object)]
    pub price: Price,
    /// The plan version it stands beside: its periods and terms are the add-on's.
    pub beside: PlanVersionId,
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub quantity: BigDecimal,
    pub from: DateTime<Utc>,
    pub to: Option<DateTime<Utc>>,
}

impl Subscription {
    /// The phase in force at an instant.
    pub fn at(&self, instant: DateTime<Utc>) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.from <= instant && phase.to.is_none_or(|to| instant < to))
    }

    pub fn is_in_force_in(&self, period: Period) -> bool {
        self.phases.iter().any(|phase| phase.is_in_force_in(period))
    }

    /// The plan versions that its phases and add-ons hold to.
    pub fn pinned(&self) -> impl Iterator<Item = PlanVersionId> + '_ {
        let phases = self.phases.iter().map(|phase| &phase.plan_version);
        phases.chain(self.add_ons.iter().map(|add_on| &add_on.beside)).cloned()
    }
}

pub async fn get(conn: &mut PgConnection, ws: &WorkspaceId, id: &SubscriptionId) -> Result<Option<Subscription>, BillingError> {
    Ok(by_ids(conn, ws, &[id.to_string()]).await?.pop())
}

/// Several, sorted by id.
pub(crate) async fn by_ids(conn: &mut PgConnection, ws: &WorkspaceId, ids: &[String]) -> Result<Vec<Subscription>, BillingError> {
    load(conn, ws, Some(ids), None, i64::MAX, "").await
}

/// Those in force now, by the workspace's clock: at most one per product.
pub async fn current(conn: &mut PgConnection, ws: &WorkspaceId, consumer: &ConsumerId) -> Result<Vec<Subscription>, BillingError> {
    let now = change::workspace_of(conn, ws).await?.clock.now();
    at(conn, ws, consumer, now).await
}

/// Those of a consumer in force at an instant: at most one per product.
pub async fn at(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    consumer: &ConsumerId,
    instant: DateTime<Utc>,
) -> Result<Vec<Subscription>, BillingError> {
    let mut found = load(conn, ws, None, Some(consumer.as_str()), i64::MAX, "").await?;
    found.retain(|subscription| subscription.at(instant).is_some());
    Ok(found)
}

/// Sorted by id, those after `after` (empty for the first page); of one consumer when given.
pub async fn list(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    consumer: Option<&ConsumerId>,
    limit: i64,
    after: &str,
) -> Result<Vec<Subscription>, BillingError> {
    load(conn, ws, None, consumer.map(ConsumerId::as_str), limit, after).await
}

async fn load(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    ids: Option<&[String]>,
    consumer: Option<&str>,
    limit: i64,
    after: &str,
) -> Result<Vec<Subscription>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id: SubscriptionId", consumer_id AS "consumer: ConsumerId", product, currency, started_at, ended_at,
                  credit_at_end, paused_version IS NOT NULL AS "paused!", closed_until FROM subscriptions
           WHERE workspace_id = $1 AND ($2::text[] IS NULL OR id = ANY($2)) AND ($3::text IS NULL OR consumer_id = $3) AND id > $4 ORDER BY id LIMIT $5"#,
        ws.as_str(),
        ids,
        consumer,
        after,
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    let ids: Vec<_> = rows.iter().map(|row| row.id.as_str().to_owned()).collect();
    let phases = sqlx::query!(
        r#"SELECT f.subscription_id, f.plan_version_id AS "plan_version: PlanVersionId", p.name, v.version, f.from_at, f.to_at, f.trial, f.quantity
           FROM subscription_phases f JOIN plan_versions v ON v.id = f.plan_version_id JOIN plans p ON p.id = v.plan_id
           WHERE f.subscription_id = ANY($1) ORDER BY f.subscription_id, f.from_at"#,
        &ids
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut add_ons = add_ons::of(conn, &ids).await?;
    let mut by_subscription: std::collections::HashMap<String, Vec<Phase>> = std::collections::HashMap::new();
    for phase in phases {
        by_subscription.entry(phase.subscription_id).or_default().push(Phase {
            plan_version: phase.plan_version,
            plan: phase.name,
            version: phase.version,
            from: phase.from_at,
            to: phase.to_at,
            trial: phase.trial,
            quantity: phase.quantity,
        });
    }
    Ok(rows
        .into_iter()
        .map(|row| Subscription {
            phases: by_subscription.remove(row.id.as_str()).unwrap_or_default(),
            add_ons: add_ons.remove(row.id.as_str()).unwrap_or_default(),
            id: row.id,
            consumer: row.consumer,
            product: row.product,
            currency: row.currency,
            started_at: row.started_at,
            ended_at: row.ended_at,
            credit_at_end: row.credit_at_end,
            paused: row.paused,
            closed_until: row.closed_until,
        })
        .collect())
}
