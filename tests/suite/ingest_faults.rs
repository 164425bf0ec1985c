//! What is acknowledged is kept and counted once, whatever Kafka, the disk and the clients do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use farebox_core::clock;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::harness::{Served, Suite, Up, eventually, free_port};
use crate::ingest_grpc;
use crate::tenant::Tenant;

const SOON: Duration = Duration::from_secs(60);

fn events(prefix: &str, n: usize) -> Value {
    let event = |n: usize| json!({ "specversion": "1.0", "id": format!("{prefix}-{n}"), "source": "edge", "type": "farebox.request.v1", "time": clock::now(), "subject": "initech", "data": { "status": 200, "route": "GET /orders" } });
    Value::Array((0..n).map(event).collect())
}

async fn post(base_url: &str, token: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
    let request = reqwest::Client::new().post(format!("{base_url}/v1/events")).header("x-farebox-token", token);
    request.header("content-type", "application/cloudevents-batch+json").json(body).send().await
}

async fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").args([name, &pid.to_string()]).status().await.expect("kill runs");
    assert!(status.success(), "{name} {pid}");
}

/// The pid of the engine whose command line has `pattern` and this data directory.
async fn engine(data: &std::path::Path, pattern: &str) -> u32 {
    let pattern = format!("{pattern}.*{0}|{0}.*{pattern}", data.display());
    let found = Command::new("pgrep").args(["-f", &pattern]).output().await.expect("pgrep runs");
    let text = String::from_utf8(found.stdout).expect("digits");
    text.lines().next().and_then(|line| line.parse().ok()).unwrap_or_else(|| panic!("no process matches {pattern}"))
}

struct Faulty {
    up: Up,
    base_url: String,
    token: String,
    admin: String,
    accepted: u64,
}

impl Faulty {
    async fn start() -> Self {
        let up = Up::start("faults", free_port().expect("a port")).await.expect("`farebox up` starts");
        let credentials = up.credentials().expect("credentials");
        Self { up, base_url: credentials.base_url, token: credentials.ingest_token, admin: credentials.admin_token, accepted: 0 }
    }

    /// Acknowledged once however often it is asked: the same body again until 202.
    async fn accepted(&mut self, base_url: &str, body: &Value) {
        let token = &self.token;
        eventually("the batch is accepted", SOON, || async {
            let answer = post(base_url, token, body).await.ok()?;
            (answer.status() == StatusCode::ACCEPTED).then_some(())
        })
        .await;
        self.accepted += body.as_array().expect("a batch").len() as u64;
    }

    async fn counted(&self) {
        let day = clock::now().format("%Y-%m-%dT00:00:00Z").to_string();
        let url = format!("{}/api/v1/usage?meter=calls&window=none&from={day}", self.base_url);
        let (url, admin, accepted) = (&url, &self.admin, self.accepted);
        eventually(&format!("{accepted} calls counted"), SOON, || async {
            let request = reqwest::Client::new().get(url).header("x-farebox-token", admin);
            let usage: Value = request.send().await.ok()?.json().await.ok()?;
            let counted = usage["data"].as_array()?.iter().map(|row| row["value"].as_str()?.parse::<u64>().ok()).sum::<Option<u64>>()?;
            assert!(counted <= accepted, "{counted} of {accepted}: counted twice");
            (counted == accepted).then_some(())
        })
        .await;
    }
}

async fn is_ready(base_url: &str) -> bool {
    reqwest::get(format!("{base_url}/readyz")).await.is_ok_and(|answer| answer.status() == StatusCode::OK)
}

/// Kafka stands still: 503 with `Retry-After`, not ready, memory bounded, and all well again by itself when it goes on.
/// With a spool: 202, on disk before it is said, kept through `kill -9`, refused when the disk is full, drained once.
pub async fn kafka_stands_still_and_the_disk_is_full() {
    let mut it = Faulty::start().await;
    let kafka = engine(&it.up.data, "kafka.Kafka").await;
    let front = it.base_url.clone();
    it.accepted(&front, &events("before", 10)).await;

    signal("-STOP", kafka).await;
    let (body, big) = (events("paused", 10), events("flood", 5000));
    let answer = post(&front, &it.token, &body).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
    let otlp = ingest_grpc::calls("otlp", 10, 1);
    let status = ingest_grpc::export(&front, &it.token, otlp.clone()).await.expect_err("nothing is safe");
    assert_eq!(status.code(), tonic::Code::Unavailable, "an exporter tries again: {status:?}");
    assert!(!is_ready(&front).await, "not ready while Kafka stands still");
    // Far more than is kept in memory: refused, not queued.
    let flood = futures::future::join_all((0..60).map(|_| post(&front, &it.token, &big))).await;
    for answer in flood {
        assert_eq!(answer.expect("an answer").status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    let disk = Disk::small(&it.up.data.join("spool"));
    let mut settings = vec![("FAREBOX_INGEST__SPOOL_DIR", disk.path.display().to_string())];
    if !disk.is_mounted {
        settings.push(("FAREBOX_INGEST__SPOOL_MAX_BYTES", "262144".to_owned()));
    }
    let mut spooling = Served::start(&it.up.data, "spooling", "ingest", &settings).await;
    let spool = spooling.base_url.clone();
    it.accepted(&spool, &events("spooled", 100)).await;
    assert!(is_ready(&spool).await, "what comes is safe");
    // Until the disk is full: what is acknowledged until then is kept, what is not is refused.
    let mut full = false;
    for n in 0..1000 {
        let batch = events(&format!("disk-{n}"), 100);
        let answer = post(&spool, &it.token, &batch).await.expect("an answer");
        match answer.status() {
            StatusCode::ACCEPTED => it.accepted += 100,
            status => {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
                full = true;
                break;
            }
        }
    }
    assert!(full, "the disk of 256 KiB is full");
    spooling.kill().await;
    signal("-CONT", kafka).await;
    spooling.restart().await;
    eventually("the spool is drained", SOON, || async {
        let left = std::fs::read_dir(&disk.path)
            .expect("a directory")
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|e| e == "segment"))
            .count();
        (left == 0).then_some(())
    })
    .await;
    it.accepted(&front, &body).await;
    let taken = || async { ingest_grpc::export(&front, &it.token, otlp.clone()).await.ok() };
    assert_eq!(eventually("the export is taken", SOON, taken).await, None, "all of it");
    it.accepted += 10;
    it.accepted(&spool, &big).await;
    eventually("ready again", SOON, || async { is_ready(&front).await.then_some(()) }).await;
    it.counted().await;
    assert_eq!(spooling.terminate().await, Some(0));
    drop(disk);
    it.up.stop_and_remove().await;
}

/// A file system of 256 KiB; where none may be mounted, a directory.
struct Disk {
    path: std::path::PathBuf,
    is_mounted: bool,
}

impl Disk {
    fn small(path: &std::path::Path) -> Self {
        std::fs::create_dir_all(path).expect("a directory");
        let mount = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(path).output();
        Self { path: path.to_owned(), is_mounted: mount.is_ok_and(|mount| mount.status.success()) }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.path).status();
        }
    }
}

/// SIGTERM under load: what was acknowledged is counted, what was not is refused, and the process ends by itself.
pub async fn a_process_that_is_told_to_stop_keeps_its_word(suite: &Suite) {
    let tenant = Tenant::new(suite, "stopping").await;
    let mut served = Served::start(&suite.data, "stopping", "ingest", &[]).await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let load: Vec<_> = (0..8)
        .map(|sender| {
            let (base_url, token, acknowledged) = (served.base_url.clone(), tenant.token.clone(), acknowledged.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    match post(&base_url, &token, &events(&format!("{sender}-{n}"), 50)).await {
                        Ok(answer) if answer.status() == StatusCode::ACCEPTED => acknowledged.fetch_add(50, Ordering::SeqCst),
                        // Refused, or broken off before an answer: not acknowledged.
                        Ok(_) | Err(_) => return n,
                    };
                }
                0
            })
        })
        .collect();
    eventually("the load runs", SOON, || async { (acknowledged.load(Ordering::SeqCst) >= 2000).then_some(()) }).await;
    let asked = Instant::now();
    assert_eq!(served.terminate().await, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    // The batch that each had no answer to, again, to who is there.
    let mut all = acknowledged.load(Ordering::SeqCst);
    for (sender, sending) in load.into_iter().enumerate() {
        let unanswered = sending.await.expect("no panic");
        let answer = post(&suite.credentials.base_url, &tenant.token, &events(&format!("{sender}-{unanswered}"), 50)).await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
        all += 50;
    }
    eventually(&format!("{all} calls counted"), SOON, || async { (tenant.calls().await >= all).then_some(()) }).await;
    assert_eq!(tenant.calls().await, all);
}

/// Clients that drip, hang up, or lie about their length hold up nobody, and nothing of theirs is counted.
pub async fn clients_that_misbehave_harm_only_themselves(suite: &Suite) {
    let tenant = Tenant::new(suite, "hostile").await;
    let address = suite.credentials.base_url.trim_start_matches("http://").replace("localhost", "127.0.0.1");
    let body = events("hostile", 10).to_string();
    let head = |length: usize| {
        format!(
            "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-farebox-token: {}\r\ncontent-type: application/cloudevents-batch+json\r\ncontent-length: {length}\r\n\r\n",
            tenant.token
        )
    };
    // Made once: those that come again have the time they had, also after a minute has ended.
    let well_behaved = events("well-behaved", 11);
    let ten = json!(well_behaved.as_array().expect("a list")[..10]);
    let mut dripping = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(&address).await.expect("it connects");
        stream.write_all(head(body.len()).as_bytes()).await.expect("it is sent");
        stream.write_all(&body.as_bytes()[..n % body.len()]).await.expect("it is sent");
        dripping.push(stream);
    }
    let begun = Instant::now();
    let answer = post(&suite.credentials.base_url, &tenant.token, &ten).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(dripping); // hang up, one half-way through after the other
    // A body that claims to be longer than it may be is not waited for.
    let mut liar = TcpStream::connect(&address).await.expect("it connects");
    liar.write_all(head(usize::MAX >> 1).as_bytes()).await.expect("it is sent");
    liar.write_all(&vec![b' '; 9 << 20]).await.ok(); // refused in the middle of it
    let mut answer = vec![0; 16];
    if liar.read(&mut answer).await.is_ok_and(|read| read > 12) {
        assert_eq!(&answer[9..12], b"413");
    }
    let answer = post(&suite.credentials.base_url, &tenant.token, &well_behaved).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    eventually("eleven calls counted", SOON, || async { (tenant.calls().await >= 11).then_some(()) }).await;
    assert_eq!(tenant.calls().await, 11);
    let verdicts = tenant.get("/api/v1/dead-letters/counts").await;
    assert_eq!(verdicts["data"], json!([]));
}
