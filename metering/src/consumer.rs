//! Kafka -> [`store`]. One thread polls, parses and fills a batch, one task stores the batch before. Offsets are committed
//! after the rows are stored and their minutes touched, so that dying at any moment only repeats work, and rows that come
//! twice replace themselves.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::TimeDelta;
use farebox_core::event::UsageEvent;
use farebox_core::kafka::EVENTS;
use farebox_core::{App, clock};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::block::{Block, storable};
use crate::fence::Context;
use crate::hints::Hints;
use crate::poison::{self, Poison};
use crate::retention;
use crate::store;

/// The consumer group.
pub const GROUP: &str = "farebox.metering";
/// A batch holds at most so many bytes of rows. Three are in memory at most: one that is filled, one that waits, one that is
/// stored.
const BATCH_BYTES: usize = 12 << 20;
/// Longer than a batch takes to be stored. A partition that is paused loses what was fetched ahead.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// While a batch is open, or the partitions are paused.
const LOOK_OFTEN: Duration = Duration::from_millis(10);
const LONGEST_POLL: Duration = Duration::from_millis(100);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What was read since the batch before.
struct Batch {
    since: Instant,
    parts: Vec<Part>,
    messages: usize,
    bytes: usize,
}

/// The messages of one partition, of one of its assignments (see [`crate::fence`]).
struct Part {
    partition: i32,
    epoch: u64,
    /// The offset behind its last message.
    next: i64,
    block: Block,
    /// Events so old that their month may have expired by the time they are stored, each with the dead letter it then becomes.
    old: Vec<(UsageEvent, Poison)>,
    refused: Vec<Poison>,
}

/// Younger events never lie in a month that has expired.
const YOUNG: TimeDelta = TimeDelta::days(retention::LEAST_DAYS as i64 - 2);

/// Runs until `stop`; what was stored by then is committed.
pub(crate) async fn run(app: App, hints: Arc<Hints>, stop: CancellationToken) -> anyhow::Result<()> {
    let context = Context::default();
    let topic = app.kafka.name(EVENTS);
    let consumer = Arc::new(app.kafka.base_consumer(GROUP, context.clone()).context("the metering consumer cannot be created")?);
    consumer.subscribe(&[&topic]).context("the metering consumer cannot subscribe")?;
    let (sender, receiver) = channel(1);
    let limits = Limits { rows: app.config.metering.insert_rows, wait: Duration::from_millis(app.config.metering.insert_wait_ms) };
    // Cancelled also when the task ends by itself, so that the thread never outlives it.
    let poll_stop = stop.child_token();
    let thread = {
        let (consumer, context, stop) = (consumer.clone(), context.clone(), poll_stop.clone());
        std::thread::Builder::new().name("metering-poll".to_owned()).spawn(move || poll(&consumer, &context, &limits, &sender, &stop))?
    };
    let result = work(&app, &hints, &consumer, &context, &topic, receiver, &stop).await;
    poll_stop.cancel();
    drop(consumer);
    tokio::task::spawn_blocking(move || thread.join()).await?.map_err(|_| anyhow::anyhow!("the polling thread panicked"))?;
    result
}

/// Polls, parses, and hands over. When the batch before is not stored for long the partitions are paused and polling goes
/// on, because that is what keeps the membership in the group and serves rebalances.
fn poll(consumer: &BaseConsumer<Context>, context: &Context, limits: &Limits, sender: &Sender<Batch>, stop: &CancellationToken) {
    let mut open = Batch::new();
    let mut full_since = None;
    let mut paused = false;
    while !stop.is_cancelled() {
        if open.messages > 0 && (open.since.elapsed() >= limits.wait || open.is_full(limits)) {
            match sender.try_reserve() {
                Ok(place) => place.send(std::mem::replace(&mut open, Batch::new())),
                Err(TrySendError::Full(())) => {}
                Err(TrySendError::Closed(())) => return,
            }
        }
        let is_full = open.is_full(limits);
        if !is_full {
            full_since = None;
        } else if full_since.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
            std::thread::sleep(LOOK_EVERY);
            continue;
        }
        if is_full != paused {
            let Ok(ours) = consumer.assignment() else { continue };
            // Refused only for a partition that was just taken away.
            let _ = if paused { consumer.resume(&ours) } else { consumer.pause(&ours) };
            paused = !paused;
        }
        let wait = match open.messages {
            _ if paused => LOOK_OFTEN,
            0 => LONGEST_POLL,
            _ => limits.wait.saturating_sub(open.since.elapsed()).clamp(LOOK_EVERY, LOOK_OFTEN),
        };
        match consumer.poll(wait) {
            None => {}
            Some(Ok(message)) => {
                if let Some(epoch) = context.fence.epoch(message.partition()) {
                    open.add(&message, epoch);
                }
                if paused && let Ok(ours) = consumer.assignment() {
                    // A partition that was given to us meanwhile was not paused yet.
                    let _ = consumer.pause(&ours);
                }
            }
            Some(Err(error)) => tracing::warn!("Kafka gave no message: {error}"),
        }
    }
}

/// When a batch is stored.
struct Limits {
    rows: usize,
    wait: Duration,
}

impl Batch {
    fn new() -> Self {
        Self { since: Instant::now(), parts: Vec::new(), messages: 0, bytes: 0 }
    }

    fn is_full(&self, limits: &Limits) -> bool {
        self.messages >= limits.rows || self.bytes >= BATCH_BYTES
    }

    fn add(&mut self, message: &BorrowedMessage<'_>, epoch: u64) {
        if self.messages == 0 {
            self.since = Instant::now();
        }
        self.messages += 1;
        let partition = message.partition();
        let at = self.parts.iter().position(|part| (part.partition, part.epoch) == (partition, epoch)).unwrap_or_else(|| {
            self.parts.push(Part { partition, epoch, next: 0, block: Block::default(), old: Vec::new(), refused: Vec::new() });
            self.parts.len() - 1
        });
        self.bytes += self.parts[at].add(message);
    }
}

impl Part {
    /// Returns what the message takes.
    fn add(&mut self, message: &BorrowedMessage<'_>) -> usize {
        self.next = message.offset() + 1;
        let payload = message.payload().unwrap_or_default();
        let event = serde_json::from_slice::<UsageEvent>(payload).map_err(|error| ("not-an-event", error.to_string()));
        match event.and_then(|event| storable(&event).map_err(|reason| (reason, String::new())).map(|()| event)) {
            Ok(event) if event.time < clock::now() - YOUNG => {
                let detail = "the month's raw events have expired and its numbers are frozen; adjust the invoice instead";
                self.old.push((event, Poison::new(message, retention::REASON, detail.to_owned())));
                2 * payload.len() + size_of::<(UsageEvent, Poison)>()
            }
            Ok(event) => self.block.push(&event),
            Err((reason, detail)) => {
                self.refused.push(Poison::new(message, reason, detail));
                payload.len() + size_of::<Poison>()
            }
        }
    }
}

async fn work(
    app: &App,
    hints: &Hints,
    consumer: &Arc<BaseConsumer<Context>>,
    context: &Context,
    topic: &str,
    mut receiver: Receiver<Batch>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let batch = tokio::select! {
            batch = receiver.recv() => batch,
            () = stop.cancelled() => return Ok(()),
        };
        let Some(Batch { mut parts, .. }) = batch else {
            anyhow::ensure!(stop.is_cancelled(), "the polling thread ended");
            return Ok(());
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let working = context.fence.begin(&mut parts, |part| (part.partition, part.epoch));
            match finish(app, hints, &parts).await {
                Ok(()) => {
                    commit(consumer, topic, &parts);
                    break;
                }
                Err(error) => {
                    let rows: usize = parts.iter().map(|part| part.block.rows()).sum();
                    tracing::warn!("a batch of {rows} events waits, since it cannot be stored: {error:#}");
                }
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

/// Stores events and touches their minutes; what cannot be stored becomes a dead letter, acknowledged too before the
/// offsets are committed.
async fn finish(app: &App, hints: &Hints, parts: &[Part]) -> anyhow::Result<()> {
    // Asked now, and again with each attempt, not when they were parsed: they may have waited.
    let limits = if parts.iter().any(|part| !part.old.is_empty()) { retention::all_limits(app).await? } else { Arc::default() };
    let is_expired = |event: &UsageEvent| limits.get(&event.workspace).is_some_and(|limit| event.time < limit.closing);
    let (mut old, mut refused) = (Block::default(), Vec::new());
    for part in parts {
        refused.extend(&part.refused);
        for (event, poison) in &part.old {
            if is_expired(event) {
                refused.push(poison);
            } else {
                old.push(event);
            }
        }
    }
    let blocks: Vec<&Block> = parts.iter().map(|part| &part.block).chain([&old]).collect();
    let started = Instant::now();
    let minutes = store::store(&app.clickhouse, &blocks).await.context("ClickHouse")?;
    let rows: usize = blocks.iter().map(|block| block.rows()).sum();
    if rows > 0 {
        metrics::histogram!("farebox_metering_store_seconds").record(started.elapsed());
        metrics::counter!("farebox_metering_events_stored_total").increment(rows as u64);
    }
    hints.add(minutes);
    poison::send_all(app, &refused).await
}

fn commit(consumer: &BaseConsumer<Context>, topic: &str, parts: &[Part]) {
    let mut list = TopicPartitionList::new();
    for part in parts {
        list.add_partition_offset(topic, part.partition, Offset::Offset(part.next)).expect("an offset of a message is valid");
    }
    if list.count() > 0
        && let Err(error) = consumer.commit(&list, CommitMode::Async)
    {
        tracing::info!("offsets were not committed: {error}");
    }
}
