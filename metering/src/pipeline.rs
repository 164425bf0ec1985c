//! How the pipeline is: what arrived, what is counted, what waits.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use farebox_core::ids::WorkspaceId;
use farebox_core::kafka::EVENTS;
use farebox_core::period::{Period, floor_minute};
use farebox_core::{App, clock};
use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use serde::Serialize;

use crate::completeness::{self, SourceProgress};
use crate::consumer::GROUP;
use crate::facts::Table;
use crate::{MeteringError, plan, usage};

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct PipelineStatus {
    /// Rows that came in, copies included (also those that came twice because a process died).
    pub deliveries: u64,
    /// Events before `until` that usage counts, each once.
    pub counted: u64,
    /// The minute that is running: what happens from then on is still coming in.
    pub until: DateTime<Utc>,
    /// Minutes read from raw events until they are recomputed.
    pub dirty_minutes: u64,
    pub last_event: Option<DateTime<Utc>>,
    pub complete_until: DateTime<Utc>,
    pub sources: Vec<SourceProgress>,
    /// Of the events topic, over all workspaces; none while Kafka does not answer.
    pub partitions: Option<Vec<PartitionLag>>,
    pub as_of: DateTime<Utc>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct PartitionLag {
    pub partition: i32,
    /// The next message to be stored.
    pub committed: i64,
    /// The next message that will be produced.
    pub end: i64,
    pub lag: i64,
}

pub async fn status(app: &App, workspace: &WorkspaceId) -> Result<PipelineStatus, MeteringError> {
    let as_of = clock::now();
    let until = floor_minute(as_of);
    let extent = async {
        let Some((first, last)) = plan::extent(app, workspace).await? else { return Ok((0, 0)) };
        let at = |seconds: u32, more: i64| DateTime::from_timestamp(i64::from(seconds) + more, 0).unwrap_or_default();
        let ever = Period { start: at(first, 0), end: at(last, 60) };
        let whole = Period { start: ever.start, end: ever.end.min(until) };
        // By remembered plans: only days that changed are looked at anew.
        let dirty = async { Ok(plan::plan(app, workspace, &Table::Billing, ever, &plan::any).await?.0.dirty.len() as u64) };
        tokio::try_join!(dirty, counted(app, workspace, whole))
    };
    let progress = async { completeness::of(app, workspace).await };
    let lag = async { Ok::<_, MeteringError>(lag(app).await) };
    let (progress, partitions, (dirty_minutes, counted)) = tokio::try_join!(progress, lag, extent)?;
    let deliveries = progress.sources.iter().map(|s| s.deliveries).sum::<u64>();
    Ok(PipelineStatus {
        deliveries,
        counted,
        until,
        dirty_minutes,
        last_event: progress.sources.iter().map(|s| s.newest).max(),
        complete_until: progress.complete_until,
        sources: progress.sources,
        partitions,
        as_of,
    })
}

async fn counted(app: &App, workspace: &WorkspaceId, period: Period) -> Result<u64, MeteringError> {
    // While the first event's minute is still running.
    if period.is_empty() {
        return Ok(0);
    }
    let calls = usage::query(app, &usage::UsageQuery::new(workspace, "calls", period)).await?;
    Ok(calls.rows.first().and_then(|row| row.value.to_plain_string().parse().ok()).unwrap_or(0))
}

/// How far the consumer group is behind, as of a second ago at most.
pub async fn lag(app: &App) -> Option<Vec<PartitionLag>> {
    let topic = app.kafka.name(EVENTS);
    let fresh = |known: &Known| known.lag.as_ref().filter(|(at, _)| at.elapsed() < LAG_HOLDS).map(|(_, lag)| lag.clone());
    if let Some(lag) = known().get(&topic).and_then(fresh) {
        return lag;
    }
    let kafka = app.kafka.clone();
    let ask = move || {
        let consumer = known().get(&topic).map(|known| known.consumer.clone());
        let consumer = match consumer {
            Some(consumer) => consumer,
            // Not subscribed, so it asks about the group without being a member. Kept: connecting costs most.
            None => Arc::new(kafka.base_consumer(GROUP, Quiet).ok()?),
        };
        let lag = ask_kafka(&consumer, &topic);
        known().insert(topic, Known { consumer, lag: Some((Instant::now(), lag.clone())) });
        lag
    };
    tokio::task::spawn_blocking(ask).await.ok().flatten()
}

const LAG_HOLDS: Duration = Duration::from_secs(1);

/// A broker that is away is told of by those who need it, and seen as no lag here; at the end this client outlives Kafka.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("{error}: {reason}");
    }
}

impl ConsumerContext for Quiet {}

struct Known {
    consumer: Arc<BaseConsumer<Quiet>>,
    lag: Option<(Instant, Option<Vec<PartitionLag>>)>,
}

/// By topic.
static KNOWN: LazyLock<Mutex<HashMap<String, Known>>> = LazyLock::new(Mutex::default);

fn known() -> MutexGuard<'static, HashMap<String, Known>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ask_kafka(consumer: &BaseConsumer<Quiet>, topic: &str) -> Option<Vec<PartitionLag>> {
    let timeout = Duration::from_secs(2);
    let metadata = consumer.fetch_metadata(Some(topic), timeout).ok()?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().first()?.partitions() {
        list.add_partition(topic, partition.id());
    }
    let committed = consumer.committed_offsets(list, timeout).ok()?;
    let mut lags = Vec::new();
    for element in committed.elements() {
        let (low, end) = consumer.fetch_watermarks(topic, element.partition(), timeout).ok()?;
        let committed = element.offset().to_raw().filter(|offset| *offset >= 0).unwrap_or(low);
        lags.push(PartitionLag { partition: element.partition(), committed, end, lag: end - committed });
    }
    Some(lags)
}
