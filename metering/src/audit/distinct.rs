//! Entries of a topic, each once, in little memory however many there are: spread over slices by their hash, written to
//! a file when they are many, and brought together slice by slice.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use anyhow::Context;

/// At 45 million entries one has 176,000 of them, in 6 MB.
pub(super) const SLICES: usize = 256;
/// Entries held in memory, before they are written: 32 MB.
const HELD: usize = 1_000_000;
const BYTES: usize = 32;

/// An event's identity in one minute, as one message told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// The first 16 bytes of SHA-256 over the identity, little-endian.
    pub key: u128,
    /// In seconds since 1970.
    pub minute: u32,
    pub workspace: u16,
    pub source: u16,
    /// In microseconds since 1970.
    pub received: i64,
}

impl Entry {
    /// Of the identity: what ClickHouse computes, too.
    pub fn hash(&self) -> u64 {
        u64::try_from(self.key & u128::from(u64::MAX)).unwrap_or_default()
    }

    fn slice(&self) -> usize {
        usize::from(slice_of(self.hash()))
    }

    fn written(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..16].copy_from_slice(&self.key.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.minute.to_le_bytes());
        bytes[20..22].copy_from_slice(&self.workspace.to_le_bytes());
        bytes[22..24].copy_from_slice(&self.source.to_le_bytes());
        bytes[24..].copy_from_slice(&self.received.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            key: u128::from_le_bytes(bytes.get(..16)?.try_into().ok()?),
            minute: u32::from_le_bytes(bytes.get(16..20)?.try_into().ok()?),
            workspace: u16::from_le_bytes(bytes.get(20..22)?.try_into().ok()?),
            source: u16::from_le_bytes(bytes.get(22..24)?.try_into().ok()?),
            received: i64::from_le_bytes(bytes.get(24..BYTES)?.try_into().ok()?),
        })
    }
}

/// The highest eight bits.
pub(super) fn slice_of(hash: u64) -> u8 {
    u8::try_from(hash >> 56).unwrap_or_default()
}

pub(super) struct Distinct {
    slices: Vec<Slice>,
    held: usize,
    most_held: usize,
    file: Option<File>,
    written: u64,
}

#[derive(Default)]
struct Slice {
    held: Vec<Entry>,
    /// Where in the file others are, and how many bytes.
    pieces: Vec<(u64, usize)>,
}

impl Default for Distinct {
    fn default() -> Self {
        Self::holding(HELD)
    }
}

impl Distinct {
    fn holding(most_held: usize) -> Self {
        Self { slices: (0..SLICES).map(|_| Slice::default()).collect(), held: 0, most_held, file: None, written: 0 }
    }

    pub fn add(&mut self, entry: Entry) -> anyhow::Result<()> {
        self.slices[entry.slice()].held.push(entry);
        self.held += 1;
        if self.held >= self.most_held { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> anyhow::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(nameless()?),
        };
        let mut bytes = Vec::new();
        for slice in self.slices.iter_mut().filter(|slice| !slice.held.is_empty()) {
            bytes.clear();
            bytes.extend(slice.held.drain(..).flat_map(|entry| entry.written()));
            file.write_all(&bytes).context("the audit's entries cannot be written to the directory for temporary files (TMPDIR)")?;
            slice.pieces.push((self.written, bytes.len()));
            self.written += bytes.len() as u64;
        }
        self.held = 0;
        Ok(())
    }

    /// A slice's entries, each once: of those with the same identity and minute the one received first.
    pub fn slice(&self, number: usize) -> anyhow::Result<Vec<Entry>> {
        let Some(slice) = self.slices.get(number) else { return Ok(Vec::new()) };
        let mut entries = slice.held.clone();
        let mut bytes = Vec::new();
        for (start, length) in &slice.pieces {
            let file = self.file.as_ref().context("what was written is gone")?;
            bytes.resize(*length, 0);
            file.read_exact_at(&mut bytes, *start).context("the audit's entries cannot be read again")?;
            entries.extend(bytes.chunks_exact(BYTES).filter_map(Entry::read));
        }
        entries.sort_unstable_by_key(|e| (e.key, e.minute, e.workspace, e.received));
        entries.dedup_by_key(|e| (e.key, e.minute, e.workspace));
        Ok(entries)
    }
}

/// A file that is gone with the process, however that ends.
fn nameless() -> anyhow::Result<File> {
    let path = std::env::temp_dir().join(format!("farebox-audit-{}", uuid::Uuid::now_v7().simple()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("{} cannot be made; TMPDIR names the directory for temporary files", path.display()))?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Each identity once in each minute, as first received; whether they were held or written.
        #[test]
        fn each_is_there_once(
            told in prop::collection::vec((0_u64..40, 0_u32..3, 0_u16..2, 0_u16..3, 0_i64..50), 0..300), most_held in 1_usize..400,
        ) {
            let mut distinct = Distinct::holding(most_held);
            let mut expected: BTreeMap<(u128, u32, u16), i64> = BTreeMap::new();
            for (id, minute, workspace, source, received) in told {
                // Over all slices.
                let key = u128::from(id.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | (u128::from(id) << 64);
                distinct.add(Entry { key, minute, workspace, source, received }).expect("added");
                let first = expected.entry((key, minute, workspace)).or_insert(received);
                *first = received.min(*first);
            }
            let mut found = BTreeMap::new();
            for number in 0..SLICES {
                for entry in distinct.slice(number).expect("read") {
                    prop_assert_eq!(entry.slice(), number);
                    prop_assert_eq!(found.insert((entry.key, entry.minute, entry.workspace), entry.received), None);
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
