//! Stripe's objects, as much of them as is used. Reading whole objects (async-stripe has types for all of them) would
//! fail on every detail that differs between API versions, and decoding an invoice with all it can contain alone took
//! minutes to compile.

use std::collections::HashMap;

use serde::Deserialize;

/// An object of which only the id and our metadata matter.
#[derive(Debug, Clone, Deserialize)]
pub struct Tagged {
    pub id: String,
    #[serde(default)]
    metadata: Option<HashMap<String, String>>,
}

impl Tagged {
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(key).map(String::as_str)
    }
}

/// A page of a list.
#[derive(Debug, Clone, Deserialize)]
pub struct List<T> {
    pub data: Vec<T>,
    pub has_more: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Draft,
    Open,
    Paid,
    Uncollectible,
    Void,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Invoice {
    #[serde(flatten)]
    pub tagged: Tagged,
    pub status: Status,
    /// In lower case.
    pub currency: String,
    pub subtotal: i64,
    pub total: i64,
    pub total_excluding_tax: Option<i64>,
    pub total_taxes: Option<Vec<Tax>>,
    /// The first ten.
    pub lines: List<Tagged>,
    pub hosted_invoice_url: Option<String>,
    #[serde(default)]
    pub amount_paid: Option<i64>,
    #[serde(default)]
    pub pre_payment_credit_notes_amount: i64,
    #[serde(default)]
    pub post_payment_credit_notes_amount: i64,
    pub attempt_count: i64,
    pub next_payment_attempt: Option<i64>,
    pub status_transitions: Transitions,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Tax {
    pub amount: i64,
}

/// Seconds since 1970.
#[derive(Debug, Clone, Deserialize)]
pub struct Transitions {
    pub paid_at: Option<i64>,
    pub voided_at: Option<i64>,
    pub marked_uncollectible_at: Option<i64>,
}
