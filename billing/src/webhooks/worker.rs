//! Sends what is due: any number of processes, each delivery held by one of them by a lease that runs out soon after its
//! holder dies. One at a time for each address: so it gets events in their order while it takes them, and one that hangs
//! holds up nobody else.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::{WebhookId, WorkspaceId};
use farebox_core::workspace::{self, Workspace};
use farebox_core::{App, audit_log, clock};
use rand::Rng;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::body::{self, Event};
use super::send::{Attempt, Letter, Sender};
use super::store;
use crate::{BillingError, faults};

/// Addresses called at once by this process.
const AT_ONCE: usize = 16;
/// How soon an event is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How soon a day that passed is noticed.
const DATES_EVERY: Duration = Duration::from_secs(30);
/// Deliveries can be looked up for so long.
const KEPT: TimeDelta = TimeDelta::days(90);
const FORGET_EVERY: Duration = Duration::from_hours(1);
/// Longer than an attempt can take.
const LEASE: TimeDelta = TimeDelta::seconds(45);
/// Minutes after each attempt: the last is made some three days after the first.
const PAUSES: [i64; 12] = [0, 1, 5, 15, 60, 120, 240, 480, 600, 720, 840, 1200];

pub async fn run(app: App, stop: CancellationToken) {
    let sender = match Sender::new(&app.config.webhooks) {
        Ok(sender) => sender,
        Err(error) => {
            tracing::error!("no webhook is told anything: {error}");
            return;
        }
    };
    let mut sending: JoinSet<()> = JoinSet::new();
    let (mut looked, mut forgot): (Option<Instant>, Option<Instant>) = (None, None);
    while !stop.is_cancelled() {
        while sending.try_join_next().is_some() {}
        if looked.is_none_or(|at| at.elapsed() >= DATES_EVERY) {
            looked = Some(Instant::now());
            if let Err(error) = dates(&app).await {
                tracing::warn!("webhooks are not told of invoices that are past due: {error}");
            }
        }
        if forgot.is_none_or(|at| at.elapsed() >= FORGET_EVERY) {
            forgot = Some(Instant::now());
            if let Err(error) = forget(&app).await {
                tracing::warn!("old deliveries of webhooks stay for now: {error}");
            }
        }
        match claim(&app, AT_ONCE - sending.len()).await {
            Ok(claimed) => {
                for delivery in claimed {
                    let (app, sender) = (app.clone(), sender.clone());
                    sending.spawn(async move { carry(&app, &sender, &delivery).await });
                }
            }
            Err(error) => tracing::warn!("webhooks wait: {error}"),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
            Some(_) = sending.join_next() => {}
        }
    }
    // What is cut off here is sent again, under the same id.
    if tokio::time::timeout(Duration::from_secs(3), async { while sending.join_next().await.is_some() {} }).await.is_err() {
        sending.abort_all();
    }
}

/// Sends everything that is due once, in this task; how many were tried. For tests.
pub async fn run_once(app: &App, sender: &Sender) -> Result<usize, BillingError> {
    dates(app).await?;
    let claimed = claim(app, AT_ONCE).await?;
    for delivery in &claimed {
        carry(app, sender, delivery).await;
    }
    Ok(claimed.len())
}

async fn dates(app: &App) -> Result<(), BillingError> {
    let mut conn = app.pg.acquire().await?;
    for workspace in workspace::all(&mut conn).await? {
        body::notice_past_due(&mut conn, &workspace).await?;
    }
    Ok(())
}

/// Forgets deliveries that are over, and events that nobody waits for, after [`KEPT`]. That an invoice was past due is
/// kept: it is told once.
async fn forget(app: &App) -> Result<(), BillingError> {
    let before = clock::now() - KEPT;
    sqlx::query!("DELETE FROM webhook_deliveries WHERE state <> 'queued' AND tried_at < $1", before).execute(&app.pg).await?;
    sqlx::query!(
        "DELETE FROM webhook_events e WHERE e.at < $1 AND e.type <> 'invoice.past_due'
           AND NOT EXISTS (SELECT FROM webhook_deliveries d WHERE d.event_id = e.id)",
        before
    )
    .execute(&app.pg)
    .await?;
    Ok(())
}

/// A delivery in hand.
#[derive(Debug)]
struct Claimed {
    id: i64,
    webhook: WebhookId,
    url: String,
    sealed: Vec<u8>,
    previous_sealed: Option<Vec<u8>>,
    previous_until: Option<DateTime<Utc>>,
    attempts: i32,
    event: Event,
}

async fn claim(app: &App, most: usize) -> Result<Vec<Claimed>, sqlx::Error> {
    let now = clock::now();
    let rows = sqlx::query!(
        r#"UPDATE webhook_deliveries d SET leased_until = $2
           FROM webhooks w, webhook_events e
           WHERE d.id IN (
               SELECT DISTINCT ON (q.webhook_id) q.id FROM webhook_deliveries q
               WHERE q.state = 'queued' AND q.next_at <= $1
                 AND NOT EXISTS (SELECT FROM webhook_deliveries held WHERE held.webhook_id = q.webhook_id AND held.state = 'queued' AND held.leased_until > $1)
                 AND NOT EXISTS (SELECT FROM webhooks off WHERE off.id = q.webhook_id AND off.disabled_at IS NOT NULL)
               ORDER BY q.webhook_id, q.next_at, q.id LIMIT $3)
             -- Whoever was faster has it: looked at again after waiting for their commit.
             AND d.state = 'queued' AND (d.leased_until IS NULL OR d.leased_until <= $1)
             AND w.id = d.webhook_id AND e.id = d.event_id
           RETURNING d.id, d.attempts, w.id AS "webhook: WebhookId", w.url, w.sealed, w.previous_sealed, w.previous_until,
                     e.id AS event, e.workspace_id AS "workspace: WorkspaceId", e.type AS kind, e.subject, e.data, e.at, e.body"#,
        now,
        now + LEASE,
        i64::try_from(most).unwrap_or(0)
    )
    .fetch_all(&app.pg)
    .await?;
    let claimed = rows.into_iter().map(|row| Claimed {
        id: row.id,
        webhook: row.webhook,
        url: row.url,
        sealed: row.sealed,
        previous_sealed: row.previous_sealed,
        previous_until: row.previous_until,
        attempts: row.attempts,
        event: Event {
            id: row.event,
            workspace: row.workspace,
            kind: row.kind,
            subject: row.subject,
            data: row.data,
            at: row.at,
            body: row.body,
        },
    });
    Ok(claimed.collect())
}

async fn carry(app: &App, sender: &Sender, delivery: &Claimed) {
    if let Err(error) = deliver(app, sender, delivery).await {
        tracing::warn!(webhook = %delivery.webhook, event = delivery.event.id, "a webhook's delivery waits until its lease runs out: {error}");
    }
}

async fn deliver(app: &App, sender: &Sender, delivery: &Claimed) -> Result<(), BillingError> {
    let ws = &delivery.event.workspace;
    let mut conn = app.pg.acquire().await?;
    let workspace: Workspace = workspace::by_id(&mut conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    let body = body::of(&mut conn, &workspace, &delivery.event).await?;
    // Nothing is held while a stranger takes their time.
    drop(conn);
    let previous = delivery.previous_sealed.as_deref().zip(delivery.previous_until);
    let secrets = store::secrets(&app.config, ws, &delivery.sealed, previous)?;
    faults::point("webhook.before");
    let began = Instant::now();
    let attempt = sender.send(&Letter { url: &delivery.url, id: &delivery.event.id, body: &body, secrets: &secrets }, clock::now()).await;
    faults::point("webhook.sent");
    let took_ms = i32::try_from(began.elapsed().as_millis()).unwrap_or(i32::MAX);
    record(app, delivery, attempt, took_ms).await
}

async fn record(app: &App, delivery: &Claimed, attempt: Attempt, took_ms: i32) -> Result<(), BillingError> {
    let now = clock::now();
    let (status, error, wish) = match attempt {
        Attempt::Taken(status) => (Some(status), None, None),
        Attempt::Unwanted => (Some(410), Some("it answered 410 Gone".to_owned()), None),
        Attempt::Failed { status, why, after } => (status, Some(why), after),
    };
    let pause = usize::try_from(delivery.attempts).ok().and_then(|n| PAUSES.get(n));
    let (state, next_at) = match (&error, pause) {
        (None, _) => ("delivered", now),
        (Some(_), Some(minutes)) if status != Some(410) => {
            ("queued", now + jitter(TimeDelta::minutes(*minutes)).max(wish.unwrap_or_default()))
        }
        (Some(_), _) => ("failed", now),
    };
    metrics::counter!("farebox_webhook_attempts_total", "outcome" => if error.is_none() { "delivered" } else { state }).increment(1);
    let mut tx = app.pg.begin().await?;
    sqlx::query!(
        "UPDATE webhook_deliveries SET state = $2, attempts = attempts + 1, next_at = $3, leased_until = NULL, tried_at = $4, status = $5,
                took_ms = $6, error = $7 WHERE id = $1",
        delivery.id,
        state,
        next_at,
        now,
        status.map(i32::from),
        took_ms,
        error
    )
    .execute(&mut *tx)
    .await?;
    if state == "failed" {
        switch_off(&mut tx, delivery, status == Some(410)).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// An address that wants nothing any more, or that has taken nothing for as long as a delivery is tried, is left alone
/// until someone switches it on again.
async fn switch_off(conn: &mut sqlx::PgConnection, delivery: &Claimed, gone: bool) -> Result<(), BillingError> {
    let reason = if gone { "it answered 410 Gone" } else { "it took nothing for three days" };
    let done = sqlx::query!(
        "UPDATE webhooks SET disabled_at = $2, disabled_reason = $3
         WHERE id = $1 AND disabled_at IS NULL
           AND ($4 OR NOT EXISTS (SELECT FROM webhook_deliveries d WHERE d.webhook_id = $1 AND d.state = 'delivered' AND d.tried_at > $5))",
        delivery.webhook.as_str(),
        clock::now(),
        reason,
        gone,
        clock::now() - TimeDelta::days(3)
    )
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() == 1 {
        tracing::warn!(webhook = %delivery.webhook, "a webhook is switched off: {reason}");
        let detail = json!({ "reason": reason, "event": delivery.event.id });
        audit_log::record(conn, &delivery.event.workspace, "farebox", "webhook.disable", delivery.webhook.as_str(), &detail).await?;
    }
    Ok(())
}

/// A tenth more or less, so that what failed together does not come back together; the first time a few seconds.
fn jitter(pause: TimeDelta) -> TimeDelta {
    let ms = pause.num_milliseconds().max(5_000);
    TimeDelta::milliseconds(rand::rng().random_range(ms * 9 / 10..=ms * 11 / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_three_days() {
        assert!(PAUSES.is_sorted());
        assert!((2..=4).contains(&TimeDelta::minutes(PAUSES.iter().sum()).num_days()));
        let (first, hour) = (jitter(TimeDelta::zero()), jitter(TimeDelta::hours(1)));
        assert!((4500..=5500).contains(&first.num_milliseconds()) && (54..=66).contains(&hour.num_minutes()));
    }
}
