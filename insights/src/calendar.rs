//! The intervals KPIs are counted in: days, weeks and months of a time zone, numbered so that neighbours differ by 1.

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use chrono_tz::Tz;
use farebox_core::period::{self, Period};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = KpiInterval)]
pub enum Interval {
    Day,
    #[default]
    Week,
    Month,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WeekStart {
    #[default]
    Monday,
    Sunday,
}

/// How local dates fall into intervals. An interval's number counts up by one from each interval to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    pub interval: Interval,
    pub week_start: WeekStart,
    pub zone: Tz,
}

impl Calendar {
    /// The number of the interval that holds `date`.
    pub fn number(&self, date: NaiveDate) -> i64 {
        let days = i64::from(date.num_days_from_ce());
        match (self.interval, self.week_start) {
            (Interval::Day, _) => days,
            // 1 January of the year 1, day 1, is a Monday.
            (Interval::Week, WeekStart::Monday) => (days - 1).div_euclid(7),
            (Interval::Week, WeekStart::Sunday) => days.div_euclid(7),
            (Interval::Month, _) => i64::from(date.year()) * 12 + i64::from(date.month0()),
        }
    }

    pub fn number_at(&self, instant: DateTime<Utc>) -> i64 {
        self.number(period::local_date(instant, self.zone))
    }

    /// The first day of the interval with this number. Numbers beyond what a date can be end at its limits.
    pub fn first_day(&self, number: i64) -> NaiveDate {
        let from_days = |days: i64| i32::try_from(days).ok().and_then(NaiveDate::from_num_days_from_ce_opt);
        let date = match (self.interval, self.week_start) {
            (Interval::Day, _) => from_days(number),
            (Interval::Week, WeekStart::Monday) => from_days(number.saturating_mul(7).saturating_add(1)),
            (Interval::Week, WeekStart::Sunday) => from_days(number.saturating_mul(7)),
            (Interval::Month, _) => {
                let month = u32::try_from(number.rem_euclid(12)).unwrap_or(0) + 1;
                i32::try_from(number.div_euclid(12)).ok().and_then(|year| NaiveDate::from_ymd_opt(year, month, 1))
            }
        };
        date.unwrap_or(if number < 0 { NaiveDate::MIN } else { NaiveDate::MAX })
    }

    /// From the local midnight that begins the interval to the one that begins the next.
    pub fn period(&self, number: i64) -> Period {
        Period { start: self.start(number), end: self.start(number + 1) }
    }

    pub fn start(&self, number: i64) -> DateTime<Utc> {
        period::start_of_day(self.first_day(number), self.zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn date(text: &str) -> NaiveDate {
        text.parse().expect("a date")
    }

    #[test]
    fn weeks_start_where_told() {
        let week = |week_start| Calendar { interval: Interval::Week, week_start, zone: Tz::UTC };
        let first = |calendar: Calendar, day| calendar.first_day(calendar.number(date(day)));
        assert_eq!(first(week(WeekStart::Monday), "2026-06-14"), date("2026-06-08")); // a Sunday
        assert_eq!(first(week(WeekStart::Sunday), "2026-06-14"), date("2026-06-14"));
        assert_eq!(first(week(WeekStart::Sunday), "2026-06-13"), date("2026-06-07"));
    }

    #[test]
    fn a_late_evening_belongs_to_the_local_day() {
        let berlin = Calendar { interval: Interval::Day, week_start: WeekStart::Monday, zone: Tz::Europe__Berlin };
        let evening = "2026-06-10T22:30:00Z".parse().expect("an instant");
        assert_eq!(berlin.first_day(berlin.number_at(evening)), date("2026-06-11"));
    }

    proptest! {
        #[test]
        fn intervals_follow_each_other_and_hold_their_dates(
            days in 700_000_i32..750_000,
            interval in prop::sample::select(vec![Interval::Day, Interval::Week, Interval::Month]),
            week_start in prop::sample::select(vec![WeekStart::Monday, WeekStart::Sunday]),
            zone in prop::sample::select(vec![Tz::UTC, Tz::Europe__Berlin, Tz::America__New_York, Tz::Asia__Kathmandu]),
        ) {
            let calendar = Calendar { interval, week_start, zone };
            let date = NaiveDate::from_num_days_from_ce_opt(days).expect("in range");
            let number = calendar.number(date);
            prop_assert!(calendar.first_day(number) <= date && date < calendar.first_day(number + 1));
            prop_assert_eq!(calendar.number(calendar.first_day(number)), number);
            let period = calendar.period(number);
            prop_assert_eq!(calendar.number_at(period.start), number);
            prop_assert_eq!(calendar.number_at(period.end), number + 1);
        }
    }
}
