//! Billing killed at each step of the close: the process aborts where `FAREBOX_KILL_AT` says, and what follows neither
//! repeats nor loses anything.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use farebox_billing::faults;
use farebox_core::auth::{self, Scope};
use farebox_core::ids::WorkspaceId;
use serde_json::json;
use tokio::process::Command;

use crate::billing::dies_and_recovers_at;
use crate::harness::{Suite, eventually, free_port};

const SIGABRT: i32 = 6;

pub async fn killed_at_each_step_of_the_close(suite: &Suite) {
    let points: Vec<_> = faults::POINTS.iter().copied().filter(|point| point.starts_with("close.")).collect();
    assert_eq!(points.len(), 5);
    dies_and_recovers_at(suite, &points, async |ws: &WorkspaceId, month: &str, point: &str| {
        close_in_another_process(suite, ws, month, point).await;
    })
    .await;
}

/// A billing role of its own beside the running system, told to close, and to die on the way.
async fn close_in_another_process(suite: &Suite, ws: &WorkspaceId, month: &str, point: &str) {
    let port = free_port().expect("a port");
    let log = std::fs::File::create(suite.data.join(format!("billing-{point}.log"))).expect("a log");
    let mut process = Command::new(env!("CARGO_BIN_EXE_farebox"))
        .arg("--config")
        .arg(suite.data.join("farebox.toml"))
        .args(["serve", "--roles", "billing"])
        .env("FAREBOX_HTTP__LISTEN", format!("127.0.0.1:{port}"))
        .env("FAREBOX_KILL_AT", point)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("farebox serve starts");
    let base = format!("http://127.0.0.1:{port}");
    eventually("the billing role listens", Duration::from_secs(60), || async {
        reqwest::get(format!("{base}/healthz")).await.ok().filter(|answer| answer.status().is_success()).map(drop)
    })
    .await;
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    let (_, secret) = auth::create_token(&mut conn, ws, "close", &[Scope::Finance], true, None).await.expect("a token");
    let request =
        reqwest::Client::new().post(format!("{base}/api/v1/close")).bearer_auth(secret.reveal()).json(&json!({ "period": month }));
    let answer = request.send().await;
    assert!(answer.is_err(), "{point}: it answered {answer:?} and should have died");
    let status = tokio::time::timeout(Duration::from_secs(30), process.wait()).await.expect("it ends").expect("a status");
    assert_eq!(status.signal(), Some(SIGABRT), "{point}");
}
