//! The same question about an earlier time, window by window; and running totals.

use std::collections::BTreeMap;

use bigdecimal::{BigDecimal, RoundingMode, Zero};
use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};
use chrono_tz::Tz;
use farebox_core::period::{Period, local_date, resolve, start_of_day};

use super::windows::Windows;
use super::{Counted, MAX_ROWS};
use crate::MeteringError;

/// What a period is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// As long, right before; for whole months so many months, for whole days so many days of the calendar.
    Previous,
    /// A month earlier by the calendar.
    Month,
    /// A year earlier by the calendar.
    Year,
}

impl Compare {
    pub fn earlier(self, period: Period, zone: Tz) -> Option<Period> {
        match self {
            Self::Previous => previous(period, zone),
            Self::Month => Some(Period { start: back(period.start, 1, zone)?, end: back(period.end, 1, zone)? }),
            Self::Year => Some(Period { start: back(period.start, 12, zone)?, end: back(period.end, 12, zone)? }),
        }
    }
}

fn back(at: DateTime<Utc>, months: u32, zone: Tz) -> Option<DateTime<Utc>> {
    Some(resolve(at.with_timezone(&zone).naive_local().checked_sub_months(Months::new(months))?, zone))
}

fn previous(period: Period, zone: Tz) -> Option<Period> {
    let (from, to) = (local_date(period.start, zone), local_date(period.end, zone));
    let whole_days = start_of_day(from, zone) == period.start && start_of_day(to, zone) == period.end;
    if !whole_days {
        return Some(Period { start: period.start - (period.end - period.start), end: period.start });
    }
    let month = |date: NaiveDate| date.year() * 12 + i32::try_from(date.month0()).unwrap_or(0);
    let start = if from.day() == 1 && to.day() == 1 {
        from.checked_sub_months(Months::new(u32::try_from(month(to) - month(from)).ok()?))?
    } else {
        from - (to - from)
    };
    Some(Period { start: start_of_day(start, zone), end: period.start })
}

/// Each row with its earlier value. What adds up is 0 where there is nothing, so that groups and windows that only one of
/// both times has are there too; of anything else (the average of nothing) there is no value.
pub(super) fn beside(now: Vec<Counted>, then: Vec<Counted>, windows: usize, additive: bool) -> Vec<Counted> {
    let nothing = additive.then(BigDecimal::zero);
    let mut rows: BTreeMap<_, Counted> = now.into_iter().map(|row| (row.key(), Counted { previous: nothing.clone(), ..row })).collect();
    for earlier in then.into_iter().filter(|row| row.window < windows) {
        if let Some(row) = rows.get_mut(&earlier.key()) {
            row.previous = Some(earlier.value);
        } else if additive {
            rows.insert(earlier.key(), Counted { previous: Some(earlier.value.clone()), value: BigDecimal::zero(), errors: 0, ..earlier });
        }
    }
    rows.into_values().collect()
}

/// By how many percent it changed, with two decimals; none where there was nothing.
pub fn change(value: &BigDecimal, previous: &BigDecimal) -> Option<BigDecimal> {
    if previous.is_zero() {
        return None;
    }
    let percent = (value - previous) * BigDecimal::from(100) / previous;
    Some(percent.with_scale_round(2, RoundingMode::HalfEven))
}

/// Each window's value with all before it, in every window that has begun, for each group.
pub(super) fn running(rows: Vec<Counted>, windows: &Windows, until: DateTime<Utc>) -> Result<Vec<Counted>, MeteringError> {
    let mut groups: BTreeMap<_, BTreeMap<usize, Counted>> = BTreeMap::new();
    for row in rows {
        groups.entry((row.other, row.group.clone())).or_default().insert(row.window, row);
    }
    let last = windows.count_until(until);
    if groups.len().saturating_mul(last) > MAX_ROWS {
        return Err(MeteringError::invalid(
            "cumulative",
            format!("would give more than {MAX_ROWS} rows; choose wider windows, fewer groups (`top`), or a shorter range"),
        ));
    }
    let mut all = Vec::new();
    for ((other, group), rows) in groups {
        let last = rows.keys().last().map_or(last, |n| last.max(n + 1));
        let mut total = BigDecimal::zero();
        let mut before = rows.values().any(|row| row.previous.is_some()).then(BigDecimal::zero);
        for window in 0..last {
            let row = rows.get(&window);
            total += row.map_or_else(BigDecimal::zero, |row| row.value.clone());
            before = before.map(|b| b + row.and_then(|row| row.previous.clone()).unwrap_or_default());
            let errors = row.map_or(0, |row| row.errors);
            all.push(Counted { window, group: group.clone(), other, value: total.clone(), errors, previous: before.clone() });
        }
    }
    all.sort_by_key(Counted::key);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("an RFC 3339 time")
    }

    #[test]
    fn before_a_month_comes_a_month_and_before_days_as_many_days() {
        let zone = chrono_tz::Europe::Berlin;
        let october = Period { start: at("2026-09-30T22:00:00Z"), end: at("2026-10-31T23:00:00Z") };
        let september = Period { start: at("2026-08-31T22:00:00Z"), end: at("2026-09-30T22:00:00Z") };
        assert_eq!(Compare::Previous.earlier(october, zone), Some(september));
        // The week in which the clocks go back, and the ordinary one before it.
        let week = Period { start: at("2026-10-18T22:00:00Z"), end: at("2026-10-25T23:00:00Z") };
        assert_eq!(Compare::Previous.earlier(week, zone), Some(Period { start: at("2026-10-11T22:00:00Z"), end: week.start }));
        let hours = Period { start: at("2026-10-20T10:00:00Z"), end: at("2026-10-20T13:00:00Z") };
        assert_eq!(Compare::Previous.earlier(hours, zone), Some(Period { start: at("2026-10-20T07:00:00Z"), end: hours.start }));
        assert_eq!(Compare::Year.earlier(october, zone).map(|p| p.start), Some(at("2025-09-30T22:00:00Z")));
    }
}
