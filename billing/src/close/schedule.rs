//! What is due when, and the loop that does it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::App;
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, SubscriptionId, WorkspaceId};
use farebox_core::period::Period;
use farebox_core::workspace::{self, Workspace};
use farebox_metering::completeness;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::{BillingError, calendar, credits, included, settings, units};

/// How often the loop looks. A period that is over waits for its grace anyway.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Every how many looks thresholds and corrections are looked for: once a minute.
const LOOK_BETWEEN: u64 = 12;
/// How long after the grace a source that is behind is waited for.
const PATIENCE_HOURS: i64 = 24;

pub fn grace_end(app: &App, period: Period) -> DateTime<Utc> {
    period.end + TimeDelta::minutes(app.config.billing.grace_minutes)
}

/// A test clock ahead of real time: no events come from the future.
pub fn runs_ahead(workspace: &Workspace) -> bool {
    workspace.clock.now() > clock::now() + TimeDelta::minutes(1)
}

/// A workspace with periods that are over and waited for.
#[derive(Debug, Clone)]
pub struct Due {
    pub workspace: WorkspaceId,
    /// What ended by then may be closed.
    pub until: DateTime<Utc>,
    /// The month in which the latest of them ended.
    pub period: Period,
}

pub async fn due(app: &App) -> Result<Vec<Due>, BillingError> {
    let mut found = Vec::new();
    let workspaces = workspace::all(&mut *app.pg.acquire().await?).await?;
    for workspace in workspaces {
        if settings::of(&mut *app.pg.acquire().await?, &workspace.id).await?.close_by_hand {
            continue;
        }
        // Periods that ended by then are past their grace.
        let grace_over = workspace.clock.now() - TimeDelta::minutes(app.config.billing.grace_minutes);
        let Some(last) = last_closing(&mut *app.pg.acquire().await?, &workspace.id, grace_over).await? else { continue };
        let mut until = grace_over;
        if !runs_ahead(&workspace) {
            let known = completeness::of(app, &workspace.id).await?.complete_until;
            if known < last {
                tracing::debug!(workspace = workspace.name, until = %known, "the close waits for a source that is behind");
            }
            until = until.min(known.max(grace_over - TimeDelta::hours(PATIENCE_HOURS)));
        }
        if let Some(last) = last_closing(&mut *app.pg.acquire().await?, &workspace.id, until).await? {
            let period = calendar::period_of(last - TimeDelta::minutes(1), workspace.time_zone)?;
            found.push(Due { workspace: workspace.id, until, period });
        }
    }
    Ok(found)
}

/// The latest end of a period among those that ended by `until` and are open.
async fn last_closing(conn: &mut PgConnection, ws: &WorkspaceId, until: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, BillingError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT max(at) FROM (
               SELECT closes_at AS at FROM subscriptions WHERE workspace_id = $1 AND closes_at <= $2
               UNION ALL SELECT period_end FROM invoices WHERE workspace_id = $1 AND state = 'draft' AND period_end <= $2
           ) open"#,
        ws.as_str(),
        until
    )
    .fetch_one(conn)
    .await?)
}

/// Closes what is due of one workspace; how many invoices were issued.
pub async fn run_due_of(app: &App, ws: &WorkspaceId) -> Result<usize, BillingError> {
    let mut issued = 0;
    for due in due(app).await?.into_iter().filter(|due| due.workspace == *ws) {
        let workspace = workspace::by_id(&mut *app.pg.acquire().await?, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
        issued += super::run_close(app, &workspace, due.period, due.until, true).await?.issued;
    }
    Ok(issued)
}

/// Closes all that is due, once.
pub async fn run_due(app: &App) -> Result<(), BillingError> {
    for due in due(app).await? {
        let workspace =
            workspace::by_id(&mut *app.pg.acquire().await?, &due.workspace).await?.ok_or(BillingError::NotFound("workspace"))?;
        let report = super::run_close(app, &workspace, due.period, due.until, false).await?;
        if report.issued > 0 || !report.problems.is_empty() {
            tracing::info!(workspace = %report.workspace, period = report.period, issued = report.issued, problems = report.problems.len(), "periods were closed");
        }
    }
    Ok(())
}

/// What comes between the periods' ends: credits that are over, thresholds that were reached, corrections of closed periods.
async fn run_between(app: &App) -> Result<(), BillingError> {
    let workspaces = workspace::all(&mut *app.pg.acquire().await?).await?;
    for workspace in workspaces {
        included::settle_all(app, &workspace).await?;
        let mut conn = app.pg.acquire().await?;
        credits::expire(&mut conn, &workspace, None, workspace.clock.now()).await?;
        units::expire(&mut conn, &workspace, None, workspace.clock.now()).await?;
        let by_hand = settings::of(&mut conn, &workspace.id).await?.close_by_hand;
        drop(conn);
        if by_hand {
            continue;
        }
        let (reached, corrected) = (super::bill_thresholds(app, &workspace).await?, super::bill_corrections(app, &workspace, false).await?);
        if !reached.is_empty() || !corrected.is_empty() {
            tracing::info!(
                workspace = workspace.name,
                thresholds = reached.len(),
                corrections = corrected.len(),
                "invoices were issued between periods"
            );
        }
    }
    Ok(())
}

/// The loop of the billing role. Ends soon after `stop`, between two closes.
pub async fn run(app: App, stop: CancellationToken) -> anyhow::Result<()> {
    for round in 0_u64.. {
        if stop.is_cancelled() {
            break;
        }
        if let Err(error) = run_due(&app).await {
            tracing::warn!("the scheduled close will be tried again: {error}");
        }
        if round.is_multiple_of(LOOK_BETWEEN)
            && let Err(error) = run_between(&app).await
        {
            tracing::warn!("thresholds and corrections will be tried again: {error}");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    Ok(())
}

/// A subscription with something to close, from the first open instant on.
#[derive(Debug, Clone)]
pub struct Open {
    pub subscription: SubscriptionId,
    pub consumer: ConsumerId,
    pub from: DateTime<Utc>,
    /// It is invoiced together with the consumer's others whose periods end with its own.
    pub consolidated: bool,
}

/// Those of a workspace whose next period ends by `end`, or that have a draft of one.
pub async fn open_subscriptions(conn: &mut PgConnection, ws: &WorkspaceId, end: DateTime<Utc>) -> Result<Vec<Open>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT s.id AS "id: SubscriptionId", s.consumer_id AS "consumer: ConsumerId", coalesce(s.closed_until, s.started_at) AS "from!",
                  coalesce(b.consolidated, false) AS "consolidated!"
           FROM subscriptions s LEFT JOIN consumer_billing b ON b.workspace_id = s.workspace_id AND b.consumer_id = s.consumer_id
           WHERE s.workspace_id = $1 AND (s.closes_at <= $2
               OR EXISTS (SELECT FROM invoice_parts p JOIN invoices i ON i.id = p.invoice_id
                          WHERE p.subscription_id = s.id AND i.state = 'draft' AND i.period_end <= $2))
           ORDER BY s.id"#,
        ws.as_str(),
        end
    )
    .fetch_all(conn)
    .await?;
    let open = |subscription, consumer, from, consolidated| Open { subscription, consumer, from, consolidated };
    Ok(rows.into_iter().map(|row| open(row.id, row.consumer, row.from, row.consolidated)).collect())
}
