//! Events by column, in the bytes that ClickHouse's Native format takes: what a batch is from the moment it is read until it
//! is stored. A row takes some 150 bytes and no allocation of its own, and the engine copies columns instead of reading
//! fields.
//!
//! The format (<https://clickhouse.com/docs/interfaces/formats/Native>): the numbers of columns and of rows, then each
//! column's name, type and values. A text is its length and its bytes. Words are few, so a column of them (`LowCardinality`)
//! is each word once, and the number of its word for each row. The client's own builder of such blocks looks every column up
//! for every value, sends each text by itself and has no words, which this path, the busiest of all, cannot afford.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use clickhouse::Compression;
use farebox_core::decision::STAND_IN;
use farebox_core::event::UsageEvent;

use crate::store::{OF_STAND_IN, version};

const TEXTS: [&str; 3] = ["id", "subject", "credential"];
const WORDS: [&str; 12] =
    ["workspace", "source", "type", "gateway", "country", "answered_by", "api", "api_version", "route", "method", "environment", "marker"];
const NUMBERS: [(&str, &str); 9] = [
    ("time", "DateTime64(6, 'UTC')"),
    ("received_at", "DateTime64(3, 'UTC')"),
    ("status", "UInt16"),
    ("latency_us", "UInt32"),
    ("request_bytes", "UInt64"),
    ("response_bytes", "UInt64"),
    ("cached", "Bool"),
    ("version", "UInt64"),
    ("is_deleted", "UInt8"),
];
const PROPERTIES: &str = "properties";
/// What a row takes of numbers, and of the lengths of its texts and properties.
const FIXED: usize = 59;
/// What a word takes besides its letters, which stand twice: its places in a list and a map.
const WORD: usize = 64;

#[derive(Debug, Default)]
pub struct Block {
    rows: usize,
    texts: [Vec<u8>; TEXTS.len()],
    words: [Words; WORDS.len()],
    numbers: [Vec<u8>; NUMBERS.len()],
    properties: Properties,
    /// Rows of a minute: by the workspace's word, and seconds since 1970.
    minutes: HashMap<(u32, u32), u64>,
    /// By the words of workspace and source, and days since 1970.
    sources: HashMap<(u32, u32, i64), Seen>,
}

/// What came from a source on a day.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub rows: u64,
    /// The newest event's time.
    pub newest: DateTime<Utc>,
    /// When the last was received.
    pub received: DateTime<Utc>,
}

impl Seen {
    pub fn and(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, newest: self.newest.max(other.newest), received: self.received.max(other.received) }
    }
}

/// Why an event cannot be stored is a reason of the closed list of dead letters.
pub fn storable(event: &UsageEvent) -> Result<(), &'static str> {
    // ClickHouse's minutes end in 2106, and nothing was metered before 2000.
    if !(946_684_800..=4_102_444_800).contains(&event.time.timestamp()) {
        return Err("time-out-of-range");
    }
    if event.id.is_empty() { Err("id-missing") } else { Ok(()) }
}

impl Block {
    /// All of these events, which are [`storable`].
    pub fn of<'a>(events: impl IntoIterator<Item = &'a UsageEvent>) -> Self {
        let mut block = Self::default();
        for event in events {
            block.push(event);
        }
        block
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds a [`storable`] event. Returns the bytes that it takes, about.
    pub fn push(&mut self, event: &UsageEvent) -> usize {
        let data = &event.data;
        let version = if data.marker == STAND_IN { OF_STAND_IN } else { version(0, event.received_at) };
        let mut bytes = FIXED;
        for (column, text) in self.texts.iter_mut().zip([&event.id, &event.subject, &data.credential]) {
            put_text(column, text);
            bytes += text.len();
        }
        let words = [
            event.workspace.as_str(),
            &event.source,
            &event.kind,
            &data.gateway,
            &data.client_country,
            data.answered_by.as_str(),
            &data.api,
            &data.api_version,
            &data.route,
            &data.method,
            &data.environment,
            &data.marker,
        ];
        for (column, word) in self.words.iter_mut().zip(words) {
            bytes += column.push(word);
        }
        let [time, received_at, status, latency_us, request_bytes, response_bytes, cached, versions, is_deleted] = &mut self.numbers;
        time.extend(event.time.timestamp_micros().to_le_bytes());
        received_at.extend(event.received_at.timestamp_millis().to_le_bytes());
        status.extend(data.status.to_le_bytes());
        latency_us.extend(data.latency_us.to_le_bytes());
        request_bytes.extend(data.request_bytes.to_le_bytes());
        response_bytes.extend(data.response_bytes.to_le_bytes());
        cached.push(data.cached.into());
        versions.extend(version.to_le_bytes());
        is_deleted.push(0);
        bytes += self.properties.push(&data.properties);
        self.rows += 1;

        let (workspace, source) = (self.words[0].last, self.words[1].last);
        let seconds = event.time.timestamp();
        let minute = u32::try_from(seconds - seconds % 60).expect("what is storable lies between 2000 and 2100");
        *self.minutes.entry((workspace, minute)).or_default() += 1;
        let seen = Seen { rows: 1, newest: event.time, received: event.received_at };
        let day = event.received_at.timestamp().div_euclid(86_400);
        self.sources.entry((workspace, source, day)).and_modify(|before| *before = before.and(seen)).or_insert(seen);
        bytes
    }

    /// Rows by workspace and minute.
    pub(crate) fn minutes(&self) -> impl Iterator<Item = (&str, u32, u64)> {
        self.minutes.iter().map(|((workspace, minute), n)| (self.words[0].word(*workspace), *minute, *n))
    }

    /// By workspace, source and day of reception.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&str, &str, i64, Seen)> {
        self.sources
            .iter()
            .map(|((workspace, source, day), seen)| (self.words[0].word(*workspace), self.words[1].word(*source), *day, *seen))
    }

    /// Its bytes in pieces, made one by one.
    fn native(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut head = Vec::new();
        put_length(&mut head, TEXTS.len() + WORDS.len() + NUMBERS.len() + 1);
        put_length(&mut head, self.rows);
        let texts = TEXTS.iter().zip(&self.texts).flat_map(|(name, values)| [named(name, "String"), Bytes::copy_from_slice(values)]);
        let numbers = NUMBERS.iter().zip(&self.numbers);
        let numbers = numbers.flat_map(|((name, kind), values)| [named(name, kind), Bytes::copy_from_slice(values)]);
        let words = WORDS.iter().zip(&self.words);
        let words = words.flat_map(|(name, words)| [named(name, "LowCardinality(String)"), prefix(), words.native()]);
        let Properties { ends, names, values, .. } = &self.properties;
        let map = move || {
            let named = named(PROPERTIES, "Map(LowCardinality(String), String)");
            [named, prefix(), Bytes::copy_from_slice(ends), names.native(), Bytes::copy_from_slice(values)]
        };
        let properties = std::iter::once_with(map).flatten();
        std::iter::once(Bytes::from(head)).chain(texts).chain(numbers).chain(words).chain(properties)
    }
}

/// Into a table of the shape of `events`.
pub async fn insert(client: &clickhouse::Client, table: &str, blocks: &[&Block]) -> Result<(), clickhouse::error::Error> {
    if blocks.iter().all(|block| block.is_empty()) {
        return Ok(());
    }
    let names: Vec<&str> = TEXTS.into_iter().chain(NUMBERS.map(|(name, _)| name)).chain(WORDS).chain([PROPERTIES]).collect();
    let mut insert = client
        .clone()
        // Words stand once already: what is left is worth the way, but not the work.
        .with_compression(Compression::None)
        .insert_formatted_with(format!("INSERT INTO {table} ({}) FORMAT Native", names.join(", ")))
        .with_setting("optimize_on_insert", "0")
        .with_setting("async_insert", "0")
        // Whole batches may come again and must not be taken for copies of blocks: rows are told apart by identity.
        .with_setting("insert_deduplicate", "0");
    for block in blocks.iter().filter(|block| !block.is_empty()) {
        for piece in block.native().filter(|piece| !piece.is_empty()) {
            insert.send(piece).await?;
        }
    }
    insert.end().await
}

/// A column of texts that repeat.
#[derive(Debug, Default)]
struct Words {
    known: HashMap<Box<str>, u32>,
    list: Vec<Box<str>>,
    /// For each row the number of its word.
    rows: Vec<u8>,
    /// Of the last row: the next one has the same more often than not.
    last: u32,
}

impl Words {
    /// Returns the bytes that it takes.
    fn push(&mut self, word: &str) -> usize {
        let mut bytes = size_of::<u32>();
        if self.list.get(self.last as usize).is_none_or(|last| **last != *word) {
            self.last = match self.known.get(word) {
                Some(number) => *number,
                None => {
                    let number = u32::try_from(self.list.len()).expect("a batch has fewer rows");
                    self.known.insert(word.into(), number);
                    self.list.push(word.into());
                    bytes += WORD + 2 * word.len();
                    number
                }
            };
        }
        self.rows.extend(self.last.to_le_bytes());
        bytes
    }

    fn word(&self, number: u32) -> &str {
        &self.list[number as usize]
    }

    /// The words, each once, then the rows; nothing where there are no rows.
    fn native(&self) -> Bytes {
        /// Numbers of 32 bits, by words that stand in this block alone.
        const KIND: u64 = 2 | 1 << 9 | 1 << 10;
        let mut out = Vec::with_capacity(self.rows.len() + 32);
        if !self.rows.is_empty() {
            out.extend(KIND.to_le_bytes());
            out.extend((self.list.len() as u64).to_le_bytes());
            for word in &self.list {
                put_text(&mut out, word);
            }
            out.extend((self.rows.len() as u64 / 4).to_le_bytes());
            out.extend(&self.rows);
        }
        out.into()
    }
}

#[derive(Debug, Default)]
struct Properties {
    /// For each row where its properties end, by their number.
    ends: Vec<u8>,
    count: u64,
    names: Words,
    values: Vec<u8>,
}

impl Properties {
    /// Returns the bytes that they take.
    fn push(&mut self, properties: &BTreeMap<String, String>) -> usize {
        let mut bytes = 0;
        for (name, value) in properties {
            bytes += self.names.push(name) + value.len() + 1;
            put_text(&mut self.values, value);
            self.count += 1;
        }
        self.ends.extend(self.count.to_le_bytes());
        bytes
    }
}

fn named(name: &str, kind: &str) -> Bytes {
    let mut head = Vec::with_capacity(64);
    put_text(&mut head, name);
    put_text(&mut head, kind);
    head.into()
}

/// Before the values of a column with words: the version of how they are written.
fn prefix() -> Bytes {
    Bytes::copy_from_slice(&1_u64.to_le_bytes())
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_length(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// LEB128: seven bits a byte, the lowest first.
fn put_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    out.push(length.to_le_bytes()[0]);
}
