//! The workers that carry pushes: any number of processes, each invoice held by one of them by a lease that is renewed
//! while it works and runs out soon after its holder dies.

use std::time::Duration;

use chrono::TimeDelta;
use farebox_core::ids::{InvoiceId, WorkspaceId};
use farebox_core::{App, clock};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::push::{self, Halt, Push};
use super::verdict::backoff;

/// Pushes at once in this process.
const AT_ONCE: usize = 8;
const LEASE: TimeDelta = TimeDelta::seconds(6);
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// How soon a newly issued invoice is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// After this many attempts in a row someone should look.
const WORRYING: i32 = 10;

pub async fn run(app: App, stop: CancellationToken) {
    let mut working: JoinSet<()> = JoinSet::new();
    while !stop.is_cancelled() {
        while working.try_join_next().is_some() {}
        let pushes = match claim(&app, AT_ONCE - working.len()).await {
            Ok(pushes) => pushes,
            Err(error) => {
                tracing::warn!("invoices for Stripe cannot be looked up: {error}");
                Vec::new()
            }
        };
        for push in pushes {
            let app = app.clone();
            working.spawn(async move { carry(&app, push).await });
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
            Some(_) = working.join_next() => {}
        }
    }
    // What is cut off here continues from its stored requests.
    let finished = tokio::time::timeout(Duration::from_secs(3), async { while working.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        working.abort_all();
    }
}

/// Runs everything that is due once, in this task; how many pushes ran. For the demo and tests.
pub async fn run_once(app: &App) -> Result<usize, sqlx::Error> {
    let pushes = claim(app, AT_ONCE).await?;
    let count = pushes.len();
    futures::future::join_all(pushes.into_iter().map(|push| carry(app, push))).await;
    Ok(count)
}

/// Queues what was issued since, and takes up to `most` that are due.
async fn claim(app: &App, most: usize) -> Result<Vec<Push>, sqlx::Error> {
    let now = clock::now();
    sqlx::query!(
        "INSERT INTO stripe_pushes (invoice_id, workspace_id, next_at, created_at)
         SELECT invoices.id, invoices.workspace_id, $1, $1 FROM invoices JOIN stripe_settings USING (workspace_id)
         WHERE invoices.state = 'issued' AND invoices.stripe_id IS NULL AND invoices.total_minor > 0 AND NOT invoices.carried
           AND invoices.credited_minor = 0
           AND NOT EXISTS (SELECT FROM stripe_pushes WHERE stripe_pushes.invoice_id = invoices.id)
         ON CONFLICT DO NOTHING",
        now
    )
    .execute(&app.pg)
    .await?;
    sqlx::query_as!(
        Push,
        r#"UPDATE stripe_pushes SET leased_until = $2 WHERE invoice_id IN (
               SELECT invoice_id FROM stripe_pushes
               WHERE state = 'queued' AND next_at <= $1 AND (leased_until IS NULL OR leased_until <= $1)
               ORDER BY next_at LIMIT $3 FOR UPDATE SKIP LOCKED)
           RETURNING workspace_id AS "workspace: WorkspaceId", invoice_id AS "invoice: InvoiceId", stripe_id, mismatch, attempts"#,
        now,
        now + LEASE,
        i64::try_from(most).unwrap_or(0)
    )
    .fetch_all(&app.pg)
    .await
}

async fn carry(app: &App, push: Push) {
    let work = push::advance(app, &push);
    tokio::pin!(work);
    let mut renew = tokio::time::interval(RENEW_EVERY);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = renew.tick() => if let Err(error) = prolong(app, &push).await {
                tracing::warn!(invoice = %push.invoice, "a lease cannot be renewed: {error}");
            }
        }
    };
    let kept = match result {
        Ok(()) => release(app, &push).await,
        Err(Halt::Later(after, reason)) => later(app, &push, after, &reason).await,
        Err(Halt::Blocked(reason)) => block(app, &push, &reason).await,
    };
    if let Err(error) = kept {
        tracing::warn!(invoice = %push.invoice, "the state of a push cannot be kept; its lease will run out: {error}");
    }
}

async fn prolong(app: &App, push: &Push) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE stripe_pushes SET leased_until = $3 WHERE workspace_id = $1 AND invoice_id = $2",
        push.workspace.as_str(),
        push.invoice.as_str(),
        clock::now() + LEASE
    )
    .execute(&app.pg)
    .await?;
    Ok(())
}

async fn release(app: &App, push: &Push) -> Result<(), sqlx::Error> {
    metrics::counter!("farebox_stripe_pushes_total", "outcome" => "done").increment(1);
    sqlx::query!(
        "UPDATE stripe_pushes SET leased_until = NULL WHERE workspace_id = $1 AND invoice_id = $2",
        push.workspace.as_str(),
        push.invoice.as_str()
    )
    .execute(&app.pg)
    .await?;
    Ok(())
}

async fn later(app: &App, push: &Push, after: Option<Duration>, reason: &str) -> Result<(), sqlx::Error> {
    let attempts = u32::try_from(push.attempts).unwrap_or(0);
    let wait = backoff(attempts, rand::random()).max(after.unwrap_or_default());
    if push.attempts == WORRYING {
        tracing::error!(invoice = %push.invoice, "an invoice does not reach Stripe although tried again and again: {reason}");
    } else {
        tracing::info!(invoice = %push.invoice, wait_ms = wait.as_millis(), "a push to Stripe waits: {reason}");
    }
    metrics::counter!("farebox_stripe_pushes_total", "outcome" => "later").increment(1);
    sqlx::query!(
        "UPDATE stripe_pushes SET leased_until = NULL, attempts = attempts + 1, next_at = $3, reason = $4
         WHERE workspace_id = $1 AND invoice_id = $2 AND state = 'queued'",
        push.workspace.as_str(),
        push.invoice.as_str(),
        clock::now() + TimeDelta::from_std(wait).unwrap_or_default(),
        reason
    )
    .execute(&app.pg)
    .await?;
    Ok(())
}

/// Blocked pushes are counted in `farebox_stripe_pushes_total{outcome="blocked"}`, which is what to alert on.
async fn block(app: &App, push: &Push, reason: &str) -> Result<(), sqlx::Error> {
    tracing::error!(invoice = %push.invoice, "an invoice is blocked on its way to Stripe and needs a person: {reason}");
    metrics::counter!("farebox_stripe_pushes_total", "outcome" => "blocked").increment(1);
    sqlx::query!(
        "UPDATE stripe_pushes SET state = 'blocked', leased_until = NULL, reason = $3, finished_at = $4
         WHERE workspace_id = $1 AND invoice_id = $2 AND state = 'queued'",
        push.workspace.as_str(),
        push.invoice.as_str(),
        reason,
        clock::now()
    )
    .execute(&app.pg)
    .await?;
    Ok(())
}
