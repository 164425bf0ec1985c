//! Billing killed at each step of the close: the process aborts where `FAREBOX_KILL_AT` says, and what follows neither
//! repeats nor loses anything.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use farebox_core::auth::{self, Scope};
use farebox_core::ids::WorkspaceId;
use farebox_metering::faults;
use reqwest::Method;
use serde_json::json;
use tokio::process::Command;

use crate::billing::{dies_and_recovers_at, month};
use crate::harness::{Suite, eventually, free_port};
use crate::seller::Seller;

const SIGABRT: i32 = 6;

pub async fn killed_at_each_step_of_the_close(suite: &Suite) {
    let points: Vec<_> = faults::POINTS.iter().copied().filter(|point| point.starts_with("close.")).collect();
    assert_eq!(points.len(), 5);
    dies_and_recovers_at(suite, &points, async |ws: &WorkspaceId, month: &str, point: &str| {
        close_in_another_process(suite, ws, month, point).await;
    })
    .await;
}

/// The same, where the plan includes credits and units, and one invoice is for two subscriptions: each is granted, used and
/// invoiced once.
pub async fn killed_with_credits_and_one_invoice_for_all(suite: &Suite) {
    let plans = r#"  - {name: starter, version: 1, terms: {credits: [{name: Included, amount: "20"}, {name: Searches, meter: requests, units: "10"}]}, prices: [{name: Calls, model: per_unit, meter: requests, unit_amount: "1"}]}
  - {name: beside, product: beside, version: 1, prices: [{name: Beside, model: flat, billed: in_arrears, amount: "5"}]}
"#;
    let consumer = "  - {name: c, subjects: [c], subscriptions: [{plan: starter, from: 2026-08-01T00:00:00+02:00}, {plan: beside, from: 2026-08-01T00:00:00+02:00}]}\n";
    for point in faults::POINTS.iter().copied().filter(|point| point.starts_with("close.")) {
        let seller = Seller::new(suite, plans, consumer).await;
        let path = format!("consumers/{}/billing", seller.consumer("c").await);
        seller.send(Method::PUT, &path, &json!({ "consolidated": true })).await;
        seller.usage("c", month("2026-08"), 33).await;
        close_in_another_process(suite, &seller.business.ws, "2026-08", point).await;
        seller.close(month("2026-08")).await;
        let found = seller.invoices().await;
        assert_eq!(found.len(), 1, "{point}");
        let shown: Vec<_> = found[0].lines.iter().map(|line| format!("{} {} {}", line.title(), line.amount, line.credit)).collect();
        assert_eq!(shown, ["beside, beside: Beside 5.00 0.00", "starter: Calls 23.00 20.00"], "{point}");
        assert_eq!((found[0].total.to_string(), found[0].number.as_deref()), ("8.00".to_owned(), Some("ACME-000001")), "{point}");
        for (path, amount) in [("credits", "amount"), ("credits/units", "units")] {
            let all = seller.get(path).await;
            let of_august: Vec<_> =
                all["data"].as_array().expect("a list").iter().filter(|g| g["effective_at"] == json!("2026-07-31T22:00:00Z")).collect();
            assert_eq!(of_august.len(), 1, "{point}: {all}");
            let entries = seller.get(&format!("{path}/{}/entries", of_august[0]["id"].as_str().expect("an id"))).await;
            let moved: Vec<_> = entries["data"].as_array().expect("a list").iter().map(|e| (e["to"].clone(), e[amount].clone())).collect();
            let whole = of_august[0][amount].clone();
            assert_eq!(moved, [(json!("balance"), whole.clone()), (json!("used"), whole)], "{point}");
        }
    }
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
