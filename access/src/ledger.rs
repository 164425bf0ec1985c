//! The decision ledger, the second witness: how many decisions there were, counted apart from the events, by source,
//! API, consumer, subscription and minute. Sent to Kafka each second as a batch with an id of its own, so that a batch that is sent or
//! stored twice replaces itself. Decisions that let a consumer's call pass are listed by their ids, too, so that those
//! without an event can be named ([`crate::gap`]).

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
use uuid::Uuid;

use crate::gate::Gate;

/// Rows of a batch, at most: a message stays far below Kafka's limit.
const ROWS: usize = 2000;
/// Ids of a batch, at most: 32 bytes each.
const IDS: usize = 10_000;
/// Ids kept at once, while Kafka is away; beyond it decisions are counted but not listed.
const MAX_IDS: usize = 500_000;
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
    counts: Mutex<Counted>,
    hasher: RandomState,
}

#[derive(Default)]
struct Counted {
    rows: HashMap<u64, Count>,
    /// Of all rows together.
    ids: usize,
}

struct Count {
    row: BatchRow,
    n: u64,
    ids: Vec<Uuid>,
}

impl Counts {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        // A map of counters is whole after any panic.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `listed`: the id, of a decision that let a consumer's call pass.
    pub fn add(&self, entry: Entry, listed: Option<Uuid>) {
        let mut hash = self.hasher.hash_one(entry);
        let mut counted = self.lock();
        let Counted { rows, ids } = &mut *counted;
        let listed = listed.filter(|_| *ids < MAX_IDS);
        loop {
            match rows.get_mut(&hash) {
                Some(count) if count.row.is(&entry) => {
                    count.n += 1;
                    count.ids.extend(listed);
                    *ids += usize::from(listed.is_some());
                    return;
                }
                // Another one with the same hash: the next place is tried.
                Some(_) => hash = hash.wrapping_add(1),
                None => break,
            }
        }
        if rows.len() >= MAX_KEYS && !(entry.consumer.is_empty() && entry.api.is_empty()) {
            drop(counted);
            return self.add(Entry { consumer: "", subscription: "", feature: "", api: "", ..entry }, None);
        }
        rows.insert(hash, Count { row: BatchRow::of(&entry), n: 1, ids: listed.into_iter().collect() });
        *ids += usize::from(listed.is_some());
    }

    fn take(&self, instance: &str) -> Vec<Batch> {
        let taken = std::mem::take(&mut *self.lock());
        for Count { row, n, .. } in taken.rows.values() {
            metrics::counter!(DECISIONS_TOTAL, "source" => row.source.clone(), "outcome" => row.outcome.clone()).increment(*n);
        }
        batches(taken.rows.into_values(), || format!("{instance}{}", Uuid::now_v7().simple()))
    }
}

/// A row with many ids is several, each in a batch of its own: in one batch they would replace each other.
fn batches(counts: impl Iterator<Item = Count>, id: impl Fn() -> String) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut room = 0;
    for Count { row, n, ids } in counts {
        let mut left = n;
        let mut parts = ids.chunks(IDS).chain(ids.is_empty().then_some(&[][..])).peekable();
        while let Some(part) = parts.next() {
            if part.len() > room || batches.last().is_none_or(|batch| batch.rows.len() >= ROWS) {
                batches.push(Batch { id: id(), rows: Vec::new() });
                room = IDS;
            }
            room -= part.len();
            // The last has what is not listed, too.
            let n = if parts.peek().is_some() { part.len() as u64 } else { left };
            left -= n;
            let listed = part.iter().map(|id| id.simple().to_string()).collect();
            batches.last_mut().expect("one was made").rows.push(BatchRow { n, ids: listed, ..row.clone() });
        }
    }
    batches
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
    /// See the migration `0402_decision_ids`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    ids: String,
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
            ids: String::new(),
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
    ids: &'a str,
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
                        ids: &row.ids,
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

#[cfg(test)]
mod tests {
    use farebox_core::clock;

    use super::*;

    fn entry(consumer: &str, minute: DateTime<Utc>) -> Entry<'_> {
        Entry { workspace: "w", source: "s", api: "a", consumer, subscription: "", feature: "", outcome: "allowed", minute }
    }

    #[test]
    fn every_decision_is_counted_and_every_one_that_passed_is_listed_once() {
        let (counts, minute) = (Counts::default(), clock::now());
        let ids: Vec<Uuid> = (0..IDS * 2 + 5).map(|_| Uuid::now_v7()).collect();
        for id in &ids {
            counts.add(entry("many", minute), Some(*id));
        }
        for n in 0..ROWS {
            counts.add(entry(&format!("one-{n}"), minute), None);
        }
        counts.add(entry("many", minute), None);
        for id in &ids[..IDS] {
            counts.add(entry("full", minute), Some(*id));
        }
        counts.add(entry("full", minute), None);
        let batches = counts.take("i-");
        let rows: Vec<&BatchRow> = batches.iter().flat_map(|batch| &batch.rows).collect();
        assert_eq!(rows.iter().map(|row| row.n).sum::<u64>(), (ids.len() + ROWS + 1 + IDS + 1) as u64);
        let mut listed: Vec<String> =
            rows.iter().flat_map(|row| row.ids.as_bytes().chunks(32)).map(|id| String::from_utf8_lossy(id).into_owned()).collect();
        let mut expected: Vec<String> = ids.iter().chain(&ids[..IDS]).map(|id| id.simple().to_string()).collect();
        listed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(listed, expected);
        for batch in &batches {
            assert!(
                batch.rows.len() <= ROWS
                    && ["many", "full"].iter().all(|of| batch.rows.iter().filter(|row| row.consumer == *of).count() <= 1)
            );
            assert!(serde_json::to_vec(batch).expect("JSON").len() < 1_000_000, "Kafka takes no more");
        }
        assert!(counts.take("i-").is_empty());
    }
}
