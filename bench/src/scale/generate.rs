//! Events made by the engine itself: three months, 10,000 consumers with a skew, 50 routes, one in a hundred twice.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use farebox_core::App;
use farebox_core::ids::WorkspaceId;

use crate::report::Report;

pub const CONSUMERS: u64 = 10_000;
const DAYS: u64 = 92;

pub struct Made {
    pub workspace: WorkspaceId,
    pub events: u64,
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
    pub took: Duration,
}

const COLUMNS: &str = "workspace, id, time, received_at, source, type, subject, credential, gateway, country, answered_by, api, api_version, \
     route, method, environment, marker, status, latency_us, request_bytes, response_bytes, cached, properties, version, is_deleted";

/// SELECT of events `from` to `from + n`, spread evenly over `seconds` from `start`.
fn events_sql(workspace: &WorkspaceId, from: u64, n: u64, start: DateTime<Utc>, seconds: u64, only: &str) -> String {
    // The inverted time of reception, a second after the event: see metering/src/store.rs.
    format!(
        "SELECT '{workspace}', concat('dec:', lower(hex(sipHash128(number)))), at, toDateTime64(at, 3, 'UTC') + toIntervalSecond(1), 'edge', \
         'farebox.request.v1', concat('customer-', toString(toUInt32(pow((h % 1000003) / 1000003, 3) * {CONSUMERS}))), '', concat('gw-', toString(h % 3)), \
         ['DE', 'US', 'FR', 'JP'][1 + h % 4], 'upstream', ['orders', 'search', 'geo'][1 + h % 3], 'v2', concat('GET /r/', toString(intDiv(h, 7) % 50)), 'GET', \
         'production', '', [200, 200, 200, 200, 201, 204, 304, 404, 429, 503][1 + intDiv(h, 11) % 10], 500 + h % 90000, 200 + h % 900, 300 + h % 20000, false, \
         CAST(map(), 'Map(LowCardinality(String), String)'), bitShiftLeft(4503599627370495 - toUInt64(toUnixTimestamp64Micro(at)) - 1000000 - number % 7, 1), 0 \
         FROM (SELECT number, cityHash64(number) AS h, fromUnixTimestamp64Micro({} + toInt64(intDiv((number - {from}) * {}, {n})), 'UTC') AS at \
         FROM numbers({from}, {n}) WHERE {only})",
        start.timestamp_micros(),
        seconds * 1_000_000,
    )
}

async fn run(app: &App, sql: &str) -> anyhow::Result<()> {
    let settings = [("async_insert", "0"), ("insert_deduplicate", "0"), ("optimize_on_insert", "0"), ("max_insert_threads", "2")];
    let query = app.clickhouse.query_raw(sql);
    settings.iter().fold(query, |query, (name, value)| query.with_setting(*name, *value)).execute().await?;
    Ok(())
}

async fn insert(app: &App, workspace: &WorkspaceId, from: u64, n: u64, start: DateTime<Utc>, seconds: u64) -> anyhow::Result<()> {
    for only in ["true", "number % 100 = 0"] {
        run(app, &format!("INSERT INTO events ({COLUMNS}) {}", events_sql(workspace, from, n, start, seconds, only))).await?;
    }
    let (first, last) = (start.timestamp(), start.timestamp() + i64::try_from(seconds)?);
    run(
        app,
        &format!(
            "INSERT INTO touched (workspace, minute, n) SELECT workspace, toStartOfMinute(time) AS m, count() FROM events \
             WHERE workspace = '{workspace}' AND toStartOfMinute(time) >= toDateTime({first}, 'UTC') AND toStartOfMinute(time) < toDateTime({last}, 'UTC') \
             GROUP BY workspace, m"
        ),
    )
    .await
}

/// Ends with the last full day.
pub async fn months(app: &App, events: u64) -> anyhow::Result<Made> {
    let started = Instant::now();
    let workspace = WorkspaceId::new();
    let end = farebox_core::clock::now().date_naive().and_time(chrono::NaiveTime::MIN).and_utc();
    let start = end - TimeDelta::days(i64::try_from(DAYS)?);
    let id = |prefix: &str| format!("concat('{prefix}', leftPad(toString(number), 32, '0'))");
    run(
        app,
        &format!(
            "INSERT INTO link (workspace, kind, key, valid_from, valid_to, consumer, environment, version, is_deleted) \
             SELECT '{workspace}', 'subject', concat('customer-', toString(number)), 0, 4294967295, {}, '', 1, 0 FROM numbers({CONSUMERS})",
            id("con_")
        ),
    )
    .await?;
    run(
        app,
        &format!(
            "INSERT INTO sub (workspace, consumer, product, valid_from, valid_to, subscription, plan, plan_version, version, is_deleted) \
             SELECT '{workspace}', {}, 'default', 0, 4294967295, {}, ['free', 'growth', 'scale'][1 + number % 3], '', 1, 0 FROM numbers({CONSUMERS})",
            id("con_"),
            id("sub_")
        ),
    )
    .await?;
    let a_day = events / DAYS;
    for day in 0..DAYS {
        insert(app, &workspace, day * a_day, a_day, start + TimeDelta::days(i64::try_from(day)?), 86_400).await?;
    }
    Ok(Made { workspace, events: a_day * DAYS, start, end, took: started.elapsed() })
}

/// A minute of today, full of events; returns how many.
pub async fn minute(app: &App, workspace: &WorkspaceId, per_second: u64) -> anyhow::Result<u64> {
    let now = farebox_core::clock::now();
    // Each rate has a minute of its own.
    let back = i64::from(now.second()) + 3600 + i64::try_from(per_second / 1000)? * 60;
    let start = DateTime::from_timestamp(now.timestamp() - back, 0).unwrap_or(now);
    insert(app, workspace, 1_000_000_000_000 + per_second, per_second * 60, start, 60).await?;
    Ok(per_second * 60)
}

/// Bytes on disk, by event.
#[expect(clippy::cast_precision_loss, reason = "a size to look at")]
pub async fn sizes(app: &App, made: &Made, report: &mut Report) -> anyhow::Result<()> {
    let sql = "SELECT table, sum(bytes_on_disk), sum(rows) FROM system.parts WHERE active AND database = ? GROUP BY table HAVING sum(rows) > 0 ORDER BY table";
    let found: Vec<(String, u64, u64)> = app.clickhouse.query(sql).bind(&app.config.clickhouse.database).fetch_all().await?;
    for (table, bytes, rows) in found.iter().filter(|(_, _, rows)| *rows > 1000) {
        report.note(format!("{table}: {rows} rows, {} MB, {:.1} bytes for each event", bytes >> 20, *bytes as f64 / made.events as f64));
    }
    Ok(())
}
