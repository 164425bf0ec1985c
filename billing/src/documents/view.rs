//! A document's texts as they are printed, the same in PDF and HTML.

use askama::Template;
use bigdecimal::BigDecimal;
use chrono::NaiveDate;
use farebox_core::money::{Money, plain};
use serde::Serialize;

use super::model::{Days, Document, Party};

#[derive(Debug, Serialize, Template)]
#[template(path = "invoice.html")]
pub struct View {
    pub title: String,
    pub number: String,
    pub watermark: Option<String>,
    pub seller: ViewParty,
    pub buyer: ViewParty,
    pub currency: &'static str,
    pub facts: Vec<(String, String)>,
    pub lines: Vec<ViewLine>,
    pub totals: Vec<(String, String)>,
    pub sum: (String, String),
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct ViewParty {
    pub name: String,
    pub lines: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct ViewLine {
    pub name: String,
    pub period: String,
    pub explanation: String,
    pub quantity: String,
    pub tax: String,
    pub amount: String,
}

impl View {
    pub fn new(document: &Document) -> Self {
        let mut facts = vec![("Number".to_owned(), document.number.clone())];
        facts.extend(document.corrects.iter().map(|number| ("Corrects invoice".to_owned(), number.clone())));
        facts.extend(document.issued_on.map(|on| ("Issued".to_owned(), date(on))));
        facts.extend(document.due_on.map(|on| ("Due".to_owned(), date(on))));
        facts.push(("Period".to_owned(), days(document.period)));
        let mut totals = Vec::new();
        let mut taken = vec![("Discounts".to_owned(), document.discount)];
        taken.extend(document.credits.iter().map(|credit| (format!("Prepaid: {}", credit.name), credit.amount)));
        for (name, taken) in taken.into_iter().filter(|(_, taken)| !taken.is_zero()) {
            totals.push((name, money(Money::new(-taken.minor, taken.currency))));
        }
        totals.push(("Subtotal".to_owned(), money(document.subtotal)));
        totals.extend(document.taxes.iter().map(|tax| {
            let included = if tax.inclusive { ", included in the prices" } else { "" };
            (format!("{} {} on {}{included}", tax.name, percent(&tax.rate), money(tax.base)), money(tax.amount))
        }));
        if document.taxes.is_empty() {
            totals.push(("Tax".to_owned(), money(document.tax)));
        }
        if !document.set_off.is_empty() {
            totals.push(("With tax".to_owned(), money(document.with_tax)));
            totals.extend(document.set_off.iter().map(|own| (own.name.clone(), money(own.amount))));
        }
        let lines = document.lines.iter().map(|line| ViewLine {
            name: line.name.clone(),
            period: if line.days == document.period { String::new() } else { days(line.days) },
            explanation: line.explanation.clone(),
            quantity: digits(&plain(&line.quantity)),
            tax: line.tax_rate.as_ref().map(percent).unwrap_or_default(),
            amount: money(line.amount),
        });
        Self {
            title: document.title.clone(),
            number: document.number.clone(),
            watermark: document.watermark.clone(),
            seller: party(&document.seller),
            buyer: party(&document.buyer),
            currency: document.currency.code(),
            facts,
            lines: lines.collect(),
            totals,
            sum: ("Total".to_owned(), format!("{} {}", document.currency, money(document.total))),
            notes: document.set_off.iter().map(|own| format!("{}: {}.", own.name, own.explanation)).chain(document.notes.clone()).collect(),
        }
    }
}

fn party(party: &Party) -> ViewParty {
    let place = [party.postal_code.clone(), party.city.clone()].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let tax_id = party.tax_id.as_ref().map(|id| format!("Tax number {id}"));
    let lines = [party.line1.clone(), party.line2.clone(), Some(place).filter(|place| !place.is_empty()), party.state.clone()];
    let lines = lines.into_iter().chain([party.country.clone(), tax_id, party.email.clone()]).flatten();
    ViewParty { name: party.name.clone(), lines: lines.collect() }
}

/// 3 October 2026: read the same everywhere.
fn date(on: NaiveDate) -> String {
    on.format("%-d %B %Y").to_string()
}

fn days(days: Days) -> String {
    if days.first == days.last { date(days.first) } else { format!("{} – {}", date(days.first), date(days.last)) }
}

fn money(amount: Money) -> String {
    digits(&amount.to_string())
}

/// `1234567.5` -> `1,234,567.5`.
fn digits(plain: &str) -> String {
    let (sign, rest) = plain.strip_prefix('-').map_or(("", plain), |rest| ("−", rest));
    let (whole, fraction) = rest.split_once('.').map_or((rest, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut grouped = String::from(sign);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(fraction) = fraction {
        grouped.push('.');
        grouped.push_str(fraction);
    }
    grouped
}

fn percent(rate: &BigDecimal) -> String {
    format!("{} %", plain(&(rate * BigDecimal::from(100))))
}
