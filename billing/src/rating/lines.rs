//! The lines of one plan version over one stretch of a period: fees, usage, the minimum, the cap.

use chrono_tz::Tz;
use farebox_core::money::{BigDecimal, Currency, Money};
use farebox_core::period::Period;

use super::error::RatingError;
use super::models::{price_quantity, zero};
use super::plan::{Amounts, Model, PlanDefinition, Price, Proration};
use super::proration::{Fraction, fraction};
use super::words::{human, join, stretch};

/// What kind of thing a line charges for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    Fee,
    Usage,
    /// What is missing to a minimum commitment.
    Minimum,
    /// What is above a spend cap, taken off.
    Cap,
    /// What an earlier invoice left to this one.
    Carried,
}

impl LineKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fee => "fee",
            Self::Usage => "usage",
            Self::Minimum => "minimum",
            Self::Cap => "cap",
            Self::Carried => "carried",
        }
    }
}

/// A priced line, rounded once, before tax.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub kind: LineKind,
    pub name: String,
    pub price: Option<String>,
    pub meter: Option<String>,
    pub period: Period,
    pub quantity: BigDecimal,
    pub amount: Money,
    pub explanation: String,
    pub counts_to_minimum: bool,
    /// Something a person should look at, such as negative usage.
    pub alert: Option<String>,
}

/// The stretch being rated: which part of which period, by which calendar, in which money.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    pub currency: Currency,
    pub zone: Tz,
    pub period: Period,
    pub part: Period,
    pub proration: Proration,
}

impl Scope {
    fn fraction(&self) -> Result<Fraction, RatingError> {
        fraction(self.period, self.part, self.proration, self.zone)
    }
}

/// What a meter counted over the stretch; and, when a period is continued, what of it was already billed.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    pub value: BigDecimal,
    pub prior: Option<Prior>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Prior {
    pub value: BigDecimal,
    pub billed: Money,
}

fn amount_of<'a>(amounts: &'a Amounts, name: &str, currency: Currency) -> Result<&'a BigDecimal, RatingError> {
    amounts.get(currency).ok_or_else(|| RatingError::NoAmount { price: name.to_owned(), currency })
}

/// A flat fee for the stretch, prorated when it is only part of the period.
pub fn fee(price: &Price, amount: &Amounts, scope: &Scope) -> Result<Line, RatingError> {
    let whole = amount_of(amount, &price.name, scope.currency)?;
    let share = scope.fraction()?;
    let amount = share.round(whole, scope.currency)?;
    let explanation = if share.is_whole() {
        format!("{} for {}", human(whole), stretch(scope.period, scope.zone))
    } else {
        format!("{} × {} ({}) = {amount}", human(whole), share.words(), stretch(scope.part, scope.zone))
    };
    Ok(Line {
        kind: LineKind::Fee,
        name: price.name.clone(),
        price: Some(price.name.clone()),
        meter: None,
        period: scope.part,
        quantity: BigDecimal::from(1),
        amount,
        explanation,
        counts_to_minimum: price.counts_to_minimum,
        alert: None,
    })
}

/// The unused part of a fee that was paid in advance, given back.
pub fn fee_credit(price: &Price, amount: &Amounts, scope: &Scope) -> Result<Line, RatingError> {
    let mut line = fee(price, amount, scope)?;
    line.amount = Money::zero(scope.currency).checked_sub(line.amount)?;
    line.name = format!("{}, unused part", price.name);
    line.explanation = format!("paid in advance and not used: {}, given back", line.explanation);
    line.quantity = BigDecimal::from(-1);
    Ok(line)
}

/// Usage over the stretch: what is included is taken off, the model prices the rest, the bounds hold it, one rounding.
pub fn usage(price: &Price, used: &Usage, scope: &Scope) -> Result<Line, RatingError> {
    let mut steps = Vec::new();
    let mut alert = None;
    let mut q = used.value.clone();
    if q < zero() {
        steps.push(format!("{} was counted, which is below zero and rates as zero", human(&q)));
        alert = Some(format!("the usage of `{}` is {}, below zero", price.name, human(&q)));
        q = zero();
    }
    if price.included.0 > zero() {
        let left = (&q - &price.included.0).max(zero());
        steps.push(format!("{} less {} included leaves {}", human(&q), human(&price.included.0), human(&left)));
        q = left;
    }
    let priced = price_quantity(price, &q, scope.currency)?;
    steps.push(priced.words);
    let mut amount = Money::round(&priced.amount, scope.currency)?;
    if amount.to_decimal() != priced.amount {
        steps.push(format!("rounded {amount}"));
    }
    if let Some(minimum) = &price.minimum {
        let minimum = scope.fraction()?.round(amount_of(minimum, &price.name, scope.currency)?, scope.currency)?;
        if amount.minor < minimum.minor {
            amount = minimum;
            steps.push(format!("at least {minimum}"));
        }
    }
    if let Some(maximum) = &price.maximum {
        let maximum = Money::exact(amount_of(maximum, &price.name, scope.currency)?, scope.currency)?;
        if amount.minor > maximum.minor {
            amount = maximum;
            steps.push(format!("at most {maximum}"));
        }
    }
    let mut quantity = used.value.clone();
    if let Some(prior) = &used.prior {
        steps.push(format!("{} was billed before for the first {}", prior.billed, human(&prior.value)));
        amount = amount.checked_sub(prior.billed)?;
        quantity -= &prior.value;
    }
    Ok(Line {
        kind: LineKind::Usage,
        name: price.name.clone(),
        price: Some(price.name.clone()),
        meter: price.meter.clone(),
        period: scope.part,
        quantity,
        amount,
        explanation: join(&steps),
        counts_to_minimum: price.counts_to_minimum,
        alert,
    })
}

/// `max(0, minimum - what counts towards it)`, the minimum being prorated and rounded first.
pub fn minimum(plan: &PlanDefinition, lines: &[Line], scope: &Scope) -> Result<Option<Line>, RatingError> {
    let Some(minimum) = &plan.minimum else { return Ok(None) };
    let whole = amount_of(minimum, "minimum", scope.currency)?;
    let share = scope.fraction()?;
    let due = share.round(whole, scope.currency)?;
    let counted = Money::sum(lines.iter().filter(|l| l.counts_to_minimum).map(|l| l.amount), scope.currency)?;
    let missing = due.checked_sub(counted)?;
    if missing.minor <= 0 {
        return Ok(None);
    }
    let prorated = if share.is_whole() { String::new() } else { format!("{} × {} = ", human(whole), share.words()) };
    Ok(Some(extra(LineKind::Minimum, "Minimum", missing, scope, format!("{prorated}{due} at least; {counted} counts towards it"))))
}

/// What the usage lines exceed the spend cap by, taken off.
pub fn cap(plan: &PlanDefinition, lines: &[Line], scope: &Scope) -> Result<Option<Line>, RatingError> {
    let Some(cap) = &plan.spend_cap else { return Ok(None) };
    let cap = Money::exact(amount_of(cap, "spend_cap", scope.currency)?, scope.currency)?;
    let used = Money::sum(lines.iter().filter(|l| l.kind == LineKind::Usage).map(|l| l.amount), scope.currency)?;
    let excess = cap.checked_sub(used)?;
    if excess.minor >= 0 {
        return Ok(None);
    }
    let mut line = extra(LineKind::Cap, "Spend cap", excess, scope, format!("usage comes to {used}; no more than {cap} is charged"));
    // What is not charged does not count as spent.
    line.counts_to_minimum = true;
    Ok(Some(line))
}

fn extra(kind: LineKind, name: &str, amount: Money, scope: &Scope, explanation: String) -> Line {
    Line {
        kind,
        name: name.to_owned(),
        price: None,
        meter: None,
        period: scope.part,
        quantity: BigDecimal::from(1),
        amount,
        explanation,
        counts_to_minimum: false,
        alert: None,
    }
}

/// The flat prices of a plan, with their amounts.
pub fn fees(plan: &PlanDefinition) -> impl Iterator<Item = (&Price, &Amounts, super::plan::Billed)> {
    plan.prices.iter().filter_map(|price| match &price.model {
        Model::Flat { amount, billed } => Some((price, amount, *billed)),
        _ => None,
    })
}

/// The prices of a plan that follow usage.
pub fn usage_prices(plan: &PlanDefinition) -> impl Iterator<Item = (&Price, &str)> {
    plan.prices.iter().filter_map(|price| match &price.model {
        Model::Flat { .. } => None,
        _ => price.meter.as_deref().map(|meter| (price, meter)),
    })
}
