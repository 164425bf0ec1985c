//! Events on a local disk while Kafka does not take them: off unless `ingest.spool_dir` says where. What is spooled is
//! on disk (fsync) before it is acknowledged, and is written to Kafka when that answers again. A segment is removed only
//! after Kafka has all of it; one that is sent again after a crash counts nothing twice, because identities are kept.
//!
//! A segment is a sequence of records: length of topic, key and payload and a CRC-32 over these three (four u32, little
//! endian), then topic, key and payload. A crash can leave a torn record at the end of a segment; it was not acknowledged.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use farebox_core::{App, config};
use flate2::Crc;
use tokio_util::sync::CancellationToken;

use crate::intake::{Message, produce};

/// Bytes of a segment; a larger one is closed.
const SEGMENT: u64 = 16 << 20;
/// Records handed to Kafka at once when draining.
const AT_ONCE: usize = 2000;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Gauge: bytes that wait in the spool.
pub const BYTES: &str = "farebox_ingest_spool_bytes";

pub struct Spool {
    directory: PathBuf,
    most: u64,
    /// What is on disk and not yet in Kafka.
    bytes: AtomicU64,
    /// Kafka did not take the last batch: the next goes here at once, instead of waiting for it again.
    is_kafka_away: AtomicBool,
    current: Mutex<Option<Segment>>,
    _lock: File,
}

struct Segment {
    file: File,
    length: u64,
}

/// One for the process: the HTTP routes write, the background loop drains.
static SPOOL: OnceLock<Arc<Spool>> = OnceLock::new();

/// The spool, where one is configured and open.
pub fn spool() -> Option<&'static Arc<Spool>> {
    SPOOL.get()
}

/// Whether events can be acknowledged although Kafka is away.
pub fn has_room() -> bool {
    spool().is_some_and(|spool| spool.bytes.load(Ordering::Relaxed) < spool.most)
}

/// Opens it as configured; None where it is off.
pub fn open(config: &config::Ingest) -> anyhow::Result<Option<Arc<Spool>>> {
    if config.spool_dir.is_empty() {
        return Ok(None);
    }
    let spool = Arc::new(Spool::open(Path::new(&config.spool_dir), config.spool_max_bytes)?);
    Ok(Some(SPOOL.get_or_init(|| spool).clone()))
}

impl Spool {
    fn open(directory: &Path, most: u64) -> anyhow::Result<Self> {
        let unusable = || format!("ingest.spool_dir {} cannot be used", directory.display());
        fs::create_dir_all(directory).with_context(unusable)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(directory.join("lock")).with_context(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("{}: another process uses it; each needs its own", unusable()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(unusable),
        }
        let spool = Self {
            directory: directory.to_owned(),
            most,
            bytes: AtomicU64::new(0),
            is_kafka_away: AtomicBool::new(false),
            current: Mutex::new(None),
            _lock: lock,
        };
        let waiting = spool.segments().with_context(unusable)?.iter().filter_map(|s| s.metadata().ok()).map(|m| m.len()).sum();
        spool.bytes.store(waiting, Ordering::Relaxed);
        Ok(spool)
    }

    pub fn is_kafka_away(&self) -> bool {
        self.is_kafka_away.load(Ordering::Relaxed)
    }

    pub fn kafka_is_away(&self) {
        self.is_kafka_away.store(true, Ordering::Relaxed);
    }

    /// All of them are on disk when it returns; after an error none is acknowledged. Blocks.
    pub(crate) fn append(&self, messages: &[Message]) -> anyhow::Result<()> {
        let mut encoded = Vec::new();
        for message in messages {
            encode(message, &mut encoded);
        }
        let more = encoded.len() as u64;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bytes.load(Ordering::Relaxed) + more > self.most {
            bail!("the spool is full: {} bytes (ingest.spool_max_bytes) wait for Kafka", self.most);
        }
        let segment = match &mut *current {
            Some(segment) => segment,
            none => none.insert(self.begin()?),
        };
        let written = segment.file.write_all(&encoded).and_then(|()| segment.file.sync_data());
        if let Err(error) = written {
            // Half a batch must not stay before others: the segment ends where it was whole.
            let _ = segment.file.set_len(segment.length);
            *current = None;
            return Err(error).context("the spool cannot be written");
        }
        segment.length += more;
        if segment.length >= SEGMENT {
            *current = None;
        }
        let waiting = self.bytes.fetch_add(more, Ordering::Relaxed) + more;
        #[allow(clippy::cast_precision_loss)] // a gauge for people
        metrics::gauge!(BYTES).set(waiting as f64);
        Ok(())
    }

    fn begin(&self) -> anyhow::Result<Segment> {
        let name = format!("{}.segment", uuid::Uuid::now_v7().simple());
        let file =
            OpenOptions::new().create_new(true).append(true).open(self.directory.join(name)).context("the spool cannot be written")?;
        File::open(&self.directory)?.sync_all()?;
        Ok(Segment { file, length: 0 })
    }

    /// The oldest first: their names sort by the time at which they were begun.
    fn segments(&self) -> std::io::Result<Vec<PathBuf>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "segment") {
                segments.push(path);
            }
        }
        segments.sort();
        Ok(segments)
    }

    /// Writes everything that waits to Kafka.
    async fn drain(&self, app: &App) -> anyhow::Result<()> {
        // What comes from now on goes to a segment of its own.
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        for path in self.segments()? {
            let mut reader = BufReader::new(File::open(&path)?);
            loop {
                let mut some = Vec::new();
                while some.len() < AT_ONCE {
                    let Some(message) = decode(&mut reader) else { break };
                    some.push(message);
                }
                if some.is_empty() {
                    break;
                }
                produce(&app.kafka.producer, &some).await?;
            }
            let length = fs::metadata(&path)?.len();
            fs::remove_file(&path)?;
            self.bytes.fetch_sub(length, Ordering::Relaxed);
            tracing::info!("a segment of {length} bytes went from the spool to Kafka");
        }
        self.is_kafka_away.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// Drains whenever something waits and Kafka answers, until `stop`.
pub async fn run(spool: Arc<Spool>, app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let waits = spool.bytes.load(Ordering::Relaxed) > 0;
        if (waits || spool.is_kafka_away()) && app.kafka.is_ready().await {
            // `stop` interrupts it harmlessly: the segment stays.
            let drained = tokio::select! {
                () = stop.cancelled() => return,
                drained = spool.drain(&app) => drained,
            };
            if let Err(error) = drained {
                tracing::warn!("what waits in the spool stays there for now: {error:#}");
            }
            #[allow(clippy::cast_precision_loss)] // a gauge for people
            metrics::gauge!(BYTES).set(spool.bytes.load(Ordering::Relaxed) as f64);
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn encode(message: &Message, into: &mut Vec<u8>) {
    let Message { topic, key, payload } = message;
    let parts = [topic.as_bytes(), key.as_bytes(), payload];
    let mut crc = Crc::new();
    for part in parts {
        // A record is bounded by what Kafka takes, far below 4 GiB.
        into.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        crc.update(part);
    }
    into.extend_from_slice(&crc.sum().to_le_bytes());
    for part in parts {
        into.extend_from_slice(part);
    }
}

/// None at the end, and at a torn record, after which there is nothing that was acknowledged.
fn decode(reader: &mut impl Read) -> Option<Message> {
    let mut head = [0; 16];
    reader.read_exact(&mut head).ok()?;
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let mut crc = Crc::new();
    let mut part = |length: u32| {
        let mut bytes = Vec::new();
        reader.take(u64::from(length)).read_to_end(&mut bytes).ok()?;
        crc.update(&bytes);
        (bytes.len() == length as usize).then_some(bytes)
    };
    let (topic, key, payload) = (part(number(0))?, part(number(4))?, part(number(8))?);
    let message = Message { topic: String::from_utf8(topic).ok()?.into(), key: String::from_utf8(key).ok()?, payload };
    (crc.sum() == number(12)).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: usize) -> Message {
        Message { topic: "t".into(), key: format!("k{n}"), payload: vec![b'x'; n] }
    }

    fn read(path: &Path) -> Vec<Message> {
        let mut reader = BufReader::new(File::open(path).expect("it opens"));
        std::iter::from_fn(|| decode(&mut reader)).collect()
    }

    #[test]
    fn what_was_appended_is_there_after_a_crash_and_a_torn_end_is_left_out() {
        let directory = std::env::temp_dir().join(format!("farebox-spool-{}", uuid::Uuid::now_v7().simple()));
        {
            let spool = Spool::open(&directory, 10_000).expect("it opens");
            spool.append(&[message(1), message(700)]).expect("room");
            spool.append(&[message(3)]).expect("room");
            assert!(Spool::open(&directory, 1).is_err(), "one process");
            assert!(spool.append(&[message(20_000)]).is_err(), "bounded");
        }
        let spool = Spool::open(&directory, 10_000).expect("it opens again");
        let [segment] = &spool.segments().expect("a list")[..] else { panic!("one segment") };
        assert_eq!(read(segment), [message(1), message(700), message(3)]);
        assert_eq!(spool.bytes.load(Ordering::Relaxed), segment.metadata().expect("it is there").len());
        let whole = fs::read(segment).expect("it is there");
        for cut in 0..whole.len() {
            fs::write(segment, &whole[..cut]).expect("it is written");
            assert!(read(segment).len() < 3, "cut at {cut}");
        }
        let mut damaged = whole.clone();
        *damaged.last_mut().expect("bytes") ^= 1;
        fs::write(segment, &damaged).expect("it is written");
        assert_eq!(read(segment), [message(1), message(700)]);
        fs::remove_dir_all(&directory).expect("removed");
    }
}
