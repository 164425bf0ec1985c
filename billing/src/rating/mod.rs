//! Prices to amounts: pure functions, exact decimals, one rounding at the end of each line.
//!
//! [`models`] prices a quantity, [`lines`] makes the lines of a plan version over a stretch of a period, [`tax`]
//! taxes a line, and [`rate`] puts them in the order of an invoice: fees and usage, cap, minimum, tax, total. The same
//! functions serve invoices, previews and `farebox rate`; none of them sees a store, a clock or an HTTP type.

pub mod cli;
pub mod cycle;
pub mod error;
pub mod lines;
pub mod models;
pub mod plan;
pub mod proration;
pub mod tax;
pub mod words;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod worked_examples;

use std::collections::BTreeMap;

use farebox_core::money::{Currency, Money};

pub use error::RatingError;
pub use lines::{Line, LineKind, Prior, Scope, Usage};
pub use plan::PlanDefinition;
pub use tax::{LineTax, TaxRate};

/// A line with its tax.
#[derive(Debug, Clone, PartialEq)]
pub struct RatedLine {
    pub line: Line,
    pub tax: Option<LineTax>,
}

/// Lines in their order, and their sums: `subtotal` without tax, `total` with it.
#[derive(Debug, Clone, PartialEq)]
pub struct RatedInvoice {
    pub currency: Currency,
    pub lines: Vec<RatedLine>,
    pub subtotal: Money,
    pub tax: Money,
    pub total: Money,
}

/// All lines of one plan version over one stretch, before tax: fees of this very stretch (whether they are billed in
/// advance or in arrears), usage by `meters`, the cap and the minimum.
pub fn stretch_lines(plan: &PlanDefinition, scope: &Scope, meters: &BTreeMap<String, Usage>) -> Result<Vec<Line>, RatingError> {
    let mut found = Vec::new();
    for (price, amount, _) in lines::fees(plan) {
        found.push(lines::fee(price, amount, scope)?);
    }
    found.extend(usage_lines(plan, scope, meters)?);
    found.extend(lines::minimum(plan, &found, scope)?);
    Ok(found)
}

/// The usage lines and the cap on them. A meter without a value counts as zero.
pub fn usage_lines(plan: &PlanDefinition, scope: &Scope, meters: &BTreeMap<String, Usage>) -> Result<Vec<Line>, RatingError> {
    let nothing = Usage { value: models::zero(), prior: None };
    let mut found = Vec::new();
    for (price, meter) in lines::usage_prices(plan) {
        found.push(lines::usage(price, meters.get(meter).unwrap_or(&nothing), scope)?);
    }
    found.extend(lines::cap(plan, &found, scope)?);
    Ok(found)
}

/// Taxes each line and adds everything up.
pub fn total(lines: Vec<Line>, tax_rate: Option<&TaxRate>, currency: Currency) -> Result<RatedInvoice, RatingError> {
    let mut rated = Vec::with_capacity(lines.len());
    let (mut subtotal, mut tax_total) = (Money::zero(currency), Money::zero(currency));
    for line in lines {
        // What is carried over was taxed where it came from.
        let tax = tax_rate.filter(|_| line.kind != LineKind::Carried).map(|rate| tax::on(line.amount, rate)).transpose()?;
        subtotal = subtotal.checked_add(tax.as_ref().map_or(line.amount, |t| t.net))?;
        tax_total = tax_total.checked_add(tax.as_ref().map_or(Money::zero(currency), |t| t.tax))?;
        rated.push(RatedLine { line, tax });
    }
    Ok(RatedInvoice { currency, lines: rated, subtotal, tax: tax_total, total: subtotal.checked_add(tax_total)? })
}

/// One plan version over one stretch, taxed: what `farebox rate` prints.
pub fn rate(
    plan: &PlanDefinition,
    scope: &Scope,
    meters: &BTreeMap<String, Usage>,
    tax_rate: Option<&TaxRate>,
) -> Result<RatedInvoice, RatingError> {
    total(stretch_lines(plan, scope, meters)?, tax_rate, scope.currency)
}
