//! What a plan of the file promises of the service, read with the line of what is wrong.

use farebox_core::money::{BigDecimal, decimal};

use super::plan::Reader;
use super::raw::{RawCredit, RawPromise};
use crate::rating::plan::{Bound, Credit, Decimal, Measure, Promise};

pub fn read(reader: &mut Reader, raw: &RawPromise, path: &str) -> Option<Promise> {
    if raw.name.value.trim().is_empty() {
        reader.errors.at(&raw.name, &format!("{path}.name"), "a promise needs a name: it stands on the invoice where it was not kept");
    }
    let measure = match (&raw.good, &raw.of, &raw.meter) {
        (Some(good), Some(of), None) => Measure::Share { good: good.value.clone(), of: of.value.clone() },
        (None, None, Some(meter)) => Measure::Value { meter: meter.value.clone() },
        _ => {
            let message = "is measured by the meters `good` and `of` (a share of calls), or by one `meter` (its value)";
            reader.errors.at(&raw.name, path, message);
            return None;
        }
    };
    if raw.credits.is_empty() {
        reader.errors.at(&raw.name, &format!("{path}.credits"), "says what is given back, such as {below: \"0.999\", share: \"0.1\"}");
    }
    let is_share = matches!(measure, Measure::Share { .. });
    let credits: Vec<_> =
        raw.credits.iter().enumerate().map(|(n, credit)| self::credit(reader, credit, is_share, &format!("{path}.credits[{n}]"))).collect();
    Some(Promise { name: raw.name.value.clone(), measure, credits: credits.into_iter().collect::<Option<_>>()? })
}

fn credit(reader: &mut Reader, raw: &RawCredit, is_share: bool, path: &str) -> Option<Credit> {
    let share = reader.errors.keep(decimal(&raw.share.value), &raw.share, &format!("{path}.share"))?;
    if share <= BigDecimal::from(0) || share > BigDecimal::from(1) {
        reader.errors.at(&raw.share, &format!("{path}.share"), "is above 0 and at most 1: 0.1 gives back 10 %");
        return None;
    }
    let (bound, place): (fn(Decimal) -> Bound, _) = match (&raw.below, &raw.above) {
        (Some(below), None) => (Bound::Below, below),
        (None, Some(above)) => (Bound::Above, above),
        _ => {
            reader.errors.at(&raw.share, path, "holds `below` a bound, or `above` one");
            return None;
        }
    };
    let value = reader.errors.keep(decimal(&place.value), place, path)?;
    if is_share && (value <= BigDecimal::from(0) || value > BigDecimal::from(1)) {
        reader.errors.at(place, path, "is a share above 0 and at most 1, such as 0.999");
        return None;
    }
    Some(Credit { bound: bound(Decimal(value)), share: Decimal(share) })
}
