//! The one clock. Rooms ask here, never the system, so that a workspace in test mode can live ahead of real time.

use chrono::{DateTime, TimeDelta, Utc};

/// Real time, to the microsecond (what PostgreSQL and ClickHouse keep).
pub fn now() -> DateTime<Utc> {
    let now = Utc::now();
    DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
}

/// A workspace's time: real time, or ahead of it in test mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkspaceClock {
    ahead: TimeDelta,
}

impl WorkspaceClock {
    /// `ahead_s`: seconds ahead of real time; 0 outside test mode.
    pub fn ahead_by_seconds(ahead_s: i64) -> Self {
        Self { ahead: TimeDelta::try_seconds(ahead_s).unwrap_or_default() }
    }

    pub fn now(self) -> DateTime<Utc> {
        now() + self.ahead
    }
}
