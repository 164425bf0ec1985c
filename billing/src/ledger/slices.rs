//! An amount over a period, cut at the months of a calendar. Pure.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use farebox_core::money::{Money, MoneyError};
use farebox_core::period::{Period, Window, window_of};

/// A part of the period that lies in one month, and what of the amount falls to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    pub period: Period,
    pub amount: Money,
}

/// By elapsed seconds. Each boundary's share of the whole is rounded, half away from zero, and a slice is what lies between two of
/// them: so the slices add up to the amount, and none is off by more than one minor unit.
pub fn by_month(amount: Money, period: Period, zone: Tz) -> Result<Vec<Slice>, MoneyError> {
    let whole = seconds(period.start, period.end);
    let mut slices = Vec::new();
    let (mut at, mut given) = (period.start, 0_i64);
    while at < period.end {
        let month = window_of(at, Window::Month, zone).ok_or(MoneyError::Overflow(amount.currency))?;
        let end = month.end.min(period.end);
        let until = share(amount, seconds(period.start, end), whole)?;
        slices.push(Slice { period: Period { start: at, end }, amount: Money::new(until - given, amount.currency) });
        (at, given) = (end, until);
    }
    if slices.is_empty() {
        slices.push(Slice { period, amount });
    }
    Ok(slices)
}

fn seconds(from: DateTime<Utc>, to: DateTime<Utc>) -> i128 {
    i128::from((to - from).num_seconds())
}

/// `amount * part / whole`, half away from zero.
fn share(amount: Money, part: i128, whole: i128) -> Result<i64, MoneyError> {
    if part >= whole {
        return Ok(amount.minor);
    }
    let exact = i128::from(amount.minor) * part;
    let rounded = (exact.abs() * 2 + whole) / (whole * 2) * exact.signum();
    i64::try_from(rounded).map_err(|_| MoneyError::Overflow(amount.currency))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn slices_cover_the_period_and_add_up(minor in any::<i64>(), start in 1_600_000_000_i64..1_900_000_000, minutes in 0_i64..(3 * 365 * 24 * 60)) {
            let start = DateTime::from_timestamp(start - start % 60, 0).expect("an instant");
            let period = Period { start, end: start + TimeDelta::minutes(minutes) };
            let slices = by_month(Money::new(minor, "USD".parse().expect("a currency")), period, chrono_tz::Europe::Berlin).expect("slices");
            prop_assert_eq!(slices.iter().map(|slice| i128::from(slice.amount.minor)).sum::<i128>(), i128::from(minor));
            prop_assert_eq!(slices.first().expect("one").period.start, period.start);
            prop_assert_eq!(slices.last().expect("one").period.end, period.end);
            for pair in slices.windows(2) {
                prop_assert_eq!(pair[0].period.end, pair[1].period.start);
            }
            let whole = (period.end - period.start).num_seconds();
            for slice in slices {
                // Within one minor unit of its exact part: |amount * whole - minor * part| <= whole.
                let part = i128::from((slice.period.end - slice.period.start).num_seconds());
                prop_assert!((i128::from(slice.amount.minor) * i128::from(whole) - i128::from(minor) * part).abs() <= i128::from(whole) || whole == 0);
            }
        }
    }
}
