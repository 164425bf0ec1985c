//! A funnel: ordered steps, each after the one before, all within a window from the first.
//!
//! Somebody enters with their first occurrence of step 1, and takes each further step at its earliest occurrence not
//! before the step before; that choice reaches as far as any other.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::seconds;
use crate::ratio::Ratio;

/// Where somebody stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reached {
    entered: DateTime<Utc>,
    at: DateTime<Utc>,
}

/// Filled step by step, so that the occurrences of a step need only be looked up for those who reached the one before.
#[derive(Debug, Clone)]
pub struct Funnel<K> {
    window: TimeDelta,
    reached: BTreeMap<K, Reached>,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub count: u64,
    pub conversion_from_start: Option<Ratio>,
    pub conversion_from_previous: Option<Ratio>,
    /// From the step before; None at the first step and where nobody came.
    pub mean_seconds: Option<u64>,
    pub median_seconds: Option<u64>,
}

impl<K: Ord + Clone> Funnel<K> {
    /// Those who enter, and when.
    pub fn enter(entries: BTreeMap<K, DateTime<Utc>>, window: TimeDelta) -> Self {
        let count = entries.len() as u64;
        let first = Step {
            count,
            conversion_from_start: Ratio::of(count, count),
            conversion_from_previous: Ratio::of(count, count),
            mean_seconds: None,
            median_seconds: None,
        };
        let reached = entries.into_iter().map(|(who, at)| (who, Reached { entered: at, at })).collect();
        Self { window, reached, steps: vec![first] }
    }

    /// Those still in, with the instant of their last step and the last instant that still counts.
    pub fn standing(&self) -> impl Iterator<Item = (&K, DateTime<Utc>, DateTime<Utc>)> {
        self.reached.iter().map(|(who, r)| (who, r.at, r.entered + self.window))
    }

    /// The next step, with its occurrences in any order. When it is the same action as the step before, `strictly`
    /// asks for a later occurrence, because one occurrence cannot be two steps.
    pub fn advance(&mut self, occurrences: &BTreeMap<K, Vec<DateTime<Utc>>>, strictly: bool) {
        let before = self.reached.len() as u64;
        let mut waited = Vec::new();
        let mut reached = BTreeMap::new();
        for (who, r) in &self.reached {
            let in_time = |at: &&DateTime<Utc>| (if strictly { **at > r.at } else { **at >= r.at }) && **at <= r.entered + self.window;
            let Some(at) = occurrences.get(who).and_then(|all| all.iter().filter(in_time).min()) else { continue };
            waited.push((*at - r.at).num_seconds().unsigned_abs());
            reached.insert(who.clone(), Reached { at: *at, ..*r });
        }
        let count = reached.len() as u64;
        let entered = self.steps.first().map_or(0, |s| s.count);
        self.steps.push(Step {
            count,
            conversion_from_start: Ratio::of(count, entered),
            conversion_from_previous: Ratio::of(count, before),
            mean_seconds: seconds::mean(&waited),
            median_seconds: seconds::median(&mut waited),
        });
        self.reached = reached;
    }

    pub fn steps(self) -> Vec<Step> {
        self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + hour * 3600, 0).expect("in range")
    }

    type Times = BTreeMap<&'static str, Vec<DateTime<Utc>>>;

    fn run(steps: &[Times], window: TimeDelta) -> Vec<Step> {
        let entries = steps[0].iter().filter_map(|(who, times)| Some((*who, *times.iter().min()?))).collect();
        let mut funnel = Funnel::enter(entries, window);
        for occurrences in &steps[1..] {
            funnel.advance(occurrences, false);
        }
        funnel.steps()
    }

    fn worked_example() -> [Times; 3] {
        [
            BTreeMap::from([("p1", vec![at(12)]), ("p2", vec![at(14)]), ("p3", vec![at(14)])]),
            BTreeMap::from([("p1", vec![at(13)]), ("p2", vec![at(16)]), ("p3", vec![at(16)])]),
            BTreeMap::from([("p1", vec![at(15)]), ("p3", vec![at(17)])]),
        ]
    }

    #[test]
    fn worked_example_4() {
        let steps = run(&worked_example(), TimeDelta::days(14));
        assert_eq!(steps.iter().map(|s| s.count).collect::<Vec<_>>(), [3, 3, 2]);
        assert_eq!((steps[1].mean_seconds, steps[1].median_seconds), (Some(6000), Some(7200)));
        assert_eq!((steps[2].mean_seconds, steps[2].median_seconds), (Some(5400), Some(5400)));
        assert_eq!(steps[2].conversion_from_start, Ratio::of(2, 3));
        assert_eq!(steps[2].conversion_from_previous, Ratio::of(2, 3));
    }

    #[test]
    fn the_window_counts_from_step_1_and_includes_its_end() {
        let counts = |window| run(&worked_example(), window).iter().map(|s| s.count).collect::<Vec<_>>();
        assert_eq!(counts(TimeDelta::hours(3)), [3, 3, 2], "both third steps are exactly three hours after the first");
        assert_eq!(counts(TimeDelta::hours(3) - TimeDelta::microseconds(1)), [3, 3, 0]);
        assert_eq!(counts(TimeDelta::hours(1)), [3, 1, 0]);
    }

    #[test]
    fn a_step_before_the_previous_one_does_not_count_and_one_call_is_not_two_steps() {
        let early = [BTreeMap::from([("p", vec![at(5)])]), BTreeMap::from([("p", vec![at(4)])])];
        assert_eq!(run(&early, TimeDelta::days(1))[1].count, 0);
        let mut same = Funnel::enter(BTreeMap::from([("p", at(5))]), TimeDelta::days(1));
        same.advance(&BTreeMap::from([("p", vec![at(5), at(6)])]), true);
        assert_eq!(same.steps()[1].mean_seconds, Some(3600));
    }

    proptest! {
        #[test]
        fn never_widens_and_grows_with_the_window(
            hours in prop::collection::vec(prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c", "d", "e"]), prop::collection::vec(0_i64..50, 1..5), 0..5), 1..5),
            short in 0_i64..50, more in 0_i64..50,
        ) {
            let steps: Vec<Times> = hours.iter().map(|step| step.iter().map(|(who, hours)| (*who, hours.iter().map(|h| at(*h)).collect())).collect()).collect();
            let narrow = run(&steps, TimeDelta::hours(short));
            let wide = run(&steps, TimeDelta::hours(short + more));
            prop_assert!(narrow.iter().map(|s| s.count).collect::<Vec<_>>().is_sorted_by(|a, b| a >= b));
            for (narrow, wide) in narrow.iter().zip(&wide) {
                prop_assert!(narrow.count <= wide.count);
                prop_assert!(narrow.mean_seconds.is_none_or(|s| s <= u64::try_from(short * 3600).expect("positive")));
            }
        }
    }
}
