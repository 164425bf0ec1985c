//! Starts `farebox up` for the suite (or for one test that breaks things) and opens its stores.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use farebox::instance::{Credentials, Instance};
use farebox_core::App;
use farebox_core::config::Config;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

/// The running system.
pub struct Suite {
    pub app: App,
    pub instance: Instance,
    pub credentials: Credentials,
    pub data: PathBuf,
    /// Where syslog is listened for, by UDP and TCP, for the sources `nginx-udp` and `nginx-tcp` of [`SYSLOG_WORKSPACE`].
    pub syslog: (SocketAddr, SocketAddr),
    up: Mutex<Up>,
}

/// Configuration names workspaces, so this one's name is fixed.
pub const SYSLOG_WORKSPACE: &str = "formats/test";

/// Networks that webhooks may lead to, besides public ones.
pub const LOCAL: &str = "[\"127.0.0.0/8\"]";

/// A `farebox up` of its own, in a directory of its own.
pub struct Up {
    process: Child,
    pub data: PathBuf,
    port: u16,
}

/// How long the engines may take to start on a slow machine.
const START: Duration = Duration::from_mins(2);

impl Suite {
    pub async fn start() -> anyhow::Result<Self> {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let syslog = (local(free_port()?), local(free_port()?));
        let listener = |protocol: &str, address: SocketAddr| {
            format!("{{listen=\"{address}\",protocol=\"{protocol}\",workspace=\"{SYSLOG_WORKSPACE}\",source=\"nginx-{protocol}\"}}")
        };
        let listeners = format!("[{},{}]", listener("udp", syslog.0), listener("tcp", syslog.1));
        let variables = [("FAREBOX_INGEST__SYSLOG", listeners), ("FAREBOX_WEBHOOKS__NETWORKS", LOCAL.to_owned())];
        let up = Up::start_with("suite", free_port()?, &variables).await?;
        let credentials = up.credentials()?;
        let app = App::connect(Config::load(&up.data.join("farebox.toml"))?).await?;
        Ok(Self { app, instance: up.instance()?, credentials, data: up.data.clone(), syslog, up: Mutex::new(up) })
    }

    /// Stops everything; keeps the data directory and its logs when something failed.
    pub async fn stop(&self, clean: bool) {
        self.up.lock().await.stop().await;
        if clean {
            let _ = std::fs::remove_dir_all(&self.data);
        } else {
            eprintln!("The logs of this run are in {}", self.data.display());
        }
    }
}

impl Up {
    /// Starts in a fresh directory and waits until it is ready.
    pub async fn start(name: &str, port: u16) -> anyhow::Result<Self> {
        Self::start_with(name, port, &[]).await
    }

    pub async fn start_with(name: &str, port: u16, variables: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&data)?;
        let mut up = Self { process: spawn(&data, port, variables)?, data, port };
        up.wait_until_ready().await?;
        Ok(up)
    }

    /// `kill -9` of the process and, with it, of every engine; then a new start on what is left.
    pub async fn kill_and_restart(&mut self, variables: &[(&str, String)]) -> anyhow::Result<()> {
        self.process.kill().await?;
        self.start_again(variables)?;
        self.wait_until_ready().await
    }

    /// Another start on what is left by a process that ended.
    pub fn start_again(&mut self, variables: &[(&str, String)]) -> anyhow::Result<()> {
        self.process = spawn(&self.data, self.port, variables)?;
        Ok(())
    }

    /// Waits until the process ends by itself; the signal that ended it.
    pub async fn until_dead(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let ended = tokio::time::timeout(START, self.process.wait()).await;
        ended.expect("the process ends").expect("a status").signal()
    }

    pub async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let log = self.data.join("up.log");
        let ready = format!("http://127.0.0.1:{}/readyz", self.port);
        let deadline = tokio::time::Instant::now() + START;
        loop {
            if let Some(status) = self.process.try_wait()? {
                bail!("`farebox up` ended with {status}:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            if reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success()) && self.data.join("credentials.json").exists() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                bail!(
                    "`farebox up` was not ready within {} seconds:\n{}",
                    START.as_secs(),
                    std::fs::read_to_string(&log).unwrap_or_default()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn credentials(&self) -> anyhow::Result<Credentials> {
        Ok(serde_json::from_slice(&std::fs::read(self.data.join("credentials.json"))?)?)
    }

    pub fn instance(&self) -> anyhow::Result<Instance> {
        let found = self.credentials()?;
        Ok(Instance::new(&found.base_url, &found.admin_token, &found.ingest_token))
    }

    /// `kill -9` of every process of this instance whose command line matches; at least one must be there.
    pub async fn kill_engine(&self, pattern: &str) {
        let pattern = format!("{pattern}.*{0}|{0}.*{pattern}", self.data.display());
        // It may still be starting again after the last one.
        eventually(&format!("a process that matches {pattern}"), Duration::from_secs(90), async || {
            Command::new("pkill").args(["-9", "-f", &pattern]).status().await.expect("pkill runs").success().then_some(())
        })
        .await;
    }

    pub async fn stop(&mut self) {
        if let Some(pid) = self.process.id() {
            let _ = Command::new("kill").arg(pid.to_string()).status().await;
            let _ = tokio::time::timeout(Duration::from_secs(30), self.process.wait()).await;
        }
    }

    pub async fn stop_and_remove(mut self) {
        self.stop().await;
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

fn spawn(data: &Path, port: u16, variables: &[(&str, String)]) -> anyhow::Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(data.join("up.log"))?;
    Command::new(env!("CARGO_BIN_EXE_farebox"))
        .args(["up", "--workspace", "acme/test", "--port", &port.to_string(), "--data"])
        .arg(data)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context("`farebox up` cannot be run")
}

pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Asks again until the answer is there; panics with `what` when it does not come in time.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come true within {} seconds", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A `farebox serve` of its own on the engines of a data directory: some roles, with a configuration that differs where told.
pub struct Served {
    process: Child,
    pub base_url: String,
    port: u16,
    settings: Vec<(String, String)>,
    config: PathBuf,
    log: PathBuf,
}

impl Served {
    /// `settings` as in the environment, such as `("FAREBOX_INGEST__SPOOL_DIR", "/x")`.
    pub async fn start(data: &Path, name: &str, roles: &str, settings: &[(&str, String)]) -> Self {
        let port = free_port().expect("a port");
        let log = data.join(format!("{name}.log"));
        let config = data.join("farebox.toml");
        let mut settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        settings.push(("FAREBOX_HTTP__LISTEN".to_owned(), format!("127.0.0.1:{port}")));
        // Its ports are the suite's.
        settings.push(("FAREBOX_INGEST__SYSLOG".to_owned(), "[]".to_owned()));
        settings.push(("ROLES".to_owned(), roles.to_owned()));
        let process = serve(&config, &log, &settings);
        let served = Self { process, base_url: format!("http://127.0.0.1:{port}"), port, settings, config, log };
        served.until_it_listens().await;
        served
    }

    pub async fn kill(&mut self) {
        self.process.kill().await.expect("it ran");
    }

    /// SIGTERM; returns its exit code, when it ends in time.
    pub async fn terminate(&mut self) -> Option<i32> {
        let pid = self.process.id().expect("it runs");
        Command::new("kill").arg(pid.to_string()).status().await.expect("kill runs");
        tokio::time::timeout(Duration::from_secs(30), self.process.wait()).await.ok()?.ok()?.code()
    }

    pub async fn restart(&mut self) {
        self.process = serve(&self.config, &self.log, &self.settings);
        self.until_it_listens().await;
    }

    async fn until_it_listens(&self) {
        eventually(&format!("`farebox serve` listens (see {})", self.log.display()), START, || async {
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()
        })
        .await;
    }
}

fn serve(config: &Path, log: &Path, settings: &[(String, String)]) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("a log");
    let roles = settings.iter().find(|(name, _)| name == "ROLES").map_or("ingest", |(_, roles)| roles);
    Command::new(env!("CARGO_BIN_EXE_farebox"))
        .args(["serve", "--roles", roles, "--config"])
        .arg(config)
        .envs(settings.iter().filter(|(name, _)| name != "ROLES").cloned())
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("`farebox serve` runs")
}
