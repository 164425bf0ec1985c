//! Lifecycle: each interval's active ones as new, returning and resurrecting, and the ones it lost.

use std::collections::BTreeMap;

use super::{Activity, Observed};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Row {
    pub interval: i64,
    /// Active for the first time ever.
    pub new: i64,
    /// Active now and in the interval before.
    pub returning: i64,
    /// Active now, not in the interval before, but some time earlier.
    pub resurrecting: i64,
    /// Active in the interval before, not now: zero or negative.
    pub dormant: i64,
}

/// `first` is each one's first active interval ever; `activity` must reach back to the interval before the first
/// observed one.
pub fn rows<K: Ord>(activity: &Activity<K>, first: &BTreeMap<K, i64>, observed: Observed) -> Vec<Row> {
    let mut rows: Vec<_> = (observed.from..observed.to).map(|interval| Row { interval, ..Row::default() }).collect();
    for (who, active) in activity {
        for row in &mut rows {
            let (now, before) = (active.contains(&row.interval), active.contains(&(row.interval - 1)));
            match (now, before) {
                (true, true) => row.returning += 1,
                (true, false) if first.get(who).is_none_or(|f| *f == row.interval) => row.new += 1,
                (true, false) => row.resurrecting += 1,
                (false, true) => row.dormant -= 1,
                (false, false) => {}
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::examples::{activity, all_over};
    use super::*;
    use proptest::prelude::*;

    fn first_of<K: Ord + Clone>(activity: &Activity<K>) -> BTreeMap<K, i64> {
        activity.iter().filter_map(|(who, days)| Some((who.clone(), *days.first()?))).collect()
    }

    #[test]
    fn worked_example_3() {
        let active = activity(&[("p1", &[11, 12, 13, 15, 17, 19]), ("p2", &[9, 12]), ("p3", &[12]), ("p4", &[15])]);
        let rows = rows(&active, &first_of(&active), all_over(9, 20));
        let column = |of: fn(&Row) -> i64| rows.iter().map(of).collect::<Vec<_>>();
        assert_eq!(column(|r| r.new), [1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(column(|r| r.returning), [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(column(|r| r.resurrecting), [0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 1]);
        assert_eq!(column(|r| r.dormant), [0, -1, 0, 0, -2, -1, 0, -2, 0, -1, 0]);
    }

    proptest! {
        #[test]
        fn identities(active in prop::collection::btree_map(0_u8..20, prop::collection::btree_set(0_i64..14, 0..10), 0..12), from in 1_i64..6) {
            let rows = rows(&active, &first_of(&active), all_over(from, 14));
            let count = |interval: i64| i64::try_from(active.values().filter(|days| days.contains(&interval)).count()).expect("small");
            for row in &rows {
                // Everyone active is exactly one of new, returning, resurrecting.
                prop_assert_eq!(row.new + row.returning + row.resurrecting, count(row.interval));
                // Everyone active before either returned or fell dormant.
                prop_assert_eq!(row.returning - row.dormant, count(row.interval - 1));
            }
            // Nobody is new twice.
            let new: i64 = rows.iter().map(|r| r.new).sum();
            let started = first_of(&active).values().filter(|f| **f >= from).count();
            prop_assert_eq!(new, i64::try_from(started).expect("small"));
        }
    }
}
