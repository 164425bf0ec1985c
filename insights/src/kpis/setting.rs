//! What all KPIs have in common: the parameters everyone takes, resolved against the workspace, and what every answer
//! says about itself.

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::{Period, start_of_day};
use farebox_core::workspace;
use serde::{Deserialize, Serialize};

use crate::action::CallFilter;
use crate::arithmetic::Observed;
use crate::calendar::{Calendar, Interval, WeekStart};
use crate::error::KpiError;

/// The most intervals that one answer covers.
const MAX_INTERVALS: i64 = 400;

/// Who is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = KpiUnit)]
pub enum Unit {
    #[default]
    Consumer,
    Credential,
}

impl Unit {
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Consumer => "consumers",
            Self::Credential => "credentials",
        }
    }
}

/// A date means its midnight in the time zone asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Date(NaiveDate),
    Instant(DateTime<Utc>),
}

/// Parameters of every KPI. All have defaults.
#[derive(Debug, Clone, Default)]
pub struct Common {
    /// The first interval is the one that holds this moment. Default: 30 days, 12 weeks or 12 months in all.
    pub from: Option<Moment>,
    /// The last interval is the one before this moment, or the one that holds it. Default: the running one.
    pub to: Option<Moment>,
    /// Default: weeks (days for stickiness).
    pub interval: Option<Interval>,
    /// Default: the workspace's.
    pub time_zone: Option<Tz>,
    pub week_start: WeekStart,
    pub unit: Unit,
    /// Only these calls count as calls.
    pub filter: CallFilter,
}

/// [`Common`] for one workspace at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub workspace: WorkspaceId,
    pub calendar: Calendar,
    pub observed: Observed,
    pub unit: Unit,
    pub filter: CallFilter,
    /// The workspace's time.
    pub now: DateTime<Utc>,
    /// Everything before this instant has arrived.
    pub known_until: DateTime<Utc>,
}

impl Setting {
    pub async fn resolve(app: &App, id: &WorkspaceId, common: &Common, default_interval: Interval) -> Result<Self, KpiError> {
        let mut conn = app.pg.acquire().await?;
        let workspace = workspace::by_id(&mut conn, id).await?.ok_or_else(|| KpiError::NoWorkspace(id.clone()))?;
        drop(conn);
        let now = workspace.clock.now();
        let calendar = Calendar {
            interval: common.interval.unwrap_or(default_interval),
            week_start: common.week_start,
            zone: common.time_zone.unwrap_or(workspace.time_zone),
        };
        let known_until = super::facts::known_until(app, id).await?.min(now);
        let (from, to) = range(common, &calendar, now)?;
        Ok(Self {
            workspace: id.clone(),
            observed: Observed { from, to, complete_before: calendar.number_at(known_until) },
            calendar,
            unit: common.unit,
            filter: common.filter.clone(),
            now,
            known_until,
        })
    }

    /// The observed time.
    pub fn period(&self) -> Period {
        Period { start: self.calendar.start(self.observed.from), end: self.calendar.start(self.observed.to) }
    }

    pub fn about(&self, definition: &'static str, version: u32, formula: String) -> About {
        About {
            definition,
            version,
            formula,
            unit: self.unit,
            time_zone: self.calendar.zone.name().to_owned(),
            interval: self.calendar.interval,
            week_start: self.calendar.week_start,
            from: self.period().start,
            to: self.period().end,
            as_of: self.now,
            complete_until: self.known_until,
        }
    }
}

/// The numbers of the first interval and of the one after the last. What has not begun is left out.
fn range(common: &Common, calendar: &Calendar, now: DateTime<Utc>) -> Result<(i64, i64), KpiError> {
    let instant = |moment| match moment {
        Moment::Date(date) => start_of_day(date, calendar.zone),
        Moment::Instant(at) => at,
    };
    let running = calendar.number_at(now);
    let to = match common.to.map(instant) {
        None => running + 1,
        Some(to) => {
            let number = calendar.number_at(to);
            let holds_it = calendar.start(number) < to;
            (number + i64::from(holds_it)).min(running + 1)
        }
    };
    let default_length = match calendar.interval {
        Interval::Day => 30,
        Interval::Week | Interval::Month => 12,
    };
    let from = common.from.map_or(to - default_length, |from| calendar.number_at(instant(from)));
    if let (Some(from), Some(to)) = (common.from.map(instant), common.to.map(instant))
        && from >= to
    {
        return Err(KpiError::field("to", "must be after `from`"));
    }
    if to - from > MAX_INTERVALS {
        return Err(KpiError::field("from", format!("asks for {} intervals; at most {MAX_INTERVALS} are answered at once", to - from)));
    }
    Ok((from.min(to), to))
}

/// What every answer says of itself.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = KpiAbout)]
pub struct About {
    /// Name of the definition.
    pub definition: &'static str,
    /// Counts up whenever the definition changes in a way that changes numbers.
    pub version: u32,
    /// How the numbers come about, for people.
    pub formula: String,
    pub unit: Unit,
    /// IANA name; intervals begin at its midnights.
    pub time_zone: String,
    pub interval: Interval,
    pub week_start: WeekStart,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub as_of: DateTime<Utc>,
    /// Everything that happened before this instant has arrived.
    pub complete_until: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEKS: Calendar = Calendar { interval: Interval::Week, week_start: WeekStart::Monday, zone: Tz::UTC };

    fn now() -> DateTime<Utc> {
        "2026-06-17T12:00:00Z".parse().expect("an instant") // a Wednesday
    }

    fn resolved(from: Option<&str>, to: Option<&str>) -> Result<(String, String), String> {
        let date = |text: &str| Moment::Date(text.parse().expect("a date"));
        let common = Common { from: from.map(date), to: to.map(date), ..Common::default() };
        let shown = |number| WEEKS.first_day(number).to_string();
        range(&common, &WEEKS, now()).map(|(from, to)| (shown(from), shown(to))).map_err(|e| e.to_string())
    }

    #[allow(clippy::unnecessary_wraps)] // stands beside refusals in assertions
    fn ok(from: &str, to: &str) -> Result<(String, String), String> {
        Ok((from.to_owned(), to.to_owned()))
    }

    #[test]
    fn ranges_grow_to_whole_intervals_and_end_with_the_running_one() {
        assert_eq!(resolved(None, None), ok("2026-03-30", "2026-06-22"));
        assert_eq!(resolved(Some("2026-06-03"), Some("2026-06-08")), ok("2026-06-01", "2026-06-08"));
        assert_eq!(resolved(Some("2026-06-03"), Some("2026-06-09")), ok("2026-06-01", "2026-06-15"));
        assert_eq!(resolved(Some("2026-06-03"), Some("2027-06-09")), ok("2026-06-01", "2026-06-22"));
        assert_eq!(resolved(Some("2027-06-03"), None), ok("2026-06-22", "2026-06-22"), "nothing has begun");
        assert!(resolved(Some("2026-06-03"), Some("2026-06-03")).is_err_and(|e| e.contains("to: must be after")));
        assert!(resolved(Some("2010-06-03"), None).is_err_and(|e| e.contains("at most 400")));
    }
}
