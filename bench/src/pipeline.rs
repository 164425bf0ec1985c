//! Kafka to ClickHouse: metering from its start until every row can be seen, against inserting the same rows from
//! memory. What metering does besides (parse, touch, commit, recompute) is in its time.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::event::{AnsweredBy, REQUEST, RequestData, SpecVersion, UsageEvent, kafka_key};
use farebox_core::ids::WorkspaceId;
use farebox_core::kafka::EVENTS;
use farebox_metering::store::EventRow;
use futures::future::join_all;
use rdkafka::producer::FutureRecord;
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
    let rows: Vec<_> = events.into_iter().filter_map(|event| EventRow::from_event(event).ok()).collect();
    ensure!(rows.len() == count, "every event can be stored");

    let before = insert(bench, "bare_before", &rows).await?;
    let ours = consume(bench, &workspace, count).await?;
    let after = insert(bench, "bare_after", &rows).await?;
    report.add(Line {
        what: format!("Kafka to ClickHouse, {count} events"),
        unit: "events/s",
        ours: rate(count, ours),
        yardstick: rate(2 * count, before + after),
        yardstick_name: "the same rows inserted from memory",
        least: LEAST,
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

/// Into a table of the same shape, in blocks as large as metering's.
async fn insert(bench: &Bench, table: &str, rows: &[EventRow]) -> anyhow::Result<Duration> {
    let clickhouse = &bench.app.clickhouse;
    let name = clickhouse::sql::Identifier(table);
    clickhouse.query("CREATE TABLE ? AS events").bind(name).execute().await?;
    let start = Instant::now();
    for block in rows.chunks(bench.app.config.metering.insert_rows) {
        let insert = clickhouse.insert::<EventRow>(table).await?;
        let mut insert = insert.with_setting("optimize_on_insert", "0").with_setting("async_insert", "0");
        for row in block {
            insert.write(row).await?;
        }
        insert.end().await?;
    }
    let took = start.elapsed();
    let seen: u64 = clickhouse.query("SELECT count() FROM ?").bind(name).fetch_one().await?;
    ensure!(seen == rows.len() as u64, "the yardstick inserted {seen} of {} rows", rows.len());
    clickhouse.query("DROP TABLE ?").bind(name).execute().await?;
    Ok(took)
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
