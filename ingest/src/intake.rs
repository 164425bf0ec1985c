//! The one place where records become verdicts and verdicts become durable: events to [`EVENTS`], rejected ones to
//! [`DEAD_LETTERS`], and nothing is acknowledged before Kafka has acknowledged it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use farebox_core::event::{UsageEvent, kafka_key};
use farebox_core::ids::WorkspaceId;
use farebox_core::kafka::{DEAD_LETTERS, EVENTS};
use farebox_core::problem::Problem;
use farebox_core::{App, clock};
use futures::future::join_all;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use rdkafka::producer::{FutureProducer, FutureRecord};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::admit::{Arrival, Permissions, admit};
use crate::dead_letter::DeadLetter;
use crate::formats::{Draft, Format};
use crate::known::{Known, Registered};
use crate::spool::{self, Spool};
use crate::tally;
use crate::verdict::{Reason, Rejection};

/// Bytes of bodies (after decompression) that are worked on at once; more are answered with 503. Decoded and encoded, each
/// takes several times as much: this keeps a collector below 200 MiB.
const IN_FLIGHT_KIB: usize = 16 << 10;
/// Messages handed to the producer at once: its queue takes 100,000.
const AT_ONCE: usize = 10_000;
/// How long Kafka may take to acknowledge before the sender is told to try again.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(8);

/// How long a look-up of what a workspace takes in is trusted.
const TRUST: Duration = Duration::from_secs(1);
const LOOK_UP_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Intake {
    pub app: App,
    pub budget: Arc<Semaphore>,
    known: Arc<Known>,
    permissions: Arc<Mutex<HashMap<WorkspaceId, (Instant, Arc<Permissions>)>>>,
    may_spool: bool,
}

/// A record, decoded.
pub struct Read {
    pub raw: Raw,
    pub decoded: Result<Draft, Rejection>,
    /// Where it came from; None: its index in an HTTP body.
    pub origin: Option<String>,
    /// The id when it carries none.
    pub fallback_id: String,
}

/// The record as it came, for the dead letters.
pub enum Raw {
    Bytes(Bytes),
    /// Kept as OTLP/JSON.
    Otlp(Box<LogRecord>),
}

impl Raw {
    fn to_bytes(&self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Otlp(record) => Bytes::from(serde_json::to_vec(record).unwrap_or_default()),
        }
    }
}

/// Records that came together.
pub struct Batch<'a> {
    pub workspace: &'a WorkspaceId,
    /// The source they came through.
    pub source: &'a str,
    pub format: Format,
    pub received_at: DateTime<Utc>,
    /// The HTTP body, whose hash makes the ids of its dead letters the same when it is sent again.
    pub body: Option<&'a Bytes>,
    pub records: Vec<Read>,
}

/// Each record has one verdict: accepted, a duplicate of an accepted one of this batch, or rejected.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Receipt {
    pub accepted: usize,
    /// Further copies of an event in the same batch. Copies across batches are accepted and counted once, too.
    pub duplicates_in_batch: usize,
    pub rejected: Vec<Rejected>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Rejected {
    /// Position in the batch, from 0.
    pub index: usize,
    /// The event's id, empty where it could not be read.
    pub id: String,
    pub reason: Reason,
    /// What to correct.
    pub detail: String,
    /// JSON pointer to it, empty for the whole event.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pointer: String,
}

/// Kafka did not acknowledge in time, or what a verdict needs cannot be looked up. Nothing was acknowledged: the same
/// records may come again, and those that did arrive count once.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(String);

impl From<Unavailable> for Problem {
    fn from(_: Unavailable) -> Self {
        Self::unavailable("Events cannot be kept safely right now. Nothing was acknowledged; send the same again.", 2)
    }
}

impl Intake {
    pub fn new(app: &App) -> Self {
        Self {
            app: app.clone(),
            budget: Arc::new(Semaphore::new(IN_FLIGHT_KIB)),
            known: Arc::new(Known::new(app.pg.clone())),
            permissions: Arc::default(),
            may_spool: false,
        }
    }

    /// The sources and formats of a workspace.
    pub async fn known(&self, workspace: &WorkspaceId) -> Result<Arc<Registered>, Unavailable> {
        self.known.of(workspace).await.map_err(|e| {
            tracing::warn!("records wait, because their source's format cannot be looked up: {e:#}");
            Unavailable("formats cannot be looked up".to_owned())
        })
    }

    /// Uses the spool while Kafka is away. For senders that wait for an answer; who reads from Kafka waits for Kafka.
    #[must_use]
    pub fn with_spool(mut self) -> Self {
        self.may_spool = true;
        self
    }

    /// Judges every record and makes the verdicts durable.
    pub async fn take(&self, batch: Batch<'_>) -> Result<Receipt, Unavailable> {
        let (workspace, source, format) = (batch.workspace.clone(), batch.source.to_owned(), batch.format.clone());
        let permissions = self.permissions(&workspace).await?;
        let judged = judge(batch, &permissions);
        self.write(&judged.events, &judged.dead_letters).await?;
        tally::add(&workspace, &source, &format, "accepted", judged.events.len());
        tally::add(&workspace, &source, &format, "duplicate_in_batch", judged.receipt.duplicates_in_batch);
        for rejected in &judged.receipt.rejected {
            tally::add(&workspace, &source, &format, rejected.reason.as_str(), 1);
        }
        Ok(judged.receipt)
    }

    /// What was known a second ago will do; what was known before, while PostgreSQL is away.
    async fn permissions(&self, workspace: &WorkspaceId) -> Result<Arc<Permissions>, Unavailable> {
        let known = self.permissions.lock().unwrap_or_else(PoisonError::into_inner).get(workspace).cloned();
        if let Some((at, permissions)) = &known
            && at.elapsed() < TRUST
        {
            return Ok(permissions.clone());
        }
        let looked_up = tokio::time::timeout(LOOK_UP_WITHIN, Permissions::of(&self.app, workspace)).await;
        let permissions = match (looked_up, known) {
            (Ok(Ok(permissions)), _) => Arc::new(permissions),
            (_, Some((_, stale))) => stale,
            (failed, None) => {
                tracing::warn!("events wait, because what their workspace takes in cannot be looked up: {failed:?}");
                return Err(Unavailable("what the workspace takes in cannot be looked up".to_owned()));
            }
        };
        let mut all = self.permissions.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(workspace.clone(), (Instant::now(), permissions.clone()));
        Ok(permissions)
    }

    /// Returns when Kafka has acknowledged every one, or the spool has them on disk.
    pub async fn write(&self, events: &[UsageEvent], dead_letters: &[DeadLetter]) -> Result<(), Unavailable> {
        let (events_topic, dead_topic): (Arc<str>, Arc<str>) =
            (self.app.kafka.name(EVENTS).into(), self.app.kafka.name(DEAD_LETTERS).into());
        let mut messages = Vec::with_capacity(events.len() + dead_letters.len());
        for event in events {
            messages.push(Message { topic: events_topic.clone(), key: kafka_key(event), payload: to_json(event) });
        }
        for letter in dead_letters {
            let key = format!("{}/{}", letter.workspace, letter.id);
            messages.push(Message { topic: dead_topic.clone(), key, payload: to_json(letter) });
        }
        let Some(spool) = self.spool() else { return produce(&self.app.kafka.producer, &messages).await };
        if !spool.is_kafka_away() {
            match produce(&self.app.kafka.producer, &messages).await {
                Ok(()) => return Ok(()),
                Err(unavailable) => {
                    tracing::warn!("events go to the spool until Kafka takes them: {unavailable}");
                    spool.kafka_is_away();
                }
            }
        }
        // Some of them may be in Kafka all the same: they have the same identity there.
        tokio::task::spawn_blocking(move || spool.append(&messages))
            .await
            .map_err(|e| Unavailable(e.to_string()))?
            .map_err(|e| Unavailable(format!("{e:#}")))
    }

    fn spool(&self) -> Option<Arc<Spool>> {
        if self.may_spool { spool::spool().cloned() } else { None }
    }
}

fn to_json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("texts, numbers and maps with text keys always serialise")
}

/// For Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Shared by all that go there.
    pub topic: Arc<str>,
    pub key: String,
    pub payload: Vec<u8>,
}

/// Sends all and waits for every acknowledgement.
pub(crate) async fn produce(producer: &FutureProducer, messages: &[Message]) -> Result<(), Unavailable> {
    for some in messages.chunks(AT_ONCE) {
        produce_at_once(producer, some).await?;
    }
    Ok(())
}

async fn produce_at_once(producer: &FutureProducer, messages: &[Message]) -> Result<(), Unavailable> {
    let mut deliveries = Vec::with_capacity(messages.len());
    for Message { topic, key, payload } in messages {
        let record = FutureRecord::to(topic.as_ref()).key(key.as_str()).payload(payload.as_slice());
        // A full queue is not waited for: the sender is told to come again, so memory stays bounded.
        let delivery = producer.send_result(record).map_err(|(error, _)| Unavailable(format!("Kafka takes no more: {error}")))?;
        deliveries.push(delivery);
    }
    let all = tokio::time::timeout(ACKNOWLEDGE_WITHIN, join_all(deliveries)).await;
    let all = all.map_err(|_| Unavailable("Kafka did not acknowledge in time".to_owned()))?;
    for delivered in all {
        match delivered {
            Ok(Ok(_)) => {}
            Ok(Err((error, _))) => return Err(Unavailable(format!("Kafka did not acknowledge: {error}"))),
            Err(_) => return Err(Unavailable("the Kafka producer is closing".to_owned())),
        }
    }
    Ok(())
}

struct Judged {
    events: Vec<UsageEvent>,
    dead_letters: Vec<DeadLetter>,
    receipt: Receipt,
}

fn judge(batch: Batch<'_>, permissions: &Permissions) -> Judged {
    let mut judged = Judged { events: Vec::with_capacity(batch.records.len()), dead_letters: Vec::new(), receipt: Receipt::default() };
    let mut body_hash = None;
    for (index, read) in batch.records.into_iter().enumerate() {
        let arrival =
            Arrival { workspace: batch.workspace, source: batch.source, received_at: batch.received_at, fallback_id: &read.fallback_id };
        match read.decoded.and_then(|draft| admit(draft, &arrival, permissions)) {
            Ok(event) => judged.events.push(event),
            Err(rejection) => {
                let origin = read.origin.unwrap_or_else(|| {
                    let hash = body_hash.get_or_insert_with(|| hash_of(batch.body.map_or(&[], |b| &b[..])));
                    format!("http/{hash}/{index}")
                });
                let raw = read.raw.to_bytes();
                judged.dead_letters.push(DeadLetter::new(&arrival, &batch.format, &origin, &rejection, &raw));
                let Rejection { reason, pointer, detail, id, .. } = rejection;
                judged.receipt.rejected.push(Rejected { index, id, reason, detail, pointer });
            }
        }
    }
    let admitted = judged.events.len();
    keep_first_of_copies(&mut judged.events);
    judged.receipt.accepted = judged.events.len();
    judged.receipt.duplicates_in_batch = admitted - judged.events.len();
    judged
}

fn keep_first_of_copies(events: &mut Vec<UsageEvent>) {
    let mut seen = HashSet::with_capacity(events.len());
    let is_first: Vec<bool> = events.iter().map(|event| seen.insert(event.id.as_str())).collect();
    let mut is_first = is_first.into_iter();
    events.retain(|_| is_first.next().unwrap_or(true));
}

/// The first 16 bytes of SHA-256 in hex.
pub fn hash_of(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..16])
}

/// For records that carry no id and came by HTTP: a hash of the whole record, and its ordinal among equal ones of the
/// same body, so that the gateway's retry of a body is harmless.
#[derive(Default)]
pub struct Ordinals(HashMap<String, usize>);

impl Ordinals {
    pub fn id_of(&mut self, record: &[u8]) -> String {
        let hash = hash_of(record);
        let ordinal = self.0.entry(hash.clone()).or_default();
        *ordinal += 1;
        format!("{hash}/{}", *ordinal - 1)
    }
}

/// Now, as the moment of reception.
pub fn received_now() -> DateTime<Utc> {
    clock::now()
}
