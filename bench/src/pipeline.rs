//! Kafka to ClickHouse: metering from its start until every row can be seen, against inserting the same rows from
//! memory, row by row as its client does, and by column as metering does. What metering does besides (parse, touch, commit,
//! recompute) is in its time.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use farebox_core::event::{AnsweredBy, REQUEST, RequestData, SpecVersion, UsageEvent, kafka_key};
use farebox_core::ids::WorkspaceId;
use farebox_core::kafka::EVENTS;
use farebox_metering::block::{self, Block};
use farebox_metering::store;
use futures::future::join_all;
use rdkafka::producer::FutureRecord;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::engines::Bench;
use crate::report::{Line, Report, rate};

/// The least ratio to keep.
const LEAST: f64 = 0.6;
const PRODUCE_AT_ONCE: usize = 10_000;
const LOOK_EVERY: Duration = Duration::from_millis(100);
const GIVE_UP: Duration = Duration::from_mins(5);

pub async fn measure(bench: &Bench, count: usize, report: &mut Report) -> anyhow::Result<()> {
    let workspace = WorkspaceId::new();
    let now = farebox_core::clock::now();
    let events: Vec<_> = (0..count).map(|n| event(&workspace, n, now)).collect();
    produce(bench, &events).await?;
    let rows: Vec<_> = events.iter().map(EventRow::of).collect();

    let before = insert(bench, "bare_before", &rows).await?;
    let ours = consume(bench, &workspace, count).await?;
    let after = insert(bench, "bare_after", &rows).await?;
    let by_column = insert_by_column(bench, "bare_columns", &events).await?;
    report.add(Line {
        what: format!("Kafka to ClickHouse, {count} events"),
        unit: "events/s",
        ours: rate(count, ours),
        yardstick: rate(2 * count, before + after),
        yardstick_name: "the same rows inserted from memory",
        least: LEAST,
        less_is_better: false,
    });
    report.add(Line {
        what: format!("Kafka to ClickHouse, {count} events"),
        unit: "events/s",
        ours: rate(count, ours),
        yardstick: rate(count, by_column),
        yardstick_name: "the same rows inserted by column",
        least: 0.0,
        less_is_better: false,
    });
    Ok(())
}

/// Like real traffic of one hour: 500 subjects, 20 routes, some errors.
pub fn event(workspace: &WorkspaceId, n: usize, now: DateTime<Utc>) -> UsageEvent {
    let back = TimeDelta::milliseconds(i64::try_from(n % 3_600_000).unwrap_or(0));
    UsageEvent {
        specversion: SpecVersion::V1,
        id: format!("bench/{}", uuid::Uuid::now_v7()),
        source: "bench".to_owned(),
        kind: REQUEST.to_owned(),
        time: now - back,
        subject: format!("customer-{}", n % 500),
        workspace: workspace.clone(),
        received_at: now,
        data: RequestData {
            api: "orders".to_owned(),
            api_version: "v2".to_owned(),
            route: format!("GET /orders/{{id}}/{}", n % 20),
            method: "GET".to_owned(),
            status: if n.is_multiple_of(50) { 503 } else { 200 },
            latency_us: 1200,
            request_bytes: 512,
            response_bytes: 2048,
            answered_by: AnsweredBy::Upstream,
            environment: "production".to_owned(),
            gateway: "bench".to_owned(),
            client_country: "DE".to_owned(),
            ..RequestData::default()
        },
    }
}

async fn produce(bench: &Bench, events: &[UsageEvent]) -> anyhow::Result<()> {
    let topic = bench.app.kafka.name(EVENTS);
    for chunk in events.chunks(PRODUCE_AT_ONCE) {
        let mut deliveries = Vec::with_capacity(chunk.len());
        for event in chunk {
            let (key, payload) = (kafka_key(event), serde_json::to_vec(event)?);
            let record = FutureRecord::to(&topic).key(&key).payload(&payload);
            deliveries.push(bench.app.kafka.producer.send_result(record).map_err(|(error, _)| error)?);
        }
        for delivered in join_all(deliveries).await {
            delivered?.map_err(|(error, _)| error)?;
        }
    }
    Ok(())
}

/// A row of `events`, as anyone would write it with the client.
#[derive(Debug, Row, Serialize)]
struct EventRow<'a> {
    workspace: &'a str,
    id: &'a str,
    #[serde(with = "clickhouse::serde::chrono::datetime64::micros")]
    time: DateTime<Utc>,
    #[serde(with = "clickhouse::serde::chrono::datetime64::millis")]
    received_at: DateTime<Utc>,
    source: &'a str,
    r#type: &'a str,
    subject: &'a str,
    credential: &'a str,
    gateway: &'a str,
    country: &'a str,
    answered_by: &'a str,
    api: &'a str,
    api_version: &'a str,
    route: &'a str,
    method: &'a str,
    environment: &'a str,
    marker: &'a str,
    status: u16,
    latency_us: u32,
    request_bytes: u64,
    response_bytes: u64,
    cached: bool,
    properties: Vec<(&'a str, &'a str)>,
    version: u64,
    is_deleted: u8,
}

impl<'a> EventRow<'a> {
    fn of(event: &'a UsageEvent) -> Self {
        let data = &event.data;
        Self {
            workspace: event.workspace.as_str(),
            id: &event.id,
            time: event.time,
            received_at: event.received_at,
            source: &event.source,
            r#type: &event.kind,
            subject: &event.subject,
            credential: &data.credential,
            gateway: &data.gateway,
            country: &data.client_country,
            answered_by: data.answered_by.as_str(),
            api: &data.api,
            api_version: &data.api_version,
            route: &data.route,
            method: &data.method,
            environment: &data.environment,
            marker: &data.marker,
            status: data.status,
            latency_us: data.latency_us,
            request_bytes: data.request_bytes,
            response_bytes: data.response_bytes,
            cached: data.cached,
            properties: data.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            version: store::version(0, event.received_at),
            is_deleted: 0,
        }
    }
}

/// Into a table of the same shape, in blocks as large as metering's may be.
async fn insert(bench: &Bench, table: &str, rows: &[EventRow<'_>]) -> anyhow::Result<Duration> {
    let clickhouse = &bench.app.clickhouse;
    create(bench, table).await?;
    let start = Instant::now();
    for block in rows.chunks(bench.app.config.metering.insert_rows) {
        let insert = clickhouse.insert::<EventRow<'_>>(table).await?;
        let mut insert = insert.with_setting("optimize_on_insert", "0").with_setting("async_insert", "0");
        for row in block {
            insert.write(row).await?;
        }
        insert.end().await?;
    }
    let took = start.elapsed();
    remove(bench, table, rows.len()).await?;
    Ok(took)
}

async fn insert_by_column(bench: &Bench, table: &str, events: &[UsageEvent]) -> anyhow::Result<Duration> {
    create(bench, table).await?;
    let start = Instant::now();
    for events in events.chunks(bench.app.config.metering.insert_rows) {
        block::insert(&bench.app.clickhouse, table, &[&Block::of(events)]).await?;
    }
    let took = start.elapsed();
    remove(bench, table, events.len()).await?;
    Ok(took)
}

async fn create(bench: &Bench, table: &str) -> anyhow::Result<()> {
    Ok(bench.app.clickhouse.query("CREATE TABLE ? AS events").bind(clickhouse::sql::Identifier(table)).execute().await?)
}

async fn remove(bench: &Bench, table: &str, rows: usize) -> anyhow::Result<()> {
    let name = clickhouse::sql::Identifier(table);
    let seen: u64 = bench.app.clickhouse.query("SELECT count() FROM ?").bind(name).fetch_one().await?;
    ensure!(seen == rows as u64, "the yardstick inserted {seen} of {rows} rows");
    bench.app.clickhouse.query("DROP TABLE ?").bind(name).execute().await?;
    Ok(())
}

async fn consume(bench: &Bench, workspace: &WorkspaceId, count: usize) -> anyhow::Result<Duration> {
    let stop = CancellationToken::new();
    let start = Instant::now();
    let metering = tokio::spawn(farebox_metering::run(bench.app.clone(), stop.clone()));
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let took = loop {
        looks.tick().await;
        let seen: u64 = bench.app.clickhouse.query("SELECT count() FROM events").fetch_one().await?;
        if seen >= count as u64 {
            break start.elapsed();
        }
        ensure!(!metering.is_finished(), "metering ended by itself");
        ensure!(start.elapsed() < GIVE_UP, "after {} s only {seen} of {count} rows can be seen", GIVE_UP.as_secs());
    };
    stop.cancel();
    metering.await.context("metering panicked")??;
    let question = "SELECT uniqExact(id) FROM events WHERE workspace = ?";
    let distinct: u64 = bench.app.clickhouse.query(question).bind(workspace.as_str()).fetch_one().await?;
    ensure!(distinct == count as u64, "{distinct} of {count} events are there");
    Ok(took)
}
