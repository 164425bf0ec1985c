//! Topics that gateways write to themselves: one consumer for each source that has one. Offsets are committed after
//! Kafka acknowledged the verdicts. A message read twice (after a crash or a rebalance) is harmless: what carries no id
//! gets one from topic, partition, offset, timestamp and index, so its copies are one event. The timestamp is there
//! because a topic that is deleted and made again counts its offsets from 0 again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use farebox_core::config;
use farebox_core::ids::SourceId;
use farebox_core::kafka::{DEAD_LETTERS, DECISIONS, EVENTS};
use farebox_core::source::{self, Source};
use futures::{FutureExt, StreamExt};
use rdkafka::Message;
use rdkafka::consumer::{CommitMode, Consumer, DefaultConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::OwnedMessage;
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::formats::Format;
use crate::intake::{Batch, Intake, Read, received_now};
use crate::{binary, records, source_kafka};

/// How often the list of sources is read: a new source is picked up within this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Messages taken together, at most, and about how many bytes of them.
const MESSAGES: usize = 500;
const BYTES: usize = 1 << 20;

/// Keeps a reader running for each source with a topic, until `stop`.
pub async fn run(intake: Arc<Intake>, stop: CancellationToken) {
    let mut readers: HashMap<SourceId, Reader> = HashMap::new();
    let mut told = HashSet::new();
    while !stop.is_cancelled() {
        match sources(&intake, &mut told).await {
            Err(error) => tracing::warn!("the list of sources cannot be read; those known are read on: {error:#}"),
            Ok(topics) => {
                readers.retain(|_, reader| {
                    let stays = topics.contains(&reader.topic);
                    if !stays {
                        reader.stop.cancel();
                    }
                    stays && !reader.task.is_finished()
                });
                for topic in topics {
                    let id = topic.source.id.clone();
                    if readers.contains_key(&id) {
                        continue;
                    }
                    let stop = stop.child_token();
                    let task = tokio::spawn(read_source(intake.clone(), topic.source.clone(), topic.format.clone(), stop.clone()));
                    readers.insert(id, Reader { topic, stop, task });
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    for (_, reader) in readers {
        let _ = reader.task.await;
    }
}

struct Reader {
    topic: Topic,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What is read, how, and where: another version of the connection to a source's own cluster is another topic.
#[derive(PartialEq)]
struct Topic {
    source: Source,
    format: Format,
    connection: Option<DateTime<Utc>>,
}

/// Those that have a topic, with the format that they are read in. What cannot be read is told once.
async fn sources(intake: &Intake, told: &mut HashSet<SourceId>) -> anyhow::Result<Vec<Topic>> {
    let (all, connections) = {
        let mut conn = intake.app.pg.acquire().await?;
        let connections: HashMap<_, _> = source_kafka::versions(&mut conn).await?.into_iter().collect();
        (source::all(&mut conn).await?, connections)
    };
    let ours = [EVENTS, DEAD_LETTERS, DECISIONS].map(|topic| intake.app.kafka.name(topic));
    let mut readable = Vec::new();
    for source in all {
        let Some(topic) = &source.kafka_topic else { continue };
        let connection = connections.get(source.id.as_str()).copied();
        if connection.is_none() && ours.contains(topic) {
            if told.insert(source.id.clone()) {
                tracing::warn!(source = %source.name, %topic, "a source's topic is not read: it is Farebox's own");
            }
            continue;
        }
        match intake.known(&source.workspace).await?.format(&source.format) {
            Some(format) => readable.push(Topic { source, format, connection }),
            None => {
                if told.insert(source.id.clone()) {
                    tracing::warn!(source = %source.name, format = %source.format, "a source's topic is not read: its format is not known");
                }
            }
        }
    }
    Ok(readable)
}

/// Reads one source's topic until `stop`; starts over when something fails.
async fn read_source(intake: Arc<Intake>, source: Source, format: Format, stop: CancellationToken) {
    let topic = source.kafka_topic.clone().unwrap_or_default();
    tracing::info!(source = %source.name, %topic, "reading a source's topic");
    while !stop.is_cancelled() {
        let reading = read_topic(&intake, &source, &topic, &format, &stop);
        if let Err(error) = reading.await {
            tracing::warn!(source = %source.name, %topic, "reading the source's topic is tried again in a second: {error:#}");
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }
}

async fn read_topic(intake: &Intake, source: &Source, topic: &str, format: &Format, stop: &CancellationToken) -> anyhow::Result<()> {
    let group = format!("farebox.source.{}", source.id);
    let consumer: StreamConsumer = match source_kafka::cluster(&intake.app, source).await? {
        Some(cluster) => intake.app.kafka.consumer_at(&cluster, &group, DefaultConsumerContext)?,
        None => {
            // A gateway usually makes its topic; where it does not, or comes later, it is made here.
            intake.app.kafka.create_exact_topics(&[topic]).await?;
            intake.app.kafka.consumer(&group, DefaultConsumerContext)?
        }
    };
    consumer.subscribe(&[topic])?;
    while let Some(messages) = next_messages(&consumer, stop).await? {
        let received_at = received_now();
        loop {
            let batch = Batch {
                workspace: &source.workspace,
                source: &source.name,
                format: format.clone(),
                received_at,
                body: None,
                records: messages.iter().flat_map(|m| read_message(m, format, &intake.app.config.ingest)).collect(),
            };
            match intake.take(batch).await {
                Ok(_) => break,
                // Neither skipped nor committed: the same messages again until they are safe.
                Err(unavailable) => tracing::warn!(source = %source.name, "verdicts are not safe yet and are tried again: {unavailable}"),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
        commit(&consumer, &messages)?;
    }
    consumer.unsubscribe();
    Ok(())
}

/// The next message and those that are there already, in order. None when it is time to stop.
async fn next_messages(consumer: &StreamConsumer, stop: &CancellationToken) -> Result<Option<Vec<OwnedMessage>>, KafkaError> {
    let mut stream = consumer.stream();
    let first = tokio::select! {
        () = stop.cancelled() => return Ok(None),
        first = stream.next() => first,
    };
    let Some(first) = first else { return Ok(None) };
    let first = first?.detach();
    let mut bytes = first.payload().map_or(0, <[u8]>::len);
    let mut messages = vec![first];
    while messages.len() < MESSAGES && bytes < BYTES {
        match stream.next().now_or_never() {
            Some(Some(Ok(message))) => {
                bytes += message.payload().unwrap_or_default().len();
                messages.push(message.detach());
            }
            // What is here is worked on first; an error that lasts shows again.
            _ => break,
        }
    }
    Ok(Some(messages))
}

fn commit(consumer: &StreamConsumer, messages: &[OwnedMessage]) -> Result<(), KafkaError> {
    let mut next: HashMap<(&str, i32), i64> = HashMap::new();
    for message in messages {
        let offset = next.entry((message.topic(), message.partition())).or_default();
        *offset = (*offset).max(message.offset() + 1);
    }
    let mut offsets = TopicPartitionList::new();
    for ((topic, partition), offset) in next {
        offsets.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    }
    consumer.commit(&offsets, CommitMode::Async)
}

/// The records of a message: an object is one, an array as many as it has elements (gateways that batch send either).
fn read_message(message: &OwnedMessage, format: &Format, limits: &config::Ingest) -> Vec<Read> {
    let at = message.timestamp().to_millis().and_then(DateTime::<Utc>::from_timestamp_millis).map_or(0, |t| t.timestamp_millis());
    let place = format!("{}/{}/{}/{at}", message.topic(), message.partition(), message.offset());
    let payload = Bytes::copy_from_slice(message.payload().unwrap_or_default());
    if *format == Format::cloudevents()
        && let Some(event) = binary::of_kafka(message, &payload)
    {
        return records::of_message(&event, &place, format, limits);
    }
    records::of_message(&payload, &place, format, limits)
}
