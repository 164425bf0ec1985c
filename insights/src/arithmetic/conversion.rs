//! Conversion within a time: of those who started in an interval, how many reached the goal before their time was
//! over. Activation is the conversion from sign-up to the first qualifying call.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Observed, seconds};
use crate::calendar::Calendar;
use crate::ratio::Ratio;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    pub size: u64,
    /// All who reached the goal in their time.
    pub converted: u64,
    /// Those whose time is over: only they say how good the cohort is.
    pub mature: u64,
    pub mature_converted: u64,
    /// From start to goal, of the converted.
    pub median_seconds: Option<u64>,
    pub p90_seconds: Option<u64>,
    /// The interval is over and so is everybody's time.
    pub complete: bool,
}

impl Row {
    /// Share of the mature ones that converted; None when nobody's time is over. In a complete row that is
    /// converted / size.
    pub fn rate(&self) -> Option<Ratio> {
        Ratio::of(self.mature_converted, self.mature)
    }
}

/// The first goal in [start, start + window), if any.
pub fn reached(start: DateTime<Utc>, goals: &[DateTime<Utc>], window: TimeDelta) -> Option<DateTime<Utc>> {
    goals.iter().filter(|at| start <= **at && **at < start + window).min().copied()
}

/// The rows by interval of start, and one over all of them. `known_until`: everything before this instant has arrived.
pub fn rows<K: Ord>(
    starts: &BTreeMap<K, DateTime<Utc>>,
    goals: &BTreeMap<K, Vec<DateTime<Utc>>>,
    window: TimeDelta,
    calendar: &Calendar,
    observed: Observed,
    known_until: DateTime<Utc>,
) -> (Vec<(i64, Row)>, Row) {
    let mut cohorts: BTreeMap<i64, Cohort> = (observed.from..observed.to).map(|cohort| (cohort, Cohort::default())).collect();
    let mut all = Cohort::default();
    for (who, start) in starts {
        let Some(cohort) = cohorts.get_mut(&calendar.number_at(*start)) else { continue };
        let goal = goals.get(who).and_then(|goals| reached(*start, goals, window));
        let took = goal.map(|at| (at - *start).num_seconds().unsigned_abs());
        let mature = *start + window <= known_until;
        cohort.add(took, mature);
        all.add(took, mature);
    }
    let over = |cohort: i64| calendar.start(cohort + 1) + window <= known_until;
    let total = all.row(observed.from < observed.to && over(observed.to - 1));
    let rows = cohorts.into_iter().map(|(number, cohort)| (number, cohort.row(over(number)))).collect();
    (rows, total)
}

#[derive(Default)]
struct Cohort {
    row: Row,
    took: Vec<u64>,
}

impl Cohort {
    fn add(&mut self, took: Option<u64>, mature: bool) {
        self.row.size += 1;
        self.row.converted += u64::from(took.is_some());
        self.row.mature += u64::from(mature);
        self.row.mature_converted += u64::from(mature && took.is_some());
        self.took.extend(took);
    }

    fn row(mut self, complete: bool) -> Row {
        let median_seconds = seconds::median(&mut self.took);
        Row { median_seconds, p90_seconds: seconds::quantile(&mut self.took, 90), complete, ..self.row }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::{Interval, WeekStart};
    use chrono_tz::Tz;
    use proptest::prelude::*;

    const DAYS: Calendar = Calendar { interval: Interval::Day, week_start: WeekStart::Monday, zone: Tz::UTC };

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("an instant")
    }

    #[test]
    fn only_those_whose_time_is_over_count_in_the_rate() {
        let starts = BTreeMap::from([
            ("early", at("2026-06-01T10:00:00Z")),
            ("quick", at("2026-06-02T10:00:00Z")),
            ("slow", at("2026-06-02T11:00:00Z")),
            ("fresh", at("2026-06-02T23:00:00Z")),
        ]);
        let goals = BTreeMap::from([
            ("early", vec![at("2026-05-30T00:00:00Z"), at("2026-06-01T11:00:00Z")]),
            ("quick", vec![at("2026-06-09T09:59:59Z")]),
            ("slow", vec![at("2026-06-09T11:00:00Z")]), // the first instant that is too late
        ]);
        let observed = Observed {
            from: DAYS.number_at(at("2026-06-01T00:00:00Z")),
            to: DAYS.number_at(at("2026-06-03T00:00:00Z")),
            complete_before: 0,
        };
        let (rows, total) = rows(&starts, &goals, TimeDelta::days(7), &DAYS, observed, at("2026-06-09T12:00:00Z"));
        let june_1 = &rows[0].1;
        assert_eq!((june_1.size, june_1.converted, june_1.complete, june_1.median_seconds), (1, 1, true, Some(3600)));
        let june_2 = &rows[1].1;
        assert_eq!((june_2.size, june_2.converted, june_2.mature, june_2.complete), (3, 1, 2, false));
        assert_eq!(june_2.rate(), Ratio::of(1, 2));
        assert_eq!((total.size, total.converted, total.mature, total.complete), (4, 2, 3, false));
    }

    proptest! {
        #[test]
        fn complete_rows_are_all_mature_and_rows_add_up(
            people in prop::collection::btree_map(0_u8..30, (0_i64..20_000, prop::collection::vec(0_i64..40_000, 0..4)), 0..30), known in 0_i64..40_000,
        ) {
            let minute = |m: i64| DateTime::from_timestamp(1_780_000_000 + m * 60, 0).expect("in range");
            let starts = people.iter().map(|(who, (start, _))| (*who, minute(*start))).collect();
            let goals = people.iter().map(|(who, (_, goals))| (*who, goals.iter().map(|m| minute(*m)).collect())).collect();
            let observed = Observed { from: DAYS.number_at(minute(0)), to: DAYS.number_at(minute(20_000)) + 1, complete_before: 0 };
            let (rows, total) = rows(&starts, &goals, TimeDelta::days(7), &DAYS, observed, minute(known));
            for (_, row) in &rows {
                prop_assert!(row.converted <= row.size && row.mature <= row.size && row.mature_converted <= row.mature);
                prop_assert!(!row.complete || (row.mature == row.size && row.mature_converted == row.converted));
                prop_assert_eq!(row.median_seconds.is_some(), row.converted > 0);
                prop_assert!(row.median_seconds <= row.p90_seconds);
            }
            prop_assert_eq!(rows.iter().map(|(_, row)| row.size).sum::<u64>(), people.len() as u64);
            prop_assert_eq!(rows.iter().map(|(_, row)| row.converted).sum::<u64>(), total.converted);
        }
    }
}
