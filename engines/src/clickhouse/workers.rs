//! The threads that run statements, each with its own connection to the engine.

use std::fs::File;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::failure::Failure;
use super::library::{Connection, Counts, Library, Params};

/// Statements waiting for a thread; more are refused.
const WAITING: usize = 512;
/// A streamed result smaller than this is answered whole, so that its errors get their own status.
const HELD_BACK: usize = 1 << 20;
/// Parts of a streamed result between the engine and a slow client.
const IN_FLIGHT: usize = 4;

/// One statement, ready to run.
pub struct Statement {
    pub text: String,
    pub format: String,
    pub params: Params,
    pub settings: Vec<(String, String)>,
    pub database: String,
    pub readonly: bool,
    pub streams: bool,
    pub changes_session: bool,
    /// The data that the text refers to as `/proc/self/fd/N`, open until the statement has run.
    pub data: Option<File>,
}

/// A result: what is known when its first part is there, and the parts that follow.
pub struct Reply {
    pub counts: Counts,
    pub elapsed_ns: u128,
    pub first: Bytes,
    pub rest: Option<mpsc::Receiver<Result<Bytes, Failure>>>,
}

struct Job {
    statement: Statement,
    reply: oneshot::Sender<Result<Reply, Failure>>,
}

/// Where statements are handed in.
#[derive(Clone)]
pub struct Workers {
    queue: SyncSender<Job>,
}

impl Workers {
    pub fn start(library: &'static Library, arguments: &[String], threads: usize) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(WAITING);
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..threads {
            let (jobs, arguments) = (Arc::clone(&jobs), arguments.to_vec());
            let thread = std::thread::Builder::new().name(format!("query-{number}"));
            thread.spawn(move || Worker { library, arguments, session: None }.run(&jobs))?;
        }
        Ok(Self { queue })
    }

    pub async fn run(&self, statement: Statement) -> Result<Reply, Failure> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Job { statement, reply }).map_err(|error| match error {
            TrySendError::Full(_) => Failure::new(202, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many simultaneous queries"),
            TrySendError::Disconnected(_) => Failure::new(236, "ABORTED", "The engine is stopping"),
        })?;
        answer.await.unwrap_or_else(|_| Err(Failure::new(236, "ABORTED", "The thread of this query ended")))
    }
}

/// A connection and the database it stands in.
struct Session {
    connection: Connection,
    database: String,
}

struct Worker {
    library: &'static Library,
    arguments: Vec<String>,
    session: Option<Session>,
}

impl Worker {
    fn run(mut self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let job = match jobs.lock() {
                Ok(jobs) => jobs.recv(),
                Err(_) => return,
            };
            let Ok(job) = job else { return };
            self.serve(job);
        }
    }

    fn serve(&mut self, Job { statement, reply }: Job) {
        let session = match self.session.take().map_or_else(|| self.connect(), Ok) {
            Ok(session) => session,
            Err(failure) => return drop(reply.send(Err(failure))),
        };
        match prepare(session, &statement) {
            Err(failure) => drop(reply.send(Err(failure))),
            Ok(session) => {
                if statement.streams {
                    stream(&session.connection, &statement, reply);
                } else {
                    drop(reply.send(whole(&session.connection, &statement)));
                }
                // Settings last as long as their session, and the next statement must not inherit them.
                let used_up = statement.changes_session || statement.readonly || !statement.settings.is_empty();
                self.session = (!used_up).then_some(session);
            }
        }
    }

    fn connect(&self) -> Result<Session, Failure> {
        let connection =
            self.library.connect(&self.arguments).ok_or_else(|| Failure::new(210, "NETWORK_ERROR", "The engine opened no connection"))?;
        // The embedded engine takes any expression for a SELECT; the server does not.
        run(&connection, "SET implicit_select = 0")?;
        Ok(Session { connection, database: "default".into() })
    }
}

fn prepare(mut session: Session, statement: &Statement) -> Result<Session, Failure> {
    if session.database != statement.database {
        let name = statement.database.replace('\\', "\\\\").replace('`', "\\`");
        run(&session.connection, &format!("USE `{name}`"))?;
        session.database.clone_from(&statement.database);
    }
    let mut settings: Vec<String> = statement.settings.iter().map(|(name, value)| format!("{name} = {}", literal(value))).collect();
    if statement.readonly {
        // After the others, for nothing can be set once it holds.
        settings.push("readonly = 2".into());
    }
    if !settings.is_empty() {
        run(&session.connection, &format!("SET {}", settings.join(", ")))?;
    }
    Ok(session)
}

fn run(connection: &Connection, sql: &str) -> Result<(), Failure> {
    connection.query(sql.as_bytes(), "Null", &Params::new()).map(drop).map_err(Failure::from)
}

/// A text as ClickHouse's string literal.
fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn whole(connection: &Connection, statement: &Statement) -> Result<Reply, Failure> {
    let started = Instant::now();
    let answer = connection.query(statement.text.as_bytes(), &statement.format, &statement.params)?;
    Ok(Reply {
        counts: answer.counts(),
        elapsed_ns: started.elapsed().as_nanos(),
        first: Bytes::copy_from_slice(answer.bytes()),
        rest: None,
    })
}

fn stream(connection: &Connection, statement: &Statement, reply: oneshot::Sender<Result<Reply, Failure>>) {
    let started = Instant::now();
    let mut stream = match connection.stream(statement.text.as_bytes(), &statement.format, &statement.params) {
        Ok(stream) => stream,
        Err(text) => return drop(reply.send(Err(text.into()))),
    };
    let mut header = Header::of(&statement.format);
    let mut counts = Counts::default();
    let mut held = Vec::new();
    let mut next = move || -> Result<Option<(Vec<u8>, Counts)>, Failure> {
        let block = stream.next_block()?;
        Ok(block.map(|block| (header.without_repetition(block.bytes()).to_vec(), block.counts())))
    };
    while held.len() < HELD_BACK {
        match next() {
            Err(failure) => return drop(reply.send(Err(failure))),
            Ok(None) => {
                let elapsed_ns = started.elapsed().as_nanos();
                return drop(reply.send(Ok(Reply { counts, elapsed_ns, first: held.into(), rest: None })));
            }
            Ok(Some((bytes, more))) => {
                held.extend_from_slice(&bytes);
                counts.result_rows += more.result_rows;
                counts.read_rows += more.read_rows;
                counts.read_bytes += more.read_bytes;
            }
        }
    }
    let (parts, rest) = mpsc::channel(IN_FLIGHT);
    let elapsed_ns = started.elapsed().as_nanos();
    if reply.send(Ok(Reply { counts, elapsed_ns, first: held.into(), rest: Some(rest) })).is_err() {
        return;
    }
    while let Some(part) = next().map(|part| part.map(|(bytes, _)| Bytes::from(bytes))).transpose() {
        let failed = part.is_err();
        // A client that went away ends the query: dropping the stream cancels it.
        if parts.blocking_send(part).is_err() || failed {
            return;
        }
    }
}

/// Formats that can be put together from blocks. The engine writes the names and types of
/// `RowBinaryWithNamesAndTypes` again with each block; all but the first are cut off here.
pub fn can_stream(format: &str) -> bool {
    matches!(format, "RowBinary" | "RowBinaryWithNamesAndTypes" | "Native" | "TabSeparated" | "TSV" | "CSV" | "JSONEachRow")
}

struct Header {
    repeats: bool,
    seen: Option<Vec<u8>>,
}

impl Header {
    fn of(format: &str) -> Self {
        Self { repeats: format == "RowBinaryWithNamesAndTypes", seen: None }
    }

    fn without_repetition<'a>(&mut self, block: &'a [u8]) -> &'a [u8] {
        if !self.repeats {
            return block;
        }
        if let Some(header) = &self.seen {
            return block.strip_prefix(header.as_slice()).unwrap_or(block);
        }
        self.seen = header_length(block).map(|length| block[..length].to_vec());
        block
    }
}

/// The number of columns, then as many names, then as many types; numbers are LEB128.
fn header_length(block: &[u8]) -> Option<usize> {
    let mut at = 0;
    let columns = leb128(block, &mut at)?;
    for _ in 0..columns.checked_mul(2)? {
        let length = leb128(block, &mut at)?;
        at = at.checked_add(length)?;
    }
    (at <= block.len()).then_some(at)
}

fn leb128(block: &[u8], at: &mut usize) -> Option<usize> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = *block.get(*at)?;
        *at += 1;
        value |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
    }
}
