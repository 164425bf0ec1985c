//! Payments that go back: refunds, and what cardholders dispute. Stripe tells of them, whoever caused them; here they are
//! recorded, shown beside their invoice, and booked.

pub mod disputes;
mod http;
pub mod refunds;

use farebox_core::App;
use farebox_core::ids::{InvoiceId, WorkspaceId};
use serde::Deserialize;

use crate::invoices;
use crate::stripe::StripeError;
use crate::stripe::client::{Form, Stripe};
use crate::stripe::view::List;

pub use http::router;

/// The invoice of ours that a payment was for; None for the provider's other business at Stripe.
async fn invoice_of(app: &App, stripe: &Stripe, ws: &WorkspaceId, payment_intent: Option<&str>) -> Result<Option<InvoiceId>, StripeError> {
    #[derive(Deserialize)]
    struct InvoicePayment {
        invoice: String,
    }
    let Some(intent) = payment_intent else { return Ok(None) };
    let query = Form::new().with("limit", "1").with("payment[type]", "payment_intent").with("payment[payment_intent]", intent);
    let page: List<InvoicePayment> = stripe.get("/invoice_payments", &query).await?;
    match page.data.first() {
        Some(payment) => Ok(invoices::by_stripe_id(&mut *app.pg.acquire().await?, ws, &payment.invoice).await?),
        None => Ok(None),
    }
}
