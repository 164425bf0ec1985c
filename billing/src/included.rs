//! Credits that a plan's periods come with: granted as a period begins, exactly once for a subscription and period.
//!
//! What a period comes with follows from the plans in force in it: the first that includes credits and cuts time into such
//! periods grants them, whole; a change within the period grants nothing more. A constraint keeps a second grant out, so whoever
//! looks (a change, a close, a preview, the loop) may look as often as it likes. Where a change reaches back to where the period
//! began, what had come with it is taken back, and what the other plan includes takes its place, less what was used.

use std::collections::BTreeSet;

use bigdecimal::BigDecimal;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::App;
use farebox_core::ids::{GrantId, PlanVersionId, SubscriptionId};
use farebox_core::money::{Currency, Money};
use farebox_core::period::{Period, local_date};
use farebox_core::workspace::Workspace;
use sqlx::PgConnection;

use crate::credits::{self, GrantKind, NewGrant, Rollover};
use crate::rating::RatingError;
use crate::rating::plan::{Included, IncludedOf};
use crate::subscriptions::{self, Plans, Subscription};
use crate::units::{self, NewUnitGrant, UnitRollover};
use crate::{BillingError, plans, settings};

/// Credits that a period comes with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Due<'a> {
    pub version: &'a PlanVersionId,
    pub included: &'a Included,
    /// Where the whole period begins; and from when on the plan was in force in it.
    pub period_start: DateTime<Utc>,
    pub from: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    /// For how many days of the calendar more a part of what is left goes on.
    pub rollover_days: i32,
}

pub(crate) fn any(plans: &Plans) -> bool {
    plans.values().any(|plan| !plan.terms.credits.is_empty())
}

/// What the periods from the one at `open` until now come with, and when to look again.
pub(crate) fn due<'a>(
    subscription: &'a Subscription,
    plans: &'a Plans,
    zone: Tz,
    open: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(Vec<Due<'a>>, Option<DateTime<Utc>>), RatingError> {
    let (mut found, mut at) = (Vec::new(), open);
    while at <= now && subscription.goes_on_after(at) {
        let schedule = subscription.schedule_at(plans, zone, at);
        let whole = schedule.period_of(at)?;
        let end = subscription.period_at(plans, zone, at, None)?.end;
        let granting = subscription.phases.iter().find(|phase| {
            let inside = phase.from < end && phase.to.is_none_or(|to| to > whole.start) && phase.from <= now;
            let includes = plans.get(&phase.plan_version).is_some_and(|plan| !plan.terms.credits.is_empty());
            inside && includes && !phase.trial && subscription.schedule_under(plans, zone, phase) == schedule
        });
        if let Some((phase, plan)) = granting.and_then(|phase| Some((phase, plans.get(&phase.plan_version)?))) {
            for included in &plan.terms.credits {
                let after = |from: Period, periods: i32| (0..periods).try_fold(from, |period, _| schedule.period_of(period.end));
                let last = after(whole, included.periods - 1)?;
                let rolls = match &included.of {
                    IncludedOf::Money { rollover, .. } => rollover.as_ref().map_or(0, |rollover| rollover.periods),
                    IncludedOf::Units { rollover, .. } => rollover.as_ref().map_or(0, |rollover| rollover.periods),
                };
                let days = local_date(after(last, rolls)?.end, zone) - local_date(last.end, zone);
                found.push(Due {
                    version: &phase.plan_version,
                    included,
                    period_start: whole.start,
                    from: whole.start.max(phase.from),
                    expires_at: included.expires.then_some(last.end),
                    rollover_days: i32::try_from(days.num_days()).unwrap_or(i32::MAX),
                });
            }
        }
        at = end;
    }
    let begins = subscription.phases.iter().map(|phase| phase.from).filter(|from| *from > now).min();
    let next = (at > now && subscription.goes_on_after(at)).then_some(at);
    Ok((found, begins.into_iter().chain(next).min().filter(|_| any(plans))))
}

/// A grant that came with a period.
struct Came {
    id: GrantId,
    name: String,
    period_start: DateTime<Utc>,
    version: PlanVersionId,
    in_units: bool,
}

/// Grants what is due, and takes back what is no longer. In the caller's transaction, which has the subscription locked.
pub(crate) async fn settle(
    conn: &mut PgConnection,
    workspace: &Workspace,
    subscription: &Subscription,
    plans: &Plans,
) -> Result<(), BillingError> {
    let (ws, now, zone) = (&workspace.id, workspace.clock.now(), workspace.time_zone);
    let open = subscription.open_from(settings::of(conn, ws).await?.close_from);
    let open_period = subscription.schedule_at(plans, zone, open).period_of(open)?;
    // From where the open period begins, so that what came with it is known although a part of it is closed.
    let (due, next) = due(subscription, plans, zone, open_period.start, now)?;
    let currency = subscriptions::currency_of(subscription)?;
    let rows = sqlx::query!(
        r#"SELECT id AS "id!: GrantId", name AS "name!", period_start AS "period_start!", plan_version_id AS "version!: PlanVersionId", in_units AS "in_units!"
           FROM (SELECT id, name, period_start, plan_version_id, subscription_id, false AS in_units FROM credit_grants WHERE NOT withdrawn
                 UNION ALL SELECT id, name, period_start, plan_version_id, subscription_id, true FROM unit_grants WHERE NOT withdrawn) g
           WHERE subscription_id = $1 AND period_start >= $2 ORDER BY id"#,
        subscription.id.as_str(),
        open_period.start
    )
    .fetch_all(&mut *conn)
    .await?;
    let came: Vec<_> = rows
        .into_iter()
        .map(|row| Came { id: row.id, name: row.name, period_start: row.period_start, version: row.version, in_units: row.in_units })
        .collect();
    let is = |due: &Due, came: &Came| (due.period_start, &due.included.name) == (came.period_start, &came.name);
    for due in &due {
        let mut used = BigDecimal::from(0);
        if let Some(before) = came.iter().find(|came| is(due, came)) {
            if before.version == *due.version {
                continue;
            }
            used = withdraw(conn, workspace, before).await?;
        }
        give(conn, workspace, subscription, currency, due, &used).await?;
    }
    for left in came.iter().filter(|came| !due.iter().any(|due| is(due, came))) {
        withdraw(conn, workspace, left).await?;
    }
    sqlx::query!(
        "UPDATE subscriptions SET included_until = $2 WHERE id = $1 AND included_until IS DISTINCT FROM $2",
        subscription.id.as_str(),
        next
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Answers what was used of it.
async fn withdraw(conn: &mut PgConnection, workspace: &Workspace, came: &Came) -> Result<BigDecimal, BillingError> {
    if came.in_units {
        return units::withdraw(conn, &workspace.id, &came.id).await;
    }
    Ok(credits::withdraw(conn, &workspace.id, &came.id).await?.to_decimal())
}

/// `used`: of what had come with the period before.
async fn give(
    conn: &mut PgConnection,
    workspace: &Workspace,
    subscription: &Subscription,
    currency: Currency,
    due: &Due<'_>,
    used: &BigDecimal,
) -> Result<(), BillingError> {
    let ws = &workspace.id;
    let (included, period) = (due.included, Some((due.period_start, due.version)));
    let expires = due.expires_at.is_some();
    match &included.of {
        IncludedOf::Money { amount, rollover } => {
            // A plan without an amount in the currency is refused when it is chosen.
            let Some(amount) = amount.get(currency) else { return Ok(()) };
            let amount = Money::exact(&(amount - used), currency)?;
            let most = rollover.as_ref().filter(|_| expires).and_then(|rollover| rollover.most.get(currency));
            let rollover = match most {
                Some(most) => Some(Rollover { most: Money::exact(most, currency)?, days: due.rollover_days }),
                None => None,
            };
            let new = NewGrant {
                consumer: subscription.consumer.clone(),
                name: included.name.clone(),
                kind: GrantKind::Included,
                amount,
                taxed: false,
                priority: included.priority,
                effective_at: due.from,
                expires_at: due.expires_at,
                rollover: rollover.filter(|rollover| rollover.most.minor > 0),
            };
            let origin = credits::Origin { rolled_from: None, subscription: Some(&subscription.id), period, prices: &included.prices };
            if amount.minor > 0 {
                credits::insert(conn, ws, &new, &origin).await?;
            }
        }
        IncludedOf::Units { meter, units, rollover } => {
            let left = &units.0 - used;
            let rollover = rollover.as_ref().filter(|_| expires);
            let new = NewUnitGrant {
                consumer: subscription.consumer.clone(),
                name: included.name.clone(),
                kind: GrantKind::Included,
                meter: meter.clone(),
                units: left.clone(),
                price: None,
                priority: included.priority,
                effective_at: due.from,
                expires_at: due.expires_at,
                rollover: rollover.map(|rollover| UnitRollover { most: rollover.most.0.clone(), days: due.rollover_days }),
            };
            let origin = units::Origin { rolled_from: None, subscription: Some(&subscription.id), period };
            if left > BigDecimal::from(0) {
                units::insert(conn, ws, &new, &origin).await?;
            }
        }
    }
    Ok(())
}

/// Grants what became due of one subscription, if anything did since somebody last looked.
pub(crate) async fn settle_due(app: &App, workspace: &Workspace, id: &SubscriptionId) -> Result<(), BillingError> {
    // Looked at without a lock first: mostly nothing is due, and nobody has to wait for a close.
    let due = sqlx::query_scalar!(
        r#"SELECT included_until <= $3 AS "due!" FROM subscriptions WHERE workspace_id = $1 AND id = $2 AND included_until IS NOT NULL"#,
        workspace.id.as_str(),
        id.as_str(),
        workspace.clock.now()
    )
    .fetch_optional(&app.pg)
    .await?;
    if due != Some(true) {
        return Ok(());
    }
    let mut transaction = app.pg.begin().await?;
    let subscription = subscriptions::lock(&mut transaction, &workspace.id, id).await?;
    let versions: BTreeSet<_> = subscription.phases.iter().map(|phase| phase.plan_version.clone()).collect();
    let plans = plans::of(&mut transaction, &workspace.id, versions.iter()).await?;
    settle(&mut transaction, workspace, &subscription, &plans).await?;
    transaction.commit().await?;
    Ok(())
}

/// Grants what became due of all subscriptions of a workspace.
pub(crate) async fn settle_all(app: &App, workspace: &Workspace) -> Result<(), BillingError> {
    let due = sqlx::query_scalar!(
        r#"SELECT id AS "id: SubscriptionId" FROM subscriptions WHERE workspace_id = $1 AND included_until <= $2 ORDER BY included_until, id"#,
        workspace.id.as_str(),
        workspace.clock.now()
    )
    .fetch_all(&app.pg)
    .await?;
    for id in due {
        settle_due(app, workspace, &id).await?;
    }
    Ok(())
}

/// What a stretch of time by definition comes with of each of a plan's credits in money: whole for each whole period in it, a
/// share of one that reaches beyond it.
pub(crate) fn worth_in(
    subscription: &Subscription,
    plans: &Plans,
    zone: Tz,
    month: Period,
) -> Result<Vec<(Included, BigDecimal)>, RatingError> {
    let mut found = Vec::new();
    let (dues, _) = due(subscription, plans, zone, month.start, month.end - TimeDelta::minutes(1))?;
    for due in dues {
        let whole = subscription.schedule_at(plans, zone, due.from).period_of(due.period_start)?;
        let Some(inside) = whole.intersect(&month) else { continue };
        let share = BigDecimal::from((inside.end - inside.start).num_seconds()) / BigDecimal::from((whole.end - whole.start).num_seconds());
        found.push((due.included.clone(), share));
    }
    Ok(found)
}
