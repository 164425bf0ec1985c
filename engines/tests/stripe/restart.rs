//! The double in a process of its own, killed without warning.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::harness::{Api, config, scratch};
use farebox_engines::stripe::start;

/// Not a test of its own: what the child process runs.
#[tokio::test]
#[ignore = "run by the tests of this file as a child process"]
async fn serve_as_a_child() {
    let Ok(data) = std::env::var("FAREBOX_STRIPE_DATA") else { return };
    let serving = start(config(data.into())).await.unwrap();
    println!("\nlistening {}", serving.url);
    panic!("{:?}", serving.wait().await);
}

fn child(data: &Path) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "restart::serve_as_a_child", "--ignored", "--nocapture"])
        .env("FAREBOX_STRIPE_DATA", data)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let url = lines.find_map(|line| line.strip_prefix("listening ").map(str::to_owned)).expect("the child listens");
    (child, url)
}

#[tokio::test]
async fn nothing_answered_is_lost_when_it_is_killed() {
    let data = scratch("killed");
    let (mut first, url) = child(&data);
    let mut api = Api::at(&url);
    let form = [("name", "A"), ("metadata[a]", "b")];
    let customer = api.keyed("/v1/customers", &form, "k").await.ok();
    let id = api.draft(customer["id"].as_str().unwrap(), "1000").await;
    api.double("POST", "clock", json!({"advance_seconds": 3600})).await;
    first.kill().unwrap();
    first.wait().unwrap();

    let (mut second, url) = child(&data);
    api.base = url;
    let again = api.keyed("/v1/customers", &form, "k").await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.ok(), customer);
    let invoice = api.get(&format!("/v1/invoices/{id}")).await.ok();
    assert_eq!((&invoice["status"], &invoice["total"]), (&json!("draft"), &json!(1000)));
    let clock = api.double("GET", "clock", json!(null)).await;
    assert_eq!(clock["offset_seconds"], 3600);

    // Keys are forgotten after a day of the double's clock.
    api.double("POST", "clock", json!({"advance_seconds": 86_400})).await;
    let forgotten = api.keyed("/v1/customers", &form, "k").await;
    assert_eq!(forgotten.header("idempotent-replayed"), None);
    assert_ne!(forgotten.ok()["id"], customer["id"]);
    second.kill().unwrap();
    second.wait().unwrap();
    std::fs::remove_dir_all(data).unwrap();
}

#[tokio::test]
async fn a_missing_stripe_mock_is_named() {
    let mut config = config(scratch("missing"));
    config.mock = farebox_engines::stripe::Place::Binary("/nowhere/stripe-mock".into());
    let error = start(config).await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/stripe-mock") && error.contains("engines/fetch"), "{error}");
}
