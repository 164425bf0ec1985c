//! Who made calls that qualify, and when: what insights' cohorts are built from. From rollups and the raw tail.
//!
//! A call qualifies when it succeeded (2xx or 3xx), is a consumer's in production, and is not marked as a health check
//! or a mirrored copy.

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::{Period, local_date};
use serde::Deserialize;

use crate::facts::{Column, Facts, Table};
use crate::plan::{self, Whole};
use crate::{MeteringError, rule};

/// On rows of the routes rollup and on attributed events.
pub(crate) const QUALIFIES: &str = "consumer != '' AND type = 'farebox.request.v1' AND status >= 200 AND status < 400 \
     AND environment IN ('', 'production') AND marker NOT IN ('health_check', 'mirror')";

/// The day that ClickHouse and Unix count from, in chrono's count.
const UNIX_DAY: i32 = 719_163;
/// Instants in one question: they travel in the query's address.
const AT_ONCE: usize = 500;

/// Who is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Consumer,
    /// Calls that carry no credential are left out.
    Credential,
}

/// Which of the qualifying calls.
#[derive(Debug, Clone)]
pub struct Calls {
    pub workspace: WorkspaceId,
    pub unit: Unit,
    pub period: Period,
    pub api: Option<String>,
    pub api_version: Option<String>,
    pub route: Option<String>,
}

/// A day on which somebody called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveDay {
    /// Id of the consumer or credential.
    pub who: String,
    /// In the time zone asked for.
    pub day: NaiveDate,
    pub calls: u64,
}

/// Every day on which somebody has a qualifying call, sorted by who, then day.
pub async fn days(app: &App, calls: &Calls, zone: Tz) -> Result<Vec<ActiveDay>, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        who: String,
        day: i32,
        calls: u64,
    }
    if calls.period.is_empty() {
        return Ok(Vec::new());
    }
    let outer = "SELECT who, toInt32(toRelativeDayNum(minute, {zone:String})) AS day, sum(n) AS calls FROM ({facts}) WHERE who != '' GROUP BY who, day ORDER BY who, day";
    let found = calls.query(app, outer, &one_day(zone)).await?.param("zone", zone.name()).fetch_all::<Found>().await?;
    let day = |n: i32| NaiveDate::from_num_days_from_ce_opt(n + UNIX_DAY).unwrap_or_default();
    Ok(found.into_iter().map(|row| ActiveDay { who: row.who, day: day(row.day), calls: row.calls }).collect())
}

/// The first qualifying call of everybody who has one in the period.
pub async fn first(app: &App, calls: &Calls) -> Result<Vec<(String, DateTime<Utc>)>, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        who: String,
        at: i64,
    }
    if calls.period.is_empty() {
        return Ok(Vec::new());
    }
    let outer = "SELECT who, toUnixTimestamp64Micro(min(first_at)) AS at FROM ({facts}) WHERE who != '' GROUP BY who ORDER BY who";
    let found = calls.query(app, outer, &plan::any).await?.fetch_all::<Found>().await?;
    Ok(found.into_iter().map(|row| (row.who, instant(row.at))).collect())
}

/// The first qualifying call of each of these at or after an instant of their own. Whether there is one is exact; when
/// it shares its minute with an earlier one, the answer is the minute's last call.
pub async fn first_since(
    app: &App,
    calls: &Calls,
    since: &[(String, DateTime<Utc>)],
) -> Result<Vec<(String, DateTime<Utc>)>, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        who: String,
        at: i64,
    }
    let mut all = Vec::with_capacity(since.len());
    for part in since.chunks(AT_ONCE) {
        let Some(earliest) = part.iter().map(|(_, at)| *at).min() else { continue };
        let Some(period) = calls.period.intersect(&Period { start: earliest, end: calls.period.end.max(earliest) }) else { continue };
        let outer = "SELECT who, toUnixTimestamp64Micro(min(if(first_at >= since, first_at, last_at))) AS at FROM (\
                     SELECT who, first_at, last_at, fromUnixTimestamp64Micro(transform(who, {whos:Array(String)}, {sinces:Array(Int64)}, toInt64(0)), 'UTC') AS since \
                     FROM ({facts}) WHERE has({whos:Array(String)}, who)) WHERE last_at >= since GROUP BY who ORDER BY who";
        let whos: Vec<_> = part.iter().map(|(who, _)| who.as_str()).collect();
        let sinces: Vec<_> = part.iter().map(|(_, at)| at.timestamp_micros()).collect();
        let narrowed = Calls { period, ..calls.clone() };
        let query = narrowed.query(app, outer, &plan::never).await?.param("whos", whos).param("sinces", sinces);
        let found = query.fetch_all::<Found>().await?;
        all.extend(found.into_iter().map(|row| (row.who, instant(row.at))));
    }
    Ok(all)
}

/// Whether a stretch lies in one day.
fn one_day(zone: Tz) -> impl Fn(u32, u32) -> bool + Sync {
    let date = move |seconds: u32| DateTime::from_timestamp(i64::from(seconds), 0).map(|at| local_date(at, zone));
    move |start, end| date(start) == date(end - 60)
}

fn instant(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}

impl Calls {
    async fn query(&self, app: &App, outer: &str, whole: &Whole<'_>) -> Result<clickhouse::query::Query, MeteringError> {
        let rule = rule::current(&mut *app.pg.acquire().await?, &self.workspace).await?.1;
        let who = match self.unit {
            Unit::Consumer => "consumer",
            Unit::Credential => "credential",
        };
        let mut filter = QUALIFIES.to_owned();
        let only = [("api", &self.api), ("api_version", &self.api_version), ("route", &self.route)];
        for (column, value) in only {
            if value.is_some() {
                filter.push_str(&format!(" AND {column} = {{only_{column}:String}}"));
            }
        }
        let columns = vec![
            Column::new("minute", "minute", "minute"),
            Column::new("who", format!("toString({who})"), format!("toString({who})")),
            Column::new("n", "events", "toUInt64(1)"),
            Column::new("first_at", "first", "time"),
            Column::new("last_at", "last", "time"),
        ];
        let table = if only.iter().all(|(_, value)| value.is_none()) { Table::Activity } else { Table::Routes };
        let facts = Facts {
            table,
            period: self.period,
            whole,
            columns,
            rolled: filter.clone(),
            raw: filter,
            scope: String::new(),
            rule: &rule,
            may_be_partial: false,
        };
        let mut query = facts.query(app, &self.workspace, outer).await?;
        for (column, value) in only {
            if let Some(value) = value {
                query = query.param(&format!("only_{column}"), value);
            }
        }
        Ok(query)
    }
}
