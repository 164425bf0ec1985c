//! One invoice on both sides. Pure.

use farebox_core::ids::InvoiceId;
use farebox_core::money::{Currency, Money};

use crate::invoices::State;
use crate::stripe::bill::INVOICE_KEY;
use crate::stripe::currency::to_stripe;
use crate::stripe::view::{Invoice as Theirs, Status};

#[derive(Debug, Clone)]
pub struct Ours {
    pub id: InvoiceId,
    pub number: String,
    pub state: State,
    pub currency: Currency,
    pub total_minor: i64,
    /// By credit notes, before and after it was paid.
    pub credited_minor: i64,
    pub stripe_id: Option<String>,
    /// Held back on its way.
    pub blocked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub invoice: Option<String>,
    pub number: Option<String>,
    pub stripe_id: Option<String>,
    pub currency: String,
    pub our_state: Option<String>,
    pub our_minor: Option<i64>,
    pub stripe_state: Option<String>,
    /// In Stripe's units.
    pub stripe_minor: Option<i64>,
    pub stripe_paid: Option<i64>,
    /// None when both agree.
    pub difference: Option<String>,
}

fn name(status: Status) -> &'static str {
    match status {
        Status::Draft => "draft",
        Status::Open => "open",
        Status::Paid => "paid",
        Status::Uncollectible => "uncollectible",
        Status::Void => "void",
    }
}

pub fn compare(ours: &Ours, theirs: Option<&Theirs>) -> Row {
    let mut differences = Vec::new();
    match (&ours.stripe_id, theirs) {
        (None, _) if ours.blocked => differences.push("held back on its way to Stripe: see its page for the reason".to_owned()),
        (None, _) => differences.push("not at Stripe yet".to_owned()),
        (Some(_), None) => differences.push("Stripe does not have it".to_owned()),
        (Some(_), Some(theirs)) => {
            let expected = match ours.state {
                State::Paid => Status::Paid,
                State::Void => Status::Void,
                State::Uncollectible => Status::Uncollectible,
                State::Issued | State::Draft => Status::Open,
            };
            if theirs.status != expected {
                differences.push(format!("ours is {}, Stripe's {}", ours.state.as_str(), name(theirs.status)));
            }
            if theirs.currency != ours.currency.code().to_ascii_lowercase() {
                differences.push(format!("currency: ours {}, Stripe's {}", ours.currency, theirs.currency.to_ascii_uppercase()));
            }
            match to_stripe(Money::new(ours.total_minor, ours.currency)) {
                Ok(total) if total == theirs.total => {}
                Ok(total) => differences.push(format!("total: ours {total}, Stripe's {}, in Stripe's units", theirs.total)),
                Err(error) => differences.push(format!("our total cannot be told in Stripe's units: {error}")),
            }
            let credited = theirs.pre_payment_credit_notes_amount + theirs.post_payment_credit_notes_amount;
            if to_stripe(Money::new(ours.credited_minor, ours.currency)) != Ok(credited) {
                let ours = Money::new(ours.credited_minor, ours.currency);
                differences.push(format!("credit notes: ours {ours}, Stripe's {credited} in Stripe's units"));
            }
        }
    }
    Row {
        invoice: Some(ours.id.to_string()),
        number: Some(ours.number.clone()),
        stripe_id: ours.stripe_id.clone(),
        currency: ours.currency.code().to_owned(),
        our_state: Some(ours.state.as_str().to_owned()),
        our_minor: Some(ours.total_minor),
        stripe_state: theirs.map(|theirs| name(theirs.status).to_owned()),
        stripe_minor: theirs.map(|theirs| theirs.total),
        stripe_paid: theirs.and_then(|theirs| theirs.amount_paid),
        difference: (!differences.is_empty()).then(|| differences.join("; ")),
    }
}

/// An invoice that carries our mark and is not the one we pushed: a copy made there, or one we lost.
pub fn only_there(theirs: &Theirs) -> Row {
    Row {
        invoice: theirs.tagged.tag(INVOICE_KEY).map(str::to_owned),
        number: None,
        stripe_id: Some(theirs.tagged.id.clone()),
        currency: theirs.currency.to_ascii_uppercase(),
        our_state: None,
        our_minor: None,
        stripe_state: Some(name(theirs.status).to_owned()),
        stripe_minor: Some(theirs.total),
        stripe_paid: theirs.amount_paid,
        difference: Some("it carries our mark and is not the invoice we pushed: void it there unless it is wanted".to_owned()),
    }
}
