//! The data directory: one supervisor at a time, writable, with room left.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

/// Less than this is not enough to start on: Kafka's and PostgreSQL's first files take about 150 MB.
const ENOUGH: u64 = 512 << 20;
/// Less than this, when an engine dies, is why it died.
const FULL: u64 = 32 << 20;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("{path} cannot be used as data directory: {source}")]
    Unwritable { path: PathBuf, source: std::io::Error },
    #[error("the engines in {path} already run, in process {holder}. Stop it first, or choose another data directory")]
    InUse { path: PathBuf, holder: String },
    #[error("the disk of {path} has {free} MB left, and the engines need {} MB. Free some space, or choose another data directory", ENOUGH >> 20)]
    Full { path: PathBuf, free: u64 },
}

/// An opened data directory. Its lock is the kernel's, so it ends with the process however that ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    pub fn open(path: &Path) -> Result<Self, Unusable> {
        let unwritable = |source| Unusable::Unwritable { path: path.to_owned(), source };
        fs::create_dir_all(path.join("logs")).map_err(unwritable)?;
        let path = path.canonicalize().map_err(unwritable)?;
        if Uid::effective().is_root() {
            // PostgreSQL runs as another user and must get through to its own directory.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).map_err(unwritable)?;
        }
        let mut lock = File::options().create(true).truncate(false).read(true).write(true).open(path.join("lock")).map_err(unwritable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(source)) => return Err(unwritable(source)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                return Err(Unusable::InUse { path, holder: holder.trim().to_owned() });
            }
        }
        let free = free_bytes(&path).unwrap_or(u64::MAX);
        if free < ENOUGH {
            return Err(Unusable::Full { path, free: free >> 20 });
        }
        let write = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        write(&mut lock).map_err(unwritable)?;
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn log(&self, engine: &str) -> PathBuf {
        self.path.join("logs").join(format!("{engine}.log"))
    }

    /// The directory of one engine, made when missing.
    pub fn engine(&self, name: &str) -> std::io::Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// A password kept in the directory, made at random the first time.
    pub fn password(&self, name: &str) -> std::io::Result<String> {
        let path = self.path.join(format!("{name}.password"));
        if let Ok(kept) = fs::read_to_string(&path)
            && !kept.trim().is_empty()
        {
            return Ok(kept.trim().to_owned());
        }
        let fresh = hex::encode(rand::random::<[u8; 24]>());
        write_private(&path, fresh.as_bytes())?;
        Ok(fresh)
    }
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn free_bytes(path: &Path) -> Option<u64> {
    let disk = nix::sys::statvfs::statvfs(path).ok()?;
    Some(disk.blocks_available() * disk.fragment_size())
}

/// A sentence when there is no room left.
pub fn full_disk(path: &Path) -> Option<String> {
    let free = free_bytes(path)?;
    (free < FULL).then(|| {
        format!("the disk of {} is full ({} MB left), so the engines end. Free some space and start again", path.display(), free >> 20)
    })
}
