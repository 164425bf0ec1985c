//! Refunds, by a credit note or made in Stripe's dashboard.

use chrono::{DateTime, Utc};
use farebox_core::ids::{CreditNoteId, InvoiceId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use farebox_core::{App, clock};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::invoice_of;
use crate::BillingError;
use crate::stripe::StripeError;
use crate::stripe::client::{Form, Stripe};
use crate::stripe::currency::from_stripe;

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Refund {
    /// Stripe's.
    pub id: String,
    pub invoice: InvoiceId,
    /// The document that says why; absent when it was made in Stripe's dashboard. A credit note over the same amount to
    /// `out_of_band` then takes it up.
    pub credit_note: Option<CreditNoteId>,
    #[schema(value_type = String)]
    pub currency: Currency,
    #[schema(value_type = String)]
    pub amount: Money,
    /// pending, requires_action, succeeded, failed or canceled.
    pub state: String,
    pub failure: Option<String>,
    pub created_at: DateTime<Utc>,
    pub succeeded_at: Option<DateTime<Utc>>,
    /// When it failed after it had succeeded: the money came back.
    pub failed_at: Option<DateTime<Utc>>,
}

/// Stripe's, besides `pending`.
const STATES: [&str; 4] = ["requires_action", "succeeded", "failed", "canceled"];

/// As much of Stripe's refund as is used.
#[derive(Debug, Clone, Deserialize)]
pub struct There {
    id: String,
    amount: i64,
    currency: String,
    created: i64,
    status: Option<String>,
    payment_intent: Option<String>,
    #[serde(default)]
    failure_reason: Option<String>,
}

/// Fetches a refund and records it.
pub(crate) async fn apply(app: &App, stripe: &Stripe, ws: &WorkspaceId, id: &str) -> Result<(), StripeError> {
    let there: There = stripe.get(&format!("/refunds/{id}"), &Form::new()).await?;
    let Some(invoice) = invoice_of(app, stripe, ws, there.payment_intent.as_deref()).await? else { return Ok(()) };
    record(&mut *app.pg.acquire().await?, ws, &invoice, None, &there).await?;
    Ok(())
}

/// As Stripe has it. Recording it again, or late, changes nothing.
pub(crate) async fn record(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    invoice: &InvoiceId,
    note: Option<&CreditNoteId>,
    there: &There,
) -> Result<(), StripeError> {
    let currency: Currency = there.currency.to_ascii_uppercase().parse()?;
    let amount = from_stripe(there.amount, currency)?;
    let created_at = DateTime::from_timestamp(there.created, 0).unwrap_or_else(clock::now);
    let state = there.status.as_deref().filter(|state| STATES.contains(state)).unwrap_or("pending");
    // Nothing goes back before it was paid: Stripe knows nothing of a test clock.
    sqlx::query!(
        "INSERT INTO refunds (workspace_id, stripe_id, invoice_id, credit_note_id, currency, amount_minor, state, failure, created_at, succeeded_at)
         SELECT $1, $2, i.id, $4, $5, $6, $7, $8, greatest($9, i.paid_at, i.issued_at),
                CASE WHEN $7 = 'succeeded' THEN greatest($9, i.paid_at, i.issued_at) END
         FROM invoices i WHERE i.workspace_id = $1 AND i.id = $3
         ON CONFLICT (workspace_id, stripe_id) DO UPDATE SET state = $7, failure = $8, credit_note_id = coalesce(refunds.credit_note_id, $4),
             succeeded_at = coalesce(refunds.succeeded_at, excluded.succeeded_at),
             failed_at = CASE WHEN $7 IN ('failed', 'canceled') AND refunds.succeeded_at IS NOT NULL
                              THEN coalesce(refunds.failed_at, (SELECT $10::timestamptz + make_interval(secs => w.clock_ahead_s) FROM workspaces w WHERE w.id = $1)) END",
        ws.as_str(),
        there.id,
        invoice.as_str(),
        note.map(CreditNoteId::as_str),
        currency.code(),
        amount.minor,
        state,
        there.failure_reason,
        created_at,
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Newest first, of one invoice or all.
pub async fn list(conn: &mut PgConnection, ws: &WorkspaceId, invoice: Option<&str>) -> Result<Vec<Refund>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT stripe_id, invoice_id AS "invoice: InvoiceId", credit_note_id AS "credit_note: CreditNoteId", currency, amount_minor, state,
                  failure, created_at, succeeded_at, failed_at
           FROM refunds WHERE workspace_id = $1 AND ($2::text IS NULL OR invoice_id = $2) ORDER BY created_at DESC, stripe_id"#,
        ws.as_str(),
        invoice
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let currency: Currency = row.currency.parse().map_err(|e| BillingError::unreadable("a refund", e))?;
            Ok(Refund {
                id: row.stripe_id,
                invoice: row.invoice,
                credit_note: row.credit_note,
                currency,
                amount: Money::new(row.amount_minor, currency),
                state: row.state,
                failure: row.failure,
                created_at: row.created_at,
                succeeded_at: row.succeeded_at,
                failed_at: row.failed_at,
            })
        })
        .collect()
}
