//! Usage lines: what was counted for a price over a stretch, and what it comes to.
//!
//! What is included is taken off, the model prices the rest, the bounds hold it, and it is rounded once.

use std::collections::BTreeMap;

use bigdecimal::Zero;
use farebox_core::money::{BigDecimal, Currency, Money};
use serde::{Deserialize, Serialize};

use super::error::RatingError;
use super::lines::{Basis, Line, LineKind, Scope, amount_of};
use super::models::{Priced, price_quantity, zero};
use super::plan::{Amounts, Decimal, Model, Price};
use super::words::{human, join};

/// What was counted for a price over the stretch being rated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// The meter's value; the sum of the events' amounts where they are charged by event.
    pub value: BigDecimal,
    #[serde(default, skip_serializing_if = "Detail::is_none")]
    pub detail: Detail,
    /// What earlier parts of the period counted, where the price carries it over: its tiers go on from there.
    #[serde(default, skip_serializing_if = "Zero::is_zero")]
    pub before: BigDecimal,
    /// When a period is continued: what of it was already billed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<Prior>,
    /// Units above those that are included which were prepaid: see [`super::units`].
    #[serde(default, skip_serializing_if = "Zero::is_zero")]
    pub prepaid: BigDecimal,
}

/// What some models need to know beside the value.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    #[default]
    None,
    /// How many events there were.
    Events(u64),
    /// How many, and what the fees of those that are not free come to, each within its bounds: see [`event_fee`].
    Fees { events: u64, fees: BigDecimal },
    /// By the value of a dimension.
    By(BTreeMap<String, BigDecimal>),
}

impl Detail {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prior {
    pub value: BigDecimal,
    pub billed: Decimal,
}

impl Usage {
    pub fn of(value: BigDecimal) -> Self {
        Self { value, detail: Detail::None, before: zero(), prior: None, prepaid: zero() }
    }

    /// From the amounts of events, in their order in time.
    pub fn of_events(price: &Price, amounts: &[BigDecimal], currency: Currency) -> Result<Self, RatingError> {
        let count = u64::try_from(amounts.len()).unwrap_or(u64::MAX);
        let detail = match &EventTerms::of(price, currency)? {
            Some(terms) if terms.bounded() => {
                let charged = amounts.iter().enumerate().filter(|(n, _)| BigDecimal::from(*n as u64) >= terms.free);
                Detail::Fees { events: count, fees: charged.map(|(_, amount)| event_fee(terms, amount)).sum() }
            }
            _ => Detail::Events(count),
        };
        Ok(Self { detail, ..Self::of(amounts.iter().sum()) })
    }
}

/// What is charged for each event by a `percentage` price, in one currency.
#[derive(Debug, Clone, PartialEq)]
pub struct EventTerms {
    pub rate: BigDecimal,
    pub fixed: BigDecimal,
    pub min: Option<BigDecimal>,
    pub max: Option<BigDecimal>,
    /// As many events, the first in time, are free.
    pub free: BigDecimal,
}

impl EventTerms {
    /// None for other models.
    pub fn of(price: &Price, currency: Currency) -> Result<Option<Self>, RatingError> {
        let Model::Percentage { rate, fixed, included_events, min_per_event, max_per_event } = &price.model else { return Ok(None) };
        let amount = |amounts: &Option<Amounts>| amounts.as_ref().map(|a| amount_of(a, &price.name, currency).cloned()).transpose();
        Ok(Some(Self {
            rate: rate.0.clone(),
            fixed: amount(fixed)?.unwrap_or_default(),
            min: amount(min_per_event)?,
            max: amount(max_per_event)?,
            free: included_events.0.clone(),
        }))
    }

    /// Whether each event's fee has bounds, so that it cannot come from totals.
    pub fn bounded(&self) -> bool {
        self.min.is_some() || self.max.is_some()
    }
}

/// `rate * amount + fixed`, the first part at least 0, held between the bounds. Exact.
pub fn event_fee(terms: &EventTerms, amount: &BigDecimal) -> BigDecimal {
    let fee = (&terms.rate * amount).max(zero()) + &terms.fixed;
    let fee = terms.min.as_ref().map_or(fee.clone(), |min| fee.max(min.clone()));
    terms.max.as_ref().map_or(fee.clone(), |max| fee.min(max.clone()))
}

/// The lines of one price: one, or one for each value of a `matrix`.
pub fn usage(price: &Price, used: &Usage, scope: &Scope) -> Result<Vec<Line>, RatingError> {
    if let Model::Matrix { dimension, values, default } = &price.model {
        return matrix(price, used, scope, (dimension, values, default.as_ref()));
    }
    let mut steps = Vec::new();
    let (q, alert) = not_negative(&price.name, &used.value, &mut steps);
    let priced = match &price.model {
        Model::Percentage { .. } => percentage(price, &q, used, scope.currency)?,
        _ => by_quantity(price, &q, used, scope.currency)?,
    };
    steps.push(priced.words);
    let mut amount = Money::round(&priced.amount, scope.currency)?;
    if amount.to_decimal() != priced.amount {
        steps.push(format!("rounded {amount}"));
    }
    if let Some((bound, words)) = bound(price, amount, scope)? {
        amount = bound;
        steps.push(words);
    }
    let (quantity, amount) = less_prior(used, used.value.clone(), amount, &mut steps)?;
    Ok(vec![line(price, None, used, scope, Figures { quantity, amount, steps, alert })])
}

fn less_prior(used: &Usage, quantity: BigDecimal, amount: Money, steps: &mut Vec<String>) -> Result<(BigDecimal, Money), RatingError> {
    let Some(prior) = &used.prior else { return Ok((quantity, amount)) };
    let billed = Money::exact(&prior.billed.0, amount.currency)?;
    steps.push(format!("{billed} was billed before for the first {}", human(&prior.value)));
    Ok((quantity - &prior.value, amount.checked_sub(billed)?))
}

struct Figures {
    quantity: BigDecimal,
    amount: Money,
    steps: Vec<String>,
    alert: Option<String>,
}

fn line(price: &Price, value: Option<&str>, used: &Usage, scope: &Scope, figures: Figures) -> Line {
    Line {
        kind: LineKind::Usage,
        name: value.map_or_else(|| price.name.clone(), |value| format!("{}: {value}", price.name)),
        price: Some(price.name.clone()),
        meter: price.meter.clone(),
        value: value.map(str::to_owned),
        period: scope.part,
        quantity: figures.quantity,
        amount: figures.amount,
        explanation: join(&figures.steps),
        counts_to_minimum: price.counts_to_minimum,
        basis: Some(Basis { usage: used.clone(), of: scope.period }),
        alert: figures.alert,
    }
}

/// A period's usage below zero rates as zero, and somebody should look at it.
fn not_negative(name: &str, value: &BigDecimal, steps: &mut Vec<String>) -> (BigDecimal, Option<String>) {
    if *value >= zero() {
        return (value.clone(), None);
    }
    steps.push(format!("{} was counted, which is below zero and rates as zero", human(value)));
    (zero(), Some(format!("the usage of `{name}` is {}, below zero", human(value))))
}

fn less_included(q: &BigDecimal, included: &BigDecimal, what: &str, steps: &mut Vec<String>) -> BigDecimal {
    if *included <= zero() {
        return q.clone();
    }
    let left = (q - included).max(zero());
    steps.push(format!("{}{what} less {} included leaves {}", human(q), human(included), human(&left)));
    left
}

fn less_prepaid(q: &BigDecimal, used: &Usage, steps: &mut Vec<String>) -> BigDecimal {
    if used.prepaid <= zero() {
        return q.clone();
    }
    let left = (q - &used.prepaid).max(zero());
    steps.push(format!("{} less {} prepaid leaves {}", human(q), human(&used.prepaid), human(&left)));
    left
}

/// By the models that price one quantity; where earlier parts are carried over, what they would come to is taken off.
fn by_quantity(price: &Price, q: &BigDecimal, used: &Usage, currency: Currency) -> Result<Priced, RatingError> {
    let mut steps = Vec::new();
    if used.before <= zero() {
        let left = less_included(q, &price.included.0, "", &mut steps);
        let priced = price_quantity(price, &less_prepaid(&left, used, &mut steps), currency)?;
        steps.push(priced.words);
        return Ok(Priced { amount: priced.amount, words: join(&steps) });
    }
    let (earlier, whole) = (&used.before, &used.before + q);
    steps.push(format!("goes on from {} counted earlier in the period, to {}", human(earlier), human(&whole)));
    let left = less_included(&whole, &price.included.0, "", &mut steps);
    let priced = price_quantity(price, &less_prepaid(&left, used, &mut steps), currency)?;
    steps.push(priced.words);
    let before = price_quantity(price, &(earlier - &price.included.0).max(zero()), currency)?;
    let amount = &priced.amount - &before.amount;
    steps.push(format!("less {} for the first {} leaves {}", human(&before.amount), human(earlier), human(&amount)));
    Ok(Priced { amount, words: join(&steps) })
}

/// `rate * (sum - included) + fixed * (events - included_events)`, or the sum of bounded fees.
fn percentage(price: &Price, sum: &BigDecimal, used: &Usage, currency: Currency) -> Result<Priced, RatingError> {
    let terms = EventTerms::of(price, currency)?.ok_or_else(|| RatingError::NeedsEvents { price: price.name.clone() })?;
    let needs_events = || RatingError::NeedsEvents { price: price.name.clone() };
    if terms.bounded() {
        let Detail::Fees { events, fees } = &used.detail else { return Err(needs_events()) };
        let bounds: Vec<_> = [("at least", &terms.min), ("at most", &terms.max)]
            .into_iter()
            .filter_map(|(word, b)| Some(format!("{word} {}", human(b.as_ref()?))))
            .collect();
        let free = if terms.free.is_zero() { String::new() } else { format!(", the first {} free", human(&terms.free)) };
        let words = format!(
            "{} events, each {} % of its amount + {}, {}{free}: together {}",
            human(&BigDecimal::from(*events)),
            human(&(&terms.rate * BigDecimal::from(100))),
            human(&terms.fixed),
            bounds.join(" and "),
            human(fees)
        );
        return Ok(Priced { amount: fees.clone(), words });
    }
    let mut steps = Vec::new();
    let left = less_included(sum, &price.included.0, "", &mut steps);
    let share = &terms.rate * &left;
    steps.push(format!("{} % of {} = {}", human(&(&terms.rate * BigDecimal::from(100))), human(&left), human(&share)));
    let mut total = share;
    if !terms.fixed.is_zero() {
        let (Detail::Events(events) | Detail::Fees { events, .. }) = &used.detail else { return Err(needs_events()) };
        let charged = less_included(&BigDecimal::from(*events), &terms.free, " events", &mut steps);
        let fixed = &terms.fixed * &charged;
        total += &fixed;
        steps.push(format!("{} events × {} = {}", human(&charged), human(&terms.fixed), human(&fixed)));
        steps.push(format!("together {}", human(&total)));
    }
    Ok(Priced { amount: total, words: join(&steps) })
}

type MatrixTerms<'a> = (&'a String, &'a BTreeMap<String, Amounts>, Option<&'a Amounts>);

/// One line for each value that was used, each rounded; bounds hold their sum, by a line of their own.
fn matrix(price: &Price, used: &Usage, scope: &Scope, (dimension, values, default): MatrixTerms) -> Result<Vec<Line>, RatingError> {
    let by = match &used.detail {
        Detail::By(by) => by,
        _ if used.value.is_zero() => &BTreeMap::new(),
        _ => return Err(RatingError::NeedsValues { price: price.name.clone(), dimension: dimension.clone() }),
    };
    let mut lines = Vec::new();
    for (value, counted) in by {
        let amounts = values.get(value).or(default).ok_or_else(|| RatingError::NoPriceForValue {
            price: price.name.clone(),
            dimension: dimension.clone(),
            value: value.clone(),
        })?;
        let (unit, mut steps) = (amount_of(amounts, &price.name, scope.currency)?, Vec::new());
        let (q, alert) = not_negative(&format!("{}: {value}", price.name), counted, &mut steps);
        let exact = unit * &q;
        steps.push(format!("{} × {} = {}", human(&q), human(unit), human(&exact)));
        let amount = Money::round(&exact, scope.currency)?;
        if amount.to_decimal() != exact {
            steps.push(format!("rounded {amount}"));
        }
        // What is billed before is told by line, so only of a value by itself.
        let prior = used.prior.clone().filter(|_| by.len() == 1);
        let detail = Detail::By(BTreeMap::from([(value.clone(), counted.clone())]));
        let own = Usage { detail, prior, ..Usage::of(counted.clone()) };
        let (quantity, amount) = less_prior(&own, counted.clone(), amount, &mut steps)?;
        lines.push(line(price, Some(value), &own, scope, Figures { quantity, amount, steps, alert }));
    }
    let sum = Money::sum(lines.iter().map(|line| line.amount), scope.currency)?;
    if let Some((bound, words)) = bound(price, sum, scope)? {
        let figures = Figures {
            quantity: BigDecimal::from(1),
            amount: bound.checked_sub(sum)?,
            steps: vec![format!("the lines of {} come to {sum}", price.name), words],
            alert: None,
        };
        let mut adjusted = line(price, None, used, scope, figures);
        adjusted.basis = None;
        lines.push(adjusted);
    } else if lines.is_empty() {
        let figures = Figures { quantity: zero(), amount: sum, steps: vec!["nothing to charge".to_owned()], alert: None };
        lines.push(line(price, None, used, scope, figures));
    }
    Ok(lines)
}

/// The bound that `amount` is beyond, if it is; the minimum being prorated and rounded first.
fn bound(price: &Price, amount: Money, scope: &Scope) -> Result<Option<(Money, String)>, RatingError> {
    let mut held = None;
    if let Some(minimum) = &price.minimum {
        let minimum = scope.fraction()?.round(amount_of(minimum, &price.name, scope.currency)?, scope.currency)?;
        if amount.minor < minimum.minor {
            held = Some((minimum, format!("at least {minimum}")));
        }
    }
    if let Some(maximum) = &price.maximum {
        let maximum = Money::exact(amount_of(maximum, &price.name, scope.currency)?, scope.currency)?;
        if held.as_ref().map_or(amount, |(amount, _)| *amount).minor > maximum.minor {
            held = Some((maximum, format!("at most {maximum}")));
        }
    }
    Ok(held)
}
