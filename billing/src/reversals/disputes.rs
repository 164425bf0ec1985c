//! Payments that a cardholder disputes: the bank takes the money until it is decided.

use chrono::{DateTime, Utc};
use farebox_core::ids::{ConsumerId, InvoiceId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use farebox_core::{App, audit_log, clock};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::invoice_of;
use crate::BillingError;
use crate::stripe::StripeError;
use crate::stripe::client::{Form, Stripe};
use crate::stripe::currency::from_stripe;

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Dispute {
    /// Stripe's.
    pub id: String,
    pub invoice: InvoiceId,
    pub invoice_number: String,
    pub consumer: ConsumerId,
    #[schema(value_type = String)]
    pub currency: Currency,
    #[schema(value_type = String)]
    pub amount: Money,
    /// What the bank says, such as `fraudulent`.
    pub reason: String,
    /// Stripe's: needs_response, under_review, won, lost, or a warning_... before the bank takes money.
    pub state: String,
    /// Until then evidence can be given, in Stripe's dashboard.
    pub respond_by: Option<DateTime<Utc>>,
    pub opened_at: DateTime<Utc>,
    pub withdrawn_at: Option<DateTime<Utc>>,
    pub closed_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct There {
    id: String,
    amount: i64,
    currency: String,
    reason: String,
    status: String,
    created: i64,
    payment_intent: Option<String>,
    #[serde(default)]
    evidence_details: Option<Evidence>,
}

#[derive(Deserialize)]
struct Evidence {
    due_by: Option<i64>,
}

/// Fetches a dispute and records it as it stands. As often, and in whatever order, as one likes: what was decided stays.
pub(crate) async fn apply(app: &App, stripe: &Stripe, ws: &WorkspaceId, id: &str) -> Result<(), StripeError> {
    let there: There = stripe.get(&format!("/disputes/{id}"), &Form::new()).await?;
    let Some(invoice) = invoice_of(app, stripe, ws, there.payment_intent.as_deref()).await? else { return Ok(()) };
    let currency: Currency = there.currency.to_ascii_uppercase().parse()?;
    let amount = from_stripe(there.amount, currency)?;
    let opened_at = DateTime::from_timestamp(there.created, 0).unwrap_or_else(clock::now);
    let withdrawn = !there.status.starts_with("warning_") && there.status != "prevented";
    let closed = matches!(there.status.as_str(), "won" | "lost" | "warning_closed" | "prevented");
    let mut tx = app.pg.begin().await?;
    let known = sqlx::query_scalar!("SELECT state FROM disputes WHERE workspace_id = $1 AND stripe_id = $2 FOR UPDATE", ws.as_str(), id)
        .fetch_optional(&mut *tx)
        .await?;
    if known.as_ref() == Some(&there.status) {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO disputes (workspace_id, stripe_id, invoice_id, consumer_id, currency, amount_minor, reason, state, respond_by, opened_at,
                               withdrawn_at, closed_at)
         SELECT $1, $2, i.id, i.consumer_id, $4, $5, $6, $7, $8, greatest($9, i.issued_at), CASE WHEN $10 THEN greatest($9, i.issued_at) END,
                CASE WHEN $11 THEN $12::timestamptz + make_interval(secs => w.clock_ahead_s) END
         FROM invoices i JOIN workspaces w ON w.id = i.workspace_id WHERE i.workspace_id = $1 AND i.id = $3
         ON CONFLICT (workspace_id, stripe_id) DO UPDATE SET state = $7, respond_by = $8,
             withdrawn_at = coalesce(disputes.withdrawn_at, excluded.withdrawn_at), closed_at = coalesce(disputes.closed_at, excluded.closed_at)",
        ws.as_str(),
        there.id,
        invoice.as_str(),
        currency.code(),
        amount.minor,
        there.reason,
        there.status,
        there.evidence_details.and_then(|evidence| evidence.due_by).filter(|at| *at > 0).and_then(|at| DateTime::from_timestamp(at, 0)),
        opened_at,
        withdrawn,
        closed,
        clock::now()
    )
    .execute(&mut *tx)
    .await?;
    let detail = json!({ "invoice": invoice, "amount": amount, "currency": currency, "reason": there.reason, "state": there.status });
    audit_log::record(&mut tx, ws, "stripe", "dispute.change", id, &detail).await?;
    tx.commit().await?;
    Ok(())
}

/// Newest first, of one invoice or all.
pub async fn list(conn: &mut PgConnection, ws: &WorkspaceId, invoice: Option<&str>) -> Result<Vec<Dispute>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT d.stripe_id, d.invoice_id AS "invoice: InvoiceId", i.number AS "invoice_number!", d.consumer_id AS "consumer: ConsumerId",
                  d.currency, d.amount_minor, d.reason, d.state, d.respond_by, d.opened_at, d.withdrawn_at, d.closed_at
           FROM disputes d JOIN invoices i ON i.id = d.invoice_id
           WHERE d.workspace_id = $1 AND ($2::text IS NULL OR d.invoice_id = $2) ORDER BY d.opened_at DESC, d.stripe_id"#,
        ws.as_str(),
        invoice
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let currency: Currency = row.currency.parse().map_err(|e| BillingError::unreadable("a dispute", e))?;
            Ok(Dispute {
                id: row.stripe_id,
                invoice: row.invoice,
                invoice_number: row.invoice_number,
                consumer: row.consumer,
                currency,
                amount: Money::new(row.amount_minor, currency),
                reason: row.reason,
                state: row.state,
                respond_by: row.respond_by,
                opened_at: row.opened_at,
                withdrawn_at: row.withdrawn_at,
                closed_at: row.closed_at,
            })
        })
        .collect()
}
