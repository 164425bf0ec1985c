//! What Kafka has: the events topic read once more, up to what metering has committed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::kafka::EVENTS;
use farebox_core::period::Period;
use rdkafka::consumer::{Consumer, DefaultConsumerContext};
use rdkafka::message::Message;
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::MeteringError;
use crate::consumer::GROUP;
use crate::ranges::{self, ASK, Range};

/// Events in one audit: some 64 bytes each while it runs.
const MOST_EVENTS: usize = 2_000_000;
/// Clocks of gateways may be ahead of ours: an event can be produced a little before its time.
const AHEAD: TimeDelta = TimeDelta::minutes(15);

/// (hour in seconds since 1970, source)
pub(super) type At = (i64, String);

pub(super) struct Witness {
    pub places: BTreeMap<At, Seen>,
    /// Where each event was first seen, by the hash of its identity.
    events: HashMap<u64, (i64, i64, u32)>,
    sources: Vec<String>,
    /// None when Kafka has no message.
    pub from: Option<DateTime<Utc>>,
    pub waiting: i64,
    /// What was read, to read it again for names.
    ranges: Vec<Range>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub messages: u64,
    pub events: u64,
    /// Sum over identities, modulo 2^64.
    pub hash: u64,
}

/// Only what the audit needs of an event.
#[derive(Deserialize)]
struct Slim<'a> {
    #[serde(borrow)]
    id: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    source: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    workspace: std::borrow::Cow<'a, str>,
    time: DateTime<Utc>,
    receivedat: DateTime<Utc>,
}

/// The first eight bytes of SHA-256, little-endian: what ClickHouse computes, too.
pub(super) fn hash(id: &str) -> u64 {
    let digest = Sha256::digest(id.as_bytes());
    u64::from_le_bytes(digest[..8].try_into().expect("SHA-256 has 32 bytes"))
}

pub(super) fn hour(at: DateTime<Utc>) -> i64 {
    at.timestamp().div_euclid(3600) * 3600
}

pub(super) async fn read(app: &App, workspace: &WorkspaceId, period: Period) -> Result<Witness, MeteringError> {
    let (app, workspace) = (app.clone(), workspace.clone());
    let read = tokio::task::spawn_blocking(move || read_all(&app, &workspace, period)).await;
    read.map_err(|e| MeteringError::unreadable("the events topic", e))?
        .map_err(|e| MeteringError::unreadable("the events topic", format!("{e:#}")))
}

/// Whose events of the period Kafka has, committed or not.
pub(super) async fn workspaces(app: &App, period: Period) -> Result<BTreeSet<WorkspaceId>, MeteringError> {
    let app = app.clone();
    let read = move || {
        let (mut found, mut last) = (BTreeSet::new(), String::new());
        let (ranges, _, _) = ranges(&app, period, Until::End)?;
        each(&app, &ranges, |payload| {
            let Ok(event) = serde_json::from_slice::<Slim<'_>>(payload) else { return Ok(()) };
            // Mostly the same one again.
            if period.contains(event.time) && event.workspace != last {
                last = event.workspace.into_owned();
                found.extend(last.parse::<WorkspaceId>());
            }
            Ok(())
        })?;
        anyhow::Ok(found)
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|e| MeteringError::unreadable("the events topic", e))?
        .map_err(|e| MeteringError::unreadable("the events topic", format!("{e:#}")))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// What metering has stored by its own account.
    Committed,
    End,
}

fn read_all(app: &App, workspace: &WorkspaceId, period: Period) -> anyhow::Result<Witness> {
    let (ranges, from, waiting) = ranges(app, period, Until::Committed)?;
    let mut witness = Witness { places: BTreeMap::new(), events: HashMap::new(), sources: Vec::new(), from, waiting, ranges };
    let mut messages: BTreeMap<At, u64> = BTreeMap::new();
    let mut sources: HashMap<String, u32> = HashMap::new();
    let ranges = witness.ranges.clone();
    each(app, &ranges, |payload| {
        let Ok(event) = serde_json::from_slice::<Slim<'_>>(payload) else { return Ok(()) };
        if event.workspace != workspace.as_str() {
            return Ok(());
        }
        if period.contains(event.time) {
            *messages.entry((hour(event.time), event.source.clone().into_owned())).or_default() += 1;
        }
        let next = u32::try_from(sources.len()).unwrap_or(u32::MAX);
        let source = *sources.entry(event.source.into_owned()).or_insert(next);
        let seen = (event.receivedat.timestamp_micros(), hour(event.time), source);
        let first = witness.events.entry(hash(&event.id)).or_insert(seen);
        if seen.0 < first.0 {
            *first = seen;
        }
        anyhow::ensure!(witness.events.len() <= MOST_EVENTS, "there are more than {MOST_EVENTS} events; audit a shorter range");
        Ok(())
    })?;
    let mut names: Vec<_> = sources.into_iter().collect();
    names.sort_by_key(|(_, n)| *n);
    witness.sources = names.into_iter().map(|(name, _)| name).collect();
    for (at, n) in messages {
        witness.places.entry(at).or_default().messages = n;
    }
    let (start, end) = (period.start.timestamp(), period.end.timestamp());
    for (hash, (_, hour, source)) in &witness.events {
        if (start..end).contains(hour)
            && let Some(source) = witness.sources.get(usize::try_from(*source).unwrap_or(usize::MAX))
        {
            let seen = witness.places.entry((*hour, source.clone())).or_default();
            seen.events += 1;
            seen.hash = seen.hash.wrapping_add(*hash);
        }
    }
    Ok(witness)
}

/// Each partition's messages from the period's start to what is committed, or to the end; from when there are any; and how many wait.
fn ranges(app: &App, period: Period, until: Until) -> anyhow::Result<(Vec<Range>, Option<DateTime<Utc>>, i64)> {
    let consumer = app.kafka.base_consumer(GROUP, DefaultConsumerContext)?;
    let topic = app.kafka.name(EVENTS);
    let metadata = consumer.fetch_metadata(Some(&topic), ASK)?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(MetadataTopic::partitions) {
        list.add_partition(&topic, partition.id());
    }
    let committed = ranges::committed(&consumer, &list)?;
    let mut times = TopicPartitionList::new();
    let since = (period.start - AHEAD).timestamp_millis();
    for element in list.elements() {
        times.add_partition_offset(&topic, element.partition(), Offset::Offset(since))?;
    }
    let starts = consumer.offsets_for_times(times, ASK)?;
    let (mut ranges, mut deleted, mut waiting) = (Vec::new(), false, 0);
    for element in committed.elements() {
        let partition = element.partition();
        let (low, high) = consumer.fetch_watermarks(&topic, partition, ASK)?;
        let committed = element.offset().to_raw().filter(|offset| *offset >= 0).unwrap_or(low);
        let until = if until == Until::End { high } else { committed };
        let start =
            starts.find_partition(&topic, partition).and_then(|e| e.offset().to_raw()).filter(|offset| *offset >= 0).unwrap_or(high);
        waiting += high - committed;
        // Retention may have taken messages of the period, unless the one before its first is still there.
        deleted |= low > 0 && start <= low;
        ranges.push((partition, start.max(low), until));
    }
    Ok((ranges, (!deleted).then_some(period.start), waiting))
}

/// Reads the ranges; every payload once.
fn each(app: &App, ranges: &[Range], mut take: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let consumer = app.kafka.base_consumer("farebox.metering.audit", DefaultConsumerContext)?;
    ranges::read(&consumer, &app.kafka.name(EVENTS), ranges, |message| take(message.payload().unwrap_or_default()))
}

impl Witness {
    /// Hashes of the events at one place.
    pub fn hashes(&self, hour: i64, source: &str) -> Vec<u64> {
        let wanted = self.sources.iter().position(|name| name == source).and_then(|n| u32::try_from(n).ok());
        self.events.iter().filter(|(_, (_, h, s))| *h == hour && Some(*s) == wanted).map(|(hash, _)| *hash).collect()
    }

    /// The identities of some hashes: read again, because names are only needed where something is wrong.
    pub async fn names(&self, app: &App, wanted: Vec<u64>) -> Result<Vec<String>, MeteringError> {
        let (app, ranges) = (app.clone(), self.ranges.clone());
        let read = tokio::task::spawn_blocking(move || {
            let mut names = std::collections::BTreeSet::new();
            each(&app, &ranges, |payload| {
                if let Ok(event) = serde_json::from_slice::<Slim<'_>>(payload)
                    && wanted.contains(&hash(&event.id))
                {
                    names.insert(event.id.into_owned());
                }
                Ok(())
            })?;
            anyhow::Ok(names.into_iter().collect())
        })
        .await;
        read.map_err(|e| MeteringError::unreadable("the events topic", e))?
            .map_err(|e| MeteringError::unreadable("the events topic", format!("{e:#}")))
    }
}
