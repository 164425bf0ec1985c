//! Kafka -> [`store`]. One thread polls and parses, one task writes; a bounded channel between them. Offsets are
//! committed after the rows are stored and their minutes touched, so that dying at any moment only repeats work, and
//! rows that come twice replace themselves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::TimeDelta;
use farebox_core::event::UsageEvent;
use farebox_core::ids::WorkspaceId;
use farebox_core::kafka::EVENTS;
use farebox_core::{App, clock};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::fence::Context;
use crate::hints::Hints;
use crate::poison::{self, Poison};
use crate::retention;
use crate::store::{self, EventRow};

/// The consumer group.
pub const GROUP: &str = "farebox.metering";
/// Parsed events between the thread and the task, at most.
const CHANNEL: usize = 65_536;
/// Bytes of events that are parsed and not stored: the next batch is read while one is stored, and memory stays bounded
/// whatever their size.
const UNDER_WAY: usize = 48 << 20;
/// A batch holds at most so many bytes.
const BATCH_BYTES: usize = 24 << 20;
/// Longer than a batch takes to be stored. A partition that is paused loses what was fetched ahead.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

struct Item {
    partition: i32,
    epoch: u64,
    offset: i64,
    bytes: usize,
    /// Its share of [`UNDER_WAY`].
    room: Option<OwnedSemaphorePermit>,
    what: Result<Box<EventRow>, Poison>,
    /// The dead letter it becomes if its month has expired by the time it is stored; of old events only.
    expired: Option<Box<Poison>>,
}

/// Younger events never lie in a month that has expired.
const YOUNG: TimeDelta = TimeDelta::days(retention::LEAST_DAYS as i64 - 2);

/// Runs until `stop`; what was stored by then is committed.
pub(crate) async fn run(app: App, hints: Arc<Hints>, stop: CancellationToken) -> anyhow::Result<()> {
    let context = Context::default();
    let topic = app.kafka.name(EVENTS);
    let consumer = Arc::new(app.kafka.base_consumer(GROUP, context.clone()).context("the metering consumer cannot be created")?);
    consumer.subscribe(&[&topic]).context("the metering consumer cannot subscribe")?;
    let (sender, receiver) = channel(CHANNEL);
    // Cancelled also when the task ends by itself, so that the thread never outlives it.
    let poll_stop = stop.child_token();
    let thread = {
        let (consumer, context, stop) = (consumer.clone(), context.clone(), poll_stop.clone());
        std::thread::Builder::new().name("metering-poll".to_owned()).spawn(move || poll(&consumer, &context, sender, &stop))?
    };
    let result = work(&app, &hints, &consumer, &context, &topic, receiver, &stop).await;
    poll_stop.cancel();
    drop(consumer);
    tokio::task::spawn_blocking(move || thread.join()).await?.map_err(|_| anyhow::anyhow!("the polling thread panicked"))?;
    result
}

/// Polls, parses, and hands over. When there is no room for long the partitions are paused and polling goes on, because
/// that is what keeps the membership in the group and serves rebalances.
fn poll(consumer: &BaseConsumer<Context>, context: &Context, sender: Sender<Item>, stop: &CancellationToken) {
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let mut held: VecDeque<Item> = VecDeque::new();
    let mut full_since = None;
    let mut paused = false;
    while !stop.is_cancelled() {
        while let Some(mut item) = held.pop_front() {
            item.room = item.room.or_else(|| room.clone().try_acquire_many_owned(u32::try_from(item.bytes).ok()?).ok());
            if item.room.is_none() {
                held.push_front(item);
                break;
            }
            match sender.try_send(item) {
                Ok(()) => {}
                Err(TrySendError::Full(item)) => {
                    held.push_front(item);
                    break;
                }
                Err(TrySendError::Closed(_)) => return,
            }
        }
        if held.is_empty() {
            full_since = None;
        } else if full_since.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
            std::thread::sleep(LOOK_EVERY);
            continue;
        }
        if held.is_empty() == paused {
            let Ok(ours) = consumer.assignment() else { continue };
            // Refused only for a partition that was just taken away.
            let _ = if paused { consumer.resume(&ours) } else { consumer.pause(&ours) };
            paused = !paused;
        } else if held.len() > 1
            && let Ok(ours) = consumer.assignment()
        {
            // A partition that was given to us meanwhile is not paused yet.
            let _ = consumer.pause(&ours);
        }
        let wait = if paused { Duration::from_millis(10) } else { Duration::from_millis(100) };
        match consumer.poll(wait) {
            None => {}
            Some(Ok(message)) => {
                if let Some(epoch) = context.fence.epoch(message.partition()) {
                    held.push_back(parse(&message, epoch));
                }
            }
            Some(Err(error)) => tracing::warn!("Kafka gave no message: {error}"),
        }
    }
}

fn parse(message: &BorrowedMessage<'_>, epoch: u64) -> Item {
    let payload = message.payload().unwrap_or_default();
    let what = serde_json::from_slice::<UsageEvent>(payload)
        .map_err(|error| ("not-an-event", error.to_string()))
        .and_then(|event| EventRow::from_event(event).map_err(|reason| (reason, String::new())))
        .map(Box::new)
        .map_err(|(reason, detail)| Poison::new(message, reason, detail));
    let is_old = what.as_ref().is_ok_and(|row| row.time < clock::now() - YOUNG);
    let detail = "the month's raw events have expired and its numbers are frozen; adjust the invoice instead";
    let expired = is_old.then(|| Box::new(Poison::new(message, retention::REASON, detail.to_owned())));
    let bytes = payload.len() + size_of::<Item>() + size_of::<EventRow>();
    Item { partition: message.partition(), epoch, offset: message.offset(), bytes, room: None, what, expired }
}

async fn work(
    app: &App,
    hints: &Hints,
    consumer: &Arc<BaseConsumer<Context>>,
    context: &Context,
    topic: &str,
    mut receiver: Receiver<Item>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let mut batch = tokio::select! {
            batch = gather(app, &mut receiver) => batch,
            () = stop.cancelled() => return Ok(()),
        };
        if batch.is_empty() {
            anyhow::ensure!(stop.is_cancelled(), "the polling thread ended");
            return Ok(());
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let working = context.fence.begin(&mut batch, |item| (item.partition, item.epoch));
            match finish(app, hints, &batch).await {
                Ok(()) => {
                    commit(consumer, topic, &batch);
                    break;
                }
                Err(error) => tracing::warn!("a batch of {} events waits, since it cannot be stored: {error:#}", batch.len()),
            }
            drop(working);
            metrics::counter!("farebox_metering_store_failures_total").increment(1);
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = stop.cancelled() => return Ok(()),
            }
        }
    }
}

/// Up to a batch of items; empty when the thread has ended.
async fn gather(app: &App, receiver: &mut Receiver<Item>) -> Vec<Item> {
    let limit = app.config.metering.insert_rows;
    let mut batch = Vec::new();
    if receiver.recv_many(&mut batch, limit).await == 0 {
        return batch;
    }
    let deadline = Instant::now() + Duration::from_millis(app.config.metering.insert_wait_ms);
    let mut bytes: usize = batch.iter().map(|item| item.bytes).sum();
    while batch.len() < limit && bytes < BATCH_BYTES {
        let before = batch.len();
        match timeout_at(deadline, receiver.recv_many(&mut batch, limit - before)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => bytes += batch[before..].iter().map(|item| item.bytes).sum::<usize>(),
        }
    }
    batch
}

/// Stores events and touches their minutes; what cannot be stored becomes a dead letter, acknowledged too before the
/// offsets are committed.
async fn finish(app: &App, hints: &Hints, batch: &[Item]) -> anyhow::Result<()> {
    // Asked now, not when they were parsed: they may have waited.
    let limits = if batch.iter().any(|item| item.expired.is_some()) { retention::all_limits(app).await? } else { Arc::default() };
    let late = |row: &EventRow| {
        let workspace: Option<WorkspaceId> = row.workspace.parse().ok();
        workspace.and_then(|workspace| limits.get(&workspace).map(|l| row.time < l.closing)).unwrap_or(false)
    };
    let (mut rows, mut refused): (Vec<&EventRow>, Vec<&Poison>) = (Vec::new(), Vec::new());
    for item in batch {
        match (&item.what, &item.expired) {
            (Err(poison), _) => refused.push(poison),
            (Ok(row), Some(expired)) if late(row) => refused.push(expired),
            (Ok(row), _) => rows.push(row),
        }
    }
    let started = Instant::now();
    let minutes = store::store(&app.clickhouse, &rows).await.context("ClickHouse")?;
    if !rows.is_empty() {
        metrics::histogram!("farebox_metering_store_seconds").record(started.elapsed());
        metrics::counter!("farebox_metering_events_stored_total").increment(rows.len() as u64);
    }
    hints.add(minutes);
    for poison in refused {
        poison::send(app, poison).await?;
    }
    Ok(())
}

fn commit(consumer: &BaseConsumer<Context>, topic: &str, batch: &[Item]) {
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    for item in batch {
        let offset = next.entry(item.partition).or_default();
        *offset = (*offset).max(item.offset + 1);
    }
    let mut list = TopicPartitionList::new();
    for (partition, offset) in next {
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("an offset of a message is valid");
    }
    if list.count() > 0
        && let Err(error) = consumer.commit(&list, CommitMode::Async)
    {
        tracing::info!("offsets were not committed: {error}");
    }
}
