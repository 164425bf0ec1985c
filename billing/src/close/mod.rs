//! Closing: one invoice for each subscription period that is over, exactly once. A person closes a month of the
//! workspace's calendar: every period, of whatever interval, that ended in it.
//!
//! **When.** A period may be closed when its events are there: `complete_until` has passed its end, or the grace has
//! gone by without. The scheduled close waits for both the grace and `complete_until`; a source that keeps it from
//! passing is waited for a day, no longer, and named. A close asked for by a person needs one of the two. A workspace
//! whose test clock runs ahead has no events to wait for.
//!
//! **Exactly once.** Periods are drafted in batches, each in one transaction ([`batch`]) that holds an advisory lock for each
//! subscription, and a unique constraint stands behind it; issuing is a second transaction on the drafts. Whatever dies in between, the next run
//! finds the draft and issues it, or finds nothing and starts over. Any number of workers may run.

mod batch;
pub mod checklist;
mod draft;
mod interim;
mod issue;
pub(crate) mod numbers;
mod report;
mod schedule;
mod together;

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::ids::{InvoiceId, SubscriptionId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use farebox_core::period::Period;
use farebox_core::workspace::{self, Workspace};
use farebox_metering::{completeness, repair, timelines};
use futures::{Stream, StreamExt};
use serde::Serialize;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

pub use interim::{bill_corrections, bill_thresholds};
pub use report::{CloseProblem, CloseReport};
pub use schedule::{Due, Open, due, grace_end, open_subscriptions, run, run_due, run_due_of};

use self::batch::{Next, Run};
use crate::{BillingError, calendar, credits, faults, units};

/// Batches of one workspace worked on at a time, and subscriptions in each.
const AT_ONCE: usize = 4;
const BATCH: usize = 250;

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
    let kept = report::start(&mut *app.pg.acquire().await?, workspace, period).await?;
    faults::point("close.started");
    let open = opened(app, workspace, period, until).await?;
    let run = Run::new(app, workspace, until);
    let mut work = pin!(each(&run, open, |run, batch| async move { close_batch(&run, batch, false).await }));
    let mut busy = Vec::new();
    while let Some(results) = work.next().await {
        for (id, result) in results {
            match result {
                Ok(done) if done.busy && wait => {
                    report.issued += done.issued.len();
                    busy.push(id);
                }
                result => report.add(workspace, id, result),
            }
        }
    }
    // One after the other: whoever waits for a lock holds a connection that the one who has it may need.
    for id in busy {
        for (id, result) in close_batch(&run, vec![id], true).await {
            report.add(workspace, id, result);
        }
    }
    let mut conn = app.pg.acquire().await?;
    credits::expire(&mut conn, workspace, None, workspace.clock.now()).await?;
    units::expire(&mut conn, workspace, None, workspace.clock.now()).await?;
    report.totals(&mut conn, &workspace.id, period).await?;
    report::finish(&mut conn, kept, &report).await?;
    Ok(report)
}

/// What became of one subscription.
#[derive(Debug, Clone, Default)]
pub struct Done {
    pub issued: Vec<InvoiceId>,
    /// Another worker has it in hand.
    pub busy: bool,
}

/// The subscriptions with a period that ended by then, with everything ready to be counted.
async fn opened(app: &App, workspace: &Workspace, period: Period, until: DateTime<Utc>) -> Result<Vec<Open>, BillingError> {
    let open = schedule::open_subscriptions(&mut *app.pg.acquire().await?, &workspace.id, until).await?;
    if !open.is_empty() {
        // Attribution as of now, in ClickHouse too; and copies of events with other times gone, before anything is counted.
        timelines::sync(app).await?;
        let first = open.iter().map(|o| o.from).min().unwrap_or(period.start).min(period.start);
        repair::repair(app, &workspace.id, Period { start: calendar::period_of(first, workspace.time_zone)?.start, end: until }).await?;
    }
    Ok(open)
}

/// What a close would issue now.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Rehearsal {
    /// Of each subscription the next that is open: earlier months come first.
    pub invoices: usize,
    /// Invoices of the month that there are already: not in the totals.
    pub already: i64,
    /// By currency, tax included.
    pub totals: Vec<RehearsedTotal>,
    /// What could not be closed, and why.
    pub problems: Vec<CloseProblem>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct RehearsedTotal {
    #[schema(value_type = String)]
    pub currency: Currency,
    #[schema(value_type = String)]
    pub total: Money,
}

/// Counts and rates as a close of the month would, from raw events, and stores nothing.
pub async fn rehearse(app: &App, ws: &WorkspaceId, period: Period) -> Result<Rehearsal, BillingError> {
    let workspace = workspace::by_id(&mut *app.pg.acquire().await?, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    let open = opened(app, &workspace, period, period.end).await?;
    let run = Run::new(app, &workspace, period.end);
    let mut work = pin!(each(&run, open, |run, batch| async move { run.rehearse_next(&batch).await }));
    let already = report::issued(&mut *app.pg.acquire().await?, ws, period).await?;
    let mut rehearsal = Rehearsal { invoices: 0, already, totals: Vec::new(), problems: Vec::new() };
    while let Some(result) = work.next().await {
        let (results, totals) = result?;
        rehearsal.invoices += totals.len();
        for total in totals {
            match rehearsal.totals.iter_mut().find(|sum| sum.currency == total.currency) {
                Some(sum) => sum.total = sum.total.checked_add(total)?,
                None => rehearsal.totals.push(RehearsedTotal { currency: total.currency, total }),
            }
        }
        for (subscription, result) in results {
            if let Err(error) = result {
                rehearsal.problems.push(CloseProblem { subscription, detail: error.to_string() });
            }
        }
    }
    Ok(rehearsal)
}

/// Drafts the next period of each subscription that ended by the month's end, and leaves it at that: a close issues what is
/// drafted. How many there are.
pub async fn draft_month(app: &App, ws: &WorkspaceId, period: Period) -> Result<usize, BillingError> {
    let workspace = workspace::by_id(&mut *app.pg.acquire().await?, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    let open = opened(app, &workspace, period, period.end).await?;
    let run = Run::new(app, &workspace, period.end);
    let mut work = pin!(each(&run, open, |run, batch| async move { draft_batch(&run, batch).await }));
    let mut drafted = 0;
    while let Some(result) = work.next().await {
        drafted += result?;
    }
    Ok(drafted)
}

async fn draft_batch(run: &Run, ids: Vec<SubscriptionId>) -> Result<usize, BillingError> {
    let (results, _) = run.draft_next(&ids, true).await?;
    Ok(results.iter().filter(|(_, result)| matches!(result, Ok(batch::Drafted::Draft { .. }))).count())
}

/// What `work` makes of each batch, some at a time. Each is a task of its own, since rating keeps a core busy.
fn each<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    run: &Arc<Run>,
    open: Vec<Open>,
    work: impl Fn(Arc<Run>, Vec<SubscriptionId>) -> F,
) -> impl Stream<Item = T> {
    let task = move |batch| AbortOnDropHandle::new(tokio::spawn(work(run.clone(), batch)));
    let done = |result: Result<T, JoinError>| result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    futures::stream::iter(batches(open)).map(task).buffer_unordered(AT_ONCE).map(done)
}

/// In parts of a size that a transaction takes, each with at most one subscription of a consumer. Of those that are invoiced
/// together one stands for all.
fn batches(open: Vec<Open>) -> Vec<Vec<SubscriptionId>> {
    let mut together = HashSet::new();
    let (mut batches, mut rest) = (Vec::new(), open);
    rest.retain(|open| !open.consolidated || together.insert(open.consumer.clone()));
    while !rest.is_empty() {
        let (mut batch, mut payers, mut others) = (Vec::new(), HashSet::new(), Vec::new());
        for open in rest {
            if batch.len() < BATCH && payers.insert(open.consumer.clone()) {
                batch.push(open.subscription);
            } else {
                others.push(open);
            }
            if batch.len() == BATCH {
                batches.push(std::mem::take(&mut batch));
                payers.clear();
            }
        }
        if !batch.is_empty() {
            batches.push(batch);
        }
        rest = others;
    }
    batches
}

/// Closes the open periods of several subscriptions that end by then, each one's in their order.
async fn close_batch(run: &Run, ids: Vec<SubscriptionId>, wait: bool) -> Vec<(SubscriptionId, Result<Done, BillingError>)> {
    let mut done: HashMap<SubscriptionId, Done> = HashMap::new();
    let mut results = Vec::new();
    let mut open = ids;
    while !open.is_empty() {
        let next = match run.close_next(&open, wait).await {
            Ok(next) => next,
            // What failed for all may have failed because of one: each by itself.
            Err(error) if open.len() > 1 => {
                tracing::warn!(subscriptions = open.len(), "subscriptions are closed one by one, since together they failed: {error}");
                let mut each = Vec::new();
                for id in &open {
                    match run.close_next(std::slice::from_ref(id), wait).await {
                        Ok(next) => each.extend(next),
                        Err(error) => each.push((id.clone(), Err(error))),
                    }
                }
                each
            }
            Err(error) => vec![(open.remove(0), Err(error))],
        };
        open = Vec::new();
        for (id, next) in next {
            let so_far = done.entry(id.clone()).or_default();
            let more = match next {
                Ok(Next::Issued { invoice, more }) => {
                    so_far.issued.push(invoice);
                    more
                }
                Ok(Next::Nothing { more }) => more,
                Ok(Next::Busy) => {
                    so_far.busy = true;
                    false
                }
                Ok(Next::Over) => false,
                Err(error) => {
                    done.remove(&id);
                    results.push((id, Err(error)));
                    continue;
                }
            };
            if more {
                open.push(id);
            }
        }
    }
    results.extend(done.into_iter().map(|(id, done)| (id, Ok(done))));
    results
}
