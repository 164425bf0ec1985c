//! Prices to amounts: pure functions, exact decimals, one rounding at the end of each line.
//!
//! [`models`] prices a quantity, [`usage`] makes the lines of a price from what was counted, [`lines`] those of fees,
//! minimum and cap, [`units`] covers usage with what was prepaid, [`schedule`] cuts time into periods, [`cycle`] follows a
//! subscription that changes, [`invoice`] puts lines in the order of an invoice (discounts, credits, tax, total), and [`tax`]
//! taxes a line. The same functions serve invoices, previews and `farebox rate`; none of them sees a store, a clock or an HTTP
//! type.

pub mod cli;
pub mod cycle;
pub mod difference;
pub mod error;
pub mod invoice;
pub mod lines;
pub mod models;
pub mod plan;
pub mod proration;
pub mod schedule;
pub mod tax;
pub mod units;
pub mod usage;
pub mod words;

#[cfg(test)]
mod edges;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod worked_examples;

use std::collections::BTreeMap;

use farebox_core::money::BigDecimal;

pub use error::RatingError;
pub use invoice::{RatedInvoice, RatedLine};
pub use lines::{Line, LineKind, Scope};
pub use plan::PlanDefinition;
pub use tax::{LineTax, TaxRate};
pub use usage::{Detail, Prior, Usage};

/// All lines of one plan version over one stretch, before tax: fees of this very stretch (whether they are billed in
/// advance or in arrears), usage by price, the cap and the minimum.
pub fn stretch_lines(plan: &PlanDefinition, scope: &Scope, used: &BTreeMap<String, Usage>) -> Result<Vec<Line>, RatingError> {
    let mut found = Vec::new();
    for (price, amount, _) in lines::fees(plan) {
        found.push(lines::fee(price, amount, &BigDecimal::from(1), scope)?);
    }
    found.extend(usage_lines(plan, scope, used)?);
    found.extend(lines::minimum(plan, &found, scope)?);
    Ok(found)
}

/// The usage lines by price, and the cap on them. A price without a value was not used.
pub fn usage_lines(plan: &PlanDefinition, scope: &Scope, used: &BTreeMap<String, Usage>) -> Result<Vec<Line>, RatingError> {
    let mut found = Vec::new();
    for (price, _) in lines::usage_prices(plan) {
        let nothing = Usage::of_events(price, &[], scope.currency)?;
        found.extend(usage::usage(price, used.get(&price.name).unwrap_or(&nothing), scope)?);
    }
    found.extend(lines::cap(plan, &found, scope)?);
    Ok(found)
}

/// One plan version over one stretch, in the order of an invoice: what `farebox rate` prints.
pub fn rate(
    plan: &PlanDefinition,
    scope: &Scope,
    used: &BTreeMap<String, Usage>,
    terms: &invoice::Terms,
) -> Result<RatedInvoice, RatingError> {
    invoice::invoice(stretch_lines(plan, scope, used)?, terms, scope.currency)
}
