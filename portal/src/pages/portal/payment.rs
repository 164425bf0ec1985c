use askama::Template;

use crate::view::{Facts, Note, Shell};

/// How invoices are paid. The card itself is only ever typed at Stripe.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/payment.html")]
pub struct PaymentPage {
    pub shell: Shell,
    pub method: Option<Facts>,
    pub note: Option<Note>,
    pub may_change: bool,
    pub available: bool,
}

/// The way to Stripe: a link, because a form of ours may not lead to another host.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/payment_go.html")]
pub struct PaymentGoPage {
    pub shell: Shell,
    pub url: String,
}
