//! Credit notes: what corrects an issued invoice is a document of its own, with its own series of numbers, never a change.
//!
//! One takes back lines of an invoice, whole or in part, with their tax ([`derive`], pure), up to what earlier ones left.
//! Of an open invoice it lets less be paid; of a paid one it gives back: to the card through Stripe, to the consumer's
//! balance (a grant of credits that the next invoice uses after tax), or in a way that a person took care of.
//!
//! Where Stripe has the invoice, the note is made there first, exactly once ([`there`]), since only Stripe knows whether
//! the invoice was paid in this moment: until Stripe agreed the note is pending, and without a number. Then it is [`issue`]d
//! and never changes, but for being voided ([`void`]) while its invoice is still open.

mod ask;
mod attempt;
pub mod derive;
mod http;
mod issue;
pub mod late;
mod read;
mod there;
mod void;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use farebox_core::ids::{ConsumerId, CreditNoteId, InvoiceId, InvoiceLineId, WorkspaceId};
use farebox_core::money::{BigDecimal, Currency, Money};
use farebox_core::{App, workspace};
use serde::{Deserialize, Serialize};

use crate::BillingError;
use crate::invoices::{self, InvoiceLine};
use crate::settle::SettleError;

pub use ask::{Creditable, Preview, ask, creditable, preview};
pub use http::router;
pub use read::{get, list, named, of_invoice};
pub use there::{run, run_once};
pub(crate) use void::apply;
pub use void::{ask as ask_void, void};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = CreditNoteState)]
pub enum State {
    /// Stripe is being asked.
    Pending,
    Issued,
    /// Stripe refused it; nothing happened.
    Refused,
    /// Taken back: its number stays, and it counts for nothing.
    Void,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = CreditNoteReason)]
pub enum Reason {
    #[default]
    Correction,
    Duplicate,
    Fraudulent,
    OrderChange,
    ProductUnsatisfactory,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Correction => "correction",
            Self::Duplicate => "duplicate",
            Self::Fraudulent => "fraudulent",
            Self::OrderChange => "order_change",
            Self::ProductUnsatisfactory => "product_unsatisfactory",
        }
    }
}

/// What a credit note does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = CreditNoteSettles)]
pub enum Settles {
    /// Less is to be paid of the invoice, which was open.
    Open,
    /// Paid back through Stripe.
    Refund,
    /// Credited to the consumer's balance: the next invoices use it.
    Balance,
    /// Paid back by a person, outside of Stripe.
    OutOfBand,
}

impl Settles {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Refund => "refund",
            Self::Balance => "balance",
            Self::OutOfBand => "out_of_band",
        }
    }
}

/// Where the money of a paid invoice goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CreditNoteTo)]
pub enum To {
    Refund,
    Balance,
    OutOfBand,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct CreditNote {
    pub id: CreditNoteId,
    /// Given when it is issued, without gaps in its series.
    pub number: Option<String>,
    pub state: State,
    pub invoice: InvoiceId,
    pub invoice_number: String,
    pub consumer: ConsumerId,
    pub reason: Reason,
    /// For the buyer to read.
    pub memo: Option<String>,
    pub settles: Settles,
    #[schema(value_type = String)]
    pub currency: Currency,
    /// Without tax. All amounts are positive: what is credited.
    #[schema(value_type = String)]
    pub subtotal: Money,
    #[schema(value_type = String)]
    pub tax: Money,
    #[schema(value_type = String)]
    pub total: Money,
    pub created_at: DateTime<Utc>,
    pub issued_at: Option<DateTime<Utc>>,
    /// Asked to be voided, and Stripe has not agreed yet.
    pub voiding_since: Option<DateTime<Utc>>,
    pub voided_at: Option<DateTime<Utc>>,
    /// Why Stripe refused it or its voiding, or why it waits.
    pub error: Option<String>,
    pub stripe_id: Option<String>,
    pub lines: Vec<CreditNoteLine>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct CreditNoteLine {
    /// The line that it takes back, or a part of.
    pub line: InvoiceLineId,
    pub name: String,
    /// With the tax where it is inclusive, without where it is exclusive.
    #[schema(value_type = String)]
    pub amount: Money,
    #[schema(value_type = String)]
    pub net: Money,
    #[schema(value_type = String)]
    pub tax: Money,
    #[serde(skip)]
    pub of: InvoiceLine,
}

/// A credit note to be made.
#[derive(Debug, Clone, Default)]
pub struct NewCreditNote {
    /// Lines with what is taken back of each, as priced (with the tax where it is inclusive), or all that is left of it.
    /// Everything that is left of the invoice when there are none.
    pub lines: Vec<(InvoiceLineId, Option<BigDecimal>)>,
    pub reason: Reason,
    pub memo: Option<String>,
    /// Needed where the invoice is paid.
    pub to: Option<To>,
    /// What was left of the invoice when this was decided. Where it has changed since, nothing is credited: so a form that is
    /// sent twice credits once.
    pub left: Option<Money>,
    /// Lines whose usage is corrected by it: what of it was too much, as it was priced.
    pub corrects: HashMap<InvoiceLineId, Corrected>,
}

/// Usage that was billed too much.
#[derive(Debug, Clone)]
pub struct Corrected {
    pub amount: Money,
    pub quantity: BigDecimal,
}

/// Makes a credit note for an invoice; pending when Stripe does not answer now.
pub async fn credit(app: &App, ws: &WorkspaceId, invoice: &InvoiceId, new: &NewCreditNote, actor: &str) -> Result<CreditNote, SettleError> {
    let mut tx = app.pg.begin().await?;
    let workspace = workspace::by_id(&mut tx, ws).await.map_err(BillingError::from)?.ok_or(BillingError::NotFound("workspace"))?;
    let id = ask::ask(&mut tx, &workspace, invoice, new, actor).await?;
    let at_stripe = invoices::get(&mut tx, ws, invoice).await?.and_then(|invoice| invoice.stripe_id);
    if at_stripe.is_none() {
        issue::issue(&mut tx, &workspace, &id, None).await?;
    }
    tx.commit().await?;
    if let Some(stripe_invoice) = at_stripe {
        there::carry(app, &workspace, &id, &stripe_invoice).await?;
    }
    let made = get(&mut *app.pg.acquire().await?, ws, &id).await?.ok_or(BillingError::NotFound("credit note"))?;
    match (made.state, &made.error) {
        (State::Refused, Some(why)) => Err(BillingError::conflict("stripe-refused", format!("Nothing was credited. {why}")).into()),
        _ => Ok(made),
    }
}
