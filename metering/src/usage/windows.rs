//! The windows of a question: how a minute finds its own.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::period::{self, Period, Window, floor_minute};

use super::MAX_WINDOWS;
use crate::MeteringError;

pub(super) enum Windows {
    One(Period),
    Minutes(Period),
    Edges(Vec<Period>),
}

impl Windows {
    pub fn of(period: Period, width: Window, zone: Tz) -> Result<Self, MeteringError> {
        let too_many = || {
            MeteringError::invalid(
                "window",
                format!("would give more than {MAX_WINDOWS} windows; choose a wider window or a shorter range"),
            )
        };
        match width {
            Window::None => Ok(Self::One(period)),
            Window::Minute => {
                let minutes = (period.end - period.start).num_minutes();
                if minutes > i64::try_from(MAX_WINDOWS).unwrap_or(i64::MAX) { Err(too_many()) } else { Ok(Self::Minutes(period)) }
            }
            width => period::windows(period, width, zone, MAX_WINDOWS).map(Self::Edges).ok_or_else(too_many),
        }
    }

    /// Whether one of them holds [start, end), in seconds since 1970.
    pub fn hold(&self, start: u32, end: u32) -> bool {
        match self {
            Self::One(_) => true,
            Self::Minutes(_) => false,
            Self::Edges(_) => self.number(start) == self.number(end - 60),
        }
    }

    /// The start of a minute's window, in seconds since 1970.
    pub fn sql(&self) -> &'static str {
        match self {
            Self::One(_) => "toUInt32(0)",
            Self::Minutes(_) => "toUnixTimestamp(minute)",
            Self::Edges(_) => "roundDown(toUnixTimestamp(minute), {edges:Array(UInt32)})",
        }
    }

    pub fn bind(&self, query: clickhouse::query::Query) -> clickhouse::query::Query {
        match self {
            Self::Edges(edges) => query.param("edges", edges.iter().map(|w| seconds(w.start)).collect::<Vec<u32>>()),
            _ => query,
        }
    }

    /// The number of the window that starts there, from 0.
    pub fn number(&self, start: u32) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Minutes(period) => usize::try_from((start.saturating_sub(seconds(floor_minute(period.start)))) / 60).unwrap_or(0),
            Self::Edges(edges) => edges.partition_point(|w| seconds(w.start) <= start).saturating_sub(1),
        }
    }

    /// The whole window of a number, also where the period cuts it.
    pub fn whole(&self, number: usize) -> Period {
        match self {
            Self::One(period) => *period,
            Self::Minutes(period) => {
                let start = floor_minute(period.start) + TimeDelta::minutes(i64::try_from(number).unwrap_or(0));
                Period { start, end: start + TimeDelta::minutes(1) }
            }
            Self::Edges(edges) => {
                edges.get(number).or(edges.last()).copied().unwrap_or(Period { start: DateTime::UNIX_EPOCH, end: DateTime::UNIX_EPOCH })
            }
        }
    }

    /// How many windows start before `until`.
    pub fn count_until(&self, until: DateTime<Utc>) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Minutes(period) => {
                let last = period.end.min(until.max(period.start)) + TimeDelta::microseconds(59_999_999);
                usize::try_from((floor_minute(last) - floor_minute(period.start)).num_minutes()).unwrap_or(0)
            }
            Self::Edges(edges) => edges.partition_point(|w| w.start < until),
        }
    }
}

fn seconds(at: DateTime<Utc>) -> u32 {
    u32::try_from(at.timestamp().max(0)).unwrap_or(u32::MAX)
}
