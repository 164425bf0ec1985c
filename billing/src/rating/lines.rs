//! The lines of one plan version over one stretch of a period: fees, the minimum, the cap. Usage has its own file.

use chrono_tz::Tz;
use farebox_core::money::{BigDecimal, Currency, Money};
use farebox_core::period::Period;
use serde::{Deserialize, Serialize};

use super::error::RatingError;
use super::plan::{Amounts, Model, PlanDefinition, Price, Proration};
use super::proration::{Fraction, fraction};
use super::usage::Usage;
use super::words::{human, stretch};

/// What kind of thing a line charges for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
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
    /// Usage that arrived after its period was invoiced, or was taken back since.
    Adjustment,
    /// Prepaid credits used after tax.
    Credit,
    /// Given back because the service was not as promised.
    ServiceCredit,
}

impl LineKind {
    /// Set off against an invoice after its tax, because it was taxed elsewhere: credits for money already taxed, and what an
    /// earlier invoice left to this one.
    pub fn is_set_off(self) -> bool {
        matches!(self, Self::Carried | Self::Credit)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fee => "fee",
            Self::Usage => "usage",
            Self::Minimum => "minimum",
            Self::Cap => "cap",
            Self::Carried => "carried",
            Self::Adjustment => "adjustment",
            Self::Credit => "credit",
            Self::ServiceCredit => "service_credit",
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
    /// The value of the dimension a `matrix` line is for.
    pub value: Option<String>,
    pub period: Period,
    pub quantity: BigDecimal,
    pub amount: Money,
    pub explanation: String,
    pub counts_to_minimum: bool,
    /// What a usage line was rated from, to rate it again.
    pub basis: Option<Basis>,
    /// Something a person should look at, such as negative usage.
    pub alert: Option<String>,
}

/// The inputs of a usage line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Basis {
    pub usage: Usage,
    /// The period of the price that the line's stretch lies in.
    pub of: Period,
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
    pub(super) fn fraction(&self) -> Result<Fraction, RatingError> {
        fraction(self.period, self.part, self.proration, self.zone)
    }
}

pub(super) fn amount_of<'a>(amounts: &'a Amounts, name: &str, currency: Currency) -> Result<&'a BigDecimal, RatingError> {
    amounts.get(currency).ok_or_else(|| RatingError::NoAmount { price: name.to_owned(), currency })
}

/// A flat fee for the stretch, prorated when it is only part of the period; for each unit of `quantity` where the
/// price is charged per seat.
pub fn fee(price: &Price, amount: &Amounts, quantity: &BigDecimal, scope: &Scope) -> Result<Line, RatingError> {
    let each = amount_of(amount, &price.name, scope.currency)?;
    let quantity = if price.per_seat { quantity.clone() } else { BigDecimal::from(1) };
    let whole = each * &quantity;
    let share = scope.fraction()?;
    let amount = share.round(&whole, scope.currency)?;
    let words = if price.per_seat { format!("{} × {} = {}", human(&quantity), human(each), human(&whole)) } else { human(each) };
    let explanation = if share.is_whole() {
        format!("{words} for {}", stretch(scope.period, scope.zone))
    } else {
        format!("{words} × {} ({}) = {amount}", share.words(), stretch(scope.part, scope.zone))
    };
    Ok(Line {
        kind: LineKind::Fee,
        name: price.name.clone(),
        price: Some(price.name.clone()),
        meter: None,
        value: None,
        period: scope.part,
        quantity,
        amount,
        explanation,
        counts_to_minimum: price.counts_to_minimum,
        basis: None,
        alert: None,
    })
}

/// The unused part of a fee that was paid in advance, given back.
pub fn fee_credit(price: &Price, amount: &Amounts, quantity: &BigDecimal, scope: &Scope) -> Result<Line, RatingError> {
    let mut line = fee(price, amount, quantity, scope)?;
    line.amount = Money::zero(scope.currency).checked_sub(line.amount)?;
    line.name = format!("{}, unused part", price.name);
    line.explanation = format!("paid in advance and not used: {}, given back", line.explanation);
    line.quantity = -line.quantity;
    Ok(line)
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
        value: None,
        period: scope.part,
        quantity: BigDecimal::from(1),
        amount,
        explanation,
        counts_to_minimum: false,
        basis: None,
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
