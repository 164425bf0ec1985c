//! Half-open time. A period is [start, end); calendars follow an IANA time zone, storage is UTC.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

/// [start, end): `start` belongs to it, `end` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Period {
    #[serde(rename = "from")]
    pub start: DateTime<Utc>,
    #[serde(rename = "to")]
    pub end: DateTime<Utc>,
}

impl Period {
    /// None when `end` is before `start`.
    pub fn new(start: DateTime<Utc>, end: DateTime<Utc>) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    pub fn contains(&self, instant: DateTime<Utc>) -> bool {
        self.start <= instant && instant < self.end
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The part both have in common, if any.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }
}

/// Down to the whole minute: boundaries of links, subscriptions and periods, so that no minute straddles one.
pub fn floor_minute(instant: DateTime<Utc>) -> DateTime<Utc> {
    instant - TimeDelta::seconds(i64::from(instant.second())) - TimeDelta::nanoseconds(i64::from(instant.nanosecond()))
}

/// The width of a usage window. Days and longer follow the calendar of a time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    Minute,
    Hour,
    Day,
    /// From Monday.
    Week,
    /// From Sunday.
    SundayWeek,
    Month,
    /// The whole range as one window.
    None,
}

/// The instant at which local midnight of `date` is, or the first instant after it where a clock change skips
/// midnight.
pub fn start_of_day(date: NaiveDate, zone: Tz) -> DateTime<Utc> {
    resolve(date.and_time(NaiveTime::MIN), zone)
}

/// A local time as an instant: the earlier one where clocks fall back, the end of the gap where they spring ahead.
pub fn resolve(local: NaiveDateTime, zone: Tz) -> DateTime<Utc> {
    let mut probe = local;
    loop {
        if let Some(instant) = zone.from_local_datetime(&probe).earliest() {
            return instant.with_timezone(&Utc);
        }
        probe += TimeDelta::minutes(1);
    }
}

pub fn local_date(instant: DateTime<Utc>, zone: Tz) -> NaiveDate {
    instant.with_timezone(&zone).date_naive()
}

/// The window of `width` that `instant` falls into. Hours and minutes are elapsed time, so a
/// day of 25 hours has 25 windows of an hour.
pub fn window_of(instant: DateTime<Utc>, width: Window, zone: Tz) -> Option<Period> {
    let date = local_date(instant, zone);
    let days =
        |first: NaiveDate, next: Option<NaiveDate>| Some(Period { start: start_of_day(first, zone), end: start_of_day(next?, zone) });
    match width {
        Window::Minute => {
            let start = floor_minute(instant);
            Some(Period { start, end: start + TimeDelta::minutes(1) })
        }
        Window::Hour => {
            // Zones with offsets of half or three quarters of an hour (Asia/Kathmandu) have their own full hours.
            let local = instant.with_timezone(&zone);
            let start = floor_minute(instant) - TimeDelta::minutes(i64::from(local.minute()));
            // A clock change of half an hour (Australia/Lord_Howe) cuts the hour it falls into in two.
            let same_offset = |at: &DateTime<Utc>| at.with_timezone(&zone).offset().fix() == local.offset().fix();
            let minutes = || (0..60).map(|n| start + TimeDelta::minutes(n));
            let first = minutes().find(same_offset)?;
            let last = minutes().rfind(same_offset)?;
            Some(Period { start: first, end: last + TimeDelta::minutes(1) })
        }
        Window::Day => days(date, date.succ_opt()),
        Window::Week | Window::SundayWeek => {
            let weekday = date.weekday();
            let into = if width == Window::Week { weekday.num_days_from_monday() } else { weekday.num_days_from_sunday() };
            let first = date.checked_sub_days(Days::new(u64::from(into)))?;
            days(first, first.checked_add_days(Days::new(7)))
        }
        Window::Month => {
            let first = date.with_day(1)?;
            days(first, first.checked_add_months(Months::new(1)))
        }
        Window::None => None,
    }
}

/// The calendar month as [start, end) in `zone`. `month` is 1 to 12.
pub fn month(year: i32, month: u32, zone: Tz) -> Option<Period> {
    let first = NaiveDate::from_ymd_opt(year, month, 1)?;
    Some(Period { start: start_of_day(first, zone), end: start_of_day(first.checked_add_months(Months::new(1))?, zone) })
}

/// All windows of `width` that overlap `range`, whole (the first and last may reach beyond it).
/// `limit` bounds the answer; None when there would be more.
pub fn windows(range: Period, width: Window, zone: Tz, limit: usize) -> Option<Vec<Period>> {
    if width == Window::None {
        return Some(vec![range]);
    }
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let window = window_of(at, width, zone)?;
        if found.len() == limit {
            return None;
        }
        // A skipped hour of a clock change could make an empty step; always move ahead.
        at = window.end.max(at + TimeDelta::minutes(1));
        found.push(window);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("an RFC 3339 time")
    }

    #[test]
    fn a_month_with_a_clock_change_keeps_local_midnights() {
        let october = month(2026, 10, chrono_tz::Europe::Berlin).expect("a month");
        assert_eq!(october.start, utc("2026-09-30T22:00:00Z"));
        assert_eq!(october.end, utc("2026-10-31T23:00:00Z"));
        let change = window_of(utc("2026-10-25T12:00:00Z"), Window::Day, chrono_tz::Europe::Berlin).expect("a day");
        assert_eq!(change.end - change.start, TimeDelta::hours(25));
    }

    #[test]
    fn hours_follow_the_zones_own_full_hours() {
        let hour = window_of(utc("2026-06-01T10:20:00Z"), Window::Hour, chrono_tz::Asia::Kathmandu).expect("an hour");
        assert_eq!(hour, Period { start: utc("2026-06-01T10:15:00Z"), end: utc("2026-06-01T11:15:00Z") });
    }

    proptest! {
        #[test]
        fn windows_cover_the_range_without_gap_or_overlap(
            start in 1_700_000_000_i64..1_830_000_000, minutes in 1_i64..(86 * 24 * 60),
            width in prop::sample::select(vec![Window::Hour, Window::Day, Window::Week, Window::SundayWeek, Window::Month]),
            zone in prop::sample::select(vec![chrono_tz::UTC, chrono_tz::Europe::Berlin, chrono_tz::America::New_York, chrono_tz::Australia::Lord_Howe, chrono_tz::Asia::Kathmandu]),
        ) {
            let start = floor_minute(DateTime::from_timestamp(start, 0).expect("in range"));
            let range = Period { start, end: start + TimeDelta::minutes(minutes) };
            let found = windows(range, width, zone, 10_000).expect("under the limit");
            prop_assert!(found[0].contains(start));
            prop_assert!(found.last().expect("one at least").end >= range.end);
            for pair in found.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
            }
        }
    }
}
