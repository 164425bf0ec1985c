//! What a person does about an issued invoice by hand: records that it was paid otherwise, voids it, gives it up.
//!
//! A provider without Stripe lives on this. An invoice that is at Stripe is changed there first, so that Stripe stops
//! collecting it, and what Stripe then says is what holds here.

mod http;

use chrono::{DateTime, Utc};
use farebox_core::ids::{InvoiceId, WorkspaceId};
use farebox_core::{App, audit_log, clock};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use stripe_billing::invoice::RetrieveInvoice;
use stripe_client_core::StripeRequest;

use crate::BillingError;
use crate::invoices::{self, Invoice, State};
use crate::stripe::client::Form;
use crate::stripe::view::{self, Status};
use crate::stripe::{StripeError, settings, state};

pub use http::router;

/// A payment that did not come through the payment provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    pub paid_at: DateTime<Utc>,
    /// `transfer`, `cash`, `cheque`, ...
    pub method: String,
    /// What the bank statement says.
    pub reference: String,
}

#[derive(Debug, Clone)]
pub enum Settlement {
    Paid(Payment),
    Void,
    Uncollectible,
}

impl Settlement {
    fn verb(&self) -> &'static str {
        match self {
            Self::Paid(_) => "pay",
            Self::Void => "void",
            Self::Uncollectible => "mark_uncollectible",
        }
    }

    fn check(&self, now: DateTime<Utc>) -> Result<(), BillingError> {
        let Self::Paid(payment) = self else { return Ok(()) };
        if payment.paid_at > now {
            return Err(BillingError::invalid("/paid_at", "lies ahead; record the payment when it is there"));
        }
        for (field, text) in [("/method", &payment.method), ("/reference", &payment.reference)] {
            if text.trim().is_empty() || text.len() > 200 {
                return Err(BillingError::invalid(field, "must have 1 to 200 bytes"));
            }
        }
        Ok(())
    }
}

/// Settles the invoice; the invoice as it then stands. Repeating what was done changes nothing.
pub async fn settle(app: &App, ws: &WorkspaceId, id: &InvoiceId, how: &Settlement, actor: &str) -> Result<Invoice, SettleError> {
    let mut conn = app.pg.acquire().await?;
    let workspace = farebox_core::workspace::by_id(&mut conn, ws).await.map_err(BillingError::from)?;
    let now = workspace.ok_or(BillingError::NotFound("workspace"))?.clock.now();
    how.check(now)?;
    let invoice = invoices::get(&mut conn, ws, id).await?.ok_or(BillingError::NotFound("invoice"))?;
    may(&invoice, how)?;
    if is_on_its_way(&mut conn, ws, id).await? {
        let detail =
            "This invoice is on its way to Stripe, or held back there. Settle it when it has arrived, or after its cause is removed.";
        return Err(BillingError::conflict("on-its-way", detail).into());
    }
    drop(conn);
    let there = match &invoice.stripe_id {
        Some(stripe_id) => Some(at_stripe(app, ws, stripe_id, how).await?),
        None => None,
    };
    let mut tx = app.pg.begin().await?;
    let changed = match (&there, how) {
        (Some(there), _) => {
            state::apply(&mut tx, ws, id, there).await?;
            true
        }
        (None, Settlement::Paid(payment)) => invoices::mark_paid(&mut tx, ws, id, payment.paid_at).await?,
        (None, Settlement::Void) => invoices::mark_void(&mut tx, ws, id, now).await?,
        (None, Settlement::Uncollectible) => invoices::mark_uncollectible(&mut tx, ws, id, now).await?,
    };
    if changed {
        record(&mut tx, ws, &invoice, how, actor).await?;
    }
    tx.commit().await?;
    let settled = invoices::get(&mut *app.pg.acquire().await?, ws, id).await?;
    Ok(settled.ok_or(BillingError::NotFound("invoice"))?)
}

/// Whether a push of it has begun and not ended: what Stripe will have of it is not certain yet.
pub(crate) async fn is_on_its_way(conn: &mut PgConnection, ws: &WorkspaceId, id: &InvoiceId) -> Result<bool, BillingError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM stripe_pushes WHERE workspace_id = $1 AND invoice_id = $2 AND state <> 'done') AS "is!""#,
        ws.as_str(),
        id.as_str()
    )
    .fetch_one(conn)
    .await?)
}

/// Whether a paid invoice was paid otherwise than through Stripe, so that Stripe cannot give it back.
pub(crate) async fn was_paid_elsewhere(conn: &mut PgConnection, ws: &WorkspaceId, invoice: &Invoice) -> Result<bool, BillingError> {
    let by_hand = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM payments WHERE workspace_id = $1 AND invoice_id = $2) AS "is!""#,
        ws.as_str(),
        invoice.id.as_str()
    )
    .fetch_one(conn)
    .await?;
    Ok(by_hand || invoice.stripe_id.is_none())
}

/// Refuses what an invoice's state does not allow, with the way out.
fn may(invoice: &Invoice, how: &Settlement) -> Result<(), BillingError> {
    let refused = |detail: &str| Err(BillingError::conflict("cannot-settle", detail));
    match (invoice.state, how) {
        (State::Draft, _) => refused("A draft is not issued yet. Close its period first."),
        (State::Paid, Settlement::Paid(_)) | (State::Void, Settlement::Void) | (State::Uncollectible, Settlement::Uncollectible) => Ok(()),
        (State::Paid, _) => refused("This invoice is paid. Give money back with a credit note or a refund."),
        (State::Void, _) => refused("This invoice is void and stays so."),
        (State::Issued | State::Uncollectible, Settlement::Void) if !invoice.credited.is_zero() => {
            refused("A credit note took part of this invoice back. Take back the rest with another one.")
        }
        (State::Issued | State::Uncollectible, Settlement::Paid(_)) if invoice.carried || invoice.total.minor <= 0 => {
            refused("There is nothing to pay on this invoice; the consumer's next invoice settles it.")
        }
        (State::Issued, _) | (State::Uncollectible, Settlement::Paid(_) | Settlement::Void) => {
            if invoice.carried_into.is_some() {
                return refused("A later invoice has taken over this one.");
            }
            Ok(())
        }
    }
}

/// Asks Stripe for it, and takes what Stripe has when it was so already.
async fn at_stripe(app: &App, ws: &WorkspaceId, stripe_id: &str, how: &Settlement) -> Result<view::Invoice, StripeError> {
    let stripe = settings::stripe(app, &mut *app.pg.acquire().await?, ws).await?;
    let form = match how {
        Settlement::Paid(_) => Form::new().with("paid_out_of_band", "true"),
        _ => Form::new(),
    };
    let wanted = match how {
        Settlement::Paid(_) => Status::Paid,
        Settlement::Void => Status::Void,
        Settlement::Uncollectible => Status::Uncollectible,
    };
    match stripe.post::<view::Invoice>(&format!("/invoices/{stripe_id}/{}", how.verb()), &form).await {
        Ok(there) => Ok(there),
        Err(refusal @ StripeError::Refused { .. }) => {
            let there: view::Invoice = stripe.ask(RetrieveInvoice::new(stripe_id).build()).await?;
            if there.status == wanted { Ok(there) } else { Err(refusal) }
        }
        Err(error) => Err(error),
    }
}

async fn record(conn: &mut PgConnection, ws: &WorkspaceId, invoice: &Invoice, how: &Settlement, actor: &str) -> Result<(), BillingError> {
    if let Settlement::Paid(payment) = how {
        sqlx::query!(
            "INSERT INTO payments (invoice_id, workspace_id, currency, amount_minor, paid_at, method, reference, recorded_by, recorded_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
            invoice.id.as_str(),
            ws.as_str(),
            invoice.currency.code(),
            invoice.due().minor,
            payment.paid_at,
            payment.method,
            payment.reference,
            actor,
            clock::now()
        )
        .execute(&mut *conn)
        .await?;
    }
    let detail = match how {
        Settlement::Paid(payment) => json!(payment),
        _ => json!({}),
    };
    audit_log::record(conn, ws, actor, &format!("invoice.{}", how.verb()), invoice.id.as_str(), &detail).await?;
    Ok(())
}

/// What this room, or Stripe, has against it.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    #[error(transparent)]
    Billing(#[from] BillingError),
    #[error(transparent)]
    Stripe(#[from] StripeError),
    #[error("PostgreSQL: {0}")]
    Database(#[from] sqlx::Error),
}

impl From<SettleError> for farebox_core::problem::Problem {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::Billing(error) => error.into(),
            SettleError::Stripe(error) => error.into(),
            SettleError::Database(error) => error.into(),
        }
    }
}
