//! A child process that dies with its parent, writes to a log file, and may run as another user.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, User};

/// A log larger than this is put aside when its engine starts.
const LARGEST_LOG: u64 = 16 << 20;

/// How to start one engine.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    /// The working directory.
    pub directory: PathBuf,
    /// Where both outputs go.
    pub log: PathBuf,
    /// Whom to run as, when this process is root and the engine refuses to be.
    pub user: Option<Account>,
    /// What asks the engine to end in an orderly way.
    pub stop: Signal,
    /// What the kernel sends when the parent has died.
    pub orphaned: Signal,
}

impl Recipe {
    pub fn new(program: impl Into<PathBuf>, directory: &Path, log: &Path) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: directory.to_owned(),
            log: log.to_owned(),
            user: None,
            stop: Signal::SIGTERM,
            orphaned: Signal::SIGKILL,
        }
    }

    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// The command, through `setpriv`, which asks the kernel to signal the child when its parent dies.
    ///
    /// The kernel means the parent *thread*: whoever spawns this must stay for as long as the child.
    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig").arg(self.orphaned.as_str().trim_start_matches("SIG"));
        if let Some(account) = &self.user {
            command.arg(format!("--reuid={}", account.uid)).arg(format!("--regid={}", account.gid)).arg("--clear-groups");
            command.env("HOME", "/nonexistent").env("USER", &account.name);
        }
        command.arg("--").arg(&self.program).args(&self.arguments).envs(self.environment.iter().cloned());
        command.current_dir(&self.directory).stdin(Stdio::null());
        // A group of its own: Ctrl-C in the terminal is for the parent, which then stops its children in order.
        command.process_group(0);
        command
    }

    /// Starts the engine and says where its log begins.
    pub fn spawn(&self) -> io::Result<(Child, u64)> {
        let log = open_log(&self.log)?;
        let from = log.metadata()?.len();
        let child = self.command().stdout(log.try_clone()?).stderr(log).spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other("setpriv is missing. On Debian: apt-get install util-linux"),
            _ => error,
        })?;
        Ok((child, from))
    }

    /// Runs a preparation to its end; its output goes to the log, and into the error when it fails.
    pub fn run(&self) -> io::Result<()> {
        let (mut child, from) = self.spawn()?;
        let status = child.wait()?;
        if status.success() {
            return Ok(());
        }
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        Err(io::Error::other(format!("{name} ended with {status}: {}", last_lines(&self.log, from, 3))))
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() > LARGEST_LOG) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    File::options().create(true).append(true).open(path)
}

/// What a log says since `from`.
pub fn read_log(path: &Path, from: u64) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(path)
        && file.seek(SeekFrom::Start(from)).is_ok()
    {
        let _ = file.take(LARGEST_LOG).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The end of a log on one line, for a sentence about a failure.
pub fn last_lines(path: &Path, from: u64, count: usize) -> String {
    let text = read_log(path, from);
    let mut lines: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(count).collect();
    lines.reverse();
    if lines.is_empty() { format!("it said nothing (log: {})", path.display()) } else { lines.join(" / ") }
}

/// An unprivileged user.
#[derive(Debug, Clone)]
pub struct Account {
    pub name: String,
    pub uid: Uid,
    pub gid: Gid,
}

impl Account {
    /// Whom to run as what refuses to be root: nobody in particular unless this process is root.
    pub fn unprivileged() -> Option<Self> {
        if !Uid::effective().is_root() {
            return None;
        }
        let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten())?;
        Some(Self { name: user.name, uid: user.uid, gid: user.gid })
    }
}

/// Whether every thread of a process is stopped, or the process is gone.
pub fn stands_still(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).all(|stat| {
        let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
        matches!(state, Some("T" | "t" | "Z" | "X"))
    })
}

/// A process and its children, from `/proc`.
pub fn family(pid: i32) -> Vec<i32> {
    let mut family = vec![pid];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(member) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // `pid (name) state ppid`; the name may hold anything, so the last bracket ends it.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        if parent == Some(pid) {
            family.push(member);
        }
    }
    family
}
