//! The questions that pages and bills ask, each three ways.

use std::time::{Duration, Instant};

use anyhow::ensure;
use chrono::{DateTime, Datelike, Utc};
use farebox_core::App;
use farebox_core::ids::ConsumerId;
use farebox_core::money::BigDecimal;
use farebox_core::period::{Period, Window, month};
use farebox_metering::Dimension;
use farebox_metering::usage::{self, UsageQuery};

use super::generate::{CONSUMERS, Made};
use super::percentile;
use crate::report::Report;

const QUICK: u64 = 200;
const SLOW: u64 = 12;

/// The 99th percentile of each way.
pub struct Times {
    pub ours: Duration,
    pub events: Duration,
    pub json: Duration,
}

/// The last full month.
fn last_month(made: &Made) -> Period {
    let before = made.end - chrono::TimeDelta::days(i64::from(made.end.day()));
    month(before.year(), before.month(), chrono_tz::UTC).unwrap_or(Period { start: made.start, end: made.end })
}

fn consumer(n: u64) -> anyhow::Result<ConsumerId> {
    Ok(format!("con_{n:032}").parse()?)
}

/// Those with most calls as often as those with few.
fn chosen(n: u64, of: u64) -> u64 {
    let part = n * CONSUMERS / of;
    if n.is_multiple_of(2) { part / 20 } else { part }
}

async fn timed(app: &App, query: &UsageQuery) -> anyhow::Result<(Duration, BigDecimal)> {
    let start = Instant::now();
    let answer = usage::query(app, query).await?;
    Ok((start.elapsed(), answer.rows.into_iter().map(|row| row.value).sum()))
}

pub async fn consumer_months(app: &App, made: &Made, report: &mut Report) -> anyhow::Result<Times> {
    let period = last_month(made);
    let ours = |n| {
        anyhow::Ok(UsageQuery::new(&made.workspace, "requests", period).windows(Window::Day, chrono_tz::UTC).of_consumer(&consumer(n)?))
    };
    plain_json(app, made, report).await?;
    farebox_metering::forget_plans();
    let (first, _) = timed(app, &ours(CONSUMERS / 2)?).await?;
    let (mut quick, mut scans, mut json) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..QUICK {
        quick.push(timed(app, &ours(chosen(n, QUICK))?).await?.0);
    }
    for n in 0..SLOW {
        let who = chosen(n, SLOW);
        let (_, rolled) = timed(app, &ours(who)?).await?;
        // Only events know their source, so they are read.
        let (took, raw) = timed(app, &ours(who)?.only(Dimension::Source, "edge")).await?;
        ensure!(rolled == raw, "consumer {who} has {rolled} by rollups and {raw} by events");
        scans.push(took);
        json.push(by_json(app, who, period.start, period.end).await?);
    }
    let show = |name: &str, times: &mut [Duration]| {
        format!("{name} p50 {:.1} ms, p99 {:.1} ms", percentile(times, 50).as_secs_f64() * 1e3, percentile(times, 99).as_secs_f64() * 1e3)
    };
    report.note(format!(
        "a consumer's month by day: {}; the first of a process {:.1} ms; {}; {}",
        show("rollups", &mut quick),
        first.as_secs_f64() * 1e3,
        show("a scan of events", &mut scans),
        show("raw JSON", &mut json)
    ));
    Ok(Times { ours: percentile(&mut quick, 99), events: percentile(&mut scans, 99), json: percentile(&mut json, 99) })
}

/// What usage meters do that keep events as JSON, ordered by time, and aggregate them when asked. Copies count twice.
async fn plain_json(app: &App, made: &Made, report: &mut Report) -> anyhow::Result<()> {
    let start = Instant::now();
    let create = "CREATE TABLE plain (namespace LowCardinality(String), id String, type LowCardinality(String), source String, subject String, \
         time DateTime('UTC'), data String) ENGINE = MergeTree PARTITION BY toYYYYMM(time) ORDER BY (namespace, time, type, subject)";
    app.clickhouse.query_raw(create).execute().await?;
    let fill = format!(
        "INSERT INTO plain SELECT workspace, id, type, source, subject, toDateTime(time), concat('{{\"api\":\"', api, '\",\"route\":\"', route, \
         '\",\"method\":\"', method, '\",\"status\":', toString(status), ',\"latency_us\":', toString(latency_us), ',\"response_bytes\":', toString(response_bytes), \
         ',\"answered_by\":\"', answered_by, '\",\"environment\":\"', environment, '\"}}') FROM events WHERE workspace = '{}'",
        made.workspace
    );
    app.clickhouse.query_raw(&fill).with_setting("async_insert", "0").execute().await?;
    report.note(format!("the same events as JSON in {:.0} s", start.elapsed().as_secs_f64()));
    Ok(())
}

const COUNTS: &str = "countIf(JSONExtractUInt(data, 'status') NOT IN (401, 402, 403) AND JSONExtractUInt(data, 'status') < 500)";

async fn by_json(app: &App, consumer: u64, from: DateTime<Utc>, to: DateTime<Utc>) -> anyhow::Result<Duration> {
    let sql = format!(
        "SELECT toUnixTimestamp(toStartOfDay(time)) AS day, {COUNTS} AS n FROM plain WHERE type = 'farebox.request.v1' \
         AND subject = 'customer-{consumer}' AND time >= toDateTime({}, 'UTC') AND time < toDateTime({}, 'UTC') GROUP BY day ORDER BY day",
        from.timestamp(),
        to.timestamp()
    );
    let start = Instant::now();
    let _: Vec<(u32, u64)> = app.clickhouse.query_raw(&sql).fetch_all().await?;
    Ok(start.elapsed())
}

/// A month's total of every subscription: what a close asks.
pub async fn totals(app: &App, made: &Made, report: &mut Report) -> anyhow::Result<()> {
    let period = last_month(made);
    let ours = UsageQuery::new(&made.workspace, "requests", period).by(Dimension::Subscription);
    let (took, total) = timed(app, &ours).await?;
    let (scan, raw) = timed(app, &ours.clone().only(Dimension::Source, "edge")).await?;
    ensure!(total == raw, "all subscriptions have {total} by rollups and {raw} by events");
    let sql = format!(
        "SELECT subject, {COUNTS} AS n FROM plain WHERE time >= toDateTime({}, 'UTC') AND time < toDateTime({}, 'UTC') GROUP BY subject",
        period.start.timestamp(),
        period.end.timestamp()
    );
    let start = Instant::now();
    let _: Vec<(String, u64)> = app.clickhouse.query_raw(&sql).fetch_all().await?;
    report.note(format!(
        "a month's total of every subscription ({total} requests): {:.0} ms; a scan of events {:.0} ms; raw JSON {:.0} ms",
        took.as_secs_f64() * 1e3,
        scan.as_secs_f64() * 1e3,
        start.elapsed().as_secs_f64() * 1e3
    ));
    Ok(())
}
