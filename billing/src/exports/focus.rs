//! FOCUS 1.2, the FinOps Open Cost and Usage Specification: what a consumer's own cost tools read. A line is a charge, and
//! its tax another, so that the charges of an invoice add up to its total.

use chrono::TimeDelta;
use farebox_core::money::Money;

use super::sold::{Sold, said};
use super::table::{Column, Kind, Role, Row, Value, column, text};

pub const SUMS: [&str; 4] = ["BilledCost", "ContractedCost", "EffectiveCost", "ListCost"];

const fn cost(name: &'static str) -> Column {
    Column { name, kind: Kind::Money, role: Role::Sum }
}

pub const COLUMNS: &[Column] = &[
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

/// The charge, and its tax when there is one.
pub fn rows(sold: &Sold) -> Vec<Row> {
    let (category, frequency) = filed(&sold.kind);
    let mut found = vec![row(sold, category, frequency, sold.net, format!("{}. {}", sold.name, sold.explanation))];
    if !sold.tax.is_zero() {
        let name = sold.tax_name.as_deref().unwrap_or("Tax");
        found.push(row(sold, "Tax", frequency, sold.tax, format!("{name} on {}", sold.name)));
    }
    found
}

fn row(sold: &Sold, category: &str, frequency: &str, amount: Money, description: String) -> Row {
    let usage = category == "Usage";
    let unit = || sold.meter.as_deref().map_or_else(|| "Units".to_owned(), capital);
    let counted = usage.then(|| sold.quantity.clone());
    let priced = match category {
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
        sold.invoice_end.into(),
        sold.invoice_start.into(),
        category.into(),
        Value::Nothing,
        description.into(),
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

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
