//! FOCUS 1.2, the FinOps Open Cost and Usage Specification: what a consumer's own cost tools read. A line is a charge, and
//! its tax another, so that the charges of an invoice add up to its total. What a credit note takes back corrects the charge of
//! an earlier billing period: the same charge once more, negative, in the month in which the note was issued.

use chrono::TimeDelta;
use farebox_core::money::Money;
use farebox_core::period::Period;
use futures::FutureExt;

use super::{Shape, Sold, rows, said, totals};
use crate::calendar;
use crate::exports::scope::Scope;
use crate::exports::table::{Column, Kind, Role, Row, column, text};
use crate::exports::{Report, Source};

const COSTS: &[&str] = &["BilledCost", "ContractedCost", "EffectiveCost", "ListCost"];

const fn cost(name: &'static str) -> Column {
    Column { name, kind: Kind::Money, role: Role::Sum }
}

pub const REPORT: Report = Report {
    name: "focus",
    about: "charges and their corrections as FOCUS 1.2 wants them, for the consumers' cost tools",
    source: Source::Documents,
    columns: COLUMNS,
    rows: |conn, scope| rows(conn, scope, &CHARGES),
    totals: |conn, scope| totals(conn, scope, &CHARGES).boxed(),
};

const CHARGES: Shape =
    Shape { invoices: true, credit_notes: true, negative: true, row: charge, tax_row: Some(tax), net: COSTS, tax: COSTS };

const COLUMNS: &[Column] = &[
    cost("BilledCost"),
    text("BillingAccountId"),
    text("BillingAccountName"),
    Column { name: "BillingCurrency", kind: Kind::Text, role: Role::Currency },
    column("BillingPeriodEnd", Kind::Instant),
    column("BillingPeriodStart", Kind::Instant),
    text("ChargeCategory"),
    text("ChargeClass"),
    text("ChargeDescription"),
    text("ChargeFrequency"),
    column("ChargePeriodEnd", Kind::Instant),
    column("ChargePeriodStart", Kind::Instant),
    column("ConsumedQuantity", Kind::Quantity),
    text("ConsumedUnit"),
    cost("ContractedCost"),
    cost("EffectiveCost"),
    text("InvoiceId"),
    text("InvoiceIssuerName"),
    cost("ListCost"),
    text("PricingCategory"),
    column("PricingQuantity", Kind::Quantity),
    text("PricingUnit"),
    text("ProviderName"),
    text("PublisherName"),
    text("ServiceCategory"),
    text("ServiceName"),
    text("ServiceSubcategory"),
    text("SubAccountId"),
    text("x_InvoiceLine"),
    text("x_Price"),
];

/// How the specification files a kind of line: category, frequency.
fn filed(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "usage" => ("Usage", "Usage-Based"),
        "fee" | "minimum" => ("Purchase", "Recurring"),
        "cap" | "discount" | "credit" => ("Credit", "One-Time"),
        _ => ("Adjustment", "One-Time"),
    }
}

fn charge(sold: &Sold, scope: &Scope) -> Row {
    let (category, frequency) = filed(&sold.kind);
    let said = match &sold.corrects {
        Some(of) => format!("Corrects {} on {}", sold.name, of.number),
        None => format!("{}. {}", sold.name, sold.explanation),
    };
    row(sold, scope, category, frequency, sold.net, said)
}

fn tax(sold: &Sold, scope: &Scope) -> Row {
    let (_, frequency) = filed(&sold.kind);
    let name = sold.tax_name.as_deref().unwrap_or("Tax");
    row(sold, scope, "Tax", frequency, sold.tax, format!("{name} on {}", sold.name))
}

fn row(sold: &Sold, scope: &Scope, category: &str, frequency: &str, amount: Money, description: String) -> Row {
    let usage = category == "Usage";
    // Of a billing period that was invoiced before.
    let correction = sold.corrects.is_some() || sold.kind == "adjustment";
    let billed = sold.corrects.as_ref().and_then(|_| calendar::period_of(sold.issued_at, scope.workspace.time_zone).ok());
    let billed = billed.unwrap_or(Period { start: sold.invoice_start, end: sold.invoice_end });
    let unit = || sold.meter.as_deref().map_or_else(|| "Units".to_owned(), capital);
    // What a correction takes back is an amount: the quantity of its charge stays counted.
    let counted = (usage && !correction).then(|| sold.quantity.clone());
    let priced = match category {
        _ if correction => None,
        "Usage" => Some(sold.quantity.clone()),
        "Purchase" => Some(1.into()),
        _ => None,
    };
    let issuer = said(&sold.seller, "/name").unwrap_or_else(|| "Farebox".to_owned());
    // A period of no length would be no period.
    let end = sold.end.max(sold.start + TimeDelta::minutes(1));
    vec![
        amount.into(),
        sold.consumer.clone().into(),
        said(&sold.buyer, "/name").into(),
        amount.currency.code().into(),
        billed.end.into(),
        billed.start.into(),
        category.into(),
        correction.then_some("Correction").into(),
        ascii(&description).into(),
        frequency.into(),
        end.into(),
        sold.start.into(),
        counted.clone().into(),
        counted.map(|_| unit()).into(),
        amount.into(),
        amount.into(),
        sold.number.clone().into(),
        issuer.clone().into(),
        amount.into(),
        priced.as_ref().map(|_| "Standard").into(),
        priced.clone().into(),
        priced.map(|_| if usage { unit() } else { "Units".to_owned() }).into(),
        issuer.clone().into(),
        issuer.into(),
        "Integration".into(),
        "API".into(),
        "API Management".into(),
        sold.subscription.clone().into(),
        sold.line.clone().into(),
        sold.price.clone().into(),
    ]
}

/// The specification takes nothing else in a description.
fn ascii(text: &str) -> String {
    let plain = |c: char| match c {
        '×' => 'x',
        '−' | '–' | '—' => '-',
        '\u{a0}' | '\u{202f}' => ' ',
        c if c.is_ascii() => c,
        _ => '?',
    };
    text.chars().map(plain).collect()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
