//! Usage that came after its period was invoiced, or was taken back since: the period is rated whole again and what was
//! billed is taken off. Whether anything changed is told by the state of the period's events when it was counted.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use sqlx::PgConnection;

use super::{Counter, Counting, GatheredLine, Records, Span, count_all, cover, cycle_of};
use crate::rating::cycle::{self, Wanted};
use crate::rating::difference;
use crate::rating::units::Taken;
use crate::subscriptions::Subscription;
use crate::units::Purse;
use crate::{BillingError, settings};

/// From when on events are counted for a period: earlier where a price has a longer one.
pub(super) fn counted(wanted: &[Wanted], period: Period) -> Period {
    Period { start: wanted.iter().map(|w| w.of.start).min().unwrap_or(period.start).min(period.start), end: period.end }
}

/// The state of the events when a period was counted, to be noted in the transaction that bills it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    pub subscription: SubscriptionId,
    pub period: Period,
    pub from: DateTime<Utc>,
    pub state: String,
}

pub async fn note(conn: &mut PgConnection, ws: &WorkspaceId, counted: &[Counted]) -> Result<(), BillingError> {
    let (mut ids, mut states, mut starts, mut ends, mut from) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for counted in counted {
        ids.push(counted.subscription.to_string());
        states.push(counted.state.clone());
        starts.push(counted.period.start);
        ends.push(counted.period.end);
        from.push(counted.from);
    }
    sqlx::query!(
        "INSERT INTO counted_periods (workspace_id, subscription_id, period_start, period_end, state, counted_from)
         SELECT $1, * FROM unnest($2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::timestamptz[])
         ON CONFLICT (subscription_id, period_start) DO UPDATE SET period_end = excluded.period_end, state = excluded.state,
                counted_from = excluded.counted_from",
        ws.as_str(),
        &ids,
        &starts,
        &ends,
        &states,
        &from
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Closed periods that are still looked after and whose events changed since they were counted.
pub(super) async fn changed(
    conn: &mut PgConnection,
    workspace: &Workspace,
    counter: &Counter,
    of: &[(&Subscription, DateTime<Utc>)],
) -> Result<HashMap<SubscriptionId, Vec<Period>>, BillingError> {
    let days = i64::from(settings::of(conn, &workspace.id).await?.late_days);
    let (ids, until): (Vec<_>, Vec<_>) =
        of.iter().map(|(own, _)| (own.id.as_str().to_owned(), own.closed_until.unwrap_or(own.started_at))).unzip();
    let closed = sqlx::query!(
        r#"SELECT c.subscription_id AS "subscription: SubscriptionId", c.period_start, c.period_end, c.counted_from, c.state
           FROM unnest($1::text[], $2::timestamptz[]) AS w (subscription_id, closed_until)
           JOIN counted_periods c ON c.subscription_id = w.subscription_id AND c.period_end <= w.closed_until
           WHERE c.period_end > $3
             AND NOT EXISTS (SELECT FROM hard_closes h WHERE h.workspace_id = c.workspace_id AND c.period_end > h.period_start AND c.period_end <= h.period_end)
           ORDER BY c.subscription_id, c.period_start"#,
        &ids,
        &until,
        workspace.clock.now() - TimeDelta::days(days)
    )
    .fetch_all(conn)
    .await?;
    let mut found: HashMap<SubscriptionId, Vec<Period>> = HashMap::new();
    for row in closed {
        if counter.state(Period { start: row.counted_from, end: row.period_end }).await? != row.state {
            found.entry(row.subscription).or_default().push(Period { start: row.period_start, end: row.period_end });
        }
    }
    Ok(found)
}

/// What corrections use and tell beside their lines.
pub struct Late<'a> {
    /// What is left of prepaid units.
    pub purse: &'a mut Purse,
    /// With proof, the states to be noted, so that each correction is made once.
    pub noted: &'a mut Vec<Counted>,
    pub units: &'a mut Vec<(SubscriptionId, Taken)>,
}

/// Adjustments of the closed periods of a subscription whose events changed.
pub async fn corrections(
    counter: &Counter,
    records: &Records,
    workspace: &Workspace,
    subscription: &Subscription,
    counting: Counting,
    late: Late<'_>,
) -> Result<Vec<GatheredLine>, BillingError> {
    let mut found = Vec::new();
    for &period in records.late(subscription) {
        let definitions = records.definitions(subscription, &[]);
        let cycle = cycle_of(workspace, subscription, Span { period, next: period }, Vec::new(), &definitions)?;
        let mut whole = count_all(counter, subscription, &cycle, counting, late.noted).await?;
        late.units.extend(cover(records, subscription, &cycle, &mut whole, late.purse)?);
        let billed = records.billed(subscription, period);
        let corrections = difference::corrections(cycle::usage_lines(&cycle, &whole.used)?, &billed)?;
        found.extend(corrections.into_iter().map(|continued| whole.with_proof(continued)));
    }
    Ok(found)
}

/// Subscriptions whose corrections wait for no further invoice: of a closed period whose events changed, and either
/// nothing else will be invoiced, or `own` says that corrections have invoices of their own.
pub async fn with_corrections(
    counter: &Counter,
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
    let mut found: Vec<SubscriptionId> = Vec::new();
    for row in rows {
        let now = counter.state(Period { start: row.counted_from, end: row.period_end }).await?;
        if now != row.state && !found.contains(&row.id) {
            found.push(row.id);
        }
    }
    Ok(found)
}
