//! Closing: one invoice for each subscription period that is over, exactly once. A person closes a month of the
//! workspace's calendar: every period, of whatever interval, that ended in it.
//!
//! **When.** A period may be closed when its events are there: `complete_until` has passed its end, or the grace has
//! gone by without. The scheduled close waits for both the grace and `complete_until`; a source that keeps it from
//! passing is waited for a day, no longer, and named. A close asked for by a person needs one of the two. A workspace
//! whose test clock runs ahead has no events to wait for.
//!
//! **Exactly once.** Each subscription's period is drafted in one transaction under an advisory lock, and a unique
//! constraint stands behind it; issuing is a second transaction on the draft. Whatever dies in between, the next run
//! finds the draft and issues it, or finds nothing and starts over. Any number of workers may run.

pub mod checklist;
mod draft;
mod interim;
mod issue;
pub(crate) mod numbers;
mod report;
mod schedule;

use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::ids::{InvoiceId, SubscriptionId, WorkspaceId};
use farebox_core::period::Period;
use farebox_core::workspace::{self, Workspace};
use farebox_metering::{completeness, consumers, repair, timelines};
use futures::StreamExt;
use sqlx::PgConnection;

pub use interim::{bill_corrections, bill_thresholds};
pub use report::{CloseProblem, CloseReport};
pub use schedule::{Due, Open, due, grace_end, open_subscriptions, run, run_due};

use self::draft::Document;
use crate::gather::{Counting, Span, gather};
use crate::{BillingError, calendar, credits, faults, plans, settings, subscriptions};

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
    run_close(app, &workspace, period, period.end, true).await
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

/// Closes everything that ended by `until`, and reports on `period`. `wait`: what another worker has in hand is waited
/// for, so that the report is complete; else it is left to them.
async fn run_close(
    app: &App,
    workspace: &Workspace,
    period: Period,
    until: DateTime<Utc>,
    wait: bool,
) -> Result<CloseReport, BillingError> {
    let mut report = CloseReport::new(workspace, period);
    let run = report::start(&mut *app.pg.acquire().await?, workspace, period).await?;
    faults::point("close.started");
    let open = schedule::open_subscriptions(&mut *app.pg.acquire().await?, &workspace.id, until).await?;
    if !open.is_empty() {
        // Attribution as of now, in ClickHouse too; and copies of events with other times gone, before anything is counted.
        timelines::sync(app).await?;
        let first = open.iter().map(|o| o.from).min().unwrap_or(period.start).min(period.start);
        repair::repair(app, &workspace.id, Period { start: calendar::period_of(first, workspace.time_zone)?.start, end: until }).await?;
    }
    let mut work = futures::stream::iter(open)
        .map(|open| async move {
            let result = close_subscription(app, workspace, &open.subscription, until, false).await;
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
        let result = close_subscription(app, workspace, &open.subscription, until, true).await;
        report.add(workspace, open.subscription, result);
    }
    let mut conn = app.pg.acquire().await?;
    credits::expire(&mut conn, &workspace.id, workspace.clock.now()).await?;
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
    id: &SubscriptionId,
    until: DateTime<Utc>,
    wait: bool,
) -> Result<Done, BillingError> {
    let mut done = Done::default();
    loop {
        match close_next(app, workspace, id, until, wait).await? {
            Next::Issued(id) => done.issued.push(id),
            Next::Nothing => {}
            Next::Busy => done.busy = true,
            Next::Over => return Ok(done),
        }
        if done.busy {
            return Ok(done);
        }
    }
}

/// What became of one period.
enum Next {
    Issued(InvoiceId),
    /// There was nothing to invoice in it, or someone else issued it in the meantime.
    Nothing,
    Busy,
    /// No period is left that ended by then.
    Over,
}

async fn close_next(app: &App, workspace: &Workspace, id: &SubscriptionId, until: DateTime<Utc>, wait: bool) -> Result<Next, BillingError> {
    let now = workspace.clock.now();
    let mut transaction = app.pg.begin().await?;
    if !take(&mut transaction, id, wait).await? {
        return Ok(Next::Busy);
    }
    let left = sqlx::query_scalar!(
        r#"SELECT id AS "id: InvoiceId" FROM invoices WHERE subscription_id = $1 AND state = 'draft' AND period_end <= $2 ORDER BY id LIMIT 1"#,
        id.as_str(),
        until
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let draft = match left {
        Some(left) => Some(left),
        None => match draft_next(app, &mut transaction, workspace, id, until).await? {
            Drafted::Over => {
                transaction.commit().await?;
                return Ok(Next::Over);
            }
            Drafted::Draft(draft) => Some(draft),
            Drafted::Nothing => None,
        },
    };
    transaction.commit().await?;
    let Some(draft) = draft else { return Ok(Next::Nothing) };
    faults::point("close.drafted");
    let issued = issue::issue(&mut *app.pg.acquire().await?, workspace, &draft, now).await?;
    faults::point("close.issued");
    if issued {
        metrics::counter!("farebox_billing_invoices_issued_total").increment(1);
    }
    Ok(if issued { Next::Issued(draft) } else { Next::Nothing })
}

/// One worker at a time for a subscription, until the transaction ends.
async fn take(conn: &mut PgConnection, id: &SubscriptionId, wait: bool) -> Result<bool, BillingError> {
    let key = format!("close {id}");
    if wait {
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", key).execute(conn).await?;
        return Ok(true);
    }
    Ok(sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS "mine!""#, key).fetch_one(conn).await?)
}

enum Drafted {
    Draft(InvoiceId),
    Nothing,
    Over,
}

/// Drafts the next period, and moves the subscription past it, in one transaction.
async fn draft_next(
    app: &App,
    conn: &mut PgConnection,
    workspace: &Workspace,
    id: &SubscriptionId,
    until: DateTime<Utc>,
) -> Result<Drafted, BillingError> {
    let ws = &workspace.id;
    let subscription = subscriptions::lock(conn, ws, id).await?;
    if subscriptions::reschedule(conn, ws, &subscription).await?.is_none_or(|closes_at| closes_at > until) {
        return Ok(Drafted::Over);
    }
    let consumer = consumers::get(conn, ws, &subscription.consumer).await?.ok_or(BillingError::NotFound("consumer"))?;
    let definitions = plans::of(conn, ws, subscription.phases.iter().map(|phase| &phase.plan_version)).await?;
    let close_from = settings::of(conn, ws).await?.close_from;
    let (period, next) = subscription.next_period(&definitions, workspace.time_zone, close_from)?;
    let gathered = gather(app, conn, workspace, &subscription, Span { period, next }, Counting::Proven).await?;
    faults::point("close.rated");
    let draft = if gathered.lines.is_empty() {
        None
    } else {
        draft::write(
            conn,
            workspace,
            &subscription,
            &consumer,
            Document { kind: "regular", sequence: 0, period },
            gathered,
            workspace.clock.now(),
        )
        .await?
    };
    sqlx::query!("UPDATE subscriptions SET closed_until = $2 WHERE id = $1", id.as_str(), period.end).execute(&mut *conn).await?;
    let closed = subscriptions::get(conn, ws, id).await?.ok_or(BillingError::NotFound("subscription"))?;
    subscriptions::reschedule(conn, ws, &closed).await?;
    Ok(draft.map_or(Drafted::Nothing, Drafted::Draft))
}
