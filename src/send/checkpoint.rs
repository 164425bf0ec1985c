//! How far each file has been sent and acknowledged, kept in one small file that is replaced whole and is on disk
//! before the next batch goes out. An older one is harmless: what is sent again carries the same ids.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// Files remembered at most. A forgotten one that is put back, unpacked, under a rotated name is sent as new.
const REMEMBERED: usize = 1000;

/// One file, whatever its name is by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// Stands in the ids of its lines that carry none.
    pub id: String,
    pub device: u64,
    pub inode: u64,
    /// Hash of the first line (of its first 4 KiB), and how many bytes that are: a rotated file has the same under
    /// another name, a truncated one another in the same place.
    pub head: String,
    pub head_bytes: u64,
    /// Everything before it is acknowledged.
    pub offset: u64,
    /// Size when last seen.
    pub size: u64,
    /// Hash of the last bytes of that, and how many: tells a copy from another log with the same first line.
    pub tail: String,
    pub tail_bytes: u64,
    /// Was there before the first start, as the older part of the log: never sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignored: bool,
    /// Truncated, compressed or deleted, and no copy was found: its place belongs to another. Read on when it comes back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    version: u32,
    file: PathBuf,
    format: String,
    files: Vec<FileState>,
}

/// Open and locked: one sender per checkpoint.
pub struct Checkpoint {
    path: PathBuf,
    file: PathBuf,
    format: String,
    /// Whether this is the first start with it.
    pub is_new: bool,
    _lock: File,
}

impl Checkpoint {
    /// Beside the log, hidden, unless told otherwise.
    pub fn default_path(file: &Path) -> PathBuf {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        file.with_file_name(format!(".{name}.farebox"))
    }

    pub fn open(path: &Path, file: &Path, format: &str) -> anyhow::Result<(Self, Vec<FileState>)> {
        let lock_path = with_suffix(path, ".lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path).with_context(|| {
            format!(
                "{} cannot be written: the checkpoint is kept there; choose a directory that can be written with --checkpoint",
                lock_path.display()
            )
        })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another `farebox send` is using {}; stop it, or give this one a checkpoint of its own with --checkpoint",
                    path.display()
                )
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("{} cannot be locked", lock_path.display())),
        }
        let opened = |is_new| Self { path: path.to_owned(), file: file.to_owned(), format: format.to_owned(), is_new, _lock: lock };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((opened(true), Vec::new())),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        };
        let content: Content = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no checkpoint. Move it away only if the log may be sent from its beginning", path.display()))?;
        if content.version != 1 || content.format != format || content.file != file {
            bail!(
                "{} is the checkpoint of `--format {} --file {}`; give this log another one with --checkpoint",
                path.display(),
                content.format,
                content.file.display()
            );
        }
        Ok((opened(false), content.files))
    }

    /// On disk when it returns.
    pub fn save<'a>(&self, files: impl ExactSizeIterator<Item = &'a FileState>) -> anyhow::Result<()> {
        let skip = files.len().saturating_sub(REMEMBERED);
        let content =
            Content { version: 1, file: self.file.clone(), format: self.format.clone(), files: files.skip(skip).cloned().collect() };
        let write = || -> std::io::Result<()> {
            let fresh = with_suffix(&self.path, ".new");
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&fresh)?;
            file.write_all(&serde_json::to_vec(&content)?)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &self.path)?;
            let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent)?.sync_all()
        };
        write().with_context(|| format!("the checkpoint {} cannot be written", self.path.display()))
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_belongs_to_one_log_and_one_sender() {
        let dir = std::env::temp_dir().join(format!("farebox-checkpoint-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let (path, log) = (dir.join("c"), dir.join("access.log"));
        let state = FileState {
            id: "a1".to_owned(),
            device: 1,
            inode: 2,
            head: "h".to_owned(),
            head_bytes: 7,
            offset: 9,
            size: 9,
            tail: "t".to_owned(),
            tail_bytes: 9,
            ignored: false,
            gone: false,
        };
        {
            let (checkpoint, files) = Checkpoint::open(&path, &log, "nginx").expect("it opens");
            assert!(checkpoint.is_new && files.is_empty());
            let second = Checkpoint::open(&path, &log, "nginx").err().expect("locked");
            assert!(second.to_string().contains("another `farebox send`"), "{second}");
            checkpoint.save([&state].into_iter()).expect("it is written");
        }
        let (checkpoint, files) = Checkpoint::open(&path, &log, "nginx").expect("it opens again");
        assert!(!checkpoint.is_new && files == [state]);
        drop(checkpoint);
        let other = Checkpoint::open(&path, &log, "apisix").err().expect("another format");
        assert!(other.to_string().contains("--format nginx"), "{other}");
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
