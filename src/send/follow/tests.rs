//! A log that is written, rotated and truncated in every order, with senders that die: each line is sent, and however
//! often that is, under one id.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;

/// A directory with `access.log`, and what was ever written to it.
struct Log {
    directory: PathBuf,
    rotations: usize,
    written: BTreeSet<String>,
    unfinished: String,
}

impl Log {
    fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("farebox-follow-{}", uuid::Uuid::now_v7().simple()));
        fs::create_dir_all(&directory).expect("a directory");
        Self { directory, rotations: 0, written: BTreeSet::new(), unfinished: String::new() }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("access.log")
    }

    fn append(&self, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path()).expect("it opens");
        file.write_all(text.as_bytes()).expect("it is written");
    }

    fn line(&mut self, header: &str) {
        if self.unfinished.is_empty() && !self.path().metadata().is_ok_and(|m| m.len() > 0) {
            self.append(header);
            if !header.is_empty() {
                self.written.insert(header.trim_end().to_owned());
            }
        }
        let rest = format!("line {}\n", self.written.len());
        self.append(&rest);
        self.written.insert(format!("{}{}", std::mem::take(&mut self.unfinished), rest.trim_end()));
    }

    fn half_a_line(&mut self) {
        if !self.written.is_empty() {
            let half = format!("half {} ", self.written.len());
            self.append(&half);
            self.unfinished.push_str(&half);
        }
    }

    /// The names move on by one, as logrotate does; `how` makes the first of them.
    fn rotate(&mut self, how: impl FnOnce(&Self, &PathBuf)) {
        let name = |n: usize| self.directory.join(format!("access.log.{n}"));
        // An unfinished line would be cut in two by a rotation that its writer does not take part in.
        if !self.unfinished.is_empty() || !self.path().metadata().is_ok_and(|m| m.len() > 0) {
            return;
        }
        for n in (1..=self.rotations).rev() {
            fs::rename(name(n), name(n + 1)).expect("it is renamed");
        }
        how(self, &name(1));
        let long_ago = SystemTime::now() - Duration::from_mins(1);
        OpenOptions::new().write(true).open(name(1)).and_then(|f| f.set_modified(long_ago)).expect("its time is set");
        self.rotations += 1;
    }

    fn rename(&mut self) {
        self.rotate(|log, to| fs::rename(log.path(), to).expect("it is renamed"));
    }

    fn copy_and_truncate(&mut self) {
        self.rotate(|log, to| {
            fs::copy(log.path(), to).expect("it is copied");
            OpenOptions::new().write(true).open(log.path()).and_then(|f| f.set_len(0)).expect("it is truncated");
        });
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What a collector would know: the ids, which are made of file, offset and line.
#[derive(Default)]
struct Collected(BTreeSet<(String, u64, String)>);

impl Collected {
    fn take(&mut self, chunk: &Chunk) {
        let mut at = chunk.offset;
        for line in String::from_utf8(chunk.bytes.clone()).expect("text").split_inclusive('\n') {
            self.0.insert((chunk.file_id.clone(), at, line.trim_end().to_owned()));
            at += line.len() as u64;
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.0.iter().map(|(_, _, line)| line.clone()).collect();
        lines.sort();
        lines
    }
}

fn drain(follower: &mut Follower, collected: &mut Collected) -> Vec<String> {
    let notices = follower.look(false).expect("it can be read");
    while let Some(chunk) = follower.next_chunk().expect("it can be read") {
        collected.take(&chunk);
        follower.acknowledge(&chunk);
    }
    notices
}

#[derive(Debug, Clone)]
enum Step {
    Line,
    HalfALine,
    Rename,
    CopyAndTruncate,
    Look,
    /// A chunk is sent, and its answer is lost.
    SendOnly,
    SendAndAcknowledge,
    Save,
    /// Killed: what was not saved is forgotten.
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Line),
        2 => Just(Step::HalfALine),
        2 => Just(Step::Rename),
        2 => Just(Step::CopyAndTruncate),
        3 => Just(Step::Look),
        2 => Just(Step::SendOnly),
        3 => Just(Step::SendAndAcknowledge),
        3 => Just(Step::Save),
        2 => Just(Step::Die),
    ]
}

/// A header line that every file begins with makes files look alike.
fn every_line_once(steps: &[Step], header: &str) {
    let mut log = Log::new();
    let mut collected = Collected::default();
    log.line(header);
    let mut follower = Follower::new(&log.path(), Vec::new());
    follower.look(true).expect("it can be read");
    let mut saved: Vec<FileState> = follower.states().cloned().collect();
    for step in steps {
        match step {
            Step::Line => log.line(header),
            Step::HalfALine => log.half_a_line(),
            Step::Rename => log.rename(),
            Step::CopyAndTruncate => log.copy_and_truncate(),
            Step::Look => {
                follower.look(false).expect("it can be read");
                if std::mem::take(&mut follower.must_be_saved) {
                    saved = follower.states().cloned().collect();
                }
            }
            Step::SendOnly | Step::SendAndAcknowledge => {
                if let Some(chunk) = follower.next_chunk().expect("it can be read") {
                    collected.take(&chunk);
                    if matches!(step, Step::SendAndAcknowledge) {
                        follower.acknowledge(&chunk);
                    }
                }
            }
            Step::Save => saved = follower.states().cloned().collect(),
            Step::Die => follower = Follower::new(&log.path(), saved.clone()),
        }
    }
    if !log.unfinished.is_empty() {
        log.line(header);
    }
    drain(&mut follower, &mut collected);
    drain(&mut follower, &mut collected);
    let sent: BTreeSet<String> = collected.lines().into_iter().collect();
    assert_eq!(sent, log.written, "every line is sent");
    if header.is_empty() {
        assert_eq!(collected.0.len(), log.written.len(), "under one id each: {:#?}", collected.0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_line_is_sent_under_one_id(steps in proptest::collection::vec(step(), 1..60)) {
        every_line_once(&steps, "");
    }

    #[test]
    fn files_that_begin_alike_are_told_apart(steps in proptest::collection::vec(step(), 1..60)) {
        every_line_once(&steps, "#Fields: time status\n");
    }
}

#[test]
fn what_was_rotated_before_the_first_start_is_not_sent() {
    let mut log = Log::new();
    log.line("");
    log.rename();
    log.line("");
    let mut follower = Follower::new(&log.path(), Vec::new());
    follower.look(true).expect("it can be read");
    let mut collected = Collected::default();
    drain(&mut follower, &mut collected);
    assert_eq!(collected.lines(), ["line 1"]);
    log.rename();
    log.line("");
    drain(&mut follower, &mut collected);
    assert_eq!(collected.lines(), ["line 1", "line 2"]);
}

#[test]
fn what_was_compressed_unsent_is_told_and_read_on_when_unpacked() {
    let mut log = Log::new();
    log.line("");
    let mut collected = Collected::default();
    let mut follower = Follower::new(&log.path(), Vec::new());
    drain(&mut follower, &mut collected);
    log.line("");
    let states: Vec<_> = follower.states().cloned().collect();
    // While nobody looks: rotated and compressed.
    let packed = log.directory.join("access.log.1.gz");
    fs::rename(log.path(), &packed).expect("it is renamed");
    log.append("line 2\n");
    let mut follower = Follower::new(&log.path(), states);
    follower.files[0].alive -= SETTLED;
    let notices = drain(&mut follower, &mut collected);
    assert!(notices.len() == 1 && notices[0].contains("unpack it"), "{notices:?}");
    let mut follower = Follower::new(&log.path(), follower.states().cloned().collect());
    fs::rename(&packed, log.directory.join("access.log.1")).expect("it is unpacked");
    drain(&mut follower, &mut collected);
    assert_eq!(collected.lines(), ["line 0", "line 1", "line 2"]);
}

#[test]
fn only_rotated_names_are_read() {
    for name in ["access.log.1", "access.log-20261128", "access.log.2026-11-28", "access-20261128.log", "access.1.log", "access.log.old"] {
        assert!(is_rotated("access.log", name), "{name}");
    }
    for name in [
        "access.log.1.gz",
        "access.log.json",
        "access.log-ssl",
        "access-ssl.log",
        "error.log.1",
        "access.log",
        ".access.log.farebox",
        "access.log.1.zst",
    ] {
        assert!(!is_rotated("access.log", name), "{name}");
    }
}

#[test]
fn a_line_longer_than_a_chunk_comes_alone_and_cut() {
    let log = Log::new();
    log.append("first\n");
    log.append(&"x".repeat(3 << 20));
    log.append("\nlast\n");
    let mut follower = Follower::new(&log.path(), Vec::new());
    follower.look(true).expect("it can be read");
    let mut lengths = Vec::new();
    while let Some(chunk) = follower.next_chunk().expect("it can be read") {
        lengths.push((chunk.offset, chunk.bytes.len()));
        follower.acknowledge(&chunk);
    }
    assert_eq!(lengths, [(0, 6), (6, LINE_BYTES + 1), (6 + (3 << 20) + 1, 5)]);
}
