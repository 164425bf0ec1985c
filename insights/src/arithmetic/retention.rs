//! Retention: of those who started in an interval, how many came back later.
//!
//! Column 0 is always the cohort itself, also when starting and returning are different actions.

use super::{Activity, Observed};
use crate::ratio::Ratio;

/// What coming back means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// In exactly the n-th interval after the start.
    NDay,
    /// In the n-th interval or later, within what is observed.
    Unbounded,
    /// In any interval of each of these ranges after the start.
    Bracket(Vec<Bracket>),
}

/// Intervals `first` to `last` after the start, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bracket {
    pub first: i64,
    pub last: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The interval in which they started.
    pub cohort: i64,
    pub size: u64,
    /// How many came back, by column. Columns that lie wholly beyond what is observed are left out.
    pub values: Vec<u64>,
    /// Whether the column's intervals are over.
    pub complete: Vec<bool>,
}

/// One row for each observed interval. `starts` holds the intervals in which somebody enters a cohort: all of theirs
/// for recurring cohorts, only the first ever for first-time cohorts. At most `columns` columns.
pub fn rows<K: Ord>(starts: &Activity<K>, returns: &Activity<K>, observed: Observed, mode: &Mode, columns: i64) -> Vec<Row> {
    let mut rows: Vec<_> = (observed.from..observed.to).map(|cohort| empty_row(cohort, observed, mode, columns)).collect();
    for (who, started) in starts {
        let returned = returns.get(who);
        for cohort in started.range(observed.from..observed.to).copied() {
            let Some(row) = usize::try_from(cohort - observed.from).ok().and_then(|index| rows.get_mut(index)) else { continue };
            row.size += 1;
            let came_back = |first: i64, last: i64| {
                let last = last.min(observed.to - 1);
                first <= last && returned.is_some_and(|r| r.range(first..=last).next().is_some())
            };
            for (column, value) in (0_i64..).zip(row.values.iter_mut()) {
                let counts = match mode {
                    Mode::NDay => column == 0 || came_back(cohort + column, cohort + column),
                    Mode::Unbounded => column == 0 || came_back(cohort + column, observed.to - 1),
                    Mode::Bracket(brackets) => usize::try_from(column)
                        .ok()
                        .and_then(|index| brackets.get(index))
                        .is_some_and(|b| b.first == 0 || came_back(cohort + b.first, cohort + b.last)),
                };
                *value += u64::from(counts);
            }
        }
    }
    rows
}

fn empty_row(cohort: i64, observed: Observed, mode: &Mode, columns: i64) -> Row {
    let last = observed.to - 1;
    let complete: Vec<bool> = match mode {
        Mode::NDay => (cohort..observed.to.min(cohort + columns)).map(|n| observed.is_complete(n)).collect(),
        // "Or later" is only settled when all that is observed is over.
        Mode::Unbounded => {
            (cohort..observed.to.min(cohort + columns)).map(|n| observed.is_complete(if n == cohort { n } else { last })).collect()
        }
        Mode::Bracket(brackets) => brackets
            .iter()
            .take_while(|b| cohort + b.first <= last)
            .map(|b| cohort + b.last <= last && observed.is_complete(cohort + b.last))
            .collect(),
    };
    Row { cohort, size: 0, values: vec![0; complete.len()], complete }
}

/// How the rows of a column become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mean {
    /// By cohort size: all who came back of all who could have.
    #[default]
    Weighted,
    /// Each cohort the same.
    Simple,
}

/// The mean of each column over the cohorts for which it is complete; None where there is none.
pub fn mean(rows: &[Row], kind: Mean) -> Vec<Option<Ratio>> {
    let columns = rows.iter().map(|row| row.values.len()).max().unwrap_or(0);
    (0..columns)
        .map(|column| {
            let cells = rows
                .iter()
                .filter(|row| row.size > 0 && row.complete.get(column) == Some(&true))
                .filter_map(|row| Some((*row.values.get(column)?, row.size)));
            match kind {
                Mean::Weighted => {
                    let (came_back, size) = cells.fold((0, 0), |(a, b), (value, size)| (a + value, b + size));
                    Ratio::of(came_back, size)
                }
                Mean::Simple => Ratio::mean(&cells.filter_map(|(value, size)| Ratio::of(value, size)).collect::<Vec<_>>()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::examples::{activity, all_over};
    use super::*;
    use proptest::prelude::*;

    fn values(rows: &[Row]) -> Vec<Vec<u64>> {
        rows.iter().map(|row| row.values.clone()).collect()
    }

    #[test]
    fn worked_example_1_n_day_recurring() {
        let active = activity(&[("A", &[0, 1, 2, 5, 6]), ("B", &[1, 2, 3, 6])]);
        let rows = rows(&active, &active, all_over(0, 11), &Mode::NDay, 11);
        let expected: [&[u64]; 7] = [&[1, 1, 1, 0, 0, 1, 1], &[2, 2, 1, 0, 1, 2], &[2, 1, 0, 1, 2], &[1, 0, 0, 1], &[0], &[1, 1], &[2]];
        for (row, start) in rows.iter().zip(expected.into_iter().chain(std::iter::repeat(&[][..]))) {
            let columns = usize::try_from(11 - row.cohort).expect("not negative");
            let padded: Vec<_> = start.iter().copied().chain(std::iter::repeat(0)).take(columns).collect();
            assert_eq!(row.values, padded, "cohort of day {}", row.cohort);
        }
        assert_eq!(rows.len(), 11);
    }

    #[test]
    fn worked_example_2_unbounded() {
        let active = activity(&[("P1", &[0, 3, 4]), ("P2", &[0, 1]), ("P3", &[1, 2, 3]), ("P4", &[3, 4]), ("P5", &[4])]);
        let rows = rows(&active, &active, all_over(0, 6), &Mode::Unbounded, 6);
        let expected: [&[u64]; 5] = [&[2, 1, 1, 0, 0], &[1, 1, 0, 0], &[3, 2, 0], &[3, 0], &[0]];
        assert_eq!(values(&rows[1..]), expected);
    }

    #[test]
    fn brackets_look_at_ranges_of_intervals() {
        let active = activity(&[("A", &[0, 2]), ("B", &[0, 4]), ("C", &[1])]);
        let brackets = Mode::Bracket(vec![Bracket { first: 1, last: 2 }, Bracket { first: 3, last: 6 }]);
        let rows = rows(&active, &active, all_over(0, 5), &brackets, 11);
        assert_eq!((rows[0].values.as_slice(), rows[0].complete.as_slice()), (&[1, 1][..], &[true, false][..]), "day 6 is not observed");
        assert_eq!(rows[3].values, [0]);
    }

    #[test]
    fn a_running_interval_is_not_complete_and_not_in_the_mean() {
        let active = activity(&[("A", &[0, 1, 2]), ("B", &[0, 2]), ("C", &[1])]);
        let observed = Observed { from: 0, to: 3, complete_before: 2 };
        let rows = rows(&active, &active, observed, &Mode::NDay, 3);
        assert_eq!(rows[0].complete, [true, true, false]);
        assert_eq!(rows[1].complete, [true, false]);
        let shown = |kind| mean(&rows, kind).iter().map(|r| r.map(|r| r.to_string())).collect::<Vec<_>>();
        assert_eq!(shown(Mean::Weighted), [Some("1".to_owned()), Some("0.5".to_owned()), None]);
    }

    #[test]
    fn the_mean_weighs_by_size_unless_told_otherwise() {
        let cohort = |cohort, size, back| Row { cohort, size, values: vec![size, back], complete: vec![true, true] };
        let rows = [cohort(0, 1, 1), cohort(1, 3, 0), cohort(2, 0, 0)];
        assert_eq!(mean(&rows, Mean::Weighted)[1], Ratio::of(1, 4));
        assert_eq!(mean(&rows, Mean::Simple)[1], Ratio::of(1, 2));
    }

    proptest! {
        #[test]
        fn what_must_hold_for_any_activity(
            active in prop::collection::btree_map(0_u8..20, prop::collection::btree_set(0_i64..12, 0..10), 0..12),
            from in 0_i64..6, length in 1_i64..8, over in 0_i64..12,
        ) {
            let observed = Observed { from, to: from + length, complete_before: over };
            let n_day = rows(&active, &active, observed, &Mode::NDay, 100);
            let unbounded = rows(&active, &active, observed, &Mode::Unbounded, 100);
            for (row, or_later) in n_day.iter().zip(&unbounded) {
                // Column 0 is the cohort, and nobody comes back who had not started.
                prop_assert_eq!(row.values[0], row.size);
                prop_assert_eq!(row.size, active.values().filter(|days| days.contains(&row.cohort)).count() as u64);
                prop_assert!(row.values.iter().all(|v| *v <= row.size));
                // Unbounded never rises, is never below n-day, and equals it in the last column.
                prop_assert!(or_later.values.is_sorted_by(|a, b| a >= b));
                prop_assert!(row.values.iter().zip(&or_later.values).all(|(n, later)| n <= later));
                prop_assert_eq!(row.values.last(), or_later.values.last());
                // A bracket of one interval is that n-day column; one that reaches to the end is the unbounded one.
                for column in 1..i64::try_from(row.values.len()).expect("small") {
                    let last = observed.to - 1 - row.cohort;
                    let brackets = Mode::Bracket(vec![Bracket { first: column, last: column }]);
                    let to_the_end = Mode::Bracket(vec![Bracket { first: column, last }]);
                    let index = usize::try_from(row.cohort - from).expect("observed");
                    let at = usize::try_from(column).expect("small");
                    prop_assert_eq!(rows(&active, &active, observed, &brackets, 1)[index].values[0], row.values[at]);
                    prop_assert_eq!(rows(&active, &active, observed, &to_the_end, 1)[index].values[0], or_later.values[at]);
                }
            }
        }
    }
}
