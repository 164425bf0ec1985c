//! Credits that a plan's periods come with, read with the line of what is wrong.

use farebox_core::money::decimal;

use super::plan::Reader;
use super::raw::{At, RawAmounts, RawIncluded, RawPlan, RawRollsOver};
use crate::rating::models::zero;
use crate::rating::plan::{Decimal, Included, IncludedOf, RollsOver};
use crate::rating::units::{ONLY_QUANTITIES, charged_beside};

/// Ten years of months.
const MOST_PERIODS: i32 = 120;

pub fn read(reader: &mut Reader, raw: &[RawIncluded], path: &str) -> Vec<Included> {
    let mut found: Vec<Included> = Vec::new();
    for (n, raw) in raw.iter().enumerate() {
        let path = format!("{path}[{n}]");
        if raw.name.value.trim().is_empty() {
            reader.errors.at(&raw.name, &format!("{path}.name"), "credits need a name: it stands on invoices");
        } else if found.iter().any(|before| before.name == raw.name.value) {
            reader.errors.at(&raw.name, &format!("{path}.name"), format!("there are other credits named `{}` above", raw.name.value));
        }
        found.extend(one(reader, raw, &path));
    }
    found
}

fn one(reader: &mut Reader, raw: &RawIncluded, path: &str) -> Option<Included> {
    let expires = raw.expires.as_ref().is_none_or(|expires| expires.value);
    let periods = periods(reader, raw.periods.as_ref(), &format!("{path}.periods"))?;
    if let (Some(given), false) = (&raw.periods, expires) {
        reader.errors.at(given, &format!("{path}.periods"), "credits that do not expire serve every period; leave one of both out");
    }
    if let (Some(rollover), false) = (&raw.rollover, expires) {
        reader.errors.at(&rollover.most, &format!("{path}.rollover"), "is for credits that expire; these do not");
    }
    let of = match (&raw.amount, &raw.meter, &raw.units) {
        (Some(amount), None, None) => {
            let amounts = reader.money(Some(amount), &format!("{path}.amount"))??;
            if amounts.0.values().any(Decimal::is_zero) {
                reader.errors.at(amount, &format!("{path}.amount"), "must be above 0");
                return None;
            }
            let rollover = match &raw.rollover {
                Some(rollover) => Some(RollsOver {
                    most: reader.money(Some(&rollover.most), &format!("{path}.rollover.most"))??,
                    periods: rolls(reader, rollover, path)?,
                }),
                None => None,
            };
            IncludedOf::Money { amount: amounts, rollover }
        }
        (None, Some(meter), Some(units)) => {
            if let Some(price) = raw.prices.first() {
                reader.errors.at(price, &format!("{path}.prices"), "units are taken off all prices of their meter; leave it out");
            }
            let rollover = match &raw.rollover {
                Some(rollover) => {
                    Some(RollsOver { most: most_units(reader, &rollover.most, path)?, periods: rolls(reader, rollover, path)? })
                }
                None => None,
            };
            let count = reader.decimal(units, &format!("{path}.units"))?;
            if count.0 <= zero() {
                reader.errors.at(units, &format!("{path}.units"), "must be above 0");
                return None;
            }
            IncludedOf::Units { meter: meter.value.clone(), units: count, rollover }
        }
        _ => {
            reader.errors.at(&raw.name, path, "are an `amount` of money, or `units` of a `meter`");
            return None;
        }
    };
    let prices = raw.prices.iter().map(|price| price.value.clone()).collect();
    Some(Included { name: raw.name.value.clone(), of, priority: raw.priority, periods, expires, prices })
}

fn periods(reader: &mut Reader, raw: Option<&At<i32>>, path: &str) -> Option<i32> {
    let Some(periods) = raw else { return Some(1) };
    if !(1..=MOST_PERIODS).contains(&periods.value) {
        reader.errors.at(periods, path, format!("is 1 to {MOST_PERIODS}"));
        return None;
    }
    Some(periods.value)
}

fn rolls(reader: &mut Reader, raw: &RawRollsOver, path: &str) -> Option<i32> {
    periods(reader, raw.periods.as_ref(), &format!("{path}.rollover.periods"))
}

fn most_units(reader: &mut Reader, raw: &At<RawAmounts>, path: &str) -> Option<Decimal> {
    let path = format!("{path}.rollover.most");
    let RawAmounts::One(text) = &raw.value else {
        reader.errors.at(raw, &path, "is a number of units, such as \"500\"");
        return None;
    };
    let most = Decimal(reader.errors.keep(decimal(text), raw, &path)?);
    if most.0 <= zero() {
        reader.errors.at(raw, &path, "must be above 0; leave `rollover` out where nothing goes on");
        return None;
    }
    Some(most)
}

/// What can only be told of the whole plan.
pub fn fit(reader: &mut Reader, plan: &RawPlan, path: &str) {
    let Some(terms) = &plan.terms else { return };
    let by_hour = plan.interval.as_ref().is_some_and(|interval| interval.value == "hour");
    for (n, included) in terms.credits.iter().enumerate() {
        let path = format!("{path}.terms.credits[{n}]");
        if by_hour {
            reader.errors.at(&included.name, &path, "an hour comes with no credits; give the plan an interval of a day or longer");
        }
        if let Some(meter) = &included.meter {
            let other = |model: &str| ["matrix", "percentage", "graduated_percentage", "pass_through"].contains(&model);
            let of_meter = plan.prices.iter().filter(|price| price.meter.as_ref().is_some_and(|own| own.value == meter.value));
            let (others, quantities): (Vec<_>, Vec<_>) = of_meter.partition(|price| other(&price.model.value));
            if let Some(other) = others.first() {
                let message = match quantities.first() {
                    None => {
                        format!("the plan has no price of `{}` that units could cover: {ONLY_QUANTITIES}; write an `amount`", meter.value)
                    }
                    Some(covered) => charged_beside(&meter.value, &covered.name.value, &other.name.value),
                };
                reader.errors.at(meter, &format!("{path}.meter"), message);
            }
        }
        for (k, price) in included.prices.iter().enumerate() {
            if !plan.prices.iter().any(|own| own.name.value == price.value) {
                reader.errors.at(price, &format!("{path}.prices[{k}]"), format!("the plan has no price named `{}`", price.value));
            }
        }
    }
}
