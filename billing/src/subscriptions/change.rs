//! Starts, changes, pauses, resumes and ends a subscription. Each writes its phases, what metering attributes by, and
//! when its next period closes, in the caller's transaction.

use std::collections::HashMap;

use bigdecimal::BigDecimal;
use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, PlanVersionId, SubscriptionId, WorkspaceId};
use farebox_core::money::Currency;
use farebox_core::period::floor_minute;
use farebox_core::workspace::{self, Workspace};
use farebox_metering::timelines::{TimelineEntry, set_subscription_timeline};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::{Phase, Subscription, by_ids, get};
use crate::plans::{self, Plan};
use crate::webhooks::{self, Happened};
use crate::{BillingError, included, revenue, settings};

/// When a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum When {
    Now,
    PeriodEnd,
}

/// A subscription to begin.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    pub consumer: &'a ConsumerId,
    /// The plan's name; its newest version unless another is given.
    pub plan: &'a str,
    pub version: Option<i32>,
    /// May lie in the past: usage since then is attributed to it and billed.
    pub from: DateTime<Utc>,
    pub quantity: BigDecimal,
    /// As the consumer is billed unless given.
    pub currency: Option<Currency>,
}

pub(super) async fn workspace_of(conn: &mut PgConnection, id: &WorkspaceId) -> Result<Workspace, BillingError> {
    workspace::by_id(conn, id).await?.ok_or(BillingError::NotFound("workspace"))
}

/// Starts a subscription to the newest version of `plan`.
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
    start(conn, ws, Start { consumer, plan, version, from, quantity: BigDecimal::from(1), currency: None }).await
}

/// Starts a subscription; a plan with a trial starts with it.
pub async fn start(conn: &mut PgConnection, ws: &WorkspaceId, new: Start<'_>) -> Result<Subscription, BillingError> {
    let workspace = workspace_of(conn, ws).await?;
    let consumer = new.consumer;
    if farebox_metering::consumers::get(conn, ws, consumer).await?.is_none() {
        return Err(BillingError::NotFound("consumer"));
    }
    let plan = offered(conn, ws, consumer, new.plan, new.version).await?;
    let currency = match new.currency {
        Some(currency) => currency,
        None => settings::of_consumer(conn, ws, consumer).await?.currency.unwrap_or(workspace.currency),
    };
    check_priced(&plan, currency)?;
    let from = floor_minute(new.from);
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
                check_priced(&then, currency)?;
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
        currency.code(),
        from,
        ended_at,
        clock::now()
    )
    .execute(&mut *conn)
    .await?;
    for (plan, from, to, trial) in phases {
        insert_phase(conn, ws, &id, &NewPhase { version: &plan.version_id, from, to, trial, quantity: &new.quantity }).await?;
    }
    written_as(conn, ws, &id, "subscription.created").await
}

/// A plan that this consumer may choose. One that is retired is only for those who name its version.
async fn offered(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    consumer: &ConsumerId,
    name: &str,
    version: Option<i32>,
) -> Result<Plan, BillingError> {
    let plan = plans::find(conn, ws, name, version).await?.ok_or(BillingError::NotFound("plan"))?;
    if plan.consumer.as_ref().is_some_and(|own| own != consumer) {
        return Err(BillingError::NotFound("plan"));
    }
    if plan.retired && version.is_none() {
        let detail =
            format!("Plan `{name}` is retired: those who have it keep it, nobody else can choose it. Choose another, or name its version.");
        return Err(BillingError::conflict("plan-retired", detail));
    }
    Ok(plan)
}

/// A plan that cannot be billed in the subscription's currency is refused when it is chosen, not when it is billed.
pub(super) fn check_priced(plan: &Plan, currency: Currency) -> Result<(), BillingError> {
    let missing = revenue::missing_amounts(&plan.definition, currency);
    if missing.is_empty() {
        return Ok(());
    }
    Err(BillingError::conflict(
        "no-price-in-currency",
        format!(
            "Plan `{}` has no amount in {currency} for: {}. Publish a version that has them, or choose another plan.",
            plan.name,
            missing.join(", ")
        ),
    ))
}

struct NewPhase<'a> {
    version: &'a PlanVersionId,
    from: DateTime<Utc>,
    to: Option<DateTime<Utc>>,
    trial: bool,
    quantity: &'a BigDecimal,
}

async fn insert_phase(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    subscription: &SubscriptionId,
    phase: &NewPhase<'_>,
) -> Result<(), BillingError> {
    if *phase.quantity < BigDecimal::from(0) {
        return Err(BillingError::invalid("/quantity", "must not be negative"));
    }
    sqlx::query!(
        "INSERT INTO subscription_phases (subscription_id, workspace_id, plan_version_id, from_at, to_at, trial, quantity)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        subscription.as_str(),
        ws.as_str(),
        phase.version.as_str(),
        phase.from,
        phase.to,
        phase.trial,
        phase.quantity
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
    let at = instant(conn, ws, id, when).await?;
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
    let subscription = lock(conn, ws, id).await?;
    let plan = offered(conn, ws, &subscription.consumer, plan, None).await?;
    move_to(conn, ws, &subscription, &plan, at).await
}

/// Moves to a given plan version.
pub(super) async fn move_to(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    subscription: &Subscription,
    plan: &Plan,
    at: DateTime<Utc>,
) -> Result<Subscription, BillingError> {
    let (id, at) = (&subscription.id, floor_minute(at));
    check_priced(plan, currency_of(subscription)?)?;
    if plan.product != subscription.product {
        return Err(BillingError::conflict(
            "other-product",
            format!(
                "Plan `{}` belongs to the product `{}`, this subscription to `{}`. Subscribe to it beside this one.",
                plan.name, plan.product, subscription.product
            ),
        ));
    }
    let current = in_force(subscription, at)?;
    if current.plan_version == plan.version_id && !current.trial && current.to.is_none() {
        return Ok(subscription.clone());
    }
    check_open(subscription, at)?;
    let quantity = current.quantity.clone();
    cut(conn, id, at).await?;
    insert_phase(conn, ws, id, &NewPhase { version: &plan.version_id, from: at, to: None, trial: false, quantity: &quantity }).await?;
    // A change takes back a cancellation that was to come.
    sqlx::query!("UPDATE subscriptions SET ended_at = NULL, credit_at_end = true WHERE id = $1", id.as_str()).execute(&mut *conn).await?;
    written(conn, ws, id).await
}

pub(crate) fn currency_of(subscription: &Subscription) -> Result<Currency, BillingError> {
    subscription.currency.parse().map_err(|e| BillingError::unreadable("a subscription", e))
}

fn in_force(subscription: &Subscription, at: DateTime<Utc>) -> Result<&Phase, BillingError> {
    subscription.at(at).ok_or_else(|| {
        let way_out = if subscription.paused { "It is paused: resume it first." } else { "Subscribe anew." };
        BillingError::conflict("not-in-force", format!("The subscription is not in force at {at}. {way_out}"))
    })
}

/// Another quantity of what is charged per seat, now or from the next period on; plan changes to come keep theirs.
pub async fn set_quantity(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    id: &SubscriptionId,
    quantity: &BigDecimal,
    when: When,
) -> Result<Subscription, BillingError> {
    let subscription = lock(conn, ws, id).await?;
    let at = floor_minute(instant(conn, ws, id, when).await?);
    let current = in_force(&subscription, at)?;
    if current.quantity == *quantity {
        return Ok(subscription);
    }
    check_open(&subscription, at)?;
    if current.from == at {
        sqlx::query!("DELETE FROM subscription_phases WHERE subscription_id = $1 AND from_at = $2", id.as_str(), at)
            .execute(&mut *conn)
            .await?;
    } else {
        sqlx::query!(
            "UPDATE subscription_phases SET to_at = $3 WHERE subscription_id = $1 AND from_at = $2",
            id.as_str(),
            current.from,
            at
        )
        .execute(&mut *conn)
        .await?;
    }
    let phase = NewPhase { version: &current.plan_version, from: at, to: current.to, trial: current.trial, quantity };
    insert_phase(conn, ws, id, &phase).await?;
    written(conn, ws, id).await
}

/// Not in force from now, or from the period's end, until it is resumed: nothing is counted to it or charged, and what
/// was paid in advance for the time is given back.
pub async fn pause(conn: &mut PgConnection, ws: &WorkspaceId, id: &SubscriptionId, when: When) -> Result<Subscription, BillingError> {
    let subscription = lock(conn, ws, id).await?;
    if subscription.paused {
        return Ok(subscription);
    }
    let at = floor_minute(instant(conn, ws, id, when).await?);
    let current = in_force(&subscription, at.min(subscription.ended_at.unwrap_or(at)))?;
    if current.trial {
        return Err(BillingError::conflict("in-trial", "A trial cannot be paused. Cancel it, or wait until it is over."));
    }
    check_open(&subscription, at)?;
    cut(conn, id, at).await?;
    sqlx::query!("UPDATE subscriptions SET paused_version = $2, ended_at = NULL WHERE id = $1", id.as_str(), current.plan_version.as_str())
        .execute(&mut *conn)
        .await?;
    written(conn, ws, id).await
}

/// In force again from `at` on, with the plan it was paused with.
pub async fn resume(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    id: &SubscriptionId,
    at: DateTime<Utc>,
) -> Result<Subscription, BillingError> {
    let subscription = lock(conn, ws, id).await?;
    let version = sqlx::query_scalar!(r#"SELECT paused_version AS "version: PlanVersionId" FROM subscriptions WHERE id = $1"#, id.as_str())
        .fetch_one(&mut *conn)
        .await?;
    let Some(version) = version else {
        return Err(BillingError::conflict("not-paused", "The subscription is not paused; there is nothing to resume."));
    };
    let last = subscription.phases.last();
    let at = floor_minute(at).max(last.and_then(|phase| phase.to).unwrap_or(subscription.started_at));
    check_open(&subscription, at)?;
    let quantity = last.map_or_else(|| BigDecimal::from(1), |phase| phase.quantity.clone());
    insert_phase(conn, ws, id, &NewPhase { version: &version, from: at, to: None, trial: false, quantity: &quantity }).await?;
    sqlx::query!("UPDATE subscriptions SET paused_version = NULL WHERE id = $1", id.as_str()).execute(&mut *conn).await?;
    written(conn, ws, id).await
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancel {
    pub at: DateTime<Utc>,
    /// What was paid in advance beyond the end is given back on the last invoice.
    pub credit: bool,
}

/// Ends it, now or when the current period ends. What was paid in advance beyond the end is given back on the last
/// invoice.
pub async fn cancel(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    id: &SubscriptionId,
    when: When,
    credit: bool,
) -> Result<Subscription, BillingError> {
    let at = instant(conn, ws, id, when).await?;
    end(conn, ws, id, Cancel { at, credit }).await
}

pub async fn cancel_at(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    id: &SubscriptionId,
    at: DateTime<Utc>,
) -> Result<Subscription, BillingError> {
    end(conn, ws, id, Cancel { at, credit: true }).await
}

async fn end(conn: &mut PgConnection, ws: &WorkspaceId, id: &SubscriptionId, how: Cancel) -> Result<Subscription, BillingError> {
    let subscription = lock(conn, ws, id).await?;
    let at = floor_minute(how.at).max(subscription.started_at);
    if subscription.ended_at.is_some_and(|end| end <= at) {
        return Ok(subscription);
    }
    check_open(&subscription, at)?;
    cut(conn, id, at).await?;
    sqlx::query!(
        "UPDATE subscriptions SET ended_at = $2, credit_at_end = $3, paused_version = NULL WHERE id = $1",
        id.as_str(),
        at,
        how.credit
    )
    .execute(&mut *conn)
    .await?;
    written(conn, ws, id).await
}

async fn instant(conn: &mut PgConnection, ws: &WorkspaceId, id: &SubscriptionId, when: When) -> Result<DateTime<Utc>, BillingError> {
    let workspace = workspace_of(conn, ws).await?;
    let now = workspace.clock.now();
    if when == When::Now {
        return Ok(now);
    }
    let subscription = get(conn, ws, id).await?.ok_or(BillingError::NotFound("subscription"))?;
    let plans = plans::of(conn, ws, subscription.phases.iter().map(|phase| &phase.plan_version)).await?;
    Ok(subscription.period_at(&plans, workspace.time_zone, now.max(subscription.started_at), None)?.end)
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
pub(super) fn check_open(subscription: &Subscription, at: DateTime<Utc>) -> Result<(), BillingError> {
    match subscription.closed_until {
        Some(closed) if at < closed => Err(BillingError::conflict(
            "period-closed",
            format!(
                "The subscription is invoiced until {closed}, and an issued invoice never changes. Let the change take effect from then on."
            ),
        )),
        _ => Ok(()),
    }
}

/// Until the transaction ends nobody else changes it: a change and a close see each other's work. Whatever only refers to it
/// (an invoice that is paid) does not wait, hence `NO KEY`.
pub(crate) async fn lock(conn: &mut PgConnection, ws: &WorkspaceId, id: &SubscriptionId) -> Result<Subscription, BillingError> {
    sqlx::query!("SELECT id FROM subscriptions WHERE workspace_id = $1 AND id = $2 FOR NO KEY UPDATE", ws.as_str(), id.as_str())
        .fetch_optional(&mut *conn)
        .await?;
    get(conn, ws, id).await?.ok_or(BillingError::NotFound("subscription"))
}

/// Several at once, locked in the order of their ids.
pub(crate) async fn lock_all(conn: &mut PgConnection, ws: &WorkspaceId, ids: &[String]) -> Result<Vec<Subscription>, BillingError> {
    sqlx::query!("SELECT id FROM subscriptions WHERE workspace_id = $1 AND id = ANY($2) ORDER BY id FOR NO KEY UPDATE", ws.as_str(), ids)
        .fetch_all(&mut *conn)
        .await?;
    by_ids(conn, ws, ids).await
}

/// After a change: metering's timeline, when the next period closes, and the subscription as it is now.
pub(super) async fn written(conn: &mut PgConnection, ws: &WorkspaceId, id: &SubscriptionId) -> Result<Subscription, BillingError> {
    written_as(conn, ws, id, "subscription.changed").await
}

async fn written_as(conn: &mut PgConnection, ws: &WorkspaceId, id: &SubscriptionId, kind: &str) -> Result<Subscription, BillingError> {
    let subscription = get(conn, ws, id).await?.ok_or(BillingError::NotFound("subscription"))?;
    write_timeline(conn, ws, &subscription.consumer, &subscription.product).await?;
    reschedule(conn, ws, &subscription).await?;
    let data = serde_json::to_value(&subscription).map_err(|e| BillingError::unreadable("a subscription", e))?;
    let (consumer, at) = (&subscription.consumer, workspace_of(conn, ws).await?.clock.now());
    webhooks::emit(conn, ws, &Happened { kind, subject: id.as_str(), consumer, data: &data, at }).await?;
    Ok(subscription)
}

/// Notes when the next period closes that has something to close (in force, or billed in advance and to be given back), and
/// grants what its periods come with.
pub(crate) async fn reschedule(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    subscription: &Subscription,
) -> Result<Option<DateTime<Utc>>, BillingError> {
    let workspace = workspace_of(conn, ws).await?;
    let close_from = settings::of(conn, ws).await?.close_from;
    let billed = billed_until(conn, &[subscription.id.to_string()]).await?;
    let plans = plans::of(conn, ws, subscription.phases.iter().map(|phase| &phase.plan_version)).await?;
    included::settle(conn, &workspace, subscription, &plans).await?;
    let closes_at = subscription.closes_at(&plans, workspace.time_zone, close_from, billed.get(&subscription.id).copied())?;
    sqlx::query!("UPDATE subscriptions SET closes_at = $2 WHERE id = $1", subscription.id.as_str(), closes_at).execute(conn).await?;
    Ok(closes_at)
}

/// Until when fees of each subscription are billed in advance.
pub(crate) async fn billed_until(conn: &mut PgConnection, ids: &[String]) -> Result<HashMap<SubscriptionId, DateTime<Utc>>, BillingError> {
    let rows = sqlx::query!(
        // Invoice by invoice: while a close fills empty tables the planner would read them whole.
        r#"WITH own AS MATERIALIZED (SELECT subscription_id, invoice_id FROM invoice_parts WHERE subscription_id = ANY($1))
           SELECT own.subscription_id AS "id: SubscriptionId", max(l.period_end) AS "until!"
           FROM own CROSS JOIN LATERAL (
               SELECT l.period_end FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id
               WHERE i.id = own.invoice_id AND coalesce(l.subscription_id, i.subscription_id) = own.subscription_id
                 AND l.kind = 'fee' AND l.quantity > 0 OFFSET 0) l
           GROUP BY 1"#,
        ids
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.until)).collect())
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
