//! While Farebox does not listen, gateways keep what they tell: a real Envoy by its retries, a real nginx by its file.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use farebox::gateway::envoy::{self, Asks};
use farebox::gateway::process::Process;
use farebox::gateway::{nginx, upstream};
use farebox::instance::Credentials;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::harness::{Served, Suite, eventually};
use crate::shop::Shop;

const AWAY: Duration = Duration::from_secs(30);
/// A call to each gateway at each beat.
const BEAT: Duration = Duration::from_millis(100);
/// Envoy tries again after five seconds at most, the sender after ten.
const SOON: Duration = Duration::from_secs(60);

/// `farebox send`, following nginx's file.
fn sender(receiver: &Served, token: &str, file: &Path) -> Child {
    let log = std::fs::File::create(file.with_file_name("send.out")).expect("a log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_farebox"));
    command.args(["send", "--format", "nginx", "--source", nginx::SOURCE, "--file"]).arg(file);
    command.env("FAREBOX_URL", &receiver.base_url).env("FAREBOX_TOKEN", token).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a log")).stderr(log).kill_on_drop(true).spawn().expect("it runs")
}

/// The receiver is killed and nobody listens for half a minute, while both gateways are called on and on: then every call
/// is in usage, once. (Decisions come from another instance: it is the telling that fails.)
pub async fn a_receiver_away_for_30_seconds_loses_nothing(suite: &Suite) {
    let shop = Shop::open(suite, "outage").await;
    let mut receiver = Served::start(&suite.data, "outage", "ingest", &[]).await;
    let stop = CancellationToken::new();
    let upstream = upstream::serve(stop.clone()).await.expect("a port");
    let credentials = Credentials { ingest_token: shop.tenant.token.clone(), ..suite.credentials.clone() };
    let directory = |name: &str| suite.data.join(format!("{name}-{}", shop.tenant.workspace.id));
    // The configuration as it is, but for where it tells.
    let template = Asks::Grpc.template();
    let at = template.find("cluster_name: farebox_logs, endpoints").expect("the cluster of the logs");
    let port = receiver.base_url.rsplit_once(':').expect("a port").1;
    let telling = format!("{}{}", &template[..at], template[at..].replacen("${FAREBOX_PORT}", port, 1));
    let envoy = envoy::process(&telling, envoy::SOURCE, &directory("envoy-outage"), &credentials, upstream).await.expect("Envoy starts");
    let nginx = nginx::process(&directory("nginx-outage"), &credentials, upstream).await.expect("nginx starts");
    let mut following = sender(&receiver, &shop.tenant.token, &nginx.directory.join("access.jsonl"));

    let client = reqwest::Client::new();
    let mut calls = 0;
    let mut call_both = async |beats: u128| {
        let mut beat = tokio::time::interval(BEAT);
        for _ in 0..beats {
            beat.tick().await;
            for gateway in [&envoy, &nginx] {
                let Process { url, .. } = gateway;
                client.get(format!("{url}/v1/orders")).header("x-api-key", &shop.key).send().await.expect("the gateway answers");
            }
            calls += 1;
        }
        calls
    };
    let told = async || {
        let by_source = shop.tenant.get("/api/v1/usage?meter=calls&window=none&group_by=source").await;
        let of = |source: &str| {
            let row = by_source["data"].as_array()?.iter().find(|row| row["group"]["source"] == source)?;
            row["value"].as_str()?.parse::<u64>().ok()
        };
        (of(envoy::SOURCE).unwrap_or(0), of(nginx::SOURCE).unwrap_or(0))
    };
    let before = call_both(10).await;
    eventually("calls are told", SOON, || async { (told().await == (before, before)).then_some(()) }).await;

    receiver.kill().await;
    let during = call_both(AWAY.as_millis() / BEAT.as_millis()).await;
    assert_eq!(told().await, (before, before), "nobody was told while nobody listened");
    receiver.restart().await;
    let all = call_both(10).await;
    assert!(all > during && during >= before + 300);
    eventually(&format!("all {all} calls of each are told"), SOON, || async { (told().await == (all, all)).then_some(()) }).await;
    let verdicts: Value = shop.tenant.get("/api/v1/dead-letters/counts").await;
    assert_eq!(verdicts["data"], serde_json::json!([]));

    following.kill().await.expect("it ran");
    for gateway in [envoy, nginx] {
        gateway.stop().await;
    }
    stop.cancel();
}
