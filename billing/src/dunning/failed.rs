//! Payments that failed. The first failure opens a case by itself; mails ask for another way to pay, calls are refused after
//! the time that the policy set, and whatever settles the invoice ends it. A new card is charged at once.

use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::ids::{ConsumerId, InvoiceId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use serde::Serialize;
use serde::de::IgnoredAny;
use sqlx::PgConnection;

use crate::BillingError;
use crate::stripe::StripeError;
use crate::stripe::client::{Form, Stripe};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FailedPayment {
    pub invoice: InvoiceId,
    pub number: String,
    pub consumer: ConsumerId,
    #[schema(value_type = String)]
    pub currency: Currency,
    /// What is still to be paid.
    #[schema(value_type = String)]
    pub due: Money,
    /// When it first failed.
    pub opened_at: DateTime<Utc>,
    pub attempts: i64,
    /// When Stripe tries again by itself.
    pub next_attempt: Option<DateTime<Utc>>,
    /// From when calls are refused, while it is open.
    pub restricted_from: Option<DateTime<Utc>>,
    pub closed_at: Option<DateTime<Utc>>,
    /// recovered: paid after all; ended: void, credited or given up.
    pub outcome: Option<String>,
}

/// Notes that an open invoice's payment failed so many times. The first time is when it began.
pub(crate) async fn note(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    invoice: &InvoiceId,
    attempts: i64,
    next_attempt: Option<DateTime<Utc>>,
) -> Result<(), sqlx::Error> {
    let opened = sqlx::query_scalar!(
        r#"INSERT INTO failed_payments (invoice_id, workspace_id, consumer_id, opened_at, attempts, next_attempt)
           SELECT i.id, i.workspace_id, i.consumer_id, $4::timestamptz + make_interval(secs => w.clock_ahead_s), $3, $5
           FROM invoices i JOIN workspaces w ON w.id = i.workspace_id WHERE i.workspace_id = $1 AND i.id = $2 AND i.state = 'issued'
           ON CONFLICT (invoice_id) DO UPDATE SET attempts = greatest(failed_payments.attempts, $3), next_attempt = $5
           WHERE failed_payments.closed_at IS NULL
           RETURNING xmax = 0 AS "opened!""#,
        ws.as_str(),
        invoice.as_str(),
        attempts,
        farebox_core::clock::now(),
        next_attempt
    )
    .fetch_optional(conn)
    .await?;
    if opened == Some(true) {
        metrics::counter!("farebox_failed_payments_total").increment(1);
        tracing::info!(%invoice, "a payment failed, and dunning begins");
    }
    Ok(())
}

/// Charges the consumer's new card for what failed before. A card that is refused again leaves it as it was.
pub(crate) async fn retry(app: &App, stripe: &Stripe, ws: &WorkspaceId, consumer: &ConsumerId) -> Result<(), StripeError> {
    let open = sqlx::query_scalar!(
        r#"SELECT i.stripe_id AS "stripe_id!" FROM failed_payments f JOIN invoices i ON i.id = f.invoice_id
           WHERE f.workspace_id = $1 AND f.consumer_id = $2 AND f.closed_at IS NULL AND i.stripe_id IS NOT NULL ORDER BY i.id"#,
        ws.as_str(),
        consumer.as_str()
    )
    .fetch_all(&app.pg)
    .await?;
    for invoice in open {
        match stripe.post::<IgnoredAny>(&format!("/invoices/{invoice}/pay"), &Form::new()).await {
            // What comes of it is told by an event.
            Ok(_) | Err(StripeError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Open ones first, then the newest.
pub async fn list(conn: &mut PgConnection, ws: &WorkspaceId, consumer: Option<&str>) -> Result<Vec<FailedPayment>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT f.invoice_id AS "invoice: InvoiceId", i.number AS "number!", f.consumer_id AS "consumer: ConsumerId", i.currency,
                  CASE WHEN i.state IN ('issued', 'uncollectible') THEN i.total_minor - i.credited_minor ELSE 0 END AS "due!",
                  f.opened_at, f.attempts, f.next_attempt, f.closed_at, f.outcome,
                  CASE WHEN i.state IN ('issued', 'uncollectible') THEN f.opened_at + make_interval(days => p.restrict_after_days) END AS restricted_from
           FROM failed_payments f JOIN invoices i ON i.id = f.invoice_id LEFT JOIN dunning_policies p ON p.workspace_id = f.workspace_id
           WHERE f.workspace_id = $1 AND ($2::text IS NULL OR f.consumer_id = $2)
           ORDER BY f.closed_at IS NOT NULL, f.opened_at DESC, f.invoice_id LIMIT 500"#,
        ws.as_str(),
        consumer
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let currency: Currency = row.currency.parse().map_err(|e| BillingError::unreadable("an invoice", e))?;
            Ok(FailedPayment {
                invoice: row.invoice,
                number: row.number,
                consumer: row.consumer,
                currency,
                due: Money::new(row.due, currency),
                opened_at: row.opened_at,
                attempts: row.attempts,
                next_attempt: row.next_attempt,
                restricted_from: row.restricted_from,
                closed_at: row.closed_at,
                outcome: row.outcome,
            })
        })
        .collect()
}
