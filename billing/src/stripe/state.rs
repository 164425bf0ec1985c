//! An invoice's state at Stripe, applied to ours. Applied as a whole and as often as one likes: order and duplicates of
//! the notes that lead here do not matter.

use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{InvoiceId, WorkspaceId};
use sqlx::PgConnection;
use stripe_billing::{Invoice, InvoiceStatus};

use super::error::StripeError;
use crate::invoices;

/// `at_stripe` is the invoice as Stripe just gave it, of which the caller knows that it is `invoice`.
pub async fn apply(conn: &mut PgConnection, workspace: &WorkspaceId, invoice: &InvoiceId, at_stripe: &Invoice) -> Result<(), StripeError> {
    let id = at_stripe.id.as_ref().ok_or(StripeError::Bug("an invoice of Stripe's without an id"))?;
    let is_draft = at_stripe.status == Some(InvoiceStatus::Draft);
    if is_draft {
        return Ok(());
    }
    invoices::record_stripe(conn, workspace, invoice, id.as_str(), at_stripe.hosted_invoice_url.as_deref()).await?;
    sqlx::query!(
        "UPDATE stripe_pushes SET payment_attempts = $3, next_payment_attempt = $4 WHERE workspace_id = $1 AND invoice_id = $2",
        workspace.as_str(),
        invoice.as_str(),
        i64::try_from(at_stripe.attempt_count).unwrap_or(i64::MAX),
        at_stripe.next_payment_attempt.and_then(instant)
    )
    .execute(&mut *conn)
    .await?;
    let changes = &at_stripe.status_transitions;
    let when = |at: Option<i64>| at.and_then(instant).unwrap_or_else(clock::now);
    // False: it was so already.
    let _news = match &at_stripe.status {
        Some(InvoiceStatus::Paid) => invoices::mark_paid(conn, workspace, invoice, when(changes.paid_at)).await?,
        Some(InvoiceStatus::Void) => invoices::mark_void(conn, workspace, invoice, when(changes.voided_at)).await?,
        Some(InvoiceStatus::Uncollectible) => {
            invoices::mark_uncollectible(conn, workspace, invoice, when(changes.marked_uncollectible_at)).await?
        }
        _ => false,
    };
    Ok(())
}

fn instant(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}
