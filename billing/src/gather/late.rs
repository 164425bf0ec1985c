//! Usage that came after its period was invoiced, or was taken back since: the period is rated whole again and what was
//! billed is taken off. Whether anything changed is told by the state of the period's events when it was counted.

use chrono::TimeDelta;
use farebox_core::App;
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use farebox_metering::proof;
use sqlx::PgConnection;

use super::{Counting, GatheredLine, Span, billed, count_all, cycle_of, definitions};
use crate::rating::cycle::{self, Wanted};
use crate::rating::difference;
use crate::subscriptions::Subscription;
use crate::{BillingError, settings};

/// From when on events are counted for a period: earlier where a price has a longer one.
pub(super) fn counted(wanted: &[Wanted], period: Period) -> Period {
    Period { start: wanted.iter().map(|w| w.of.start).min().unwrap_or(period.start).min(period.start), end: period.end }
}

pub(super) async fn note(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    subscription: &SubscriptionId,
    period: Period,
    counted: Period,
    state: &str,
) -> Result<(), BillingError> {
    sqlx::query!(
        "INSERT INTO counted_periods (subscription_id, period_start, period_end, workspace_id, state, counted_from)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (subscription_id, period_start) DO UPDATE SET period_end = $3, state = $5, counted_from = $6",
        subscription.as_str(),
        period.start,
        period.end,
        ws.as_str(),
        state,
        counted.start
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Adjustments of all closed periods of a subscription that are still looked after. With proof, the states are noted
/// in the caller's transaction, so that each correction is made once.
pub async fn corrections(
    app: &App,
    conn: &mut PgConnection,
    workspace: &Workspace,
    subscription: &Subscription,
    counting: Counting,
) -> Result<Vec<GatheredLine>, BillingError> {
    let days = i64::from(settings::of(conn, &workspace.id).await?.late_days);
    let closed = sqlx::query!(
        "SELECT period_start, period_end, state FROM counted_periods c WHERE subscription_id = $1 AND period_end > $2 AND period_end <= $3
           AND NOT EXISTS (SELECT FROM hard_closes h WHERE h.workspace_id = c.workspace_id AND c.period_end > h.period_start AND c.period_end <= h.period_end)
         ORDER BY period_start",
        subscription.id.as_str(),
        workspace.clock.now() - TimeDelta::days(days),
        subscription.closed_until.unwrap_or(subscription.started_at)
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut found = Vec::new();
    for row in closed {
        let period = Period { start: row.period_start, end: row.period_end };
        found.extend(of_period(app, conn, workspace, subscription, period, &row.state, counting).await?);
    }
    Ok(found)
}

async fn of_period(
    app: &App,
    conn: &mut PgConnection,
    workspace: &Workspace,
    subscription: &Subscription,
    period: Period,
    before: &str,
    counting: Counting,
) -> Result<Vec<GatheredLine>, BillingError> {
    let definitions = definitions(conn, &workspace.id, subscription, &[]).await?;
    let cycle = cycle_of(workspace, subscription, Span { period, next: period }, Vec::new(), &definitions)?;
    if proof::state(app, &workspace.id, counted(&cycle::wanted(&cycle)?, period)).await? == before {
        return Ok(Vec::new());
    }
    let whole = count_all(app, conn, &workspace.id, subscription, &cycle, counting).await?;
    let billed = billed::usage_lines(conn, &subscription.id, period, cycle.currency).await?;
    let corrections = difference::corrections(cycle::usage_lines(&cycle, &whole.used)?, &billed)?;
    Ok(corrections.into_iter().map(|continued| whole.with_proof(continued)).collect())
}

/// Subscriptions whose corrections wait for no further invoice: of a closed period whose events changed, and either
/// nothing else will be invoiced, or `own` says that corrections have invoices of their own.
pub async fn with_corrections(
    app: &App,
    conn: &mut PgConnection,
    workspace: &Workspace,
    own: bool,
    days: i64,
) -> Result<Vec<SubscriptionId>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT c.subscription_id AS "id: SubscriptionId", c.counted_from, c.period_end, c.state
           FROM counted_periods c JOIN subscriptions s ON s.id = c.subscription_id
           WHERE c.workspace_id = $1 AND c.period_end > $2 AND c.period_end <= s.closed_until AND ($3 OR s.closes_at IS NULL)
             AND NOT EXISTS (SELECT FROM hard_closes h WHERE h.workspace_id = c.workspace_id AND c.period_end > h.period_start AND c.period_end <= h.period_end)
           ORDER BY c.counted_from, c.period_end, c.subscription_id"#,
        workspace.id.as_str(),
        workspace.clock.now() - TimeDelta::days(days),
        own
    )
    .fetch_all(conn)
    .await?;
    let (mut found, mut last): (Vec<SubscriptionId>, Option<(Period, String)>) = (Vec::new(), None);
    for row in rows {
        let period = Period { start: row.counted_from, end: row.period_end };
        // Periods of the calendar are shared by many: their state is asked for once.
        let now = match &last {
            Some((same, state)) if *same == period => state.clone(),
            _ => proof::state(app, &workspace.id, period).await?,
        };
        last = Some((period, now.clone()));
        if now != row.state && !found.contains(&row.id) {
            found.push(row.id);
        }
    }
    Ok(found)
}
