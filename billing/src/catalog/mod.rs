//! The catalogue as code: a provider's settings, sources, apis, meters, plans and consumers in one file.
//!
//! [`parse`] reads the whole file and names everything that is wrong with it, each with its line. [`apply`] brings the
//! workspace to what the file says, in one transaction; the same file again changes nothing. What a published plan
//! version says never changes: other content under its number is refused. [`diff`] says what [`apply`] would do, and
//! [`export`] writes the file back.

mod alerts;
mod apis;
mod apply;
mod check;
mod consumers;
mod costs;
mod coupons;
mod decisions;
mod errors;
mod export;
mod formats;
mod included;
mod meters;
mod plan;
mod raw;
mod seller;
mod settings;
mod sla;

use std::collections::BTreeSet;

use farebox_core::money::Currency;

pub use alerts::AlertEntry;
pub use apply::{Applied, Change, apply, diff};
pub use check::Catalog;
pub use consumers::{ConsumerEntry, SubscriptionEntry};
pub use coupons::CouponEntry;
pub use errors::{CatalogError, field_problem, problem};
pub use export::{export, written};

use crate::rating::plan::Price;
use crate::rating::{PlanDefinition, TaxRate};

/// Reads and checks a catalogue file.
pub fn parse(text: &str) -> Result<Catalog, Vec<CatalogError>> {
    let raw: raw::RawCatalog = serde_saphyr::from_str(text).map_err(|e| vec![errors::from_parser(&e)])?;
    check::check(&raw)
}

/// Reads one entry of `plans`, for `farebox rate`; amounts without a currency are in `currency`.
pub fn parse_plan(text: &str, currency: Currency) -> Result<(PlanDefinition, Option<TaxRate>), Vec<CatalogError>> {
    let raw: raw::RawPlan = serde_saphyr::from_str(text).map_err(|e| vec![errors::from_parser(&e)])?;
    let mut errors = errors::Errors::default();
    let plan = plan::Reader { currency, errors: &mut errors }.plan(&raw, "plan");
    match plan {
        Some(plan) if errors.is_empty() => Ok(plan),
        _ => Err(errors.into_sorted()),
    }
}

/// Reads one entry of `plans` that is not published, of a workspace with these meters.
pub fn parse_draft(text: &str, currency: Currency, meters: &BTreeSet<String>) -> Result<PlanDefinition, Vec<CatalogError>> {
    let raw: raw::RawPlan = serde_saphyr::from_str(text).map_err(|e| vec![errors::from_parser(&e)])?;
    let mut errors = errors::Errors::default();
    check::meters_exist(&raw, "plan", meters, &mut errors);
    let plan = plan::Reader { currency, errors: &mut errors }.plan(&raw, "plan");
    match plan {
        Some((plan, _)) if errors.is_empty() => Ok(plan),
        _ => Err(errors.into_sorted()),
    }
}

/// Reads one price of a plan, for an add-on.
pub fn parse_price(text: &str, currency: Currency) -> Result<Price, Vec<CatalogError>> {
    let raw: raw::RawPrice = serde_saphyr::from_str(text).map_err(|e| vec![errors::from_parser(&e)])?;
    let mut errors = errors::Errors::default();
    let price = plan::Reader { currency, errors: &mut errors }.price(&raw, false, "price");
    match price {
        Some(price) if errors.is_empty() => Ok(price),
        _ => Err(errors.into_sorted()),
    }
}

#[cfg(test)]
mod tests;
