//! Tax on what is left of each line: computed on rounded amounts, and rounded itself.

use farebox_core::money::{BigDecimal, Currency, Money, MoneyError};
use serde::{Deserialize, Serialize};

use super::error::RatingError;
use super::invoice::{RatedLine, spread};
use super::lines::LineKind;
use super::plan::Decimal;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaxRate {
    pub name: String,
    /// 0.19 is 19 %.
    pub rate: Decimal,
    /// Whether prices already hold it.
    pub inclusive: bool,
    #[serde(default)]
    pub per: TaxPer,
    /// Why it is not charged, for the invoice.
    #[serde(default)]
    pub note: Option<String>,
}

/// What the tax is rounded by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaxPer {
    #[default]
    Line,
    /// Once for the invoice, and spread over its lines by largest remainder.
    Document,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineTax {
    pub rate: TaxRate,
    pub net: Money,
    pub tax: Money,
}

/// Taxes what is left of every line; what is carried over was taxed where it came from.
pub fn lines(rated: &mut [RatedLine], rate: &TaxRate, currency: Currency) -> Result<(), RatingError> {
    let taxed = |line: &RatedLine| line.line.kind != LineKind::Carried;
    if rate.per == TaxPer::Line {
        for line in rated.iter_mut().filter(|line| taxed(line)) {
            line.tax = Some(on(line.left()?, rate)?);
        }
        return Ok(());
    }
    let lefts = rated.iter().map(|line| Ok(if taxed(line) { line.left()?.minor } else { 0 })).collect::<Result<Vec<_>, RatingError>>()?;
    let base = Money::sum(lefts.iter().map(|minor| Money::new(*minor, currency)), currency)?;
    let whole = on(base, rate)?;
    for ((line, tax), left) in rated.iter_mut().zip(spread(whole.tax.minor, &lefts)).zip(lefts) {
        if taxed(line) {
            let (left, tax) = (Money::new(left, currency), Money::new(tax, currency));
            let net = if rate.inclusive { left.checked_sub(tax)? } else { left };
            line.tax = Some(LineTax { rate: rate.clone(), net, tax });
        }
    }
    Ok(())
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
