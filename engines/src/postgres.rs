//! PostgreSQL: the system's own, in a cluster that only this data directory's owner can reach.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};

use crate::artefacts::postgres_programs;
use crate::child::{Account, Recipe};
use crate::datadir::{DataDir, write_private};
use crate::keeper::Ready;
use crate::progress::{Event, Progress};
use crate::{Error, NAME_POSTGRES as NAME};

/// User and database.
const OWNER: &str = "farebox";
/// Names the socket; nothing listens on it unless a port was asked for.
const SOCKET_PORT: u16 = 5432;
/// A socket's path has at most 107 bytes.
const LONGEST_SOCKET: usize = 107;

/// A prepared cluster.
pub struct Cluster {
    pub recipe: Recipe,
    pub ready: Ready,
    pub url: String,
}

/// Initialises the cluster, the first time, and removes what a killed one left behind.
pub fn prepare(data: &DataDir, progress: &Progress, port: Option<u16>) -> Result<Cluster, Error> {
    let programs = postgres_programs()?;
    let failed = |source: io::Error| Error::prepare(NAME, &source);
    let password = data.password(NAME).map_err(failed)?;
    let account = Account::unprivileged();
    let home = home(data, account.as_ref()).map_err(failed)?;
    let (cluster, socket) = (home.join("data"), socket_directory(&home, account.as_ref()).map_err(failed)?);
    let recipe = |name: &str| {
        let mut recipe = Recipe::new(programs.join(name), &home, &data.log(NAME)).env("TZ", "UTC").env("LC_ALL", "C");
        recipe.user.clone_from(&account);
        recipe
    };

    let complete = home.join("initialised");
    if !complete.exists() {
        progress.send(NAME, Event::Preparing);
        initialise(&recipe, &home, &cluster, &password, account.as_ref()).map_err(failed)?;
        fs::write(&complete, "").map_err(failed)?;
    }
    remove_leftover(&cluster).map_err(failed)?;

    let socket_port = port.unwrap_or(SOCKET_PORT);
    let mut serve = recipe("postgres").arg("-D").arg(&cluster).arg("-k").arg(&socket).arg("-p").arg(socket_port.to_string());
    let listen = if port.is_some() { "listen_addresses=127.0.0.1" } else { "listen_addresses=" };
    for setting in
        [listen, "max_connections=200", "shared_buffers=64MB", "max_wal_size=512MB", "timezone=UTC", "log_timezone=UTC", "jit=off"]
    {
        serve = serve.arg("-c").arg(setting);
    }
    // "Fast": clients are sent away. An orphan ends at once, its children too, and recovers at the next start.
    serve.stop = Signal::SIGINT;
    serve.orphaned = Signal::SIGQUIT;

    let status = cluster.join("postmaster.pid");
    let ready: Ready = Box::new(move |started| is_ready(&status, started.pid));
    let host: String = url::form_urlencoded::byte_serialize(socket.to_string_lossy().as_bytes()).collect();
    let url = match port {
        Some(port) => format!("postgres://{OWNER}:{password}@127.0.0.1:{port}/{OWNER}"),
        None => format!("postgres://{OWNER}:{password}@localhost:{socket_port}/{OWNER}?host={host}"),
    };
    Ok(Cluster { recipe: serve, ready, url })
}

fn initialise(recipe: &impl Fn(&str) -> Recipe, home: &Path, cluster: &Path, password: &str, account: Option<&Account>) -> io::Result<()> {
    if cluster.exists() {
        fs::remove_dir_all(cluster)?;
    }
    let password_file = home.join("initial-password");
    write_private(&password_file, password.as_bytes())?;
    give(&password_file, account)?;
    let made = recipe("initdb")
        .args(["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--no-instructions", "-U", OWNER, "-D"])
        .arg(cluster)
        .arg(format!("--pwfile={}", password_file.display()))
        .run();
    fs::remove_file(&password_file)?;
    made?;
    // The single-user mode reads statements from its input.
    let statement = home.join("create.sql");
    fs::write(&statement, format!("CREATE DATABASE {OWNER}\n"))?;
    give(&statement, account)?;
    let mut create = recipe("postgres");
    let postgres = create.program.display().to_string();
    create.program = "/bin/sh".into();
    create.args(["-c", "exec \"$1\" --single -D \"$2\" postgres <\"$3\"", "sh", &postgres]).arg(cluster).arg(&statement).run()?;
    fs::remove_file(&statement)
}

/// A cluster belongs to the user that runs it, who must also be able to reach it.
fn home(data: &DataDir, account: Option<&Account>) -> io::Result<PathBuf> {
    let Some(account) = account else { return private(&data.path().join(NAME), None) };
    let reachable = data
        .path()
        .ancestors()
        .all(|folder| fs::metadata(folder).is_ok_and(|folder| folder.mode() & 0o001 != 0 || folder.uid() == account.uid.as_raw()));
    if reachable {
        return private(&data.path().join(NAME), Some(account));
    }
    // Below a closed directory (such as /root) only root can get through, and PostgreSQL refuses to be root.
    let elsewhere = PathBuf::from("/var/lib/farebox").join(short_hash(data.path()));
    let marker = data.path().join("postgres.elsewhere");
    if !marker.exists() && elsewhere.exists() {
        fs::remove_dir_all(&elsewhere)?; // of a data directory that was deleted since
    }
    fs::create_dir_all(&elsewhere)?;
    fs::write(&marker, format!("{}\n", elsewhere.display()))?;
    private(&elsewhere.join(NAME), Some(account))
}

fn socket_directory(home: &Path, account: Option<&Account>) -> io::Result<PathBuf> {
    let here = home.join("socket");
    if here.join(".s.PGSQL.12345").as_os_str().len() <= LONGEST_SOCKET {
        return private(&here, account);
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| account.is_none() && path.is_dir());
    private(&runtime.unwrap_or_else(|| "/tmp".into()).join(format!("farebox-{}", short_hash(home))), account)
}

fn private(path: &Path, account: Option<&Account>) -> io::Result<PathBuf> {
    fs::create_dir_all(path)?;
    give(path, account)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    Ok(path.to_owned())
}

fn give(path: &Path, account: Option<&Account>) -> io::Result<()> {
    match account {
        Some(account) => std::os::unix::fs::chown(path, Some(account.uid.as_raw()), Some(account.gid.as_raw())),
        None => Ok(()),
    }
}

fn short_hash(path: &Path) -> String {
    hex::encode(&Sha256::digest(path.as_os_str().as_encoded_bytes())[..6])
}

/// The first line is the process, the eighth its state.
fn is_ready(status: &Path, pid: i32) -> bool {
    let text = fs::read_to_string(status).unwrap_or_default();
    let mut lines = text.lines();
    lines.next().is_some_and(|first| first.trim() == pid.to_string()) && lines.nth(6).is_some_and(|state| state.trim() == "ready")
}

/// PostgreSQL refuses to start while the process named in `postmaster.pid` exists, even when that
/// number now belongs to something else. Whoever holds the data directory's lock is the only one who
/// can have started it: one that still runs is an orphan on its way out, any other process a stranger.
fn remove_leftover(cluster: &Path) -> io::Result<()> {
    let file = cluster.join("postmaster.pid");
    let Some(pid) = fs::read_to_string(&file).ok().and_then(|text| text.lines().next()?.trim().parse::<i32>().ok()) else {
        return Ok(());
    };
    let is_orphan = || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|directory| directory == cluster);
    let started = Instant::now();
    while is_orphan() {
        let signal = if started.elapsed() < Duration::from_secs(5) { Signal::SIGQUIT } else { Signal::SIGKILL };
        let _ = kill(Pid::from_raw(pid), signal);
        std::thread::sleep(Duration::from_millis(50));
    }
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
