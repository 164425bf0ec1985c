//! Real gateways with the configurations of `deploy/gateways` enforce what is decided: allowed, 401, 403 and 429 reach
//! the client with headers and body, and each call is in usage once, whatever ids its caller forges.

use chrono::TimeDelta;
use farebox::gateway::envoy::{self, Asks};
use farebox::gateway::process::Process;
use farebox::gateway::{nginx, traefik, upstream};
use farebox::instance::Credentials;
use farebox_core::clock;
use farebox_core::period::Period;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{Suite, eventually};
use crate::shop::{SOON, Shop, header, slug};

/// What a client sends to pass for another, or for one call.
const FORGED: &str = "00000000000000000000000000000000";

struct Scene {
    shop: Shop,
    gateway: Process,
    stop: CancellationToken,
    client: reqwest::Client,
}

impl Scene {
    async fn set<F: Future<Output = anyhow::Result<Process>>>(
        suite: &Suite,
        name: &str,
        start: impl FnOnce(std::path::PathBuf, Credentials, std::net::SocketAddr) -> F,
    ) -> Self {
        let shop = Shop::open(suite, name).await;
        let stop = CancellationToken::new();
        let upstream = upstream::serve(stop.clone()).await.expect("a port");
        let credentials = Credentials { ingest_token: shop.tenant.token.clone(), ..suite.credentials.clone() };
        let directory = suite.data.join(format!("{name}-{}", shop.tenant.workspace.id));
        let gateway = start(directory, credentials, upstream).await.expect("the gateway starts");
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        Self { shop, gateway, stop, client }
    }

    async fn call(&self, method: Method, path: &str, key: &str) -> reqwest::Response {
        let request = self.client.request(method, format!("{}{path}", self.gateway.url)).header("x-api-key", key);
        let request = request
            .header("x-request-id", FORGED)
            .header("x-farebox-decision", FORGED)
            .header("x-farebox-consumer", "con_someone_else")
            .header("x-farebox-marker", "mirror");
        request.send().await.expect("the gateway answers")
    }

    /// Every kind of answer; returns how many calls were decided. `hides_ours`: nothing of Farebox's reaches a client
    /// that is refused.
    async fn play(&self, hides_ours: bool) -> u64 {
        let key = self.shop.key.as_str();
        let mut calls = 0;
        for (method, path, key, status, reason) in [
            (Method::GET, "/v1/orders/o-7?token=s3cret", key, 200, ""),
            (Method::GET, "/v1/orders", key, 200, ""),
            (Method::GET, "/v1/orders", "acme_live_nobody", 401, "unknown-key"),
            (Method::POST, "/v1/orders", key, 403, "not-in-plan"),
            (Method::GET, "/v1/reports/daily", key, 403, "not-in-plan"),
        ] {
            let answer = self.call(method.clone(), path, key).await;
            calls += 1;
            assert_eq!(answer.status(), status, "{method} {path}");
            let headers = answer.headers().clone();
            let ours = headers.keys().any(|name| name.as_str().starts_with("x-farebox-"));
            assert!(!ours || (status != 200 && !hides_ours), "nothing of ours reaches the client: {headers:?}");
            let body = answer.text().await.expect("a body");
            if status == 200 {
                assert_eq!(header(&headers, "deprecation"), self.deprecation(), "{headers:?}");
            } else {
                assert_eq!(header(&headers, "content-type"), "application/problem+json");
                assert_eq!(slug(&body), reason);
            }
            assert_eq!(header(&headers, "www-authenticate").is_empty(), status != 401);
        }
        for status in [200, 200, 200, 429] {
            let answer = self.call(Method::GET, "/v1/orders/few", key).await;
            calls += 1;
            assert_eq!(answer.status(), status);
            let headers = answer.headers().clone();
            assert_eq!(header(&headers, "retry-after").is_empty(), status == 200);
            if status == 429 {
                assert!(header(&headers, "ratelimit").starts_with("\"few\";r=0;"), "{headers:?}");
                assert_eq!(slug(&answer.text().await.expect("a body")), "rate-limited");
            }
        }
        let moved = self.call(Method::GET, "/orders/o-7", key).await;
        assert_eq!(moved.status(), 301);
        assert!(header(moved.headers(), "location").ends_with("/v1/orders/o-7"), "{:?}", moved.headers());
        calls
    }

    /// Traefik's forwardAuth gives the caller none of the decision's headers on an allow.
    fn deprecation(&self) -> &'static str {
        if self.gateway.directory.join("routes.yaml").exists() { "" } else { "@1788220800" }
    }

    /// What the gateway wrote to its file, as `farebox send` brings it. Telling it again changes nothing.
    async fn tell(&self, format: &str, source: &str) {
        let Ok(mut lines) = std::fs::read(self.gateway.directory.join("access.jsonl")) else { return };
        // The last line may be half written.
        lines.truncate(lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
        let post = self.shop.tenant.call(Method::POST, &format!("/v1/ingest/{format}")).header("x-farebox-source", source);
        let answer = post.header("content-type", "application/x-ndjson").body(lines).send().await.expect("an answer");
        assert_eq!(answer.status(), 202);
        let receipt: Value = answer.json().await.expect("JSON");
        assert_eq!(receipt["rejected"], serde_json::json!([]));
    }

    /// Every decided call is in usage once, with consumer and route, and the ledger has as many. `format`: of the file
    /// that the gateway writes, if it does.
    async fn settles(&self, suite: &Suite, source: &str, calls: u64, format: Option<&str>) {
        let decided = || async { decisions(suite, &self.shop, source).await };
        eventually("as many decisions as calls", SOON, || async { (decided().await == calls).then_some(()) }).await;
        let hour = eventually("no call is missing", SOON, || async {
            if let Some(format) = format {
                self.tell(format, source).await;
            }
            let hours = self.reconciliation().await;
            let hour = hours.iter().find(|h| h["source"] == source)?.clone();
            (hour["missing"] == 0 && hour["events"] == calls).then_some(hour)
        });
        assert_eq!(hour.await["decisions"], calls);
        let of_initech = self.shop.tenant.get(&format!("/api/v1/events?consumer={}&limit=50", self.shop.consumer)).await;
        let events = of_initech["data"].as_array().expect("events");
        assert_eq!(events.len() as u64, calls - 1, "all but the call without a known key");
        assert!(events.iter().all(|e| e["data"]["route"].as_str().or(e["route"].as_str()).is_some_and(|r| !r.is_empty())), "{of_initech}");
        assert!(!of_initech.to_string().contains("s3cret") && !of_initech.to_string().contains(FORGED));
        // Five went through, and each is billed, although each says of itself that it is a copy.
        assert_eq!(usage(&self.shop, "meter=requests").await, [(json!({}), 5)]);
        let marked = usage(&self.shop, "meter=calls&group_by=marker").await;
        assert!(marked.iter().all(|(group, _)| group["marker"] == ""), "{marked:?}");
    }

    async fn reconciliation(&self) -> Vec<Value> {
        let found = self.shop.tenant.get("/api/v1/decisions/reconciliation").await;
        found["data"].as_array().expect("hours").clone()
    }

    async fn end(self) {
        self.gateway.stop().await;
        self.stop.cancel();
    }
}

/// Over HTTP, and what is missing when a log is lost.
pub async fn envoy_enforces_and_every_call_counts_once(suite: &Suite) {
    let start = |directory: std::path::PathBuf, credentials, upstream| async move {
        envoy::process(Asks::Http.template(), envoy::SOURCE, &directory, &credentials, upstream).await
    };
    let scene = Scene::set(suite, "envoy", start).await;
    let calls = scene.play(true).await;
    scene.settles(suite, "envoy-1", calls, None).await;
    // The redirect was told, too, and nobody was asked.
    eventually("the redirect is told", SOON, || async { (scene.shop.tenant.calls().await == calls + 1).then_some(()) }).await;

    // Decisions whose log never comes, and calls that went around the check.
    for _ in 0..3 {
        scene.shop.ask(Some(&scene.shop.key), "GET", "/v1/orders").await;
    }
    eventually("three are missing", SOON, || async {
        let hours = scene.reconciliation().await;
        let sum = |of: &str| hours.iter().filter(|h| h["source"] == "envoy-1").filter_map(|h| h[of].as_u64()).sum::<u64>();
        ((sum("decisions"), sum("events"), sum("missing"), sum("undecided")) == (calls + 3, calls, 3, 1)).then_some(())
    })
    .await;
    scene.end().await;
}

pub async fn envoy_enforces_over_grpc(suite: &Suite) {
    let start = |directory: std::path::PathBuf, credentials, upstream| async move {
        envoy::process(Asks::Grpc.template(), envoy::SOURCE, &directory, &credentials, upstream).await
    };
    let scene = Scene::set(suite, "envoy-grpc", start).await;
    let calls = scene.play(true).await;
    scene.settles(suite, "envoy-1", calls, None).await;
    scene.end().await;
}

pub async fn traefik_enforces_and_every_call_counts_once(suite: &Suite) {
    let start =
        |directory: std::path::PathBuf, credentials, upstream| async move { traefik::process(&directory, &credentials, upstream).await };
    let scene = Scene::set(suite, "traefik", start).await;
    let calls = scene.play(false).await;
    // Where no router matches, too, Traefik logs what the client says of itself, unless it is taken away.
    assert_eq!(scene.call(Method::GET, "/nowhere", &scene.shop.key).await.status(), 503);
    scene.settles(suite, traefik::SOURCE, calls, Some("traefik")).await;
    scene.end().await;
}

pub async fn nginx_enforces_and_every_call_counts_once(suite: &Suite) {
    let start =
        |directory: std::path::PathBuf, credentials, upstream| async move { nginx::process(&directory, &credentials, upstream).await };
    let scene = Scene::set(suite, "nginx", start).await;
    let calls = scene.play(true).await;
    scene.settles(suite, nginx::SOURCE, calls, Some("nginx")).await;
    scene.end().await;
}

/// What is grouped by, and how many.
async fn usage(shop: &Shop, query: &str) -> Vec<(Value, u64)> {
    let now = clock::now();
    let stamp = |at: chrono::DateTime<chrono::Utc>| at.format("%Y-%m-%dT%H:%M:00Z").to_string();
    let (from, to) = (stamp(now - TimeDelta::hours(1)), stamp(now + TimeDelta::minutes(2)));
    let found = shop.tenant.get(&format!("/api/v1/usage?window=none&from={from}&to={to}&{query}")).await;
    let rows = found["data"].as_array().expect("rows").iter();
    rows.map(|row| (row["group"].clone(), row["value"].as_str().and_then(|v| v.parse().ok()).expect("a whole number"))).collect()
}

/// Envoy copies each call to a second gateway (a canary's, say), which asks and tells as a source that the catalogue names
/// as a mirror: every copy passes and is in usage as one, and the consumer pays for their own calls alone.
pub async fn mirrored_calls_are_seen_and_never_billed(suite: &Suite) {
    const CALLS: u64 = 7;
    const SHADOW: &str = "envoy-shadow";
    let shop = Shop::open(suite, "mirror").await;
    let catalogue = format!(
        "workspace: {}\ncurrency: USD\ntime_zone: UTC\nseller: {{name: Shop, address: {{country: US}}, invoice_number_prefix: S-}}\n\
         sources: [{{name: {SHADOW}, format: envoy}}]\ndecisions: {{mirrors: [{SHADOW}]}}\n",
        shop.tenant.workspace.name
    );
    let applied = shop.tenant.call(Method::POST, "/api/v1/catalog").body(catalogue.clone()).send().await.expect("an answer");
    let applied: Value = applied.json().await.expect("JSON");
    let changes: Vec<_> = applied["changes"].as_array().expect("changes").iter().map(|c| c["what"].as_str().unwrap_or_default()).collect();
    assert_eq!(changes, ["what decisions go by", "source envoy-shadow"]);
    let exported = shop.tenant.call(Method::GET, "/api/v1/catalog").send().await.expect("an answer").text().await.expect("a file");
    let again = shop.tenant.call(Method::POST, "/api/v1/catalog").body(exported.clone()).send().await.expect("an answer");
    let again: Value = again.json().await.expect("JSON");
    assert_eq!(again["changes"], json!([]), "what is exported is what is there: {again}\n{exported}");
    shop.until_in_force().await;

    let stop = CancellationToken::new();
    let upstream = upstream::serve(stop.clone()).await.expect("a port");
    let credentials = Credentials { ingest_token: shop.tenant.token.clone(), ..suite.credentials.clone() };
    let directory = |name: &str| suite.data.join(format!("{name}-{}", shop.tenant.workspace.id));
    let template = Asks::Grpc.template();
    let shadow = envoy::process(template, SHADOW, &directory("shadow"), &credentials, upstream).await.expect("the second gateway starts");
    let port = shadow.url.rsplit_once(':').expect("a port").1;
    let cluster = format!(
        "  - {{name: shadow, connect_timeout: 1s, type: STATIC, load_assignment: {{cluster_name: shadow, endpoints: [{{lb_endpoints: \
         [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}\n  - {{name: upstream,"
    );
    let mirroring = template
        .replace("route: {cluster: upstream}", "route: {cluster: upstream, request_mirror_policies: [{cluster: shadow}]}")
        .replace("  - {name: upstream,", &cluster);
    let first = envoy::process(&mirroring, envoy::SOURCE, &directory("mirroring"), &credentials, upstream).await.expect("Envoy starts");
    let client = reqwest::Client::new();
    for _ in 0..CALLS {
        let call = client.get(format!("{}/v1/orders", first.url)).header("x-api-key", &shop.key).send().await.expect("an answer");
        assert_eq!(call.status(), 200);
    }

    let by_source = "meter=calls&group_by=source&group_by=marker";
    let expected = [(json!({ "source": envoy::SOURCE, "marker": "" }), CALLS), (json!({ "source": SHADOW, "marker": "mirror" }), CALLS)];
    eventually("copies are seen beside their originals", SOON, || async {
        let mut found = usage(&shop, by_source).await;
        found.sort_by_key(|(group, _)| group["source"].to_string());
        (found == expected).then_some(())
    })
    .await;
    assert_eq!(usage(&shop, "meter=requests").await, [(json!({}), CALLS)]);
    let hours = shop.tenant.get("/api/v1/decisions/reconciliation").await;
    assert!(!hours.to_string().contains(SHADOW), "no gap is made up of copies: {hours}");
    for gateway in [first, shadow] {
        gateway.stop().await;
    }
    stop.cancel();
}

async fn decisions(suite: &Suite, shop: &Shop, source: &str) -> u64 {
    let now = clock::now();
    let period = Period::new(now - TimeDelta::hours(1), now + TimeDelta::hours(1)).expect("in order");
    let counts = farebox_access::ledger::counts(&suite.app, &shop.tenant.workspace.id, period).await.expect("ClickHouse answers");
    counts.iter().filter(|count| count.source == source).map(|count| count.n).sum()
}
