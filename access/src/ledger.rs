//! The decision ledger, the second witness: how many decisions there were, counted apart from the events, by source,
//! consumer and minute. Sent to Kafka each second as a batch with an id of its own, so that a batch that is sent or
//! stored twice replaces itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::kafka::DECISIONS;
use farebox_core::period::{Period, floor_minute};
use futures::{FutureExt, StreamExt};
use rdkafka::Message;
use rdkafka::consumer::{CommitMode, Consumer, DefaultConsumerContext, StreamConsumer};
use rdkafka::producer::FutureRecord;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::gate::Gate;

/// Rows of a batch, at most: a message stays far below Kafka's limit.
const ROWS: usize = 2000;
/// Kept at once; beyond it consumers are counted together, the total staying right.
const MAX_KEYS: usize = 200_000;
/// Batches stored together, at most.
const BATCHES: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    workspace: WorkspaceId,
    source: String,
    consumer: String,
    outcome: &'static str,
    minute: DateTime<Utc>,
}

/// Decisions not yet sent.
#[derive(Default)]
pub struct Counts(Mutex<HashMap<Key, u64>>);

impl Counts {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, u64>> {
        // A map of counters is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, workspace: &WorkspaceId, source: &str, consumer: &str, outcome: &'static str, at: DateTime<Utc>) {
        let mut counts = self.lock();
        let mut key = Key {
            workspace: workspace.clone(),
            source: source.to_owned(),
            consumer: consumer.to_owned(),
            outcome,
            minute: floor_minute(at),
        };
        if counts.len() >= MAX_KEYS && !counts.contains_key(&key) {
            key.consumer.clear();
        }
        *counts.entry(key).or_default() += 1;
    }

    fn take(&self) -> Vec<Batch> {
        let taken = std::mem::take(&mut *self.lock());
        let rows: Vec<BatchRow> = taken
            .into_iter()
            .map(|(key, n)| BatchRow {
                workspace: key.workspace,
                source: key.source,
                consumer: key.consumer,
                outcome: key.outcome.to_owned(),
                minute: key.minute,
                n,
            })
            .collect();
        rows.chunks(ROWS).map(|rows| Batch { id: uuid::Uuid::now_v7().simple().to_string(), rows: rows.to_vec() }).collect()
    }
}

/// A message of [`DECISIONS`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Batch {
    id: String,
    rows: Vec<BatchRow>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct BatchRow {
    workspace: WorkspaceId,
    source: String,
    consumer: String,
    outcome: String,
    minute: DateTime<Utc>,
    n: u64,
}

/// Sends what was counted each second until `stop`, and then once more.
pub async fn send(app: App, gate: std::sync::Arc<Gate>, stop: CancellationToken) {
    let mut unsent: Vec<Batch> = Vec::new();
    loop {
        let last = stop.is_cancelled();
        // While Kafka is away the same batches are sent again, and counts gather for the next.
        if unsent.is_empty() {
            unsent = gate.counts.take();
        }
        if let Err(error) = send_all(&app, &mut unsent).await {
            tracing::warn!("counts of decisions wait for Kafka: {error:#}");
        }
        if last {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

async fn send_all(app: &App, unsent: &mut Vec<Batch>) -> anyhow::Result<()> {
    let topic = app.kafka.name(DECISIONS);
    while let Some(batch) = unsent.last() {
        let payload = serde_json::to_vec(batch)?;
        let record = FutureRecord::to(&topic).key(batch.id.as_str()).payload(&payload);
        let delivery = app.kafka.producer.send_result(record).map_err(|(error, _)| error)?;
        delivery.await?.map_err(|(error, _)| error)?;
        unsent.pop();
    }
    Ok(())
}

#[derive(Row, Serialize)]
struct DecisionRow<'a> {
    workspace: &'a str,
    #[serde(with = "clickhouse::serde::chrono::datetime")]
    minute: DateTime<Utc>,
    source: &'a str,
    consumer: &'a str,
    outcome: &'a str,
    batch: &'a str,
    n: u64,
}

/// Copies the topic to ClickHouse until `stop`; starts over when something fails.
pub async fn store(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = copy(&app, &stop).await {
            tracing::warn!("counts of decisions wait in their topic and are stored again in a second: {error:#}");
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }
}

async fn copy(app: &App, stop: &CancellationToken) -> anyhow::Result<()> {
    let consumer: StreamConsumer = app.kafka.consumer("farebox.decisions", DefaultConsumerContext)?;
    consumer.subscribe(&[&app.kafka.name(DECISIONS)])?;
    let mut stream = consumer.stream();
    loop {
        let first = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            first = stream.next() => first.context("the stream of a consumer never ends")??,
        };
        let mut batches = vec![parse(first.payload())];
        let mut seen = vec![first];
        while seen.len() < BATCHES {
            let Some(Some(next)) = stream.next().now_or_never() else { break };
            let next = next?;
            batches.push(parse(next.payload()));
            seen.push(next);
        }
        let mut insert = app.clickhouse.insert::<DecisionRow>("decisions").await?;
        for batch in batches.iter().flatten() {
            for row in &batch.rows {
                insert
                    .write(&DecisionRow {
                        workspace: row.workspace.as_str(),
                        minute: row.minute,
                        source: &row.source,
                        consumer: &row.consumer,
                        outcome: &row.outcome,
                        batch: &batch.id,
                        n: row.n,
                    })
                    .await?;
            }
        }
        insert.end().await?;
        for message in &seen {
            consumer.store_offset_from_message(message)?;
        }
        consumer.commit_consumer_state(CommitMode::Async)?;
    }
}

fn parse(payload: Option<&[u8]>) -> Option<Batch> {
    match serde_json::from_slice(payload.unwrap_or_default()) {
        Ok(batch) => Some(batch),
        Err(error) => {
            tracing::error!("a message in the decision topic is not one of ours and stays there: {error}");
            None
        }
    }
}

/// Decisions of a source in an hour, by outcome.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DecisionCount {
    pub source: String,
    #[serde(with = "clickhouse::serde::chrono::datetime")]
    pub hour: DateTime<Utc>,
    pub outcome: String,
    pub n: u64,
}

/// How many decisions there were in the period.
pub async fn counts(app: &App, workspace: &WorkspaceId, period: Period) -> Result<Vec<DecisionCount>, clickhouse::error::Error> {
    app.clickhouse
        .query(
            "SELECT source, toStartOfHour(minute) AS hour, outcome, sum(d.n) AS n FROM decisions AS d FINAL
             WHERE workspace = ? AND minute >= fromUnixTimestamp(?) AND minute < fromUnixTimestamp(?)
             GROUP BY source, hour, outcome ORDER BY source, hour, outcome",
        )
        .bind(workspace.as_str())
        .bind(period.start.timestamp())
        .bind(period.end.timestamp())
        .fetch_all()
        .await
}
