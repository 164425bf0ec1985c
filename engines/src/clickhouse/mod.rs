//! ClickHouse: the real engine as a library, behind ClickHouse's HTTP interface.
//!
//! It runs as a process of its own (`farebox engine clickhouse`), so that it can be killed, limited and
//! restarted like a server, and so that nothing else shares an address space with it. A request is
//! taken apart in [`request`] and [`sql`], run by a thread of [`workers`] on a connection of
//! [`library`], and answered by [`answer`]; [`codec`] undoes and applies compression.
//!
//! An insert's data goes to the engine as a file in memory. It is acknowledged when the engine has
//! committed the part, which is then in the files: killing the process loses nothing acknowledged.

mod answer;
mod codec;
mod config;
mod failure;
mod library;
mod request;
mod serve;
mod sql;
mod workers;

use std::fs::{self, File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use library::{Connection, Library, Params};

/// How to run the engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// `libchdb.so`
    pub library: PathBuf,
    /// Where tables are kept. One process at a time.
    pub data: PathBuf,
    pub listen: SocketAddr,
    /// Asked of every client unless empty.
    pub password: String,
}

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot load ClickHouse from {path}: {source}. Run engines/fetch")]
    Library { path: PathBuf, source: libloading::Error },
    #[error("another process uses the ClickHouse data in {0}")]
    InUse(PathBuf),
    #[error("ClickHouse cannot use {path}: {source}")]
    Data { path: PathBuf, source: std::io::Error },
    #[error("ClickHouse does not start on {path}: {reason}")]
    Engine { path: PathBuf, reason: String },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
}

/// Statements that run at once. More than cores, for some of them wait for a slow reader.
const THREADS: usize = 16;
/// A process killed a moment ago may still hold its files.
const PREDECESSOR: Duration = Duration::from_secs(10);

/// Serves until the process is told to end (SIGTERM or Ctrl-C), then ends it.
pub async fn serve(options: Options) -> Result<(), Error> {
    let data_error = |source| Error::Data { path: options.data.clone(), source };
    fs::create_dir_all(&options.data).map_err(data_error)?;
    let lock = hold(&options.data)?;
    let settings = options.data.join("config.xml");
    fs::write(&settings, config::xml(std::thread::available_parallelism().map_or(2, usize::from))).map_err(data_error)?;

    let library = Library::open(&options.library).map_err(|source| Error::Library { path: options.library.clone(), source })?;
    let arguments = [
        "clickhouse".to_owned(),
        format!("--path={}", options.data.join("store").display()),
        format!("--config-file={}", settings.display()),
        "--log-level=warning".to_owned(),
    ];
    let engine_error = |reason: String| Error::Engine { path: options.data.clone(), reason };
    // Held to the end: when the last connection closes, the engine shuts down.
    let root = library.connect(&arguments).ok_or_else(|| engine_error("see the lines above".into()))?;
    let version = scalar(&root, "SELECT version()").map_err(engine_error)?;
    let timezone = scalar(&root, "SELECT timezone()").map_err(engine_error)?;
    let workers = workers::Workers::start(library, &arguments, THREADS).map_err(data_error)?;

    let listener = tokio::net::TcpListener::bind(options.listen).await;
    let listener = listener.map_err(|source| Error::Listen { address: options.listen, source })?;
    tracing::info!("ClickHouse {version} answers on {}", options.listen);
    let router = serve::router(serve::Front { workers, password: options.password, version, timezone });
    let served = axum::serve(listener, router).with_graceful_shutdown(told_to_end()).await;
    let code = i32::from(served.is_err());
    drop(lock);
    library::leave(code)
}

fn hold(data: &Path) -> Result<File, Error> {
    let error = |source| Error::Data { path: data.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).open(data.join("lock")).map_err(error)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(error(source)),
            Err(TryLockError::WouldBlock) if started.elapsed() > PREDECESSOR => return Err(Error::InUse(data.to_owned())),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn scalar(connection: &Connection, sql: &str) -> Result<String, String> {
    let answer = connection.query(sql.as_bytes(), "TSVRaw", &Params::new())?;
    Ok(String::from_utf8_lossy(answer.bytes()).trim().to_owned())
}

/// A second wish to end does not wait for running statements.
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
            // A client that keeps its connection open does not hold the engine back.
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
        library::leave(0)
    });
}
