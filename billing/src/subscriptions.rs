//! Subscriptions: what a consumer agreed to for a product, as phases on a timeline. A consumer has at most one in
//! force per product at an instant; metering's timeline refuses a second. Boundaries are whole minutes.

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, PlanVersionId, SubscriptionId, WorkspaceId};
use farebox_core::period::{Window, floor_minute, window_of};
use farebox_core::workspace::{self, Workspace};
use farebox_metering::timelines::{TimelineEntry, set_subscription_timeline};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::plans::{self, Plan};
use crate::{BillingError, revenue};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Subscription {
    pub id: SubscriptionId,
    pub consumer: ConsumerId,
    pub product: String,
    /// ISO 4217.
    pub currency: String,
    pub started_at: DateTime<Utc>,
    /// Known in advance when it ends at a period's end.
    pub ended_at: Option<DateTime<Utc>>,
    /// Following each other in time.
    pub phases: Vec<Phase>,
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
}

impl Subscription {
    /// The phase in force at an instant.
    pub fn at(&self, instant: DateTime<Utc>) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.from <= instant && phase.to.is_none_or(|to| instant < to))
    }
}

/// When a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum When {
    Now,
    PeriodEnd,
}

async fn workspace_of(conn: &mut PgConnection, id: &WorkspaceId) -> Result<Workspace, BillingError> {
    workspace::by_id(conn, id).await?.ok_or(BillingError::NotFound("workspace"))
}

/// Starts a subscription to the newest version of `plan` at `from`, which may lie in the past: usage since then is
/// attributed to it and billed. A plan with a trial starts with it.
pub async fn subscribe(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    consumer: &ConsumerId,
    plan: &str,
    from: DateTime<Utc>,
) -> Result<Subscription, BillingError> {
    subscribe_to_version(conn, ws, consumer, plan, None, from).await
}

/// As [`subscribe`], to a given version.
pub async fn subscribe_to_version(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    consumer: &ConsumerId,
    plan: &str,
    version: Option<i32>,
    from: DateTime<Utc>,
) -> Result<Subscription, BillingError> {
    let workspace = workspace_of(conn, ws).await?;
    if farebox_metering::consumers::get(conn, ws, consumer).await?.is_none() {
        return Err(BillingError::NotFound("consumer"));
    }
    let plan = plans::find(conn, ws, plan, version).await?.ok_or(BillingError::NotFound("plan"))?;
    check_priced(&plan, &workspace)?;
    let from = floor_minute(from);
    let mut phases = vec![(plan.clone(), from, None, false)];
    let mut ended_at = None;
    if let Some(trial) = &plan.definition.trial {
        let end = from + TimeDelta::days(i64::from(trial.days));
        phases[0].2 = Some(end);
        phases[0].3 = true;
        match &trial.then {
            None => ended_at = Some(end),
            Some(then) if *then == plan.name => phases.push((plan.clone(), end, None, false)),
            Some(then) => {
                let then = plans::find(conn, ws, then, None).await?.ok_or(BillingError::NotFound("plan to follow the trial"))?;
                check_priced(&then, &workspace)?;
                phases.push((then, end, None, false));
            }
        }
    }
    let id = SubscriptionId::new();
    sqlx::query!(
        "INSERT INTO subscriptions (id, workspace_id, consumer_id, product, currency, started_at, ended_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        id.as_str(),
        ws.as_str(),
        consumer.as_str(),
        plan.product,
        workspace.currency.code(),
        from,
        ended_at,
        clock::now()
    )
    .execute(&mut *conn)
    .await?;
    for (plan, from, to, trial) in phases {
        insert_phase(conn, ws, &id, &plan.version_id, from, to, trial).await?;
    }
    write_timeline(conn, ws, consumer, &plan.product).await?;
    get(conn, ws, &id).await?.ok_or(BillingError::NotFound("subscription"))
}

/// A plan that cannot be billed in the workspace's currency is refused when it is chosen, not when it is billed.
fn check_priced(plan: &Plan, workspace: &Workspace) -> Result<(), BillingError> {
    let missing = revenue::missing_amounts(&plan.definition, workspace.currency);
    if missing.is_empty() {
        return Ok(());
    }
    Err(BillingError::conflict(
        "no-price-in-currency",
        format!(
            "Plan `{}` has no amount in {} for: {}. Publish a version that has them, or choose another plan.",
            plan.name,
            workspace.currency,
            missing.join(", ")
        ),
    ))
}

async fn insert_phase(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    subscription: &SubscriptionId,
    version: &PlanVersionId,
    from: DateTime<Utc>,
    to: Option<DateTime<Utc>>,
    trial: bool,
) -> Result<(), BillingError> {
    sqlx::query!(
        "INSERT INTO subscription_phases (subscription_id, workspace_id, plan_version_id, from_at, to_at, trial) VALUES ($1, $2, $3, $4, $5, $6)",
        subscription.as_str(),
        ws.as_str(),
        version.as_str(),
        from,
        to,
        trial
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Moves to the newest version of another plan of the same product, now or when the current period ends.
pub async fn change(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    id: &SubscriptionId,
    plan: &str,
    when: When,
) -> Result<Subscription, BillingError> {
    let at = instant(conn, ws, when).await?;
    change_at(conn, ws, id, plan, at).await
}

/// As [`change`], at a given instant after what was already invoiced.
pub async fn change_at(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    id: &SubscriptionId,
    plan: &str,
    at: DateTime<Utc>,
) -> Result<Subscription, BillingError> {
    let at = floor_minute(at);
    let workspace = workspace_of(conn, ws).await?;
    let subscription = lock(conn, ws, id).await?;
    let plan = plans::find(conn, ws, plan, None).await?.ok_or(BillingError::NotFound("plan"))?;
    check_priced(&plan, &workspace)?;
    if plan.product != subscription.product {
        return Err(BillingError::conflict(
            "other-product",
            format!(
                "Plan `{}` belongs to the product `{}`, this subscription to `{}`. Subscribe to it beside this one.",
                plan.name, plan.product, subscription.product
            ),
        ));
    }
    let Some(current) = subscription.at(at) else {
        return Err(BillingError::conflict("not-in-force", format!("The subscription is not in force at {at}. Subscribe anew.")));
    };
    if current.plan_version == plan.version_id && !current.trial && current.to.is_none() {
        return Ok(subscription);
    }
    check_open(conn, &subscription, at).await?;
    cut(conn, id, at).await?;
    insert_phase(conn, ws, id, &plan.version_id, at, None, false).await?;
    // A change takes back a cancellation that was to come.
    sqlx::query!("UPDATE subscriptions SET ended_at = NULL WHERE id = $1", id.as_str()).execute(&mut *conn).await?;
    write_timeline(conn, ws, &subscription.consumer, &subscription.product).await?;
    get(conn, ws, id).await?.ok_or(BillingError::NotFound("subscription"))
}

/// Ends it, now or when the current period ends. What was paid in advance beyond the end is given back on the last
/// invoice.
pub async fn cancel(conn: &mut PgConnection, ws: &WorkspaceId, id: &SubscriptionId, when: When) -> Result<Subscription, BillingError> {
    let at = instant(conn, ws, when).await?;
    cancel_at(conn, ws, id, at).await
}

pub async fn cancel_at(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    id: &SubscriptionId,
    at: DateTime<Utc>,
) -> Result<Subscription, BillingError> {
    let subscription = lock(conn, ws, id).await?;
    let at = floor_minute(at).max(subscription.started_at);
    if subscription.ended_at.is_some_and(|end| end <= at) {
        return Ok(subscription);
    }
    check_open(conn, &subscription, at).await?;
    cut(conn, id, at).await?;
    sqlx::query!("UPDATE subscriptions SET ended_at = $2 WHERE id = $1", id.as_str(), at).execute(&mut *conn).await?;
    write_timeline(conn, ws, &subscription.consumer, &subscription.product).await?;
    get(conn, ws, id).await?.ok_or(BillingError::NotFound("subscription"))
}

async fn instant(conn: &mut PgConnection, ws: &WorkspaceId, when: When) -> Result<DateTime<Utc>, BillingError> {
    let workspace = workspace_of(conn, ws).await?;
    let now = workspace.clock.now();
    Ok(match when {
        When::Now => now,
        When::PeriodEnd => window_of(now, Window::Month, workspace.time_zone).map_or(now, |period| period.end),
    })
}

/// Nothing is in force from `at` on.
async fn cut(conn: &mut PgConnection, id: &SubscriptionId, at: DateTime<Utc>) -> Result<(), BillingError> {
    sqlx::query!("DELETE FROM subscription_phases WHERE subscription_id = $1 AND from_at >= $2", id.as_str(), at)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("UPDATE subscription_phases SET to_at = $2 WHERE subscription_id = $1 AND (to_at IS NULL OR to_at > $2)", id.as_str(), at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Closed is closed: what was invoiced keeps its plan.
async fn check_open(conn: &mut PgConnection, subscription: &Subscription, at: DateTime<Utc>) -> Result<(), BillingError> {
    let closed = sqlx::query_scalar!("SELECT max(period_end) FROM invoices WHERE subscription_id = $1", subscription.id.as_str())
        .fetch_one(conn)
        .await?;
    match closed {
        Some(closed) if at < closed => Err(BillingError::conflict(
            "period-closed",
            format!(
                "The subscription is invoiced until {closed}, and an issued invoice never changes. Let the change take effect from then on."
            ),
        )),
        _ => Ok(()),
    }
}

/// Until the transaction ends nobody else changes it: a change and a close see each other's work.
pub(crate) async fn lock(conn: &mut PgConnection, ws: &WorkspaceId, id: &SubscriptionId) -> Result<Subscription, BillingError> {
    sqlx::query!("SELECT id FROM subscriptions WHERE workspace_id = $1 AND id = $2 FOR UPDATE", ws.as_str(), id.as_str())
        .fetch_optional(&mut *conn)
        .await?;
    get(conn, ws, id).await?.ok_or(BillingError::NotFound("subscription"))
}

/// Writes what is in force when through metering, and tells access.
async fn write_timeline(conn: &mut PgConnection, ws: &WorkspaceId, consumer: &ConsumerId, product: &str) -> Result<(), BillingError> {
    let rows = sqlx::query!(
        r#"SELECT f.from_at, f.to_at, f.subscription_id AS "subscription: SubscriptionId", f.plan_version_id AS "plan_version: PlanVersionId", p.name
           FROM subscription_phases f JOIN subscriptions s ON s.id = f.subscription_id
           JOIN plan_versions v ON v.id = f.plan_version_id JOIN plans p ON p.id = v.plan_id
           WHERE s.workspace_id = $1 AND s.consumer_id = $2 AND s.product = $3 ORDER BY f.from_at"#,
        ws.as_str(),
        consumer.as_str(),
        product
    )
    .fetch_all(&mut *conn)
    .await?;
    let entries: Vec<_> = rows
        .into_iter()
        .map(|row| TimelineEntry {
            from: row.from_at,
            to: row.to_at,
            subscription: row.subscription,
            plan_version: row.plan_version,
            plan: row.name,
        })
        .collect();
    set_subscription_timeline(conn, ws, consumer, product, &entries).await?;
    sqlx::query!("SELECT pg_notify('farebox_access', $1)", ws.as_str()).execute(conn).await?;
    Ok(())
}

pub async fn get(conn: &mut PgConnection, ws: &WorkspaceId, id: &SubscriptionId) -> Result<Option<Subscription>, BillingError> {
    Ok(load(conn, ws, Some(id.as_str()), None, 1, "").await?.pop())
}

/// Those in force now, by the workspace's clock: at most one per product.
pub async fn current(conn: &mut PgConnection, ws: &WorkspaceId, consumer: &ConsumerId) -> Result<Vec<Subscription>, BillingError> {
    let now = workspace_of(conn, ws).await?.clock.now();
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
    id: Option<&str>,
    consumer: Option<&str>,
    limit: i64,
    after: &str,
) -> Result<Vec<Subscription>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id: SubscriptionId", consumer_id AS "consumer: ConsumerId", product, currency, started_at, ended_at FROM subscriptions
           WHERE workspace_id = $1 AND ($2::text IS NULL OR id = $2) AND ($3::text IS NULL OR consumer_id = $3) AND id > $4 ORDER BY id LIMIT $5"#,
        ws.as_str(),
        id,
        consumer,
        after,
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    let ids: Vec<_> = rows.iter().map(|row| row.id.as_str().to_owned()).collect();
    let phases = sqlx::query!(
        r#"SELECT f.subscription_id, f.plan_version_id AS "plan_version: PlanVersionId", p.name, v.version, f.from_at, f.to_at, f.trial
           FROM subscription_phases f JOIN plan_versions v ON v.id = f.plan_version_id JOIN plans p ON p.id = v.plan_id
           WHERE f.subscription_id = ANY($1) ORDER BY f.subscription_id, f.from_at"#,
        &ids
    )
    .fetch_all(conn)
    .await?;
    let mut by_subscription: std::collections::HashMap<String, Vec<Phase>> = std::collections::HashMap::new();
    for phase in phases {
        by_subscription.entry(phase.subscription_id).or_default().push(Phase {
            plan_version: phase.plan_version,
            plan: phase.name,
            version: phase.version,
            from: phase.from_at,
            to: phase.to_at,
            trial: phase.trial,
        });
    }
    Ok(rows
        .into_iter()
        .map(|row| Subscription {
            phases: by_subscription.remove(row.id.as_str()).unwrap_or_default(),
            id: row.id,
            consumer: row.consumer,
            product: row.product,
            currency: row.currency,
            started_at: row.started_at,
            ended_at: row.ended_at,
        })
        .collect())
}
