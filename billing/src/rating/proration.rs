//! The part of an amount that falls into the part of a period in which it was in force.

use chrono_tz::Tz;
use farebox_core::money::{BigDecimal, Currency, Money};
use farebox_core::period::{Period, local_date};

use super::error::RatingError;
use super::plan::Proration;
use super::words::human;

/// `part` of `whole`, as a fraction of whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    pub part: i64,
    pub whole: i64,
    pub unit: &'static str,
}

/// How much of `period` lies in `part`, which is within it.
pub fn fraction(period: Period, part: Period, by: Proration, zone: Tz) -> Result<Fraction, RatingError> {
    let count = |p: Period| match by {
        Proration::Second => (p.end - p.start).num_seconds(),
        // The day of a change belongs to what comes after it: [start, end) in whole local days.
        Proration::Day => (local_date(p.end, zone) - local_date(p.start, zone)).num_days(),
        Proration::None => 1,
    };
    let unit = match by {
        Proration::Second => "seconds",
        Proration::Day => "days",
        Proration::None => "",
    };
    let whole = count(period);
    if whole <= 0 || period.is_empty() {
        return Err(RatingError::EmptyPeriod);
    }
    Ok(Fraction { part: count(part), whole, unit })
}

impl Fraction {
    pub fn is_whole(self) -> bool {
        self.part == self.whole
    }

    /// The exact share of `amount`, up to a hundred digits; rounded half away from zero at the end of its line.
    pub fn of(self, amount: &BigDecimal) -> BigDecimal {
        if self.is_whole() {
            return amount.clone();
        }
        amount * BigDecimal::from(self.part) / BigDecimal::from(self.whole)
    }

    pub fn round(self, amount: &BigDecimal, currency: Currency) -> Result<Money, RatingError> {
        Ok(Money::round(&self.of(amount), currency)?)
    }

    /// `17 of 31 days`; seconds are told as such.
    pub fn words(self) -> String {
        format!("{} of {} {}", human(&BigDecimal::from(self.part)), human(&BigDecimal::from(self.whole)), self.unit)
    }
}
