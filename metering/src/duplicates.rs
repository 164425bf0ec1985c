//! What was removed and why: copies of events, by source and day of arrival.
//!
//! A copy with the same time replaces itself in its minute and leaves no row; it shows as a delivery more than there are
//! events. A copy with another time is buried by [`crate::repair`] and stays readable, beside the one that was kept.

use chrono::{DateTime, NaiveDate, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use serde::{Deserialize, Serialize};

use crate::MeteringError;
use crate::facts::bound;

/// Days in one report.
pub const MOST_DAYS: i64 = 400;

/// A source's day, in UTC, by when events arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Day {
    pub source: String,
    pub day: NaiveDate,
    /// Rows that came in, also those that came twice because a process died.
    pub deliveries: u64,
    /// Events first received on this day: each once.
    pub events: u64,
    /// Delivered again with the same time: the same event, kept once.
    pub same_time: u64,
    /// Delivered again with another time: removed, the first received being kept.
    pub other_time: u64,
}

/// A copy that was removed, and the event that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Removed {
    pub id: String,
    pub source: String,
    /// Of the copy that was removed.
    pub time: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    /// Of the event that counts; none when it was voided.
    pub kept_time: Option<DateTime<Utc>>,
    pub kept_received_at: Option<DateTime<Utc>>,
    /// `received_later` or `corrected`.
    pub reason: &'static str,
}

pub async fn report(app: &App, workspace: &WorkspaceId, from: NaiveDate, to: NaiveDate) -> Result<Vec<Day>, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        of_source: String,
        of_day: u16,
        delivered: u64,
        first: u64,
        buried: u64,
    }
    if to <= from || (to - from).num_days() > MOST_DAYS {
        return Err(MeteringError::invalid("to", format!("must be 1 to {MOST_DAYS} days after `from`")));
    }
    // An event is of the day of the copy that was received first; buried rows and voids are no events of their own.
    let sql = "SELECT toString(source) AS of_source, toUInt16(day) AS of_day, sum(d) AS delivered, sum(e) AS first, sum(b) AS buried FROM (\
         SELECT source, day, deliveries AS d, toUInt64(0) AS e, toUInt64(0) AS b FROM intake \
         WHERE workspace = {ws:String} AND day >= toDate({from:String}) AND day < toDate({to:String}) \
         UNION ALL SELECT source, toDate(received_at) AS day, toUInt64(0) AS d, uniqExactIf(id, bitAnd(version, 1) = 0) AS e, \
         uniqExactIf((toStartOfMinute(time), id), bitAnd(version, 1) = 1) AS b FROM events \
         WHERE workspace = {ws:String} AND received_at >= toDateTime64({from:String}, 3, 'UTC') AND received_at < toDateTime64({to:String}, 3, 'UTC') \
         GROUP BY source, day) GROUP BY of_source, of_day HAVING delivered > 0 OR first > 0 ORDER BY of_day DESC, of_source";
    let found: Vec<Found> = bound(app, workspace, sql).param("from", from.to_string()).param("to", to.to_string()).fetch_all().await?;
    let day = |n: u16| NaiveDate::from_ymd_opt(1970, 1, 1).unwrap_or_default() + chrono::Days::new(u64::from(n));
    let rows = found.into_iter().map(|row| Day {
        source: row.of_source,
        day: day(row.of_day),
        deliveries: row.delivered,
        events: row.first,
        same_time: row.delivered.saturating_sub(row.first + row.buried),
        other_time: row.buried,
    });
    Ok(rows.collect())
}

/// Copies with another time that were removed, by when they arrived, the latest first.
pub async fn removed(
    app: &App,
    workspace: &WorkspaceId,
    period: Period,
    source: Option<&str>,
    limit: usize,
) -> Result<Vec<Removed>, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        id: String,
        of_source: String,
        at: i64,
        received: i64,
        kept_at: i64,
        kept_received: i64,
        revision: u64,
    }
    let only = if source.is_some() { "AND source = {source:String}" } else { "" };
    let sql = format!(
        "SELECT b.id AS id, b.of_source AS of_source, b.at AS at, b.received AS received, k.kept_at AS kept_at, k.kept_received AS kept_received, k.revision AS revision FROM \
         (SELECT id, toString(any(source)) AS of_source, toUnixTimestamp64Micro(any(time)) AS at, toUnixTimestamp64Milli(any(received_at)) AS received FROM events \
         WHERE workspace = {{ws:String}} AND bitAnd(version, 1) = 1 AND received_at >= fromUnixTimestamp64Milli({}, 'UTC') \
         AND received_at < fromUnixTimestamp64Milli({}, 'UTC') {only} GROUP BY id, toStartOfMinute(time) ORDER BY received DESC, id LIMIT {limit}) AS b LEFT JOIN \
         (SELECT id, toUnixTimestamp64Micro(argMaxIf(time, version, is_deleted = 0)) AS kept_at, \
         toUnixTimestamp64Milli(argMaxIf(received_at, version, is_deleted = 0)) AS kept_received, bitShiftRight(max(version), 53) AS revision FROM \
         (SELECT * FROM events WHERE workspace = {{ws:String}} AND id IN (SELECT id FROM events \
         WHERE workspace = {{ws:String}} AND bitAnd(version, 1) = 1 AND received_at >= fromUnixTimestamp64Milli({}, 'UTC') \
         AND received_at < fromUnixTimestamp64Milli({}, 'UTC')) ORDER BY toStartOfMinute(time), id, version DESC LIMIT 1 BY toStartOfMinute(time), id) \
         GROUP BY id) AS k ON b.id = k.id ORDER BY received DESC, id",
        period.start.timestamp_millis(),
        period.end.timestamp_millis(),
        period.start.timestamp_millis(),
        period.end.timestamp_millis(),
    );
    let mut query = bound(app, workspace, &sql);
    if let Some(source) = source {
        query = query.param("source", source);
    }
    let found: Vec<Found> = query.fetch_all().await?;
    let read = found.into_iter().map(|row| {
        let kept = row.kept_at != 0;
        Removed {
            id: row.id,
            source: row.of_source,
            time: DateTime::from_timestamp_micros(row.at).unwrap_or_default(),
            received_at: DateTime::from_timestamp_millis(row.received).unwrap_or_default(),
            kept_time: kept.then(|| DateTime::from_timestamp_micros(row.kept_at).unwrap_or_default()),
            kept_received_at: kept.then(|| DateTime::from_timestamp_millis(row.kept_received).unwrap_or_default()),
            reason: if row.revision > 0 { "corrected" } else { "received_later" },
        }
    });
    Ok(read.collect())
}
