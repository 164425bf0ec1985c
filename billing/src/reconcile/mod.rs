//! Every invoice here against there: once a day, and when asked for. What differs is named; nothing is repaired on the quiet.

pub mod compare;
mod http;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::{InvoiceId, WorkspaceId};
use farebox_core::money::Currency;
use farebox_core::{App, clock};
use serde::Serialize;
use sqlx::PgPool;
use stripe_billing::invoice::RetrieveInvoice;
use stripe_client_core::StripeRequest;
use tokio_util::sync::CancellationToken;

use crate::invoices::State;
use crate::settle::SettleError;
use crate::stripe::bill::WORKSPACE_KEY;
use crate::stripe::client::{Form, Stripe};
use crate::stripe::view::{Invoice as Theirs, List, Status};
use crate::stripe::{StripeError, settings};
use compare::{Ours, Row, compare, only_there};

pub use http::router;

const LOOK_EVERY: Duration = Duration::from_secs(30);
const EVERY: TimeDelta = TimeDelta::days(1);
/// A run that died is taken over after this long.
const LEASE: TimeDelta = TimeDelta::minutes(30);
const SECOND_LOOKS: usize = 100;

/// How the last comparison went.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Summary {
    pub started_at: DateTime<Utc>,
    /// Absent while it runs.
    pub finished_at: Option<DateTime<Utc>>,
    /// Why it ended early.
    pub error: Option<String>,
    pub compared: i64,
    pub different: i64,
    /// The first hundred; all of them, with those that agree, are in the export `reconciliation`.
    pub differences: Vec<Difference>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Difference {
    pub invoice: Option<String>,
    pub number: Option<String>,
    pub stripe_id: Option<String>,
    pub difference: String,
}

/// Compares whatever is due, until `stop`.
pub async fn run(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match due(&app.pg).await {
            Ok(workspaces) => {
                for workspace in workspaces {
                    if let Err(error) = reconcile(&app, &workspace).await {
                        tracing::warn!(%workspace, "the comparison with Stripe is tried again tomorrow: {error}");
                    }
                }
            }
            Err(error) => tracing::warn!("which workspaces are to be compared with Stripe cannot be read: {error}"),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn due(pg: &PgPool) -> Result<Vec<WorkspaceId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT s.workspace_id AS "workspace!: WorkspaceId" FROM stripe_settings s LEFT JOIN reconciliations r USING (workspace_id)
           WHERE (r.next_at IS NULL AND s.updated_at < $1::timestamptz - interval '1 hour') OR r.next_at <= $1"#,
        clock::now()
    )
    .fetch_all(pg)
    .await
}

/// Compares now, unless a comparison is running: false then.
pub async fn reconcile(app: &App, ws: &WorkspaceId) -> Result<bool, SettleError> {
    let now = clock::now();
    let mine = sqlx::query!(
        "INSERT INTO reconciliations (workspace_id, started_at, next_at, leased_until) VALUES ($1, $2, $3, $4)
         ON CONFLICT (workspace_id) DO UPDATE SET started_at = $2, finished_at = NULL, error = NULL, next_at = $3, leased_until = $4
         WHERE reconciliations.leased_until IS NULL OR reconciliations.leased_until < $2",
        ws.as_str(),
        now,
        now + EVERY,
        now + LEASE
    )
    .execute(&app.pg)
    .await?;
    if mine.rows_affected() == 0 {
        return Ok(false);
    }
    let result = rows(app, ws).await;
    let error = result.as_ref().err().map(ToString::to_string);
    let mut tx = app.pg.begin().await?;
    if let Ok(rows) = &result {
        keep(&mut tx, ws, rows).await?;
        let different = rows.iter().filter(|row| row.difference.is_some()).count();
        if different > 0 {
            tracing::error!(workspace = %ws, different, "invoices differ from Stripe's; GET /api/v1/stripe/reconciliation names them");
        }
        metrics::counter!("farebox_stripe_differences_total").increment(different as u64);
    }
    sqlx::query!(
        "UPDATE reconciliations SET finished_at = $2, error = $3, leased_until = NULL WHERE workspace_id = $1",
        ws.as_str(),
        clock::now(),
        error
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    result.map(|_| true)
}

async fn rows(app: &App, ws: &WorkspaceId) -> Result<Vec<Row>, SettleError> {
    let mine = ours(&app.pg, ws, None).await?;
    let known: HashSet<&str> = mine.iter().filter_map(|ours| ours.stripe_id.as_deref()).collect();
    let stripe = settings::stripe(app, &mut *app.pg.acquire().await?, ws).await?;
    let (mut theirs, mut strangers) = (HashMap::new(), Vec::new());
    let mut after: Option<String> = None;
    loop {
        let mut query = Form::new().with("limit", "100");
        if let Some(after) = &after {
            query = query.with("starting_after", after.as_str());
        }
        let page: List<Theirs> = stripe.get("/invoices", &query).await?;
        after = page.data.last().map(|invoice| invoice.tagged.id.clone());
        for invoice in page.data {
            if known.contains(invoice.tagged.id.as_str()) {
                theirs.insert(invoice.tagged.id.clone(), invoice);
            } else if invoice.tagged.tag(WORKSPACE_KEY) == Some(ws.as_str()) && invoice.status != Status::Draft {
                strangers.push(invoice);
            }
        }
        if !page.has_more || after.is_none() {
            break;
        }
    }
    let mut rows = Vec::with_capacity(mine.len());
    let mut looks = SECOND_LOOKS;
    for ours in &mine {
        let mut row = compare(ours, ours.stripe_id.as_ref().and_then(|id| theirs.get(id)));
        // Both sides move while they are read: what differs is looked at once more.
        if row.difference.is_some() && looks > 0 {
            looks -= 1;
            row = look_again(app, &stripe, ws, ours).await?.unwrap_or(row);
        }
        rows.push(row);
    }
    for stranger in &strangers {
        if !is_ours_by_now(&app.pg, ws, &stranger.tagged.id).await? {
            rows.push(only_there(stranger));
        }
    }
    Ok(rows)
}

async fn look_again(app: &App, stripe: &Stripe, ws: &WorkspaceId, before: &Ours) -> Result<Option<Row>, SettleError> {
    let theirs = match &before.stripe_id {
        Some(id) => match stripe.ask::<Theirs>(RetrieveInvoice::new(id.as_str()).build()).await {
            Err(StripeError::Refused { status: 404, .. }) => None,
            found => Some(found?),
        },
        None => None,
    };
    let ours = ours(&app.pg, ws, Some(&before.id)).await?.pop();
    Ok(ours.map(|ours| compare(&ours, theirs.as_ref())))
}

async fn is_ours_by_now(pg: &PgPool, ws: &WorkspaceId, stripe_id: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM invoices WHERE workspace_id = $1 AND stripe_id = $2) AS "is!""#,
        ws.as_str(),
        stripe_id
    )
    .fetch_one(pg)
    .await
}

/// Those with an amount to collect; or one of them.
async fn ours(pg: &PgPool, ws: &WorkspaceId, one: Option<&InvoiceId>) -> Result<Vec<Ours>, SettleError> {
    let found = sqlx::query!(
        r#"SELECT i.id AS "id: InvoiceId", i.number AS "number!", i.state AS "state: State", i.currency, i.total_minor, i.stripe_id, p.state AS "push?",
                  (SELECT coalesce(sum(n.total_minor), 0) FROM credit_notes n WHERE n.invoice_id = i.id AND n.state = 'issued')::bigint AS "credited!"
           FROM invoices i LEFT JOIN stripe_pushes p ON p.invoice_id = i.id
           WHERE i.workspace_id = $1 AND i.state <> 'draft' AND i.total_minor > 0 AND NOT i.carried AND (i.stripe_id IS NOT NULL OR i.state = 'issued')
             AND ($2::text IS NULL OR i.id = $2)
           ORDER BY i.id"#,
        ws.as_str(),
        one.map(InvoiceId::as_str)
    )
    .fetch_all(pg)
    .await?;
    found
        .into_iter()
        .map(|row| {
            let currency: Currency = row.currency.parse().map_err(|e| crate::BillingError::unreadable("an invoice", e))?;
            Ok(Ours {
                id: row.id,
                number: row.number,
                state: row.state,
                currency,
                total_minor: row.total_minor,
                credited_minor: row.credited,
                stripe_id: row.stripe_id,
                blocked: row.push.as_deref() == Some("blocked"),
            })
        })
        .collect()
}

async fn keep(conn: &mut sqlx::PgConnection, ws: &WorkspaceId, rows: &[Row]) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM reconciliation_rows WHERE workspace_id = $1", ws.as_str()).execute(&mut *conn).await?;
    for (position, row) in (0_i32..).zip(rows) {
        sqlx::query!(
            "INSERT INTO reconciliation_rows (workspace_id, position, invoice_id, number, stripe_id, currency, our_state, our_minor, stripe_state,
                                              stripe_minor, stripe_paid, difference)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            ws.as_str(),
            position,
            row.invoice,
            row.number,
            row.stripe_id,
            row.currency,
            row.our_state,
            row.our_minor,
            row.stripe_state,
            row.stripe_minor,
            row.stripe_paid,
            row.difference
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// None when there was no comparison yet.
pub async fn summary(pg: &PgPool, ws: &WorkspaceId) -> Result<Option<Summary>, sqlx::Error> {
    let run = sqlx::query!("SELECT started_at, finished_at, error FROM reconciliations WHERE workspace_id = $1", ws.as_str())
        .fetch_optional(pg)
        .await?;
    let Some(run) = run else { return Ok(None) };
    let counts = sqlx::query!(
        r#"SELECT count(*) AS "compared!", count(difference) AS "different!" FROM reconciliation_rows WHERE workspace_id = $1"#,
        ws.as_str()
    )
    .fetch_one(pg)
    .await?;
    let differences = sqlx::query_as!(
        Difference,
        r#"SELECT invoice_id AS invoice, number, stripe_id, difference AS "difference!" FROM reconciliation_rows
           WHERE workspace_id = $1 AND difference IS NOT NULL ORDER BY position LIMIT 100"#,
        ws.as_str()
    )
    .fetch_all(pg)
    .await?;
    Ok(Some(Summary {
        started_at: run.started_at,
        finished_at: run.finished_at,
        error: run.error,
        compared: counts.compared,
        different: counts.different,
        differences,
    }))
}
