//! What Kafka has: the events topic read once more, up to what metering has committed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::kafka::EVENTS;
use farebox_core::period::{Period, floor_minute};
use rdkafka::consumer::{Consumer, DefaultConsumerContext};
use rdkafka::message::Message;
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::distinct::{Distinct, Entry, SLICES};
use crate::MeteringError;
use crate::consumer::GROUP;
use crate::ranges::{self, ASK, Range};

/// Clocks of gateways may be ahead of ours: an event can be produced a little before its time.
const AHEAD: TimeDelta = TimeDelta::minutes(15);

/// (hour in seconds since 1970, source)
pub(super) type At = (i64, String);

/// Events of a workspace that the repair of duplicates has removed, by hash and minute: for Kafka they are there.
pub(super) type Removed = HashMap<WorkspaceId, HashSet<(u64, u32)>>;

pub(super) struct Witness {
    workspaces: Vec<String>,
    sources: Vec<String>,
    events: Distinct,
    removed: Removed,
    pub places: BTreeMap<WorkspaceId, BTreeMap<At, Seen>>,
    /// None when Kafka has no message.
    pub from: Option<DateTime<Utc>>,
    pub waiting: i64,
    /// What was read, to read it again for names.
    ranges: Vec<Range>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub messages: u64,
    pub events: u64,
    /// Sum over identities, modulo 2^64.
    pub hash: u64,
}

impl Seen {
    pub fn add(&mut self, hash: u64) {
        (self.events, self.hash) = (self.events + 1, self.hash.wrapping_add(hash));
    }
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

/// The first 16 bytes of SHA-256, little-endian; the lower eight are what ClickHouse computes, too.
fn key(id: &str) -> u128 {
    let digest = Sha256::digest(id.as_bytes());
    u128::from_le_bytes(digest[..16].try_into().expect("SHA-256 has 32 bytes"))
}

pub(super) fn hash(id: &str) -> u64 {
    u64::try_from(key(id) & u128::from(u64::MAX)).unwrap_or_default()
}

pub(super) fn hour(at: i64) -> i64 {
    at.div_euclid(3600) * 3600
}

/// Of one workspace, or of all.
pub(super) async fn read(app: &App, only: Option<&WorkspaceId>, period: Period, removed: Removed) -> Result<Witness, MeteringError> {
    let (app, only) = (app.clone(), only.cloned());
    blocking(move || read_all(&app, only.as_ref(), period, removed)).await
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Result<T, MeteringError> {
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|e| MeteringError::unreadable("the events topic", e))?
        .map_err(|e| MeteringError::unreadable("the events topic", format!("{e:#}")))
}

/// Numbers of names, in the order of their coming.
#[derive(Default)]
struct Names {
    numbers: HashMap<String, u16>,
    names: Vec<String>,
}

impl Names {
    fn number(&mut self, name: &str) -> anyhow::Result<u16> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        let number = u16::try_from(self.names.len()).context("more than 65,536 sources or workspaces cannot be audited together")?;
        self.numbers.insert(name.to_owned(), number);
        self.names.push(name.to_owned());
        Ok(number)
    }
}

fn read_all(app: &App, only: Option<&WorkspaceId>, period: Period, removed: Removed) -> anyhow::Result<Witness> {
    let (ranges, from, waiting) = ranges(app, period)?;
    let (mut workspaces, mut sources, mut events) = (Names::default(), Names::default(), Distinct::default());
    let mut messages: HashMap<(u16, u16, i64), u64> = HashMap::new();
    each(app, &ranges, |payload| {
        let Ok(event) = serde_json::from_slice::<Slim<'_>>(payload) else { return Ok(()) };
        if !period.contains(event.time) || only.is_some_and(|only| event.workspace != only.as_str()) {
            return Ok(());
        }
        let (workspace, source) = (workspaces.number(&event.workspace)?, sources.number(&event.source)?);
        *messages.entry((workspace, source, hour(event.time.timestamp()))).or_default() += 1;
        let minute = u32::try_from(floor_minute(event.time).timestamp()).unwrap_or_default();
        events.add(Entry { key: key(&event.id), minute, workspace, source, received: event.receivedat.timestamp_micros() })
    })?;
    let mut witness =
        Witness { workspaces: workspaces.names, sources: sources.names, events, removed, places: BTreeMap::new(), from, waiting, ranges };
    let mut seen: HashMap<(u16, u16, i64), Seen> =
        messages.into_iter().map(|(place, messages)| (place, Seen { messages, ..Seen::default() })).collect();
    for slice in 0..SLICES {
        for entry in witness.slice(slice)? {
            seen.entry((entry.workspace, entry.source, hour(entry.minute.into()))).or_default().add(entry.hash());
        }
    }
    for ((workspace, source, hour), seen) in seen {
        let names = (witness.workspaces.get(usize::from(workspace)), witness.sources.get(usize::from(source)));
        if let (Some(Ok(workspace)), Some(source)) = (names.0.map(|name| name.parse()), names.1) {
            witness.places.entry(workspace).or_default().insert((hour, source.clone()), seen);
        }
    }
    Ok(witness)
}

/// Each partition's messages from the period's start to what is committed; from when there are any; and how many wait.
fn ranges(app: &App, period: Period) -> anyhow::Result<(Vec<Range>, Option<DateTime<Utc>>, i64)> {
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
        let start =
            starts.find_partition(&topic, partition).and_then(|e| e.offset().to_raw()).filter(|offset| *offset >= 0).unwrap_or(high);
        waiting += high - committed;
        // Retention may have taken messages of the period, unless the one before its first is still there.
        deleted |= low > 0 && start <= low;
        ranges.push((partition, start.max(low), committed));
    }
    Ok((ranges, (!deleted).then_some(period.start), waiting))
}

/// Reads the ranges; every payload once.
fn each(app: &App, ranges: &[Range], mut take: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let consumer = app.kafka.base_consumer("farebox.metering.audit", DefaultConsumerContext)?;
    ranges::read(&consumer, &app.kafka.name(EVENTS), ranges, |message| take(message.payload().unwrap_or_default()))
}

impl Witness {
    /// The places of a workspace.
    pub fn of(&self, workspace: &WorkspaceId) -> BTreeMap<At, Seen> {
        self.places.get(workspace).cloned().unwrap_or_default()
    }

    /// What Kafka has in a slice that the repair of duplicates has left.
    fn slice(&self, number: usize) -> anyhow::Result<Vec<Entry>> {
        let removed: Vec<_> =
            self.workspaces.iter().map(|name| name.parse::<WorkspaceId>().ok().and_then(|id| self.removed.get(&id))).collect();
        let mut entries = self.events.slice(number)?;
        entries.retain(|entry| {
            let removed = removed.get(usize::from(entry.workspace)).copied().flatten();
            removed.is_none_or(|removed| !removed.contains(&(entry.hash(), entry.minute)))
        });
        Ok(entries)
    }

    /// Hashes of a slice's events at some places of a workspace.
    pub fn hashes(&self, slice: usize, workspace: &WorkspaceId, places: &BTreeSet<At>) -> anyhow::Result<BTreeMap<At, HashSet<u64>>> {
        let mut found: BTreeMap<At, HashSet<u64>> = BTreeMap::new();
        let wanted = self.workspaces.iter().position(|name| name == workspace.as_str());
        for entry in self.slice(slice)?.into_iter().filter(|entry| Some(usize::from(entry.workspace)) == wanted) {
            let Some(source) = self.sources.get(usize::from(entry.source)) else { continue };
            let place = (hour(entry.minute.into()), source.clone());
            if places.contains(&place) {
                found.entry(place).or_default().insert(entry.hash());
            }
        }
        Ok(found)
    }

    /// The identities of some hashes: read again, because names are only needed where something is wrong.
    pub async fn names(&self, app: &App, wanted: HashSet<u64>) -> Result<BTreeSet<String>, MeteringError> {
        if wanted.is_empty() {
            return Ok(BTreeSet::new());
        }
        let (app, ranges) = (app.clone(), self.ranges.clone());
        blocking(move || {
            let mut names = BTreeSet::new();
            each(&app, &ranges, |payload| {
                if let Ok(event) = serde_json::from_slice::<Slim<'_>>(payload)
                    && wanted.contains(&hash(&event.id))
                {
                    names.insert(event.id.into_owned());
                }
                Ok(())
            })?;
            Ok(names)
        })
        .await
    }
}
