//! The double in a process of its own, killed without warning.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use farebox_engines::stripe::start;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::harness::{Api, PATIENCE, config, scratch};

/// Not a test of its own: what the child process runs.
#[tokio::test]
#[ignore = "run by the tests of this file as a child process"]
async fn serve_as_a_child() {
    let Ok(data) = std::env::var("FAREBOX_STRIPE_DATA") else { return };
    farebox_core::tls::install();
    let serving = start(config(data.into())).await.unwrap();
    println!("\nlistening {}", serving.url);
    panic!("{:?}", serving.wait().await);
}

fn child(data: &Path) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "restart::serve_as_a_child", "--ignored", "--nocapture"])
        .env("FAREBOX_STRIPE_DATA", data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
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

/// The stripe-mock of a double, once it has one.
fn mock_of(double: &Child) -> Pid {
    let family = farebox_engines::child::family(double.id().try_into().unwrap());
    assert_eq!(family.len(), 2, "the double has one child");
    Pid::from_raw(family[1])
}

#[tokio::test]
async fn the_double_and_stripe_mock_end_together() {
    let data = scratch("together");
    let (mut double, _) = child(&data);
    let mock = mock_of(&double);
    double.kill().unwrap();
    double.wait().unwrap();
    let gone = async {
        while kill(mock, None).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("stripe-mock ends with the double");

    let (mut double, _) = child(&data);
    kill(mock_of(&double), Signal::SIGKILL).unwrap();
    assert!(!double.wait().unwrap().success(), "the double ends without stripe-mock, to be started again");
    std::fs::remove_dir_all(data).unwrap();
}

#[tokio::test]
async fn a_missing_stripe_mock_is_named() {
    let mut config = config(scratch("missing"));
    config.mock = farebox_engines::stripe::Place::Binary("/nowhere/stripe-mock".into());
    let error = start(config).await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/stripe-mock") && error.contains("engines/fetch"), "{error}");
}
