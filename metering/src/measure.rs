//! What a meter measures, as an expression over columns.

use bigdecimal::{BigDecimal, Zero};
use farebox_core::money::MAX_DECIMALS;

use crate::MeteringError;
use crate::meters::{Aggregate, Definition};

/// Refuses a definition that could not be measured.
pub fn check(definition: &Definition) -> Result<(), MeteringError> {
    let named = |what: &str| format!("meters/{}/{what}", definition.name);
    if definition.name.is_empty() || !definition.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
        return Err(MeteringError::invalid(named("name"), "has letters, digits, `_`, `-` and `.`"));
    }
    if crate::meters::Meter::builtin(&definition.name).is_some() {
        return Err(MeteringError::invalid(named("name"), "is a meter that exists everywhere; choose another name"));
    }
    match (&definition.aggregate, &definition.value) {
        (Aggregate::Sum, None) => return Err(MeteringError::invalid(named("value"), "a sum needs a value: a field or a JSON pointer")),
        (Aggregate::Count, Some(_)) => return Err(MeteringError::invalid(named("value"), "a count has no value")),
        _ => {}
    }
    if let Some(by) = &definition.divide_by
        && (*by <= BigDecimal::zero() || by.normalized().as_bigint_and_exponent().1 > MAX_DECIMALS)
    {
        return Err(MeteringError::invalid(named("divide_by"), "must be above 0, with at most 12 decimals"));
    }
    Ok(())
}
