//! The decision ledger, the second witness: how many decisions there were, counted apart from the events, by source,
//! API, consumer, subscription and minute. Sent to Kafka each second as a batch with an id of its own, so that a batch that is sent or
//! stored twice replaces itself.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::kafka::DECISIONS;
use farebox_core::period::Period;
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
/// How often counts leave the instance.
pub const SEND_EVERY: Duration = Duration::from_secs(1);

/// Counter: decisions, with labels `source` and `outcome`.
pub const DECISIONS_TOTAL: &str = "farebox_access_decisions_total";

/// What a decision is counted under; each empty where it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry<'a> {
    pub workspace: &'a str,
    pub source: &'a str,
    /// Of registered ones only: a path can say anything.
    pub api: &'a str,
    pub consumer: &'a str,
    pub subscription: &'a str,
    /// The entitlement that allowed it.
    pub feature: &'a str,
    pub outcome: &'static str,
    pub minute: DateTime<Utc>,
}

/// Decisions not yet sent, by the hash of what they are counted under, so that counting one more allocates nothing.
#[derive(Default)]
pub struct Counts {
    counts: Mutex<HashMap<u64, (BatchRow, u64)>>,
    hasher: RandomState,
}

impl Counts {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (BatchRow, u64)>> {
        // A map of counters is whole after any panic.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, entry: Entry) {
        let mut hash = self.hasher.hash_one(entry);
        let mut counts = self.lock();
        loop {
            match counts.get_mut(&hash) {
                Some((row, n)) if row.is(&entry) => {
                    *n += 1;
                    return;
                }
                // Another one with the same hash: the next place is tried.
                Some(_) => hash = hash.wrapping_add(1),
                None => break,
            }
        }
        if counts.len() >= MAX_KEYS && !(entry.consumer.is_empty() && entry.api.is_empty()) {
            drop(counts);
            return self.add(Entry { consumer: "", subscription: "", feature: "", api: "", ..entry });
        }
        counts.insert(hash, (BatchRow::of(&entry), 1));
    }

    fn take(&self, instance: &str) -> Vec<Batch> {
        let taken = std::mem::take(&mut *self.lock());
        let rows: Vec<BatchRow> = taken.into_values().map(|(row, n)| BatchRow { n, ..row }).collect();
        for row in &rows {
            metrics::counter!(DECISIONS_TOTAL, "source" => row.source.clone(), "outcome" => row.outcome.clone()).increment(row.n);
        }
        rows.chunks(ROWS).map(|rows| Batch { id: format!("{instance}{}", uuid::Uuid::now_v7().simple()), rows: rows.to_vec() }).collect()
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
    workspace: String,
    source: String,
    #[serde(default)]
    api: String,
    consumer: String,
    #[serde(default)]
    subscription: String,
    #[serde(default)]
    feature: String,
    outcome: String,
    minute: DateTime<Utc>,
    n: u64,
}

impl BatchRow {
    fn of(entry: &Entry) -> Self {
        Self {
            workspace: entry.workspace.to_owned(),
            source: entry.source.to_owned(),
            api: entry.api.to_owned(),
            consumer: entry.consumer.to_owned(),
            subscription: entry.subscription.to_owned(),
            feature: entry.feature.to_owned(),
            outcome: entry.outcome.to_owned(),
            minute: entry.minute,
            n: 0,
        }
    }

    fn is(&self, entry: &Entry) -> bool {
        self.workspace == entry.workspace
            && self.source == entry.source
            && self.api == entry.api
            && self.consumer == entry.consumer
            && self.subscription == entry.subscription
            && self.feature == entry.feature
            && self.outcome == entry.outcome
            && self.minute == entry.minute
    }
}

/// Sends what was counted each second until `stop`, and then once more.
pub async fn send(app: App, gate: std::sync::Arc<Gate>, stop: CancellationToken) {
    let mut unsent: Vec<Batch> = Vec::new();
    loop {
        let last = stop.is_cancelled();
        // While Kafka is away the same batches are sent again, and counts gather for the next.
        if unsent.is_empty() {
            unsent = gate.counts.take(&gate.instance);
        }
        if let Err(error) = send_all(&app, &mut unsent).await {
            tracing::warn!("counts of decisions wait for Kafka: {error:#}");
        }
        if last {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(SEND_EVERY) => {}
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
    api: &'a str,
    subscription: &'a str,
    feature: &'a str,
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
                        workspace: &row.workspace,
                        minute: row.minute,
                        source: &row.source,
                        consumer: &row.consumer,
                        outcome: &row.outcome,
                        batch: &batch.id,
                        n: row.n,
                        api: &row.api,
                        subscription: &row.subscription,
                        feature: &row.feature,
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

/// Decisions of a source in an hour, mirrored traffic left out.
#[derive(Debug, Row, Deserialize)]
pub struct OfHour {
    pub source: String,
    #[serde(with = "clickhouse::serde::chrono::datetime")]
    pub hour: DateTime<Utc>,
    pub n: u64,
}

pub async fn by_hour(app: &App, workspace: &WorkspaceId, period: Period) -> Result<Vec<OfHour>, farebox_metering::MeteringError> {
    Ok(app
        .clickhouse
        .query(
            "SELECT toString(source) AS source, toStartOfHour(minute) AS hour, sum(d.n) AS n FROM decisions AS d FINAL
             WHERE workspace = ? AND minute >= fromUnixTimestamp(?) AND minute < fromUnixTimestamp(?) AND outcome != 'mirrored'
             GROUP BY source, hour ORDER BY hour, source",
        )
        .bind(workspace.as_str())
        .bind(period.start.timestamp())
        .bind(period.end.timestamp())
        .fetch_all()
        .await?)
}
