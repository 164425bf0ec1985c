//! Recurring revenue by movement: every change of what somebody pays a month, by what it means.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use farebox_core::period::Period;

/// From one instant to another somebody pays so much a month, in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    pub from: DateTime<Utc>,
    pub to: Option<DateTime<Utc>>,
    pub monthly: i64,
}

/// What the changes of an interval come to; none is negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Movement {
    /// From nothing, for the first time.
    pub new: i128,
    /// More than before.
    pub expansion: i128,
    /// From nothing, after having paid before.
    pub reactivation: i128,
    /// Less than before.
    pub contraction: i128,
    /// To nothing.
    pub churn: i128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Row {
    /// Recurring revenue when the interval begins.
    pub start: i128,
    pub movement: Movement,
    /// When it ends: start + new + expansion + reactivation - contraction - churn.
    pub end: i128,
    /// How many pay something when it ends.
    pub payers: u64,
}

/// One row for each of `intervals`, which follow each other. What changes at one instant is one change: an upgrade is
/// no churn. The change at an interval's beginning belongs to it.
pub fn rows<K: Ord>(of: &BTreeMap<K, Vec<Stretch>>, intervals: &[Period]) -> Vec<Row> {
    let mut rows = vec![Row::default(); intervals.len()];
    for stretches in of.values() {
        let (mut pays, mut has_paid, mut next) = (0_i128, false, 0);
        for (at, change) in changes(stretches) {
            // Intervals that are over before this change.
            while intervals.get(next).is_some_and(|interval| interval.end <= at) {
                rows[next].end += pays;
                rows[next].payers += u64::from(pays > 0);
                next += 1;
                if let Some(row) = rows.get_mut(next) {
                    row.start += pays;
                }
            }
            let now = pays + change;
            if let (Some(interval), Some(row)) = (intervals.get(next), rows.get_mut(next)) {
                if at >= interval.start {
                    row.movement.add(pays, now, has_paid);
                } else {
                    row.start += change; // before the first interval
                }
            }
            pays = now;
            has_paid |= now > 0;
        }
        while let Some(row) = rows.get_mut(next) {
            row.end += pays;
            row.payers += u64::from(pays > 0);
            next += 1;
            if let Some(row) = rows.get_mut(next) {
                row.start += pays;
            }
        }
    }
    rows
}

/// By instant, those that come to nothing left out.
fn changes(stretches: &[Stretch]) -> impl Iterator<Item = (DateTime<Utc>, i128)> {
    let mut at: BTreeMap<DateTime<Utc>, i128> = BTreeMap::new();
    for stretch in stretches {
        *at.entry(stretch.from).or_default() += i128::from(stretch.monthly);
        if let Some(to) = stretch.to {
            *at.entry(to).or_default() -= i128::from(stretch.monthly);
        }
    }
    at.into_iter().filter(|(_, change)| *change != 0)
}

impl Movement {
    fn add(&mut self, before: i128, now: i128, has_paid: bool) {
        let (part, size) = match (before, now) {
            (0, now) if has_paid => (&mut self.reactivation, now),
            (0, now) => (&mut self.new, now),
            (before, 0) => (&mut self.churn, before),
            (before, now) if now > before => (&mut self.expansion, now - before),
            (before, now) => (&mut self.contraction, before - now),
        };
        *part += size;
    }

    /// What was lost of what was there.
    pub fn lost(&self) -> i128 {
        self.churn + self.contraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn day(n: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(n * 86_400, 0).expect("in range")
    }

    fn stretch(from: i64, to: Option<i64>, monthly: i64) -> Stretch {
        Stretch { from: day(from), to: to.map(day), monthly }
    }

    fn months(count: i64) -> Vec<Period> {
        (0..count).map(|n| Period { start: day(n * 30), end: day((n + 1) * 30) }).collect()
    }

    /// Start 100, churn 10, contraction 10, expansion 10.
    #[test]
    fn worked_example_5() {
        let of = BTreeMap::from([
            ("leaves", vec![stretch(-40, Some(10), 10)]),
            ("shrinks", vec![stretch(-40, Some(12), 40), stretch(12, None, 30)]),
            ("grows", vec![stretch(-40, Some(15), 50), stretch(15, None, 60)]),
        ]);
        let [row] = rows(&of, &months(1)).try_into().expect("one");
        let movement = Movement { churn: 10, contraction: 10, expansion: 10, ..Movement::default() };
        assert_eq!(row, Row { start: 100, movement, end: 90, payers: 2 });
        assert_eq!(row.movement.lost(), 20);
    }

    #[test]
    fn who_comes_back_is_not_new_and_an_upgrade_is_no_churn() {
        let of = BTreeMap::from([("a", vec![stretch(0, Some(5), 49), stretch(5, Some(20), 99), stretch(65, None, 49)])]);
        let rows = rows(&of, &months(3));
        assert_eq!(rows[0].movement, Movement { new: 49, expansion: 50, churn: 99, ..Movement::default() });
        assert_eq!((rows[1].start, rows[1].movement, rows[1].payers), (0, Movement::default(), 0));
        assert_eq!(rows[2].movement, Movement { reactivation: 49, ..Movement::default() });
        assert_eq!((rows[2].end, rows[2].payers), (49, 1));
    }

    proptest! {
        #[test]
        fn every_interval_adds_up_and_ends_with_what_is_in_force(
            of in prop::collection::btree_map(0_u8..8, prop::collection::vec((-50_i64..120, 1_i64..90, any::<bool>(), 0_i64..100), 0..5), 0..6),
        ) {
            let of: BTreeMap<_, Vec<_>> = of
                .into_iter()
                .map(|(who, all)| (who, all.into_iter().map(|(from, length, ends, monthly)| stretch(from, ends.then_some(from + length), monthly)).collect()))
                .collect();
            let intervals = months(3);
            let rows = rows(&of, &intervals);
            // Just before the instant: a change at the end belongs to the next interval.
            let before = |at: DateTime<Utc>| -> i128 {
                of.values().flatten().filter(|s| s.from < at && s.to.is_none_or(|to| at <= to)).map(|s| i128::from(s.monthly)).sum()
            };
            for (row, interval) in rows.iter().zip(&intervals) {
                let m = row.movement;
                prop_assert_eq!(row.start + m.new + m.expansion + m.reactivation - m.contraction - m.churn, row.end);
                prop_assert_eq!(row.start, before(interval.start));
                prop_assert_eq!(row.end, before(interval.end));
                prop_assert!([m.new, m.expansion, m.reactivation, m.contraction, m.churn].iter().all(|part| *part >= 0));
            }
        }
    }
}
