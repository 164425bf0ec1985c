//! Topics that gateways write to themselves: one consumer for each source that has one. Offsets are committed after
//! Kafka acknowledged the verdicts. A message read twice (after a crash or a rebalance) is harmless: what carries no id
//! gets one from topic, partition, offset, timestamp and index, so its copies are one event. The timestamp is there
//! because a topic that is deleted and made again counts its offsets from 0 again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use farebox_core::ids::SourceId;
use farebox_core::source::{self, Source};
use farebox_core::{App, config};
use futures::{FutureExt, StreamExt};
use rdkafka::Message;
use rdkafka::consumer::{CommitMode, Consumer, DefaultConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::OwnedMessage;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::value::RawValue;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::formats::Format;
use crate::intake::{Batch, Intake, Raw, Read, received_now};
use crate::verdict::{Reason, Rejection};

/// How often the list of sources is read: a new source is picked up within this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Messages taken together, at most, and about how many bytes of them.
const MESSAGES: usize = 500;
const BYTES: usize = 1 << 20;

/// Keeps a reader running for each source with a topic, until `stop`.
pub async fn run(intake: Arc<Intake>, stop: CancellationToken) {
    let mut readers: HashMap<SourceId, (Source, CancellationToken, JoinHandle<()>)> = HashMap::new();
    let mut unread_formats = std::collections::HashSet::new();
    while !stop.is_cancelled() {
        match sources(&intake.app).await {
            Err(error) => tracing::warn!("the list of sources cannot be read; those known are read on: {error:#}"),
            Ok(sources) => {
                readers.retain(|id, (source, stop_reader, task)| {
                    let stays = sources.iter().any(|s| s.id == *id && s.kafka_topic == source.kafka_topic && s.format == source.format);
                    if !stays {
                        stop_reader.cancel();
                    }
                    stays && !task.is_finished()
                });
                for source in sources {
                    if readers.contains_key(&source.id) {
                        continue;
                    }
                    let Some(format) = Format::parse(&source.format) else {
                        if unread_formats.insert(source.id.clone()) {
                            tracing::warn!(source = %source.name, format = %source.format, "a source's topic is not read: its format is not known");
                        }
                        continue;
                    };
                    let stop_reader = stop.child_token();
                    let task = tokio::spawn(read_source(intake.clone(), source.clone(), format, stop_reader.clone()));
                    readers.insert(source.id.clone(), (source, stop_reader, task));
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    for (_, (_, _, task)) in readers {
        let _ = task.await;
    }
}

async fn sources(app: &App) -> anyhow::Result<Vec<Source>> {
    let mut conn = app.pg.acquire().await?;
    Ok(source::all(&mut conn).await?.into_iter().filter(|s| s.kafka_topic.is_some()).collect())
}

/// Reads one source's topic until `stop`; starts over when something fails.
async fn read_source(intake: Arc<Intake>, source: Source, format: Format, stop: CancellationToken) {
    let topic = source.kafka_topic.clone().unwrap_or_default();
    tracing::info!(source = %source.name, %topic, "reading a source's topic");
    while !stop.is_cancelled() {
        let reading = read_topic(&intake, &source, &topic, format, &stop);
        if let Err(error) = reading.await {
            tracing::warn!(source = %source.name, %topic, "reading the source's topic is tried again in a second: {error:#}");
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }
}

async fn read_topic(intake: &Intake, source: &Source, topic: &str, format: Format, stop: &CancellationToken) -> anyhow::Result<()> {
    // A gateway usually makes its topic; where it does not, or comes later, it is made here.
    intake.app.kafka.create_exact_topics(&[topic]).await?;
    let group = format!("farebox.source.{}", source.id);
    let consumer: StreamConsumer = intake.app.kafka.consumer(&group, DefaultConsumerContext)?;
    consumer.subscribe(&[topic])?;
    while let Some(messages) = next_messages(&consumer, stop).await? {
        let received_at = received_now();
        loop {
            let batch = Batch {
                workspace: &source.workspace,
                source: &source.name,
                format,
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
fn read_message(message: &OwnedMessage, format: Format, limits: &config::Ingest) -> Vec<Read> {
    let at = message.timestamp().to_millis().and_then(DateTime::<Utc>::from_timestamp_millis).map_or(0, |t| t.timestamp_millis());
    let place = format!("{}/{}/{}/{at}", message.topic(), message.partition(), message.offset());
    read_records(message.payload().unwrap_or_default(), &place, format, limits)
}

fn read_records(payload: &[u8], place: &str, format: Format, limits: &config::Ingest) -> Vec<Read> {
    let payload = Bytes::copy_from_slice(payload);
    let read = |index: usize, raw: Bytes, decoded| Read {
        decoded,
        raw: Raw::Bytes(raw),
        origin: Some(format!("kafka/{place}/{index}")),
        fallback_id: format!("{place}/{index}"),
    };
    if payload.trim_ascii_start().first() == Some(&b'[')
        && let Ok(elements) = serde_json::from_slice::<Vec<&RawValue>>(&payload)
    {
        if elements.len() > limits.max_events_per_batch {
            let most = limits.max_events_per_batch;
            let rejection = Rejection::new(Reason::TooLarge, "", format!("A message has at most {most} events. Send smaller batches."));
            return vec![read(0, payload.clone(), Err(rejection))];
        }
        let pieces = elements.into_iter().map(|raw| payload.slice_ref(raw.get().as_bytes()));
        return pieces.enumerate().map(|(index, raw)| read(index, raw.clone(), decode(&raw, format, limits.max_event_bytes))).collect();
    }
    vec![read(0, payload.clone(), decode(&payload, format, limits.max_event_bytes))]
}

fn decode(raw: &[u8], format: Format, most: usize) -> Result<crate::formats::Draft, Rejection> {
    if raw.len() > most {
        return Err(Rejection::new(Reason::TooLarge, "", format!("An event has at most {most} bytes. Log less of bodies and headers.")));
    }
    format.decode(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_one_record_and_an_array_as_many_as_it_has() {
        let log = r#"{"request":{},"response":{"status":200},"start_time":1795268435453}"#;
        let limits = config::Ingest { max_events_per_batch: 2, ..config::Ingest::default() };
        let one = read_records(log.as_bytes(), "t/0/7/1", Format::Apisix, &limits);
        assert_eq!(one.iter().map(|r| r.fallback_id.as_str()).collect::<Vec<_>>(), ["t/0/7/1/0"]);
        let two = read_records(format!(" [{log},7]").as_bytes(), "t/0/8/1", Format::Apisix, &limits);
        assert_eq!(two.iter().map(|r| r.fallback_id.as_str()).collect::<Vec<_>>(), ["t/0/8/1/0", "t/0/8/1/1"]);
        assert!(two[0].decoded.is_ok());
        assert_eq!(two[1].decoded.as_ref().expect_err("a number").reason, Reason::NotAnObject);
        let many = read_records(b"[1,2,3]", "t/0/9/1", Format::Apisix, &limits);
        assert_eq!(many.len(), 1);
        assert_eq!(many[0].decoded.as_ref().expect_err("three").reason, Reason::TooLarge);
    }

    #[test]
    fn a_message_that_is_nothing_is_one_verdict() {
        for payload in ["", "[", "\u{0}", "[{]"] {
            let read = read_records(payload.as_bytes(), "t/0/7/1", Format::Apisix, &config::Ingest::default());
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].decoded.as_ref().expect_err(payload).reason, Reason::InvalidJson, "{payload}");
        }
    }
}
