//! What calls cost, by the file.

use farebox_core::money::decimal;

use super::check::instant;
use super::errors::Errors;
use super::raw::RawCost;
use crate::margin::costs::{Cost, ever};

/// What else may be wrong with them is told when they are applied.
pub fn read(raw: &[RawCost], errors: &mut Errors) -> Vec<Cost> {
    let cost = |(n, raw): (usize, &RawCost)| {
        let path = format!("costs[{n}]");
        let from = match &raw.from {
            Some(from) => instant(from, &format!("{path}.from"), errors)?,
            None => ever(),
        };
        let per_call = errors.keep(decimal(&raw.per_call.value), &raw.per_call, &format!("{path}.per_call"))?;
        let api = raw.api.as_ref().map(|api| api.value.clone()).unwrap_or_default();
        Some(Cost { api, route: raw.route.value.clone(), per_call, from })
    };
    raw.iter().enumerate().filter_map(cost).collect()
}
