//! A log file through its rotations. What is followed are files, not names: one that was renamed is read to its end
//! (its writer may still hold it open), one that was copied and truncated is read on in the copy, and whatever comes
//! under the name afterwards is another file. A file is known by where it lies, by its first line, and by the last bytes
//! that were seen of it.
//!
//! Two hazards shape this. A file can be truncated between looking at it and reading from it; so its content is
//! compared again *after* each read, and what was read is dropped if it changed. And a line is there only once its
//! newline is.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use sha2::{Digest, Sha256};

use super::checkpoint::FileState;

/// Of the first line, as much as identifies a file.
const HEAD: usize = 4096;
/// Of what was seen last, as much as tells a copy.
const TAIL: usize = 1024;
/// What is sent at once, at most: the collector takes 8 MiB and 10,000 records.
const CHUNK_BYTES: usize = 1 << 20;
const CHUNK_LINES: usize = 5000;
/// Of a longer line only this much is sent: it is rejected as too large, and kept with what was sent.
const LINE_BYTES: usize = 512 << 10;
/// How long a file that has no name any more is kept open, because its writer may still have it open.
const LINGER: Duration = Duration::from_mins(1);
/// A file under a rotated name may be a copy that is being made; untouched for so long, it is finished. As long is
/// waited for the copy of a file that was truncated.
const SETTLED: Duration = Duration::from_secs(3);

/// Whole lines that stand together in one file.
pub struct Chunk {
    pub file_id: String,
    pub offset: u64,
    pub bytes: Vec<u8>,
    file: usize,
    /// How far the file has been dealt with when this is acknowledged; more than `bytes` where a line was cut.
    length: u64,
}

struct Followed {
    state: FileState,
    open: Option<File>,
    /// Last time that it grew or was found.
    alive: Instant,
}

pub struct Follower {
    path: PathBuf,
    files: Vec<Followed>,
    /// The file that was written when the last sender stopped, until it is found: it may have grown since.
    awaited: Option<usize>,
    /// Something was found of which it is not clear yet what it is.
    pub is_unsettled: bool,
    /// There is a file that the last checkpoint does not know, or in another place. It must be saved before anything of
    /// it is sent: its id is of the place where it was found first, and must not be made anew where it is copied to.
    pub must_be_saved: bool,
}

/// What is found under a name, with the beginning of its content.
struct Found {
    file: File,
    is_live: bool,
    device: u64,
    inode: u64,
    is_settled: bool,
    start: Vec<u8>,
}

impl Follower {
    pub fn new(path: &Path, known: Vec<FileState>) -> Self {
        let files: Vec<_> = known.into_iter().map(|state| Followed { state, open: None, alive: Instant::now() }).collect();
        let awaited = files.iter().rposition(|f| !f.state.ignored && !f.state.gone);
        Self { path: path.to_owned(), files, awaited, is_unsettled: false, must_be_saved: false }
    }

    pub fn states(&self) -> impl ExactSizeIterator<Item = &FileState> {
        self.files.iter().map(|f| &f.state)
    }

    /// Bytes that are written but not acknowledged.
    pub fn behind(&self) -> u64 {
        self.files.iter().filter(|f| f.open.is_some()).map(|f| f.state.size.saturating_sub(f.state.offset)).sum()
    }

    /// Looks at every name that the log has or was rotated to. At the very first time, what was rotated before is noted
    /// as not to be sent. Returns what a person should know.
    pub fn look(&mut self, first_time: bool) -> anyhow::Result<Vec<String>> {
        let mut matched = HashSet::new();
        let mut rest = Vec::new();
        for found in self.find()? {
            match self.files.iter().position(|f| f.lies_at(&found)) {
                Some(index) => {
                    matched.insert(index);
                    self.files[index].attach(found);
                }
                None => rest.push(found),
            }
        }
        self.release(&matched);
        self.is_unsettled = false;
        for found in rest {
            let mut same = self.files.iter().enumerate().filter(|(_, f)| f.state.is_content_of(&found.file));
            // A file that is not where it was, and whose content is here: a copy made before truncating, one that was
            // unpacked, or the same file under another device number after a restart.
            let moved = same.find(|(index, f)| f.open.is_none() && !matched.contains(index) && !(found.is_live && f.state.ignored));
            if let Some((index, _)) = moved {
                matched.insert(index);
                let state = &mut self.files[index].state;
                (state.device, state.inode, state.gone) = (found.device, found.inode, false);
                self.must_be_saved = true;
                self.files[index].attach(found);
                continue;
            }
            let is_copy = self.files.iter().any(|f| f.state.is_content_of(&found.file));
            if is_copy && !found.is_live {
                continue;
            }
            if !found.is_live && !found.is_settled && !first_time {
                self.is_unsettled = true;
                continue;
            }
            let ignored = first_time && !found.is_live;
            let Some(state) = new_state(&found, ignored) else { continue };
            let mut file = Followed { state, open: None, alive: Instant::now() };
            file.attach(found);
            self.must_be_saved = true;
            matched.insert(self.files.len());
            self.files.push(file);
        }
        if self.awaited.is_some_and(|index| matched.contains(&index)) {
            self.awaited = None;
        }
        Ok(self.mourn(&matched))
    }

    /// Lets go of files that are not in their place any more: those that were truncated at once, those that have no
    /// name after a while.
    fn release(&mut self, matched: &HashSet<usize>) {
        for (index, file) in self.files.iter_mut().enumerate() {
            let Some(open) = file.open.as_ref().filter(|_| !matched.contains(&index)) else { continue };
            if !file.state.is_content_of(open) {
                file.open = None;
                file.alive = Instant::now();
                continue;
            }
            let before = file.state.size;
            file.state.see(open);
            if file.state.size > before {
                file.alive = Instant::now();
            }
            if file.state.size <= file.state.offset && file.alive.elapsed() > LINGER {
                file.open = None;
            }
        }
    }

    /// What is lost unless a person brings it back.
    fn mourn(&mut self, matched: &HashSet<usize>) -> Vec<String> {
        let mut notices = Vec::new();
        for (index, file) in self.files.iter_mut().enumerate() {
            let state = &mut file.state;
            let may_lack = state.size > state.offset || self.awaited == Some(index);
            if !may_lack || file.open.is_some() || matched.contains(&index) || state.gone || state.ignored {
                continue;
            }
            if file.alive.elapsed() < SETTLED {
                self.is_unsettled = true;
                continue;
            }
            state.gone = true;
            notices.push(format!(
                "a file of {} that was sent up to byte {} is no longer there (it was {} bytes long when last seen). If it was compressed, unpack it beside the log and it is read on from there",
                self.path.display(),
                state.offset,
                state.size
            ));
        }
        notices
    }

    /// The oldest whole lines that are not acknowledged.
    pub fn next_chunk(&mut self) -> anyhow::Result<Option<Chunk>> {
        for (index, file) in self.files.iter_mut().enumerate() {
            let Some(open) = &file.open else { continue };
            if file.state.size <= file.state.offset {
                continue;
            }
            let read = read_lines(open, file.state.offset).with_context(|| format!("{} cannot be read", self.path.display()))?;
            let Some((bytes, length)) = read else { continue };
            if !file.state.is_content_of(open) {
                // Truncated meanwhile: `look` finds the rest in the copy.
                file.open = None;
                file.alive = Instant::now();
                continue;
            }
            return Ok(Some(Chunk { file_id: file.state.id.clone(), offset: file.state.offset, bytes, file: index, length }));
        }
        Ok(None)
    }

    pub fn acknowledge(&mut self, chunk: &Chunk) {
        let state = &mut self.files[chunk.file].state;
        state.offset = chunk.offset + chunk.length;
    }

    fn find(&self) -> anyhow::Result<Vec<Found>> {
        let name = self.path.file_name().context("--file must name a file")?.to_string_lossy().into_owned();
        let directory = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entries = std::fs::read_dir(directory).with_context(|| format!("{} cannot be listed", directory.display()))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry_name = entry?.file_name();
            let entry_name = entry_name.to_string_lossy();
            let is_live = entry_name == name;
            if !is_live && !is_rotated(&name, &entry_name) {
                continue;
            }
            let path = directory.join(&*entry_name);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue, // renamed meanwhile
                Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
            };
            let about = file.metadata()?;
            if about.is_file() {
                let mut start = vec![0; HEAD];
                let read = read_at(&file, &mut start, 0)?;
                start.truncate(read);
                let age = about.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
                let is_settled = age >= SETTLED;
                found.push(Found { is_live, device: about.dev(), inode: about.ino(), is_settled, start, file });
            }
        }
        Ok(found)
    }
}

impl Followed {
    fn lies_at(&self, found: &Found) -> bool {
        let state = &self.state;
        !state.gone && (state.device, state.inode) == (found.device, found.inode) && state.is_content_of(&found.file)
    }

    fn attach(&mut self, found: Found) {
        self.alive = Instant::now();
        self.state.see(&found.file);
        if !self.state.ignored {
            self.open.get_or_insert(found.file);
        }
    }
}

impl FileState {
    /// Whether this is the file, or a copy of it: its first line, and the last bytes that were seen.
    fn is_content_of(&self, file: &File) -> bool {
        let tail_at = self.size.saturating_sub(self.tail_bytes);
        file.metadata().is_ok_and(|m| m.size() >= self.size)
            && has_part(file, 0, self.head_bytes, &self.head)
            && has_part(file, tail_at, self.tail_bytes, &self.tail)
    }

    /// Notes how far the file goes by now, unless it has become another meanwhile.
    fn see(&mut self, file: &File) {
        let Ok(size) = file.metadata().map(|m| m.size()) else { return };
        if size <= self.size {
            return;
        }
        let mut tail = vec![0; usize::try_from(size).unwrap_or(TAIL).min(TAIL)];
        let tail_at = size - tail.len() as u64;
        if read_at(file, &mut tail, tail_at).is_ok_and(|read| read == tail.len()) && self.is_content_of(file) {
            (self.size, self.tail, self.tail_bytes) = (size, hash(&[&tail]), tail.len() as u64);
        }
    }
}

/// A file that cannot be read has not got it.
fn has_part(file: &File, offset: u64, bytes: u64, hashed: &str) -> bool {
    let mut part = vec![0; usize::try_from(bytes).unwrap_or(0).min(HEAD)];
    read_at(file, &mut part, offset).is_ok_and(|read| read == part.len()) && hash(&[&part]) == hashed
}

/// None while its first line is not complete.
fn new_state(found: &Found, ignored: bool) -> Option<FileState> {
    let end = found.start.iter().position(|b| *b == b'\n').map(|at| at + 1);
    let end = end.or((found.start.len() == HEAD).then_some(HEAD))?;
    let head = &found.start[..end];
    Some(FileState {
        id: hash(&[&found.device.to_be_bytes(), &found.inode.to_be_bytes(), head])[..24].to_owned(),
        device: found.device,
        inode: found.inode,
        head: hash(&[head]),
        head_bytes: end as u64,
        offset: 0,
        size: 0,
        tail: hash(&[]),
        tail_bytes: 0,
        ignored,
        gone: false,
    })
}

fn hash(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
    }
    hex::encode(&digest.finalize()[..16])
}

/// `access.log.1`, `access.log-20261128`, `access-20261128.log`, `access.log.old`; nothing that is compressed.
fn is_rotated(live: &str, name: &str) -> bool {
    let (stem, extension) = live.rsplit_once('.').map_or((live, String::new()), |(stem, e)| (stem, format!(".{e}")));
    let between = name.strip_prefix(live).or_else(|| name.strip_prefix(stem)?.strip_suffix(extension.as_str()));
    let Some(mark) = between.and_then(|b| b.strip_prefix(['.', '-', '_'])) else { return false };
    mark == "old" || (mark.starts_with(|c: char| c.is_ascii_digit()) && mark.bytes().all(|b| b.is_ascii_digit() || b".-_:T".contains(&b)))
}

/// As much as there is.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whole lines from `offset`, and how many bytes of the file they are. A line that is longer than a chunk comes alone and
/// cut.
fn read_lines(file: &File, offset: u64) -> std::io::Result<Option<(Vec<u8>, u64)>> {
    let mut bytes = vec![0; CHUNK_BYTES];
    let read = read_at(file, &mut bytes, offset)?;
    bytes.truncate(read);
    let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1);
    if let Some(end) = ends.take(CHUNK_LINES).last() {
        bytes.truncate(end);
        return Ok(Some((bytes, end as u64)));
    }
    if read < CHUNK_BYTES {
        return Ok(None);
    }
    let mut length = read as u64;
    let mut more = vec![0; CHUNK_BYTES];
    loop {
        let read = read_at(file, &mut more, offset + length)?;
        if let Some(at) = more[..read].iter().position(|b| *b == b'\n') {
            bytes.truncate(LINE_BYTES);
            bytes.push(b'\n');
            return Ok(Some((bytes, length + at as u64 + 1)));
        }
        length += read as u64;
        if read < CHUNK_BYTES {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests;
