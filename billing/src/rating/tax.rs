//! Tax on a line: computed on the rounded amount, and rounded itself.

use farebox_core::money::{BigDecimal, Money, MoneyError};
use serde::{Deserialize, Serialize};

use super::plan::Decimal;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaxRate {
    pub name: String,
    /// 0.19 is 19 %.
    pub rate: Decimal,
    /// Whether prices already hold it.
    pub inclusive: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineTax {
    pub rate: TaxRate,
    pub net: Money,
    pub tax: Money,
}

/// Splits `amount` into net and tax: net + tax is the amount when inclusive, more than it when exclusive.
pub fn on(amount: Money, rate: &TaxRate) -> Result<LineTax, MoneyError> {
    let (net, tax) = if rate.inclusive {
        let net = Money::round(&(amount.to_decimal() / (BigDecimal::from(1) + &rate.rate.0)), amount.currency)?;
        (net, amount.checked_sub(net)?)
    } else {
        (amount, Money::round(&(amount.to_decimal() * &rate.rate.0), amount.currency)?)
    };
    Ok(LineTax { rate: rate.clone(), net, tax })
}
