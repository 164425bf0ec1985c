//! `/v1/decide` against a bare axum handler that hashes the key and looks it up, in turns: calls a second at the
//! machine's limit, and how long a decision takes under 20,000 a second (or what the machine can do).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::any;
use farebox_access::keys;
use farebox_core::auth::{self, Scope};
use farebox_core::{clock, secret};
use farebox_metering::consumers;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::engines::{self, Bench};
use crate::report::{Line, Report, median, rate};

const CONSUMERS: usize = 1000;
const CONNECTIONS: usize = 64;
const TURNS: usize = 3;
/// Calls a second at which latency is looked at.
const CALM: f64 = 20_000.0;

pub async fn measure(bench: &Bench, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let app = &bench.app;
    let (token, keys) = business(bench).await?;
    let stop = CancellationToken::new();
    let deciding = tokio::spawn(farebox_access::run(app.clone(), stop.clone()));
    let (router, _) = farebox_access::router(app).split_for_parts();
    let ours = serve(router).await?;
    let known: HashMap<[u8; 32], usize> = keys.iter().enumerate().map(|(n, key)| (secret::hash(key), n)).collect();
    let bare = serve(Router::new().fallback(any(look_up)).with_state(Arc::new(known))).await?;
    let calls: Arc<Vec<String>> = Arc::new(
        keys.iter()
            .map(|key| {
                format!("GET /v1/decide/bench/v1/orders/7 HTTP/1.1\r\nhost: bench\r\nx-farebox-token: {token}\r\nx-api-key: {key}\r\n\r\n")
            })
            .collect(),
    );
    wait_until_known(ours, &calls).await?;

    run(bare, &calls, None, time / 4).await?;
    run(ours, &calls, None, time / 4).await?;
    let (mut yardstick, mut farebox) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        yardstick.push(run(bare, &calls, None, time).await?.rate);
        farebox.push(run(ours, &calls, None, time).await?.rate);
    }
    let (yardstick, farebox) = (median(&mut yardstick), median(&mut farebox));
    report.add(Line {
        what: "decisions".to_owned(),
        unit: "decisions/s",
        ours: farebox,
        yardstick,
        yardstick_name: "bare axum + SHA-256 + hash lookup",
        least: 0.7,
        less_is_better: false,
    });
    // Below the limit of the slower one, so that what is measured is the answer, not the queue.
    let calm = CALM.min(farebox * 0.7);
    for (name, address) in [("bare axum", bare), ("farebox", ours)] {
        let run = run(address, &calls, Some(calm), time).await?;
        println!("decisions, {name} at {:.0} a second: p50 {:?}, p99 {:?}", run.rate, run.p50, run.p99);
    }
    stop.cancel();
    deciding.await??;
    Ok(())
}

async fn look_up(State(known): State<Arc<HashMap<[u8; 32], usize>>>, headers: HeaderMap) -> (StatusCode, [(&'static str, String); 1]) {
    let key = headers.get("x-api-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
    match known.get(&secret::hash(key)) {
        Some(consumer) => (StatusCode::OK, [("x-consumer", consumer.to_string())]),
        None => (StatusCode::UNAUTHORIZED, [("x-consumer", String::new())]),
    }
}

/// A thousand consumers with a key, each with a rate and a quota that are not reached.
async fn business(bench: &Bench) -> anyhow::Result<(String, Vec<String>)> {
    let mut tx = bench.app.pg.begin().await?;
    let workspace = engines::workspace(&mut tx, "bench/decide", "USD").await?;
    let consumers: String =
        (0..CONSUMERS).map(|n| format!("  - {{name: c{n}, subscriptions: [{{plan: p, from: 2026-01-01T00:00:00Z}}]}}\n")).collect();
    let catalogue = format!(
        "workspace: bench/decide\ncurrency: USD\ntime_zone: UTC\nsources: [{{name: bench, format: envoy}}]\n\
         apis:\n  - {{name: orders, versions: [{{name: v1}}]}}\n\
         plans:\n  - name: p\n    version: 1\n    prices: []\n    entitlements:\n\
         \x20     - {{feature: reports, routes: [\"GET /reports*\"]}}\n\
         \x20     - {{feature: orders, routes: [\"GET /orders*\", \"POST /orders\"], rate: {{limit: 1000000, per: second}}, \
         quota: {{meter: requests, limit: \"1000000000\", per: month, hard: true}}}}\nconsumers:\n{consumers}"
    );
    let catalogue = farebox_billing::catalog::parse(&catalogue).map_err(|e| anyhow::anyhow!("{e:?}"))?;
    farebox_billing::catalog::apply(&mut tx, &catalogue, "bench").await?;
    let mut issued = Vec::new();
    for consumer in consumers::all(&mut tx, &workspace.id).await? {
        let (_, key) = keys::issue(&mut tx, &bench.app.config, &workspace, &consumer.id, "bench").await?;
        issued.push(key.reveal().to_owned());
    }
    let (_, token) = auth::create_token(&mut tx, &workspace.id, "bench", &[Scope::Decide], false, None).await?;
    tx.commit().await?;
    Ok((token.reveal().to_owned(), issued))
}

async fn serve(router: Router) -> anyhow::Result<std::net::SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    Ok(address)
}

async fn wait_until_known(address: std::net::SocketAddr, calls: &[String]) -> anyhow::Result<()> {
    let deadline = clock::now() + chrono::TimeDelta::seconds(30);
    let mut connection = TcpStream::connect(address).await?;
    while !ask(&mut connection, calls[0].as_bytes(), &mut vec![0; 4096]).await? {
        ensure!(clock::now() < deadline, "decisions do not know the consumers");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

struct Run {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

/// As many as can be, or `per_second` of them: each is then timed from when it should have been sent.
async fn run(address: std::net::SocketAddr, calls: &Arc<Vec<String>>, per_second: Option<f64>, time: Duration) -> anyhow::Result<Run> {
    let start = Instant::now();
    let mut senders = Vec::new();
    for n in 0..CONNECTIONS {
        let calls = calls.clone();
        #[expect(clippy::cast_precision_loss, reason = "a pace, nothing is billed by it")]
        let pace = per_second.map(|rate| Duration::from_secs_f64(CONNECTIONS as f64 / rate));
        senders.push(tokio::spawn(async move {
            let mut connection = TcpStream::connect(address).await?;
            connection.set_nodelay(true)?;
            let (mut took, mut buffer, mut sent) = (Vec::new(), vec![0; 4096], 0_u32);
            while start.elapsed() < time {
                let due = pace.map_or_else(Instant::now, |pace| start + pace * sent + pace * u32::try_from(n).unwrap_or(0) / 64);
                tokio::time::sleep_until(due.into()).await;
                let call = &calls[(n * 7919 + sent as usize) % calls.len()];
                ensure!(ask(&mut connection, call.as_bytes(), &mut buffer).await?, "a call was refused");
                took.push(due.elapsed());
                sent += 1;
            }
            Ok(took)
        }));
    }
    let mut took: Vec<Duration> = Vec::new();
    for sender in senders {
        took.extend(sender.await??);
    }
    let elapsed = start.elapsed();
    took.sort_unstable();
    let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
    Ok(Run { rate: rate(took.len(), elapsed), p50: at(50), p99: at(99) })
}

/// Whether it was answered with 200. Neither side sends a body.
async fn ask(connection: &mut TcpStream, call: &[u8], buffer: &mut [u8]) -> anyhow::Result<bool> {
    connection.write_all(call).await?;
    let mut filled = 0;
    loop {
        let read = connection.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "the connection was closed");
        filled += read;
        let head = std::str::from_utf8(&buffer[..filled]).context("headers are text")?;
        if let Some((head, rest)) = head.split_once("\r\n\r\n") {
            let allowed = head.starts_with("HTTP/1.1 200");
            // A refusal has a body.
            let body = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let mut left = body.unwrap_or(0).saturating_sub(rest.len());
            while left > 0 {
                let chunk = left.min(buffer.len());
                left -= connection.read(&mut buffer[..chunk]).await?;
            }
            return Ok(allowed);
        }
    }
}
