//! Decisions: from memory, with a reason, and enforced by a real gateway.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use farebox::gateway::{envoy, upstream};
use farebox_access::{keys, ledger};
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, CredentialId};
use farebox_core::period::Period;
use farebox_metering::consumers;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{Suite, eventually};
use crate::tenant::Tenant;

const SOON: Duration = Duration::from_secs(20);

/// A consumer `initech` with a plan for reading orders, three calls an hour of them in `few`.
struct Shop {
    tenant: Tenant,
    consumer: ConsumerId,
    key: String,
    credential: CredentialId,
}

impl Shop {
    async fn open(suite: &Suite, name: &str) -> Self {
        let tenant = Tenant::new(suite, name).await;
        let catalogue = format!(
            "workspace: {}\ncurrency: USD\ntime_zone: UTC\n\
             sources:\n  - {{name: envoy-1, format: envoy}}\n  - {{name: nginx-1, format: nginx}}\n\
             apis:\n  - {{name: orders, product: default, versions: [{{name: v1}}]}}\n\
             plans:\n  - name: reader\n    product: default\n    version: 1\n    interval: month\n    anchor: calendar\n    prices: []\n    entitlements:\n\
             \x20     - {{feature: few, routes: [\"GET /orders/few\"], rate: {{limit: 3, per: hour, burst: 3}}}}\n\
             \x20     - {{feature: orders, routes: [\"GET /orders*\"]}}\n\
             consumers:\n  - {{name: initech, email: dev@initech.example, signed_up: 2026-01-01T00:00:00Z, subscriptions: [{{plan: reader, from: 2026-01-01T00:00:00Z}}]}}\n",
            tenant.workspace.name
        );
        let catalogue = farebox_billing::catalog::parse(&catalogue).expect("a right catalogue");
        let mut tx = suite.app.pg.begin().await.expect("PostgreSQL answers");
        farebox_billing::catalog::apply(&mut tx, &catalogue, "test").await.expect("it applies");
        let consumer =
            consumers::find_by_name(&mut tx, &tenant.workspace.id, "initech").await.expect("PostgreSQL answers").expect("the consumer").id;
        let (credential, secret) = keys::issue(&mut tx, &tenant.workspace, &consumer, "main").await.expect("a key");
        tx.commit().await.expect("PostgreSQL answers");
        let shop = Self { tenant, consumer, key: secret.reveal().to_owned(), credential: credential.id };
        // Under another name, so that the ledger of `envoy-1` has only what a test asks itself.
        let known = || async { shop.ask_as("opening", Some(&shop.key), "GET", "/orders").await.0 == 200 };
        eventually("the key is known", SOON, || async { known().await.then_some(()) }).await;
        shop
    }

    /// As Envoy asks.
    async fn ask(&self, key: Option<&str>, method: &str, path: &str) -> (StatusCode, HeaderMap, String) {
        self.ask_as("envoy-1", key, method, path).await
    }

    async fn ask_as(&self, source: &str, key: Option<&str>, method: &str, path: &str) -> (StatusCode, HeaderMap, String) {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let request = self.tenant.call(method, &format!("/v1/decide/{source}{path}"));
        let response = key.into_iter().fold(request, |r, key| r.header("x-api-key", key)).send().await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        (status, headers, response.text().await.expect("a body"))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

fn slug(body: &str) -> String {
    let problem: Value = serde_json::from_str(body).expect("a problem");
    problem["type"].as_str().expect("a type").trim_start_matches("urn:farebox:problem:").to_owned()
}

/// Allowed and refused, each with whose call it is, an id of its own, and a reason the caller can act on.
pub async fn a_decision_says_who_and_why(suite: &Suite) {
    let shop = Shop::open(suite, "decide").await;
    let (status, allowed, _) = shop.ask(Some(&shop.key), "GET", "/v1/orders/7?token=s3cret").await;
    assert_eq!(status, 200);
    assert_eq!(header(&allowed, "x-farebox-consumer"), shop.consumer.as_str());
    assert_eq!(header(&allowed, "x-farebox-credential"), shop.credential.as_str());
    assert_eq!(header(&allowed, "x-farebox-plan"), "reader");
    assert!(header(&allowed, "x-farebox-subscription").starts_with("sub_"));
    let (_, again, _) = shop.ask(Some(&shop.key), "GET", "/v1/orders/7").await;
    assert_ne!(header(&allowed, "x-farebox-decision"), header(&again, "x-farebox-decision"));

    for (key, method, path, status, reason) in [
        (None, "GET", "/orders", 401, "no-key"),
        (Some("acme_live_nobody"), "GET", "/orders", 401, "unknown-key"),
        (Some(shop.key.as_str()), "DELETE", "/orders/7", 403, "not-in-plan"),
        (Some(shop.key.as_str()), "GET", "/reports", 403, "not-in-plan"),
        (Some(shop.key.as_str()), "GET", "/orders/..%2freports", 403, "not-in-plan"),
    ] {
        let (found, headers, body) = shop.ask(key, method, path).await;
        assert_eq!((found.as_u16(), slug(&body).as_str()), (status, reason), "{method} {path}");
        assert_eq!(header(&headers, "x-farebox-problem"), body, "for gateways that drop the body");
        assert!(!header(&headers, "x-farebox-decision").is_empty(), "a refusal has an id, too");
        assert_eq!(header(&headers, "x-farebox-consumer").is_empty(), status == 401);
    }

    for remaining in ["2", "1", "0"] {
        let (status, headers, _) = shop.ask(Some(&shop.key), "GET", "/orders/few").await;
        assert_eq!(status, 200);
        assert!(header(&headers, "ratelimit").starts_with(&format!("\"few\";r={remaining};")), "{headers:?}");
    }
    let (status, headers, body) = shop.ask(Some(&shop.key), "GET", "/orders/few").await;
    assert_eq!((status.as_u16(), slug(&body).as_str()), (429, "rate-limited"));
    assert!(header(&headers, "retry-after").parse::<u64>().is_ok_and(|s| (1..=3600).contains(&s)));

    // nginx asks with HEAD, names the call in headers, and knows only 401 and 403.
    let nginx =
        shop.tenant.call(Method::HEAD, "/v1/decide/nginx-1").header("x-original-method", "GET").header("x-original-uri", "/orders/few?x=1");
    let nginx =
        nginx.header("authorization", format!("Bearer {}", shop.key)).header("x-farebox-deny-as", "403").send().await.expect("an answer");
    assert_eq!((nginx.status().as_u16(), header(nginx.headers(), "x-farebox-status")), (403, "429"));

    // A gateway that nobody knows, and one of another workspace.
    let unknown =
        shop.tenant.anonymous(Method::GET, "/v1/decide/envoy-1/orders").header("x-api-key", &shop.key).send().await.expect("an answer");
    assert_eq!(unknown.status(), 401);
    let other = Tenant::new(suite, "other").await;
    let foreign = eventually("the other workspace's token is known", SOON, || async {
        let asked = other.call(Method::GET, "/v1/decide/envoy-1/orders").header("x-api-key", &shop.key).send().await.expect("an answer");
        let decided = asked.headers().contains_key("x-farebox-decision");
        decided.then_some(asked)
    });
    assert_eq!(slug(&foreign.await.text().await.expect("a body")), "unknown-key");
}

/// Revoked by the management API, a key is refused within a second.
pub async fn a_revoked_key_is_refused_within_a_second(suite: &Suite) {
    let shop = Shop::open(suite, "revoke").await;
    let revoked = shop.tenant.call(Method::DELETE, &format!("/api/v1/keys/{}", shop.credential)).send().await.expect("an answer");
    assert_eq!(revoked.status(), 204);
    let at = Instant::now();
    eventually("the key is refused", Duration::from_secs(1), || async {
        (shop.ask(Some(&shop.key), "GET", "/orders").await.0 == 401).then_some(())
    })
    .await;
    println!("refused {} ms after it was revoked", at.elapsed().as_millis());

    // Keys of the management API: shown once, then only known by their ends.
    let issued = shop
        .tenant
        .call(Method::POST, "/api/v1/keys")
        .json(&json!({ "consumer": shop.consumer, "name": "second" }))
        .send()
        .await
        .expect("an answer");
    assert_eq!(issued.status(), 201);
    let issued: Value = issued.json().await.expect("JSON");
    let key = issued["key"].as_str().expect("the key").to_owned();
    eventually("the new key is accepted", SOON, || async { (shop.ask(Some(&key), "GET", "/orders").await.0 == 200).then_some(()) }).await;
    let listed = shop.tenant.get(&format!("/api/v1/keys?consumer={}", shop.consumer)).await;
    assert_eq!(listed["data"].as_array().expect("keys").len(), 2);
    assert!(!listed.to_string().contains(&key));
}

/// A real Envoy enforces what is decided. Each call, refused ones too, is in usage exactly once, whatever ids its caller
/// forges; and the ledger counted as many decisions.
pub async fn envoy_enforces_and_every_call_counts_once(suite: &Suite) {
    let shop = Shop::open(suite, "envoy").await;
    let stop = CancellationToken::new();
    let upstream = upstream::serve(stop.clone()).await.expect("a port");
    let credentials = farebox::instance::Credentials { ingest_token: shop.tenant.token.clone(), ..suite.credentials.clone() };
    let directory = suite.data.join(format!("envoy-{}", shop.tenant.workspace.id));
    std::fs::create_dir_all(&directory).expect("a directory");
    let envoy = envoy::Process::start(&directory, &credentials, upstream).await.expect("Envoy starts");
    let client = reqwest::Client::new();
    let forged = "00000000000000000000000000000000";
    let call = |method: Method, path: &str, key: &str| {
        let request = client.request(method, format!("{}{path}", envoy.url)).header("x-api-key", key);
        let request =
            request.header("x-request-id", forged).header("x-farebox-decision", forged).header("x-farebox-consumer", "con_someone_else");
        async { request.send().await.expect("Envoy answers") }
    };
    let mut calls = 0;
    for (method, path, key, status) in [
        (Method::GET, "/v1/orders/o-7?token=s3cret", shop.key.as_str(), 200),
        (Method::GET, "/v1/orders", shop.key.as_str(), 200),
        (Method::GET, "/v1/orders", "acme_live_nobody", 401),
        (Method::POST, "/v1/orders", shop.key.as_str(), 403),
        (Method::GET, "/v1/reports/daily", shop.key.as_str(), 403),
    ] {
        let answer = call(method.clone(), path, key).await;
        calls += 1;
        assert_eq!(answer.status(), status, "{method} {path}");
        assert!(!answer.headers().keys().any(|name| name.as_str().starts_with("x-farebox-")), "nothing of ours reaches the client");
        if status != 200 {
            assert_eq!(header(answer.headers(), "content-type"), "application/problem+json");
        }
    }
    for status in [200, 200, 200, 429] {
        let answer = call(Method::GET, "/v1/orders/few", &shop.key).await;
        calls += 1;
        assert_eq!(answer.status(), status);
        assert_eq!(header(answer.headers(), "retry-after").is_empty(), status == 200);
    }
    eventually("every call is counted once", SOON, || async { (shop.tenant.calls().await == calls).then_some(()) }).await;
    eventually("as many decisions", SOON, || async { (decisions(suite, &shop).await == calls).then_some(()) }).await;
    let of_initech = shop.tenant.get(&format!("/api/v1/events?consumer={}&limit=50", shop.consumer)).await;
    assert_eq!(of_initech["data"].as_array().expect("events").len() as u64, calls - 1, "all but the call without a known key");
    assert!(!of_initech.to_string().contains("s3cret") && !of_initech.to_string().contains(forged));
    envoy.stop().await;
    stop.cancel();
}

async fn decisions(suite: &Suite, shop: &Shop) -> u64 {
    let now = clock::now();
    let period = Period::new(now - TimeDelta::hours(1), now + TimeDelta::hours(1)).expect("in order");
    let counts = ledger::counts(&suite.app, &shop.tenant.workspace.id, period).await.expect("ClickHouse answers");
    counts.iter().filter(|count| count.source == "envoy-1").map(|count| count.n).sum()
}
