//! Stickiness: on how many distinct intervals somebody is active.

use std::collections::{BTreeMap, BTreeSet};

use super::{Activity, Observed};
use crate::ratio::Ratio;

/// How many are active in exactly so many of the observed intervals; those active in none are left out.
pub fn histogram<K: Ord>(activity: &Activity<K>, observed: Observed) -> BTreeMap<u64, u64> {
    let mut histogram = BTreeMap::new();
    for active in activity.values() {
        let intervals = active.range(observed.from..observed.to.max(observed.from)).count() as u64;
        if intervals > 0 {
            *histogram.entry(intervals).or_default() += 1;
        }
    }
    histogram
}

/// Mean daily active of 28 days over those active in any of them. `days` is the 28 days [from, to).
pub fn dau_over_mau<K: Ord>(activity: &Activity<K>, days: Observed) -> Option<Ratio> {
    let active_days = |active: &BTreeSet<i64>| active.range(days.from..days.to.max(days.from)).count() as u64;
    let per_consumer: Vec<_> = activity.values().map(active_days).filter(|n| *n > 0).collect();
    let length = u64::try_from(days.to - days.from).ok()?;
    Ratio::of(per_consumer.iter().sum(), length * per_consumer.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::super::examples::{activity, all_over};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_distinct_intervals_within_the_range() {
        let active = activity(&[("A", &[0, 1, 2, 9]), ("B", &[1, 2]), ("C", &[3, 4, 5]), ("D", &[8])]);
        assert_eq!(histogram(&active, all_over(0, 6)), BTreeMap::from([(2, 1), (3, 2)]));
        // 8 active days of 3 consumers over 6 days.
        assert_eq!(dau_over_mau(&active, all_over(0, 6)), Ratio::of(8, 18));
        assert_eq!(dau_over_mau(&active, all_over(20, 26)), None);
    }

    proptest! {
        #[test]
        fn everyone_active_is_in_one_bar(active in prop::collection::btree_map(0_u8..20, prop::collection::btree_set(0_i64..14, 0..10), 0..12)) {
            let bars = histogram(&active, all_over(0, 14));
            prop_assert_eq!(bars.values().sum::<u64>(), active.values().filter(|days| !days.is_empty()).count() as u64);
            prop_assert_eq!(bars.iter().map(|(n, count)| n * count).sum::<u64>(), active.values().map(|days| days.len() as u64).sum::<u64>());
        }
    }
}
