//! Who sends, and how: a log file that is followed, tokens and their limits, signed calls, client certificates, a cluster
//! of a source's own.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use farebox_core::auth::Scope;
use farebox_core::clock;
use hmac::{Hmac, Mac};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::process::{Child, Command};

use crate::harness::{Served, Suite, eventually};
use crate::tenant::Tenant;

const SOON: Duration = Duration::from_secs(30);

fn line(n: usize) -> String {
    // The same entry now and then: without an id, only its place tells it from its like.
    let log = json!({
        "latency": 12.5, "request": { "method": "GET", "size": 83, "uri": "/v1/orders/7" }, "response": { "status": 200, "size": 475 },
        "route_id": "GET /orders/{id}", "consumer": { "username": "initech" }, "start_time": clock::now().timestamp_millis() / 1000 * 1000,
        "upstream": "192.0.2.80:8080", "server": { "n": n / 3 },
    });
    format!("{log}\n")
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("it opens");
    file.write_all(text.as_bytes()).expect("it is written");
}

/// `farebox send`, following.
fn sender(base_url: &str, token: &str, file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farebox"));
    let log = OpenOptions::new().create(true).append(true).open(file.with_file_name("send.out")).expect("a log");
    command
        .args(["send", "--format", "apisix", "--source", "edge-files", "--file"])
        .arg(file)
        .env("FAREBOX_URL", base_url)
        .env("FAREBOX_TOKEN", token)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .kill_on_drop(true);
    command
}

fn directory(suite: &Suite, name: &str) -> PathBuf {
    let directory = suite.data.join(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    directory
}

/// Written without pause, renamed, copied and truncated; the sender killed three times, the receiver killed and away for a
/// while: usage is what was written.
pub async fn a_file_is_sent_once_through_rotation_kills_and_an_outage(suite: &Suite) {
    let tenant = Tenant::new(suite, "files").await;
    let mut receiver = Served::start(&suite.data, "files", "ingest", &[]).await;
    let directory = directory(suite, "files");
    let log = directory.join("access.log");
    let mut written = 0;
    let mut write = |lines: usize| {
        let text: String = (written..written + lines).map(line).collect();
        append(&log, &text);
        written += lines;
    };
    let start = |tenant: &Tenant, receiver: &Served| -> Child { sender(&receiver.base_url, &tenant.token, &log).spawn().expect("it runs") };
    let counted =
        async |n: u64| eventually(&format!("{n} calls counted"), SOON, || async { (tenant.calls().await >= n).then_some(()) }).await;

    write(500);
    let mut following = start(&tenant, &receiver);
    counted(500).await;
    // Killed while it sends; renamed meanwhile, the writer still writing to the renamed file.
    write(6000);
    following.kill().await.expect("it ran");
    std::fs::rename(&log, directory.join("access.log.1")).expect("it is renamed");
    append(&directory.join("access.log.1"), &line(0));
    write(300);
    following = start(&tenant, &receiver);
    counted(501).await;
    // The receiver dies and stays away.
    receiver.kill().await;
    write(700);
    std::fs::copy(&log, directory.join("access.log-20261128")).expect("it is copied");
    OpenOptions::new().write(true).open(&log).and_then(|f| f.set_len(0)).expect("it is truncated");
    write(200);
    following.kill().await.expect("it ran");
    following = start(&tenant, &receiver);
    write(100);
    receiver.restart().await;
    counted(6601).await;
    following.kill().await.expect("it ran");
    append(&log, line(1).trim_end()); // no newline yet
    let once = sender(&receiver.base_url, &tenant.token, &log).arg("--once").status().await.expect("it runs");
    assert!(once.success(), "see {}", directory.join("send.out").display());
    let all = written as u64 + 1;
    counted(all).await;
    assert_eq!(tenant.calls().await, all);
    append(&log, "\n");
    let once = sender(&receiver.base_url, &tenant.token, &log).arg("--once").status().await.expect("it runs");
    assert!(once.success());
    counted(all + 1).await;
    assert_eq!(tenant.calls().await, all + 1, "the unfinished line once it was finished, and nothing twice");
}

fn event(id: &str) -> Value {
    let data = json!({ "api": "orders", "route": "GET /orders", "method": "GET", "status": 200, "latency_us": 1200 });
    json!({ "specversion": "1.0", "id": id, "source": "edge", "type": "farebox.request.v1", "time": clock::now(), "subject": "initech", "data": data })
}

async fn send_with(tenant: &Tenant, token: &str, id: &str) -> (StatusCode, Option<String>) {
    let request = tenant.anonymous(Method::POST, "/v1/events").header("x-farebox-token", token).json(&event(id));
    let response = request.send().await.expect("an answer");
    (response.status(), response.headers().get("retry-after").and_then(|v| v.to_str().ok()).map(str::to_owned))
}

async fn api(tenant: &Tenant, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let response = tenant.call(method, path).json(&body).send().await.expect("an answer");
    let status = response.status();
    (status, response.json().await.unwrap_or_default())
}

/// Shown once, listed without the secret, rotated with an overlap (two in force, never three), revoked within a second;
/// each act in the audit log, and nobody gives more than they have.
pub async fn tokens_live_and_end(suite: &Suite) {
    let tenant = Tenant::new(suite, "tokens").await;
    let new = json!({ "name": "edge", "scopes": ["ingest"], "limits": { "requests_per_second": 1000 } });
    let (status, first) = api(&tenant, Method::POST, "/api/v1/tokens", new).await;
    assert_eq!(status, 201, "{first}");
    let secret = |created: &Value| created["token"].as_str().expect("shown once").to_owned();
    let id = |created: &Value| created["id"].as_str().expect("an id").to_owned();
    assert_eq!(send_with(&tenant, &secret(&first), "1").await.0, 202);
    let listed = tenant.get("/api/v1/tokens").await;
    assert!(!listed.to_string().contains(&secret(&first)));
    let row = listed["data"].as_array().expect("rows").iter().find(|t| t["id"] == first["id"]).expect("listed");
    assert!(row["last_used_at"].is_string() && row["limits"]["requests_per_second"] == 1000, "{row}");

    let rotate = |id: String, minutes: i64| {
        let tenant = &tenant;
        async move { api(tenant, Method::POST, &format!("/api/v1/tokens/{id}/rotate"), json!({ "overlap_minutes": minutes })).await }
    };
    let (status, second) = rotate(id(&first), 60).await;
    assert_eq!(status, 201, "{second}");
    assert_eq!(rotate(id(&first), 60).await.0, 404, "it was rotated before");
    for token in [&first, &second] {
        assert_eq!(send_with(&tenant, &secret(token), "2").await.0, 202);
    }
    let (_, third) = rotate(id(&second), 60).await;
    let refused = |token: Value| {
        let tenant = &tenant;
        async move {
            eventually("the token is refused", Duration::from_secs(5), || async {
                (send_with(tenant, &secret(&token), "3").await.0 == 401).then_some(())
            })
            .await;
        }
    };
    refused(first.clone()).await;
    assert_eq!(send_with(&tenant, &secret(&second), "3").await.0, 202);
    let (status, _) = api(&tenant, Method::DELETE, &format!("/api/v1/tokens/{}", id(&third)), json!({})).await;
    assert_eq!(status, 204);
    refused(third).await;

    let manager = tenant.token_with(suite, &[Scope::Manage]).await;
    let greedy = tenant.anonymous(Method::POST, "/api/v1/tokens").header("x-farebox-token", &manager);
    let greedy = greedy.json(&json!({ "name": "x", "scopes": ["finance"] })).send().await.expect("an answer");
    assert_eq!(greedy.status(), 403);
    let actions = |page: &Value| -> Vec<String> {
        let rows = page["data"].as_array().expect("rows").iter();
        rows.map(|row| row["action"].as_str().expect("an action").to_owned()).collect()
    };
    let newest = tenant.get("/api/v1/audit-log?action=token&limit=3").await;
    assert_eq!(actions(&newest), ["token.revoke", "token.rotate", "token.rotate"], "{newest}");
    let cursor = newest["next_cursor"].as_str().expect("there is more");
    let rest = tenant.get(&format!("/api/v1/audit-log?action=token&limit=3&cursor={cursor}")).await;
    assert_eq!(actions(&rest), ["token.create"], "{rest}");
    assert_eq!(rest["data"][0]["target"], first["id"]);
    assert!(rest["next_cursor"].is_null(), "{rest}");
    let (status, wrong) = api(&tenant, Method::GET, "/api/v1/audit-log?limit=many", json!({})).await;
    assert!(status == 400 && wrong["detail"].as_str().is_some_and(|detail| detail.contains("limit")), "{wrong}");
}

/// Each limit answers 429 (or 413, 411) and says when to come again; another token is not held up.
pub async fn a_token_has_its_limits(suite: &Suite) {
    let tenant = Tenant::new(suite, "limits").await;
    let limited = |limits: Value| {
        let tenant = &tenant;
        async move {
            let new = json!({ "name": "edge", "scopes": ["ingest"], "limits": limits });
            let (status, created) = api(tenant, Method::POST, "/api/v1/tokens", new).await;
            assert_eq!(status, 201, "{created}");
            created["token"].as_str().expect("shown once").to_owned()
        }
    };
    let slow = limited(json!({ "requests_per_second": 1 })).await;
    let mut statuses = Vec::new();
    for n in 0..4 {
        let (status, retry_after) = send_with(&tenant, &slow, &format!("r{n}")).await;
        assert!(status == 202 || retry_after.is_some_and(|s| s.parse::<u64>().is_ok_and(|s| s > 0)), "429 says when");
        statuses.push(status.as_u16());
    }
    assert!(statuses.contains(&429) && statuses[0] == 202, "{statuses:?}");
    assert_eq!(send_with(&tenant, &tenant.token, "other").await.0, 202);

    let narrow = limited(json!({ "bytes_per_second": 1024 })).await;
    let send = |body: reqwest::Body| {
        let request =
            tenant.anonymous(Method::POST, "/v1/events").header("x-farebox-token", &narrow).header("content-type", "application/json");
        async { request.body(body).send().await.expect("an answer").status().as_u16() }
    };
    let mut large = event("large");
    large["data"]["note"] = json!("x".repeat(2000));
    assert_eq!(send(large.to_string().into()).await, 413);
    let stream = futures::stream::iter([Ok::<_, std::io::Error>(event("chunked").to_string())]);
    assert_eq!(send(reqwest::Body::wrap_stream(stream)).await, 411);
    assert_eq!(send(event("small").to_string().into()).await, 202);

    let wrong = json!({ "name": "", "scopes": [], "limits": { "in_flight": 0 }, "fingerprint": "x" });
    let (status, problem) = api(&tenant, Method::POST, "/api/v1/tokens", wrong).await;
    let fields: Vec<_> = problem["errors"].as_array().expect("fields").iter().map(|e| e["pointer"].as_str().expect("a pointer")).collect();
    assert_eq!((status.as_u16(), fields), (422, vec!["/name", "/scopes", "/limits/in_flight", "/fingerprint"]));
}

fn signature(secret: &str, kid: &str, at: i64, path: &str, body: &str) -> String {
    signed_with(secret, kid, at, &format!("{at}.POST.{path}.{}", hex::encode(Sha256::digest(body))))
}

fn signed_with(secret: &str, kid: &str, at: i64, signed: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(signed.as_bytes());
    format!("t={at},kid={kid},v1={}", hex::encode(mac.finalize().into_bytes()))
}

/// A signed call is taken once, by whichever instance; a changed body, path or time, another key, an old signature are
/// refused; after a rotation both keys hold.
pub async fn a_signed_call_is_taken_once(suite: &Suite) {
    let tenant = Tenant::new(suite, "signed").await;
    let new = json!({ "name": "signer", "kind": "signing", "scopes": ["ingest"] });
    let (status, key) = api(&tenant, Method::POST, "/api/v1/tokens", new).await;
    assert_eq!(status, 201, "{key}");
    let (kid, secret) = (key["id"].as_str().expect("an id"), key["token"].as_str().expect("shown once"));
    let other = Served::start(&suite.data, "signed", "ingest", &[]).await;
    let http = reqwest::Client::new();
    let send = |base: &str, path: &str, signature: &str, body: &str| {
        let request = http.post(format!("{base}{path}")).header("farebox-signature", signature).header("content-type", "application/json");
        let request = request.body(body.to_owned());
        async {
            let response = request.send().await.expect("an answer");
            (response.status().as_u16(), response.json::<Value>().await.unwrap_or_default())
        }
    };
    let base = &suite.credentials.base_url;
    let (now, body) = (clock::now().timestamp(), event("signed").to_string());
    let good = signature(secret, kid, now, "/v1/events", &body);
    for (what, path, signature, body) in [
        ("another body", "/v1/events", good.clone(), event("forged").to_string()),
        ("another path", "/v1/events?x=1", good.clone(), body.clone()),
        ("another secret", "/v1/events", signature("fbx_sign_live_x", kid, now, "/v1/events", &body), body.clone()),
        ("six minutes ago", "/v1/events", signature(secret, kid, now - 360, "/v1/events", &body), body.clone()),
        ("six minutes ahead", "/v1/events", signature(secret, kid, now + 360, "/v1/events", &body), body.clone()),
        ("another's key", "/v1/events", signature(secret, "tok_00000000000000000000000000000000", now, "/v1/events", &body), body.clone()),
    ] {
        assert_eq!(send(base, path, &signature, &body).await.0, 401, "{what}");
    }
    assert_eq!(send(base, "/v1/events", &good, &body).await.0, 202, "a refused copy uses nothing up");
    for base in [base, &other.base_url] {
        let (status, problem) = send(base, "/v1/events", &good, &body).await;
        assert_eq!((status, &problem["type"]), (401, &json!("urn:farebox:problem:replayed-signature")));
    }
    // It may tell, but not ask; another key may.
    let ask = |kid: &str, secret: &str, at: i64| {
        let signed = format!("{at}.GET./v1/decide/edge/orders.{}", hex::encode(Sha256::digest("")));
        let header = signed_with(secret, kid, at, &signed);
        let request = http.get(format!("{base}/v1/decide/edge/orders")).header("farebox-signature", header);
        async {
            let answer = request.send().await.expect("an answer");
            (answer.status().as_u16(), answer.headers().contains_key("x-farebox-decision"))
        }
    };
    assert_eq!(ask(kid, secret, now).await, (403, false));
    let new = json!({ "name": "asker", "kind": "signing", "scopes": ["decide"] });
    let (_, asker) = api(&tenant, Method::POST, "/api/v1/tokens", new).await;
    let (asker_kid, asker_secret) = (asker["id"].as_str().expect("an id"), asker["token"].as_str().expect("shown once"));
    assert_eq!(ask(asker_kid, secret, now).await, (401, false), "another's secret");
    assert_eq!(ask(asker_kid, asker_secret, now).await, (401, true), "a decision: the caller has no key");
    assert_eq!(ask(asker_kid, asker_secret, now).await, (401, false), "once");

    // The secret itself is no token.
    assert_eq!(send_with(&tenant, secret, "as-token").await.0, 401);
    let (status, next) = api(&tenant, Method::POST, &format!("/api/v1/tokens/{kid}/rotate"), json!({})).await;
    assert_eq!(status, 201, "{next}");
    let keys = [(kid, secret), (next["id"].as_str().expect("an id"), next["token"].as_str().expect("shown once"))];
    for (n, (kid, secret)) in keys.into_iter().enumerate() {
        let body = event(&format!("rotated-{n}")).to_string();
        assert_eq!(send(&other.base_url, "/v1/events", &signature(secret, kid, now + 1, "/v1/events", &body), &body).await.0, 202);
    }
    eventually("three calls counted", SOON, || async { (tenant.calls().await == 3).then_some(()) }).await;
}
