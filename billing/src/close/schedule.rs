//! What is due when, and the loop that does it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::App;
use farebox_core::clock;
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::period::Period;
use farebox_core::workspace::{self, Workspace};
use farebox_metering::completeness;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::{BillingError, calendar};

/// How often the loop looks. A period that is over waits for its grace anyway.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long after the grace a source that is behind is waited for.
const PATIENCE_HOURS: i64 = 24;

pub fn grace_end(app: &App, period: Period) -> DateTime<Utc> {
    period.end + TimeDelta::minutes(app.config.billing.grace_minutes)
}

/// A test clock ahead of real time: no events come from the future.
pub fn runs_ahead(workspace: &Workspace) -> bool {
    workspace.clock.now() > clock::now() + TimeDelta::minutes(1)
}

/// A workspace's month that is over, waited for, and not all closed.
#[derive(Debug, Clone)]
pub struct Due {
    pub workspace: WorkspaceId,
    pub period: Period,
}

pub async fn due(app: &App) -> Result<Vec<Due>, BillingError> {
    let mut found = Vec::new();
    let workspaces = workspace::all(&mut *app.pg.acquire().await?).await?;
    for workspace in workspaces {
        let now = workspace.clock.now();
        // The last month whose grace is over.
        let this = calendar::period_of(now - TimeDelta::minutes(app.config.billing.grace_minutes), workspace.time_zone)?;
        let period = calendar::period_of(this.start - TimeDelta::minutes(1), workspace.time_zone)?;
        if open_subscriptions(&mut *app.pg.acquire().await?, &workspace.id, period.end).await?.is_empty() {
            continue;
        }
        if !runs_ahead(&workspace) && now < grace_end(app, period) + TimeDelta::hours(PATIENCE_HOURS) {
            let known = completeness::of(app, &workspace.id).await?;
            if known.complete_until < period.end {
                tracing::debug!(workspace = workspace.name, until = %known.complete_until, "the close waits for a source that is behind");
                continue;
            }
        }
        found.push(Due { workspace: workspace.id, period });
    }
    Ok(found)
}

/// Closes all that is due, once.
pub async fn run_due(app: &App) -> Result<(), BillingError> {
    for due in due(app).await? {
        let workspace =
            workspace::by_id(&mut *app.pg.acquire().await?, &due.workspace).await?.ok_or(BillingError::NotFound("workspace"))?;
        let report = super::run_close(app, &workspace, due.period, false).await?;
        if report.issued > 0 || !report.problems.is_empty() {
            tracing::info!(workspace = %report.workspace, period = report.period, issued = report.issued, problems = report.problems.len(), "a month was closed");
        }
    }
    Ok(())
}

/// The loop of the billing role. Ends soon after `stop`, between two closes.
pub async fn run(app: App, stop: CancellationToken) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        if let Err(error) = run_due(&app).await {
            tracing::warn!("the scheduled close will be tried again: {error}");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    Ok(())
}

/// A subscription with periods to close: from the first open one, until its end or the end of what was billed in
/// advance (which is to be given back), whichever is later; without end while it runs.
#[derive(Debug, Clone)]
pub struct Open {
    pub subscription: SubscriptionId,
    pub from: DateTime<Utc>,
    pub until: Option<DateTime<Utc>>,
}

/// Those of a workspace that have something to close in a period that ends by `end`.
pub async fn open_subscriptions(conn: &mut PgConnection, ws: &WorkspaceId, end: DateTime<Utc>) -> Result<Vec<Open>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT s.id AS "id: SubscriptionId", coalesce(i.closed_until, s.started_at) AS "from!",
                  CASE WHEN s.ended_at IS NULL THEN NULL ELSE greatest(s.ended_at, i.billed_until) END AS until
           FROM subscriptions s
           LEFT JOIN LATERAL (
               SELECT max(i.period_end) AS closed_until,
                      max((SELECT max(l.period_end) FROM invoice_lines l WHERE l.invoice_id = i.id AND l.kind = 'fee' AND l.quantity > 0)) AS billed_until
               FROM invoices i WHERE i.subscription_id = s.id AND i.kind = 'regular' AND i.state <> 'draft'
           ) i ON true
           WHERE s.workspace_id = $1 AND coalesce(i.closed_until, s.started_at) < $2
             AND (s.ended_at IS NULL OR greatest(s.ended_at, i.billed_until) > coalesce(i.closed_until, s.started_at))
           ORDER BY s.id"#,
        ws.as_str(),
        end
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| Open { subscription: row.id, from: row.from, until: row.until }).collect())
}
