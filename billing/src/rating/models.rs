//! From a quantity to an exact amount, and the arithmetic in words. Nothing is rounded here.

use farebox_core::money::{BigDecimal, Currency};

use super::error::RatingError;
use super::plan::{Amounts, Model, Price, Tier, Unit};
use super::words::{human, join};

/// An exact amount in major units, and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Priced {
    pub amount: BigDecimal,
    pub words: String,
}

pub fn zero() -> BigDecimal {
    BigDecimal::from(0)
}

/// The amount for `q`, what was included being already taken off. `q` is not negative.
pub fn price_quantity(price: &Price, q: &BigDecimal, currency: Currency) -> Result<Priced, RatingError> {
    let amount_of =
        |amounts: &Amounts| amounts.get(currency).cloned().ok_or_else(|| RatingError::NoAmount { price: price.name.clone(), currency });
    match &price.model {
        Model::Flat { amount, .. } => {
            let amount = amount_of(amount)?;
            Ok(Priced { words: human(&amount), amount })
        }
        Model::PerUnit { unit_amount } => {
            let unit = amount_of(unit_amount)?;
            let amount = &unit * q;
            Ok(Priced { words: format!("{} × {} = {}", human(q), human(&unit), human(&amount)), amount })
        }
        Model::Package { amount, package_size } => {
            let each = amount_of(amount)?;
            let packages = ceil_div(q, &package_size.0);
            let total = &each * &packages;
            let words = format!(
                "{} in packages of {}: {} × {} = {}",
                human(q),
                human(&package_size.0),
                human(&packages),
                human(&each),
                human(&total)
            );
            Ok(Priced { amount: total, words })
        }
        Model::Graduated { tiers, flat_at_zero } | Model::GraduatedPercentage { tiers, flat_at_zero } => {
            graduated(price, tiers, *flat_at_zero, q, &amount_of)
        }
        Model::Volume { tiers, flat_at_zero } => volume(price, tiers, *flat_at_zero, q, &amount_of),
        // Priced by [`super::usage`], which knows more than a quantity.
        Model::Percentage { .. } => Err(RatingError::NeedsEvents { price: price.name.clone() }),
        Model::Matrix { dimension, .. } => Err(RatingError::NeedsValues { price: price.name.clone(), dimension: dimension.clone() }),
        Model::PassThrough => Ok(Priced { amount: q.clone(), words: format!("{} passed on as it is", human(q)) }),
    }
}

/// How many packages of `size` hold `q`; a begun one counts whole.
fn ceil_div(q: &BigDecimal, size: &BigDecimal) -> BigDecimal {
    let whole = (q / size).with_scale_round(0, bigdecimal::RoundingMode::Floor);
    // The quotient may be cut after its 100th digit, the product never is.
    let whole = if &whole * size > *q { whole - 1 } else { whole };
    if &whole * size < *q { whole + 1 } else { whole }
}

type AmountOf<'a> = &'a dyn Fn(&Amounts) -> Result<BigDecimal, RatingError>;

fn unit_and_flat(tier: &Tier, amount_of: AmountOf) -> Result<(BigDecimal, BigDecimal), RatingError> {
    let unit = match &tier.unit {
        Unit::UnitAmount(amounts) => amount_of(amounts)?,
        Unit::Rate(rate) => rate.0.clone(),
    };
    Ok((unit, tier.flat_amount.as_ref().map_or_else(|| Ok(zero()), amount_of)?))
}

fn beyond(price: &Price, tiers: &[Tier], q: &BigDecimal) -> RatingError {
    let last = tiers.last().and_then(|tier| tier.up_to.as_ref()).map(|d| human(&d.0)).unwrap_or_default();
    RatingError::BeyondLastTier { price: price.name.clone(), quantity: human(q), last }
}

/// Nothing used: the first tier's flat amount if the price says so, else nothing.
fn at_zero(tiers: &[Tier], flat_at_zero: bool, amount_of: AmountOf) -> Result<Priced, RatingError> {
    match tiers.first() {
        Some(first) if flat_at_zero => {
            let flat = unit_and_flat(first, amount_of)?.1;
            Ok(Priced { words: format!("nothing used; {} is due all the same", human(&flat)), amount: flat })
        }
        _ => Ok(Priced { amount: zero(), words: "nothing to charge".to_owned() }),
    }
}

/// Each tier prices the part of `q` inside it, and adds its flat amount once `q` is above its lower bound.
fn graduated(price: &Price, tiers: &[Tier], flat_at_zero: bool, q: &BigDecimal, amount_of: AmountOf) -> Result<Priced, RatingError> {
    if *q == zero() {
        return at_zero(tiers, flat_at_zero, amount_of);
    }
    let (mut total, mut lower, mut steps) = (zero(), zero(), Vec::new());
    for tier in tiers {
        if *q <= lower {
            break;
        }
        let upper = tier.up_to.as_ref().map(|d| &d.0);
        let top = upper.map_or(q, |upper| upper.min(q));
        let part = top - &lower;
        let (unit, flat) = unit_and_flat(tier, amount_of)?;
        let amount = &part * &unit + &flat;
        let flat_words = if flat == zero() { String::new() } else { format!(" + {}", human(&flat)) };
        steps.push(format!("{} × {}{flat_words} = {}", human(&part), human(&unit), human(&amount)));
        total += amount;
        lower = top.clone();
    }
    if lower < *q {
        return Err(beyond(price, tiers, q));
    }
    if steps.len() > 1 {
        steps.push(format!("together {}", human(&total)));
    }
    Ok(Priced { amount: total, words: join(&steps) })
}

/// The one tier that holds `q` prices all of it.
fn volume(price: &Price, tiers: &[Tier], flat_at_zero: bool, q: &BigDecimal, amount_of: AmountOf) -> Result<Priced, RatingError> {
    if *q == zero() {
        return at_zero(tiers, flat_at_zero, amount_of);
    }
    let tier = tiers.iter().find(|tier| tier.up_to.as_ref().is_none_or(|upper| *q <= upper.0)).ok_or_else(|| beyond(price, tiers, q))?;
    let (unit, flat) = unit_and_flat(tier, amount_of)?;
    let amount = q * &unit + &flat;
    let tier_words = tier.up_to.as_ref().map_or_else(|| "the last tier".to_owned(), |upper| format!("the tier up to {}", human(&upper.0)));
    let flat_words = if flat == zero() { String::new() } else { format!(" + {}", human(&flat)) };
    let words = format!("{} falls in {tier_words}: {} × {}{flat_words} = {}", human(q), human(q), human(&unit), human(&amount));
    Ok(Priced { amount, words })
}
