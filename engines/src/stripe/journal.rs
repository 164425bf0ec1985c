//! The journal: what every request changed, one JSON line each, written before the answer leaves.
//!
//! A line that was written survives the death of this process. A flush to the disk every moment
//! would only guard against the machine's own death, which a double need not survive; the file is
//! flushed once a second by the clockwork. A half-written last line is dropped when reading.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The changes of one request to the objects of one account.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    pub account: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub put: Vec<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub del: Vec<String>,
}

#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    dirty: bool,
}

impl Journal {
    /// Opens the journal in `dir`, handing every entry in it to `replay`.
    pub fn open(dir: &Path, mut replay: impl FnMut(Entry)) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let path = dir.join("journal.jsonl");
        let complete = read(&path, &mut replay)?;
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        // What was cut off in the middle was never answered.
        file.set_len(complete).with_context(|| format!("cannot shorten {}", path.display()))?;
        Ok(Self { file, path, dirty: false })
    }

    pub fn append(&mut self, entry: &Entry) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.dirty = true;
        self.file.write_all(&line)
    }

    /// Replaces the journal by `entries`, which say the same in fewer words.
    pub fn rewrite(&mut self, entries: impl Iterator<Item = Entry>) -> std::io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut out = BufWriter::new(File::create(&fresh)?);
        for entry in entries {
            serde_json::to_writer(&mut out, &entry)?;
            out.write_all(b"\n")?;
        }
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        Ok(())
    }

    pub fn flush(&mut self) -> std::io::Result<()> {
        if std::mem::take(&mut self.dirty) { self.file.sync_data() } else { Ok(()) }
    }
}

/// Reads whole lines; the number of bytes they take.
fn read(path: &Path, replay: &mut impl FnMut(Entry)) -> anyhow::Result<u64> {
    let Ok(file) = File::open(path) else { return Ok(0) };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut complete = 0;
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if length == 0 || line.last() != Some(&b'\n') {
            return Ok(complete);
        }
        replay(serde_json::from_slice(&line).with_context(|| format!("{} is damaged at byte {complete}", path.display()))?);
        complete += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_half_written_line_is_dropped_and_the_rest_read_back() {
        let dir = std::env::temp_dir().join(super::super::ids::new("journal-", 12));
        let entry = |n: i64| Entry { account: "a".into(), put: vec![json!({"id": n})], del: Vec::new() };
        let mut journal = Journal::open(&dir, |_| panic!("nothing yet")).unwrap();
        journal.append(&entry(1)).unwrap();
        journal.append(&entry(2)).unwrap();
        journal.file.write_all(br#"{"account":"a","pu"#).unwrap();
        let mut seen = Vec::new();
        let mut journal = Journal::open(&dir, |entry| seen.push(entry.put[0]["id"].clone())).unwrap();
        assert_eq!(seen, [json!(1), json!(2)]);
        journal.rewrite(std::iter::once(entry(3))).unwrap();
        journal.append(&entry(4)).unwrap();
        seen.clear();
        Journal::open(&dir, |entry| seen.push(entry.put[0]["id"].clone())).unwrap();
        assert_eq!(seen, [json!(3), json!(4)]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
