//! Billing periods: an interval from an anchor, in a time zone. [start, end), whole minutes.
//!
//! A calendar anchor begins at the calendar's own hours, days, Mondays, firsts of months, quarters, half-years and
//! years. Another anchor (a subscription's start) counts from there by the local calendar, keeping its time of day: an
//! anchor on the 29th to 31st takes the month's last day when it must, and its own day again after.

use chrono::{DateTime, Datelike, Days, Months, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::period::{Period, Window, floor_minute, month, resolve, window_of};

use super::error::RatingError;
use super::plan::Interval;

/// What cuts time into periods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    pub interval: Interval,
    /// The calendar's own unless given.
    pub anchor: Option<DateTime<Utc>>,
    pub zone: Tz,
}

impl Schedule {
    /// The period that `at` falls into. Before an anchor, periods go on backwards.
    pub fn period_of(&self, at: DateTime<Utc>) -> Result<Period, RatingError> {
        let found = match self.anchor {
            None => self.of_calendar(at),
            Some(anchor) => self.since_anchor(floor_minute(anchor), at),
        };
        found.ok_or(RatingError::BeyondCalendar)
    }

    fn of_calendar(&self, at: DateTime<Utc>) -> Option<Period> {
        let window = |window| window_of(at, window, self.zone);
        match self.interval {
            Interval::Hour => window(Window::Hour),
            Interval::Day => window(Window::Day),
            Interval::Week => window(Window::Week),
            Interval::Month => window(Window::Month),
            Interval::Quarter | Interval::HalfYear | Interval::Year => {
                let (local, months) = (at.with_timezone(&self.zone), self.months()?);
                let first = local.month0() / months * months + 1;
                let start = month(local.year(), first, self.zone)?.start;
                Some(Period { start, end: month(local.year(), first + months - 1, self.zone)?.end })
            }
        }
    }

    fn months(&self) -> Option<u32> {
        match self.interval {
            Interval::Hour | Interval::Day | Interval::Week => None,
            Interval::Month => Some(1),
            Interval::Quarter => Some(3),
            Interval::HalfYear => Some(6),
            Interval::Year => Some(12),
        }
    }

    fn since_anchor(&self, anchor: DateTime<Utc>, at: DateTime<Utc>) -> Option<Period> {
        let (local_anchor, local) = (anchor.with_timezone(&self.zone), at.with_timezone(&self.zone));
        // How many intervals after the anchor, give or take one, which the loops put right.
        let mut n = match self.interval {
            Interval::Hour => (at - anchor).num_hours(),
            Interval::Day => (local.date_naive() - local_anchor.date_naive()).num_days(),
            Interval::Week => (local.date_naive() - local_anchor.date_naive()).num_days().div_euclid(7),
            _ => {
                let months =
                    i64::from(local.year() - local_anchor.year()) * 12 + i64::from(local.month0()) - i64::from(local_anchor.month0());
                months.div_euclid(i64::from(self.months()?))
            }
        };
        while self.nth(anchor, n)? > at {
            n -= 1;
        }
        while self.nth(anchor, n + 1)? <= at {
            n += 1;
        }
        Some(Period { start: self.nth(anchor, n)?, end: self.nth(anchor, n + 1)? })
    }

    /// Where the n-th period after the anchor begins; always counted from the anchor, so that its day comes back.
    fn nth(&self, anchor: DateTime<Utc>, n: i64) -> Option<DateTime<Utc>> {
        if self.interval == Interval::Hour {
            return anchor.checked_add_signed(TimeDelta::try_hours(n)?);
        }
        let local = anchor.with_timezone(&self.zone).naive_local();
        let (date, by) = (local.date(), n.unsigned_abs());
        let date = if let Some(months) = self.months() {
            let by = Months::new(u32::try_from(by).ok()?.checked_mul(months)?);
            if n < 0 { date.checked_sub_months(by) } else { date.checked_add_months(by) }
        } else {
            let by = Days::new(if self.interval == Interval::Week { by.checked_mul(7)? } else { by });
            if n < 0 { date.checked_sub_days(by) } else { date.checked_add_days(by) }
        }?;
        Some(floor_minute(resolve(date.and_time(local.time()), self.zone)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("an RFC 3339 time")
    }

    fn starts(interval: Interval, anchor: &str, zone: Tz, count: usize) -> Vec<String> {
        let schedule = Schedule { interval, anchor: Some(utc(anchor)), zone };
        let mut at = utc(anchor);
        let mut found = Vec::new();
        for _ in 0..count {
            let period = schedule.period_of(at).expect("in the calendar");
            found.push(period.start.with_timezone(&zone).format("%Y-%m-%d %H:%M").to_string());
            at = period.end;
        }
        found
    }

    #[test]
    fn an_anchor_on_the_31st_returns_to_its_day() {
        assert_eq!(
            starts(Interval::Month, "2026-01-31T00:00:00Z", Tz::UTC, 5),
            ["2026-01-31 00:00", "2026-02-28 00:00", "2026-03-31 00:00", "2026-04-30 00:00", "2026-05-31 00:00"]
        );
        assert_eq!(
            starts(Interval::Month, "2028-01-30T00:00:00Z", Tz::UTC, 3),
            ["2028-01-30 00:00", "2028-02-29 00:00", "2028-03-30 00:00"]
        );
        assert_eq!(
            starts(Interval::Quarter, "2026-11-30T00:00:00Z", Tz::UTC, 3),
            ["2026-11-30 00:00", "2027-02-28 00:00", "2027-05-30 00:00"]
        );
        assert_eq!(
            starts(Interval::Year, "2028-02-29T00:00:00Z", Tz::UTC, 5),
            ["2028-02-29 00:00", "2029-02-28 00:00", "2030-02-28 00:00", "2031-02-28 00:00", "2032-02-29 00:00"]
        );
    }

    #[test]
    fn an_anchor_keeps_its_time_of_day_where_clocks_change() {
        let berlin = chrono_tz::Europe::Berlin;
        // 02:30 does not exist on 29 March 2026; the day begins at 03:00 then, and at 02:30 again after.
        assert_eq!(starts(Interval::Day, "2026-03-28T01:30:00Z", berlin, 3), ["2026-03-28 02:30", "2026-03-29 03:00", "2026-03-30 02:30"]);
        let schedule = Schedule { interval: Interval::Day, anchor: None, zone: berlin };
        let long = schedule.period_of(utc("2026-10-25T12:00:00Z")).expect("a day");
        assert_eq!((long.end - long.start).num_hours(), 25);
    }

    #[test]
    fn the_calendars_own_periods() {
        let of = |interval, at: &str| {
            let p = Schedule { interval, anchor: None, zone: Tz::UTC }.period_of(utc(at)).expect("a period");
            format!("{} {}", p.start.format("%F"), p.end.format("%F"))
        };
        assert_eq!(of(Interval::Quarter, "2026-11-28T00:00:00Z"), "2026-10-01 2027-01-01");
        assert_eq!(of(Interval::HalfYear, "2026-06-30T23:59:00Z"), "2026-01-01 2026-07-01");
        assert_eq!(of(Interval::Year, "2028-02-29T00:00:00Z"), "2028-01-01 2029-01-01");
        assert_eq!(of(Interval::Week, "2026-11-29T00:00:00Z"), "2026-11-23 2026-11-30");
    }

    proptest! {
        #[test]
        fn periods_follow_each_other_and_hold_their_instants(
            anchor in 1_600_000_000_i64..1_900_000_000, at in 1_500_000_000_i64..2_000_000_000, calendar: bool,
            interval in prop::sample::select(vec![
                Interval::Hour, Interval::Day, Interval::Week, Interval::Month, Interval::Quarter, Interval::HalfYear, Interval::Year,
            ]),
            zone in prop::sample::select(vec![Tz::UTC, chrono_tz::Europe::Berlin, chrono_tz::America::New_York, chrono_tz::Australia::Lord_Howe]),
        ) {
            let instant = |seconds| floor_minute(DateTime::from_timestamp(seconds, 0).expect("in range"));
            let schedule = Schedule { interval, anchor: (!calendar).then(|| instant(anchor)), zone };
            let period = schedule.period_of(instant(at)).expect("in the calendar");
            prop_assert!(period.contains(instant(at)));
            let next = schedule.period_of(period.end).expect("in the calendar");
            prop_assert_eq!(next.start, period.end);
            prop_assert_eq!(schedule.period_of(period.start).expect("in the calendar"), period);
        }
    }
}
