//! One developer's whole way, as they and the provider see it in a browser.

use std::time::Duration;

use farebox::gateway::envoy::{self, Asks};
use farebox::gateway::upstream;
use farebox_core::workspace;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::browser::Browser;
use crate::harness::{Suite, eventually};

const CATALOGUE: &str = include_str!("journey.yaml");
/// How long a call may take from the gateway to the page.
const SECONDS: Duration = Duration::from_secs(20);
const MONTH_S: i64 = 32 * 24 * 3600;

/// Sign up, choose a plan, add a card, take a key, call through Envoy with it, see the call in the usage chart within
/// seconds; the month is closed, the invoice paid, and the KPI has moved.
pub async fn from_sign_up_to_a_paid_invoice(suite: &Suite) {
    farebox::cli::catalog::apply(&suite.instance, CATALOGUE.to_owned(), false).await.expect("the catalogue applies");
    let activated_before = activated(suite).await;
    let base = &suite.credentials.base_url;
    let browser = Browser::open(&suite.data.join("browser")).await;

    // Sign up and choose a plan.
    browser.goto(&format!("{base}/sign-up")).await;
    browser.click("label.plan:has(input[value=growth])").await;
    browser.write("#name", "Ada Example").await;
    browser.write("#company", "Journey Ltd").await;
    browser.write("#email", "ada@journey.example").await;
    browser.write("#password", "a long enough passphrase").await;
    browser.click("main form button.primary").await;
    browser.see("ol.steps").await;

    // Add a card on Stripe's page.
    browser.goto(&format!("{base}/payment")).await;
    browser.click("main form button.primary").await;
    browser.write("#cardNumber", "4242424242424242").await;
    browser.write("#cardExpiry", "12 / 34").await;
    browser.write("#cardCvc", "123").await;
    browser.write("#billingName", "Ada Example").await;
    browser.click("button[type=submit]").await;
    browser.until_says(&format!("{base}/payment"), "4242", SECONDS).await;

    // Take a key, shown once.
    browser.goto(&format!("{base}/keys/new")).await;
    browser.write("#kn", "Production").await;
    browser.click("main form button.primary").await;
    let key = browser.see(".code.key code").await.text().await.expect("the key");
    browser.goto(&format!("{base}/keys")).await;
    assert!(!browser.text().await.contains(key.trim()), "a key is shown once");

    // Call through Envoy: allowed, refused without a key, refused outside the plan.
    let stop = CancellationToken::new();
    let upstream = upstream::serve(stop.clone()).await.expect("the API listens");
    let gateway = envoy::process(Asks::Http.template(), envoy::SOURCE, &suite.data.join("envoy"), &suite.credentials, upstream).await;
    let gateway = gateway.expect("Envoy starts");
    let call = async |path: &str, key: &str| {
        let request = reqwest::Client::new().get(format!("{}{path}", gateway.url)).header("x-api-key", key);
        request.send().await.map(|answer| answer.status())
    };
    eventually("the key is known at the gateway", SECONDS, || async {
        (call("/v2/orders", key.trim()).await.ok()? == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(call("/v2/orders/o-1", key.trim()).await.expect("an answer"), StatusCode::OK);
    assert_eq!(call("/v2/orders", "acme_test_wrong").await.expect("an answer"), StatusCode::UNAUTHORIZED);
    assert_eq!(call("/v1/reports/daily", key.trim()).await.expect("an answer"), StatusCode::FORBIDDEN);

    // The calls are in the chart within seconds.
    browser.until_says(&format!("{base}/usage"), "GET /orders/{id}", SECONDS).await;

    // The month ends; it is closed, and the invoice is paid through Stripe.
    let month = farebox_core::clock::now().format("%Y-%m").to_string();
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    let here = workspace::by_name(&mut conn, &suite.credentials.workspace).await.expect("PostgreSQL").expect("the workspace");
    assert!(workspace::advance_clock(&mut conn, &here.id, MONTH_S).await.expect("PostgreSQL"), "a test workspace");
    farebox::cli::closing::close_period(&suite.instance, &month).await.expect("the month closes");
    let invoice = eventually("the invoice is paid", Duration::from_secs(60), || paid_invoice(suite)).await;
    browser.goto(&format!("{base}/invoices")).await;
    let number = invoice["number"].as_str().expect("a number");
    browser.until_says(&format!("{base}/invoices"), number, SECONDS).await;
    browser.until_says(&format!("{base}/invoices"), "Paid", SECONDS).await;

    // Its audit finds the same again, and the KPI has moved.
    let id = invoice["id"].as_str().expect("an id");
    let report = suite.instance.get(&format!("/api/v1/invoices/{id}/audit")).await.expect("an audit");
    assert_eq!(report["equal"], json!(true), "{report:#}");
    assert_eq!(activated(suite).await, activated_before + 1);

    browser.close().await;
    gateway.stop().await;
    stop.cancel();
}

async fn paid_invoice(suite: &Suite) -> Option<Value> {
    let page = suite.instance.get("/api/v1/invoices?limit=500").await.ok()?;
    page["data"].as_array()?.iter().find(|invoice| invoice["buyer"]["name"] == "Journey Ltd" && invoice["state"] == "paid").cloned()
}

/// Consumers activated so far.
async fn activated(suite: &Suite) -> u64 {
    let answer = suite.instance.json(suite.instance.request(Method::GET, "/api/v1/kpis/activation?interval=month")).await.expect("the KPI");
    answer["rows"].as_array().expect("rows").iter().filter_map(|row| row["converted"].as_u64()).sum()
}
