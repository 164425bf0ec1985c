//! An invoice's state at Stripe, applied to ours. Applied as a whole and as often as one likes: order and duplicates of
//! the notes that lead here do not matter.

use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{InvoiceId, WorkspaceId};
use sqlx::PgConnection;

use super::error::StripeError;
use super::view::{Invoice, Status};
use crate::dunning::failed;
use crate::invoices;

/// `at_stripe` is the invoice as Stripe just gave it, of which the caller knows that it is `invoice`.
pub async fn apply(conn: &mut PgConnection, workspace: &WorkspaceId, invoice: &InvoiceId, at_stripe: &Invoice) -> Result<(), StripeError> {
    if at_stripe.status == Status::Draft {
        return Ok(());
    }
    let id = &at_stripe.tagged.id;
    invoices::record_stripe(conn, workspace, invoice, id, at_stripe.hosted_invoice_url.as_deref()).await?;
    sqlx::query!(
        "UPDATE stripe_pushes SET payment_attempts = $3, next_payment_attempt = $4 WHERE workspace_id = $1 AND invoice_id = $2",
        workspace.as_str(),
        invoice.as_str(),
        at_stripe.attempt_count,
        at_stripe.next_payment_attempt.and_then(instant)
    )
    .execute(&mut *conn)
    .await?;
    if at_stripe.status == Status::Open && at_stripe.attempt_count > 0 {
        failed::note(conn, workspace, invoice, at_stripe.attempt_count, at_stripe.next_payment_attempt.and_then(instant)).await?;
    }
    let changes = &at_stripe.status_transitions;
    let when = |at: Option<i64>| at.and_then(instant).unwrap_or_else(clock::now);
    // False: it was so already.
    let _news = match at_stripe.status {
        Status::Paid => invoices::mark_paid(conn, workspace, invoice, when(changes.paid_at)).await?,
        Status::Void => invoices::mark_void(conn, workspace, invoice, when(changes.voided_at)).await?,
        Status::Uncollectible => invoices::mark_uncollectible(conn, workspace, invoice, when(changes.marked_uncollectible_at)).await?,
        Status::Draft | Status::Open => false,
    };
    Ok(())
}

fn instant(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}
