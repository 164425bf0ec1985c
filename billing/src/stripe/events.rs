//! What Stripe tells us. An event only notes that an object changed: the object is then fetched under our pinned API
//! version and its state applied, so events may come twice, late, or in any order.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::{InvoiceId, WorkspaceId};
use farebox_core::{App, clock};
use serde::Deserialize;
use sqlx::PgConnection;
use stripe_billing::invoice::RetrieveInvoice;
use stripe_client_core::StripeRequest;
use tokio_util::sync::CancellationToken;

use super::bill::INVOICE_KEY;
use super::error::StripeError;
use super::verdict::backoff;
use super::view::Invoice;
use super::{checkout, customers, settings, state};
use crate::credit_notes;
use crate::reversals::{disputes, refunds};

const AT_ONCE: i64 = 32;
const LEASE: TimeDelta = TimeDelta::seconds(60);
const LOOK_EVERY: Duration = Duration::from_millis(300);
const MOST_ATTEMPTS: i32 = 20;

/// What we listen for. Not what is our own doing and recorded by the push (`invoice.created`, `finalized`), and nothing that
/// comes beside another that says as much: `invoice.updated` with every change, `invoice.overpaid` and `invoice_payment.paid`
/// beside `invoice.paid`, `charge.refunded` beside `refund.created`. What is overdue is told by our own clock.
pub const KINDS: [&str; 20] = [
    "invoice.paid",
    "invoice.payment_failed",
    "invoice.payment_action_required",
    "invoice.voided",
    "invoice.marked_uncollectible",
    "customer.updated",
    "customer.deleted",
    "checkout.session.completed",
    "setup_intent.succeeded",
    "payment_method.attached",
    "payment_method.detached",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "credit_note.voided",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.closed",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
];

/// The part of an event that is used; everything else of it may differ between API versions.
#[derive(Debug, Deserialize)]
pub struct Event {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub created: i64,
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Data {
    object: Object,
}

#[derive(Debug, Deserialize)]
struct Object {
    /// Absent on objects that are not kept, such as previews.
    id: Option<String>,
}

/// What an event's object is, hence what to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Invoice,
    Customer,
    Checkout,
    SetupIntent,
    PaymentMethod,
    Refund,
    CreditNote,
    Dispute,
}

fn about(kind: &str) -> Option<About> {
    if !KINDS.contains(&kind) {
        return None;
    }
    match kind.split('.').next() {
        Some("invoice") => Some(About::Invoice),
        Some("customer") => Some(About::Customer),
        Some("checkout") => Some(About::Checkout),
        Some("setup_intent") => Some(About::SetupIntent),
        Some("payment_method") => Some(About::PaymentMethod),
        Some("refund") => Some(About::Refund),
        Some("credit_note") => Some(About::CreditNote),
        Some("charge") => Some(About::Dispute),
        _ => None,
    }
}

/// Keeps an event. False when it was known.
pub async fn keep(conn: &mut PgConnection, workspace: &WorkspaceId, event: &Event, via: &str) -> Result<bool, sqlx::Error> {
    let now = clock::now();
    let object = event.data.object.id.as_deref().unwrap_or_default();
    let wanted = about(&event.kind).is_some() && !object.is_empty();
    let done = sqlx::query!(
        "INSERT INTO stripe_events (workspace_id, id, kind, object_id, via, occurred_at, received_at, state, next_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $7) ON CONFLICT DO NOTHING",
        workspace.as_str(),
        event.id,
        event.kind,
        object,
        via,
        DateTime::from_timestamp(event.created, 0).unwrap_or(now),
        now,
        if wanted { "new" } else { "ignored" }
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub async fn run(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let applied = apply_new(&app).await.unwrap_or_else(|error| {
            tracing::warn!("Stripe's events cannot be read from the records: {error}");
            0
        });
        if applied == 0 {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// Applies a batch of what is new; how many objects were fetched.
pub async fn apply_new(app: &App) -> Result<usize, sqlx::Error> {
    let now = clock::now();
    let rows = sqlx::query!(
        r#"UPDATE stripe_events SET leased_until = $2 WHERE (workspace_id, id) IN (
               SELECT workspace_id, id FROM stripe_events
               WHERE state = 'new' AND next_at <= $1 AND (leased_until IS NULL OR leased_until <= $1)
               ORDER BY next_at LIMIT $3 FOR UPDATE SKIP LOCKED)
           RETURNING workspace_id AS "workspace: WorkspaceId", id, kind, object_id, attempts"#,
        now,
        now + LEASE,
        AT_ONCE
    )
    .fetch_all(&app.pg)
    .await?;
    // One fetch per object, however many events are about it.
    let mut objects: BTreeMap<(WorkspaceId, About, String), (Vec<String>, i32)> = BTreeMap::new();
    for row in rows {
        let Some(about) = about(&row.kind) else { continue };
        let (events, attempts) = objects.entry((row.workspace, about, row.object_id)).or_default();
        events.push(row.id);
        *attempts = (*attempts).max(row.attempts);
    }
    let work = objects.iter().map(async |((workspace, about, object), (events, attempts))| {
        let result = apply(app, workspace, *about, object).await;
        note(app, workspace, events, *attempts, now, result).await
    });
    for result in futures::future::join_all(work).await {
        result?;
    }
    Ok(objects.len())
}

async fn note(
    app: &App,
    workspace: &WorkspaceId,
    events: &[String],
    attempts: i32,
    now: DateTime<Utc>,
    result: Result<(), StripeError>,
) -> Result<(), sqlx::Error> {
    let (state, error) = match &result {
        Ok(()) => ("done", None),
        Err(StripeError::NotFound(_) | StripeError::Refused { status: 404, .. }) => ("ignored", result.as_ref().err()),
        Err(error) if attempts + 1 >= MOST_ATTEMPTS => {
            tracing::error!(%workspace, ?events, "an event of Stripe's cannot be applied and is given up: {error}");
            ("failed", Some(error))
        }
        Err(error) => {
            tracing::info!(%workspace, ?events, "an event of Stripe's is tried again later: {error}");
            ("new", Some(error))
        }
    };
    metrics::counter!("farebox_stripe_events_total", "outcome" => state).increment(events.len() as u64);
    let wait = TimeDelta::from_std(backoff(u32::try_from(attempts).unwrap_or(0), rand::random())).unwrap_or_default();
    sqlx::query!(
        "UPDATE stripe_events SET state = $3, error = $4, attempts = attempts + 1, next_at = $5, leased_until = NULL
         WHERE workspace_id = $1 AND id = ANY($2)",
        workspace.as_str(),
        events,
        state,
        error.map(ToString::to_string),
        now + wait
    )
    .execute(&app.pg)
    .await?;
    Ok(())
}

async fn apply(app: &App, workspace: &WorkspaceId, about: About, object: &str) -> Result<(), StripeError> {
    let stripe = settings::stripe(app, &mut *app.pg.acquire().await?, workspace).await?;
    match about {
        About::Invoice => {
            let invoice = stripe.ask::<Invoice>(RetrieveInvoice::new(object).build()).await?;
            let ours: InvoiceId = match invoice.tagged.tag(INVOICE_KEY).map(str::parse) {
                Some(Ok(ours)) => ours,
                // An invoice that the provider made at Stripe by other means.
                _ => return Ok(()),
            };
            let mut tx = app.pg.begin().await?;
            // A copy of our invoice made in Stripe's dashboard carries our metadata, but it is not the one we pushed.
            let known = sqlx::query_scalar!(
                r#"SELECT stripe_id IS NOT DISTINCT FROM $3::text AS "known!" FROM stripe_pushes
                   WHERE workspace_id = $1 AND invoice_id = $2 FOR UPDATE"#,
                workspace.as_str(),
                ours.as_str(),
                object
            )
            .fetch_optional(&mut *tx)
            .await?;
            if known == Some(true) {
                state::apply(&mut tx, workspace, &ours, &invoice).await?;
            }
            tx.commit().await?;
            Ok(())
        }
        About::Customer => customers::apply(app, &stripe, workspace, object).await,
        About::Checkout => checkout::complete_setup(app, workspace, object).await.map(drop),
        About::SetupIntent => checkout::apply_setup_intent(app, &stripe, workspace, object).await,
        About::PaymentMethod => checkout::apply_attached(app, &stripe, workspace, object).await,
        About::Refund => refunds::apply(app, &stripe, workspace, object).await,
        About::CreditNote => credit_notes::apply(app, &stripe, workspace, object).await,
        About::Dispute => disputes::apply(app, &stripe, workspace, object).await,
    }
}
