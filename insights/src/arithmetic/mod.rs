//! The arithmetic of the KPIs: sets, instants and counts in, rows out. Nothing here knows a pool, a clock or a
//! request, so every worked example of the definitions is a plain test.
//!
//! `K` is whoever is counted: a consumer's or a credential's id.

pub mod conversion;
pub mod funnel;
pub mod lifecycle;
pub mod retention;
pub mod revenue;
pub mod seconds;
pub mod stickiness;

use std::collections::{BTreeMap, BTreeSet};

/// Who was active in which intervals, by the intervals' numbers (see [`crate::calendar::Calendar`]).
pub type Activity<K> = BTreeMap<K, BTreeSet<i64>>;

/// The intervals [from, to) that are looked at. Those before `complete_before` are over, and everything that
/// happened in them has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    pub from: i64,
    pub to: i64,
    pub complete_before: i64,
}

impl Observed {
    pub fn holds(&self, number: i64) -> bool {
        self.from <= number && number < self.to
    }

    pub fn is_complete(&self, number: i64) -> bool {
        number < self.complete_before
    }
}

#[cfg(test)]
pub(crate) mod examples {
    use super::{Activity, Observed};

    /// `A{0,3}` as the worked examples write it.
    pub fn activity(of: &[(&'static str, &[i64])]) -> Activity<&'static str> {
        of.iter().map(|(who, days)| (*who, days.iter().copied().collect())).collect()
    }

    /// Intervals 0 to `to`, all of them over.
    pub fn all_over(from: i64, to: i64) -> Observed {
        Observed { from, to, complete_before: to }
    }
}
