//! The most memory that a role takes under full load, as processes of their own: ingest takes batches as fast as it
//! can, metering counts them, access decides.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use farebox_core::config::Config;
use tokio::net::TcpListener;

use crate::engines::{self, Bench};
use crate::load;
use crate::report::{Line, Report};

/// MiB.
const MOST: f64 = 200.0;
const BATCH: usize = 1000;
const CONNECTIONS: usize = 16;
const GIVE_UP: Duration = Duration::from_mins(5);

struct Role {
    name: &'static str,
    child: Child,
    address: String,
    config: PathBuf,
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.config);
    }
}

impl Role {
    async fn start(bench: &Bench, farebox: &Path, name: &'static str) -> anyhow::Result<Self> {
        // Free a moment ago; nobody else takes ports here.
        let listen = TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?;
        let mut config = Config::clone(&bench.app.config);
        config.http.listen = listen;
        config.billing.encryption_key = "0".repeat(64);
        let file = std::env::temp_dir().join(format!("farebox-bench-{}-{name}.toml", std::process::id()));
        std::fs::write(&file, toml::to_string(&config)?)?;
        let mut serve = Command::new(farebox);
        serve.args(["serve", "--roles", name, "--config"]).arg(&file).stdout(Stdio::null());
        let child = serve.spawn().with_context(|| format!("{} cannot be run; build it, or name it with --farebox", farebox.display()))?;
        let role = Self { name, child, address: format!("http://{listen}"), config: file };
        let start = Instant::now();
        while !reqwest::get(format!("{}/readyz", role.address)).await.is_ok_and(|answer| answer.status().is_success()) {
            ensure!(start.elapsed() < Duration::from_secs(30), "{name} is not ready after 30 s");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(role)
    }

    /// The most that was resident so far, in MiB.
    fn most(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: u32 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(f64::from(kib) / 1024.0)
    }
}

pub async fn measure(bench: &Bench, farebox: &Path, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let app = &bench.app;
    let (workspace, token) = engines::sender(bench, "bench/memory").await?;
    let roles = [
        Role::start(bench, farebox, "ingest").await?,
        Role::start(bench, farebox, "metering").await?,
        Role::start(bench, farebox, "access").await?,
    ];
    let (events, decide) = (format!("{}/v1/events", roles[0].address), format!("{}/v1/decide", roles[2].address));
    // The same ids come again and again, which costs as much to store; only different ones are counted.
    let bodies = load::bodies(BATCH);
    let sending = load::run(&events, token.reveal(), &bodies, BATCH, CONNECTIONS, time);
    let (rate, decided) = tokio::join!(sending, ask(&decide, time));
    report.note(format!("under {:.0} events/s and {:.0} decisions/s:", rate?, decided?));
    let question = "SELECT uniqExact(id) FROM events WHERE workspace = ?";
    let sent = (bodies.len() * BATCH) as u64;
    let start = Instant::now();
    loop {
        let seen: u64 = app.clickhouse.query(question).bind(workspace.as_str()).fetch_one().await?;
        if seen == sent {
            break;
        }
        ensure!(start.elapsed() < GIVE_UP, "after {} s only {seen} of {sent} events can be seen", GIVE_UP.as_secs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for role in &roles {
        report.add(Line {
            what: format!("memory of {}", role.name),
            unit: "MiB",
            ours: role.most()?,
            yardstick: MOST,
            yardstick_name: "what it may take",
            least: 1.0,
            less_is_better: true,
        });
    }
    Ok(())
}

/// Decisions a second, on a key that nobody has: the answer is as quick.
async fn ask(url: &str, time: Duration) -> anyhow::Result<f64> {
    let client = reqwest::Client::new();
    let (start, mut answered) = (Instant::now(), 0);
    while start.elapsed() < time {
        let request = client.get(url).bearer_auth("nobody").header("x-forwarded-uri", "/orders");
        request.send().await?.bytes().await?;
        answered += 1;
    }
    Ok(crate::report::rate(answered, start.elapsed()))
}
