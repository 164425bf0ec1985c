//! Closing a month: one invoice for each subscription period that ended in it, exactly once.
//!
//! **When.** A period may be closed when its events are there: `complete_until` has passed its end, or the grace has
//! gone by without. The scheduled close waits for both the grace and `complete_until`; a source that keeps it from
//! passing is waited for a day, no longer, and named. A close asked for by a person needs one of the two. A workspace
//! whose test clock runs ahead has no events to wait for.
//!
//! **Exactly once.** Each subscription's period is drafted in one transaction under an advisory lock, and a unique
//! constraint stands behind it; issuing is a second transaction on the draft. Whatever dies in between, the next run
//! finds the draft and issues it, or finds nothing and starts over. Any number of workers may run.

mod draft;
mod issue;
mod report;
mod schedule;

use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::ids::{InvoiceId, SubscriptionId, WorkspaceId};
use farebox_core::period::Period;
use farebox_core::workspace::{self, Workspace};
use farebox_metering::{completeness, consumers, repair, timelines};
use futures::StreamExt;

pub use report::{CloseProblem, CloseReport};
pub use schedule::{Due, Open, due, grace_end, open_subscriptions, run, run_due};

use crate::gather::{Counting, gather};
use crate::{BillingError, calendar, faults, subscriptions};

/// Subscriptions of one workspace worked on at a time.
const AT_ONCE: usize = 4;

/// Closes every subscription period that ended in `period` (a month of the workspace's calendar), and earlier ones
/// that were left open. Safe to repeat, and to run in several places at once.
pub async fn close_period(app: &App, ws: &WorkspaceId, period: Period) -> Result<CloseReport, BillingError> {
    let workspace = workspace::by_id(&mut *app.pg.acquire().await?, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    let whole = calendar::period_of(period.start, workspace.time_zone)?;
    if whole != period {
        return Err(BillingError::invalid("/period", "is a month of the workspace's calendar, such as 2026-10"));
    }
    may_close(app, &workspace, period).await?;
    run_close(app, &workspace, period, true).await
}

/// Refuses while events of the period may still be on their way.
async fn may_close(app: &App, workspace: &Workspace, period: Period) -> Result<(), BillingError> {
    let now = workspace.clock.now();
    if now < period.end {
        return Err(BillingError::conflict(
            "period-not-over",
            format!(
                "{} ends at {} and it is {now} now. Close it then; in test mode the workspace's clock can be advanced.",
                calendar::name(period, workspace.time_zone),
                period.end
            ),
        ));
    }
    let grace_over = schedule::grace_end(app, period);
    if now >= grace_over || schedule::runs_ahead(workspace) {
        return Ok(());
    }
    let known = completeness::of(app, &workspace.id).await?;
    if known.complete_until >= period.end {
        return Ok(());
    }
    let late: Vec<_> = known.sources.iter().filter(|source| source.holds_back).map(|source| source.source.as_str()).collect();
    Err(BillingError::conflict(
        "events-may-come",
        format!(
            "Usage is complete until {} only, and the period ends at {}; waiting for: {}. Close again when they have caught up, at latest at {grace_over}.",
            known.complete_until,
            period.end,
            late.join(", ")
        ),
    ))
}

/// `wait`: what another worker has in hand is waited for, so that the report is complete; else it is left to them.
async fn run_close(app: &App, workspace: &Workspace, period: Period, wait: bool) -> Result<CloseReport, BillingError> {
    let mut report = CloseReport::new(workspace, period);
    let run = report::start(&mut *app.pg.acquire().await?, workspace, period).await?;
    faults::point("close.started");
    let open = schedule::open_subscriptions(&mut *app.pg.acquire().await?, &workspace.id, period.end).await?;
    if !open.is_empty() {
        // Attribution as of now, in ClickHouse too; and copies of events with other times gone, before anything is counted.
        timelines::sync(app).await?;
        let first = open.iter().map(|o| o.from).min().unwrap_or(period.start).min(period.start);
        repair::repair(app, &workspace.id, Period { start: calendar::period_of(first, workspace.time_zone)?.start, end: period.end })
            .await?;
    }
    let mut work = futures::stream::iter(open)
        .map(|open| async move {
            let result = close_subscription(app, workspace, &open, period.end, false).await;
            (open, result)
        })
        .buffer_unordered(AT_ONCE);
    let mut busy = Vec::new();
    while let Some((open, result)) = work.next().await {
        match result {
            Ok(done) if done.busy && wait => {
                report.issued += done.issued.len();
                busy.push(open);
            }
            result => report.add(workspace, open.subscription, result),
        }
    }
    drop(work);
    // One after the other: whoever waits for a lock holds a connection that the one who has it may need.
    for open in busy {
        let result = close_subscription(app, workspace, &open, period.end, true).await;
        report.add(workspace, open.subscription, result);
    }
    let mut conn = app.pg.acquire().await?;
    report.totals(&mut conn, &workspace.id, period).await?;
    report::finish(&mut conn, run, &report).await?;
    Ok(report)
}

/// What became of one subscription.
#[derive(Debug, Clone, Default)]
pub struct Done {
    pub issued: Vec<InvoiceId>,
    /// Another worker has it in hand.
    pub busy: bool,
}

/// Closes its open periods that end by `until`, in their order.
async fn close_subscription(
    app: &App,
    workspace: &Workspace,
    open: &schedule::Open,
    until: DateTime<Utc>,
    wait: bool,
) -> Result<Done, BillingError> {
    let mut done = Done::default();
    let mut from = open.from;
    loop {
        let period = calendar::period_of(from, workspace.time_zone)?;
        if period.end > until || open.until.is_some_and(|end| end <= period.start.max(from)) {
            return Ok(done);
        }
        match close_one(app, workspace, &open.subscription, period, wait).await? {
            One::Issued(id) => done.issued.push(id),
            One::Before => {}
            One::Busy => {
                done.busy = true;
                return Ok(done);
            }
        }
        from = period.end;
    }
}

enum One {
    Issued(InvoiceId),
    /// Someone did it before.
    Before,
    Busy,
}

async fn close_one(app: &App, workspace: &Workspace, id: &SubscriptionId, period: Period, wait: bool) -> Result<One, BillingError> {
    let now = workspace.clock.now();
    let mut transaction = app.pg.begin().await?;
    let key = format!("close {id}");
    let mine = if wait {
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", key).execute(&mut *transaction).await?;
        true
    } else {
        sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS "mine!""#, key)
            .fetch_one(&mut *transaction)
            .await?
    };
    if !mine {
        return Ok(One::Busy);
    }
    let exists = sqlx::query!(
        r#"SELECT id AS "id: InvoiceId", state FROM invoices WHERE subscription_id = $1 AND period_start = $2 AND kind = 'regular' AND sequence = 0"#,
        id.as_str(),
        period.start
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let draft = match exists {
        Some(found) if found.state != "draft" => return Ok(One::Before),
        Some(found) => found.id,
        None => {
            let ws = &workspace.id;
            let subscription = subscriptions::lock(&mut transaction, ws, id).await?;
            let consumer = consumers::get(&mut transaction, ws, &subscription.consumer).await?.ok_or(BillingError::NotFound("consumer"))?;
            let gathered = gather(app, &mut transaction, workspace, &subscription, &consumer, period, Counting::Proven).await?;
            faults::point("close.rated");
            match draft::write(&mut transaction, workspace, &subscription, &consumer, period, gathered, now).await? {
                Some(id) => id,
                None => return Ok(One::Before),
            }
        }
    };
    transaction.commit().await?;
    faults::point("close.drafted");
    let issued = issue::issue(&mut *app.pg.acquire().await?, workspace, &draft, now).await?;
    faults::point("close.issued");
    if issued {
        metrics::counter!("farebox_billing_invoices_issued_total").increment(1);
    }
    Ok(if issued { One::Issued(draft) } else { One::Before })
}
