//! What gateways send has one verdict each: counted once, or kept with a reason.

use std::io::Write;
use std::time::Duration;

use chrono::TimeDelta;
use farebox_core::auth::Scope;
use farebox_core::clock;
use farebox_ingest::dead_letters::Filter;
use farebox_metering::sources;
use flate2::Compression;
use flate2::write::GzEncoder;
use rdkafka::producer::FutureRecord;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Suite, eventually};
use crate::tenant::Tenant;

const SOON: Duration = Duration::from_secs(20);
const BATCH: &str = "application/cloudevents-batch+json";
const ONE: &str = "application/cloudevents+json";

fn event(id: &str) -> Value {
    let data = json!({ "api": "orders", "route": "GET /orders", "method": "GET", "status": 200, "latency_us": 1200 });
    json!({ "specversion": "1.0", "id": id, "source": "edge", "type": "farebox.request.v1", "time": clock::now(), "subject": "initech", "data": data })
}

async fn post(tenant: &Tenant, content_type: &str, body: impl Into<reqwest::Body>) -> (StatusCode, Value) {
    let request = tenant.call(Method::POST, "/v1/events").header("content-type", content_type).body(body);
    let response = request.send().await.expect("an answer");
    (response.status(), response.json().await.expect("JSON"))
}

async fn outstanding(tenant: &Tenant) -> u64 {
    let counts = tenant.get("/api/v1/dead-letters/counts").await;
    counts["data"].as_array().expect("rows").iter().map(|row| row["outstanding"].as_u64().expect("a number")).sum()
}

async fn until_counted(tenant: &Tenant, calls: u64) {
    eventually(&format!("{calls} calls counted"), SOON, || async { (tenant.calls().await == calls).then_some(()) }).await;
}

async fn until_outstanding(tenant: &Tenant, letters: u64) {
    eventually(&format!("{letters} dead letters"), SOON, || async { (outstanding(tenant).await == letters).then_some(()) }).await;
}

/// Accepted, duplicates and rejected add up to what was sent; each rejected event is kept as it came, with its reason.
pub async fn a_batch_has_one_verdict_for_each_event(suite: &Suite) {
    let tenant = Tenant::new(suite, "verdicts").await;
    let mut old = event("old");
    old["time"] = json!(clock::now() - TimeDelta::days(40));
    let mut wrong = event("wrong");
    wrong["data"]["status"] = json!("200");
    let batch = json!([event("1"), event("1"), event("2"), old, wrong, 7]);
    let (status, receipt) = post(&tenant, BATCH, batch.to_string()).await;
    assert_eq!(status, 202, "{receipt}");
    assert_eq!((&receipt["accepted"], &receipt["duplicates_in_batch"]), (&json!(2), &json!(1)));
    let rejected: Vec<_> = receipt["rejected"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|r| (r["index"].clone(), r["id"].clone(), r["reason"].clone()))
        .collect();
    assert_eq!(
        rejected,
        [
            (json!(3), json!("old"), json!("time_too_old")),
            (json!(4), json!("wrong"), json!("wrong_type")),
            (json!(5), json!(""), json!("not_an_object")),
        ]
    );
    // The sender did not get the answer and sends the same body again.
    let (status, _) = post(&tenant, BATCH, batch.to_string()).await;
    assert_eq!(status, 202);
    until_outstanding(&tenant, 3).await;
    until_counted(&tenant, 2).await;
    let letters = tenant.get("/api/v1/dead-letters?reason=wrong_type").await;
    let body = letters["data"][0]["body"].as_str().expect("text");
    assert_eq!(serde_json::from_str::<Value>(body).expect("as it came"), wrong);
}

/// Each refusal is a problem that says what to do, and nothing of it is counted.
pub async fn bad_input_is_a_clear_problem(suite: &Suite) {
    let tenant = Tenant::new(suite, "refusals").await;
    let mut wrong = event("1");
    wrong["specversion"] = json!("0.3");
    for (content_type, body, status, slug) in [
        (ONE, wrong.to_string(), 400, "unsupported-specversion"),
        (ONE, "{".to_owned(), 400, "invalid-json"),
        (BATCH, "[{},".to_owned(), 400, "invalid-json"),
        (BATCH, "{}".to_owned(), 400, "not-an-array"),
        ("application/xml", "<a/>".to_owned(), 415, "unsupported-media-type"),
        (ONE, " ".repeat(9 << 20), 413, "too-large"),
    ] {
        let (found, problem) = post(&tenant, content_type, body).await;
        assert_eq!((found.as_u16(), &problem["type"]), (status, &json!(format!("urn:farebox:problem:{slug}"))), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|d| !d.is_empty()));
    }
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![b' '; 64 << 20]).expect("memory");
    let bomb = bomb.finish().expect("memory");
    let request = tenant.call(Method::POST, "/v1/events").header("content-type", BATCH).header("content-encoding", "gzip").body(bomb);
    assert_eq!(request.send().await.expect("an answer").status(), 413);

    let send = |token: Option<String>| {
        let request = tenant.anonymous(Method::POST, "/v1/events").header("content-type", ONE).body(event("1").to_string());
        async { token.into_iter().fold(request, |r, t| r.header("x-farebox-token", t)).send().await.expect("an answer").status() }
    };
    assert_eq!(send(None).await, 401);
    assert_eq!(send(Some("fbx_live_nobody".to_owned())).await, 401);
    assert_eq!(send(Some(tenant.token_with(suite, &[Scope::Read]).await)).await, 403);
    assert_eq!(send(Some(tenant.token_with(suite, &[Scope::Ingest]).await)).await, 202);
    until_counted(&tenant, 1).await;
    until_outstanding(&tenant, 1).await;
}

fn apisix(start_ms: i64) -> Value {
    json!({
        "latency": 12.000_013, "request": { "method": "GET", "size": 83, "uri": "/v1/orders/7?token=s3cret" }, "response": { "status": 200, "size": 475 },
        "route_id": "GET /orders/{id}", "service_id": "", "consumer": { "username": "initech" }, "start_time": start_ms, "upstream": "192.0.2.80:8080",
    })
}

/// A source that is registered while everything runs is read at once; objects and arrays, the same payload twice being
/// two calls (APISIX sends no id), and a message that is nothing stops nothing.
pub async fn a_gateways_own_topic_is_read(suite: &Suite) {
    let tenant = Tenant::new(suite, "topic").await;
    let topic = format!("apisix-{}", tenant.workspace.id);
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL answers");
    sources::upsert(&mut conn, &tenant.workspace.id, "edge", "apisix", Some(&topic), false).await.expect("a source");
    let log = apisix(clock::now().timestamp_millis());
    let messages = [log.to_string(), json!([log, log, 7]).to_string(), "\u{0}\u{1}".to_owned(), "[".to_owned(), log.to_string()];
    for message in &messages {
        let record = FutureRecord::<str, str>::to(&topic).payload(message);
        let sent = suite.app.kafka.producer.send_result(record).map_err(|(error, _)| error).expect("room in the queue");
        sent.await.expect("the producer lives").expect("Kafka acknowledged");
    }
    until_counted(&tenant, 4).await;
    until_outstanding(&tenant, 3).await;
}

/// After a fix, a replay brings in what was rejected, with the id it had: a second replay changes nothing.
pub async fn a_replay_counts_once(suite: &Suite) {
    let tenant = Tenant::new(suite, "replay").await;
    let mut old = event("old");
    old["time"] = json!(clock::now() - TimeDelta::days(40));
    let (status, _) = post(&tenant, BATCH, json!([old, event("new"), 7]).to_string()).await;
    assert_eq!(status, 202);
    until_outstanding(&tenant, 2).await;
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL answers");
    sources::upsert(&mut conn, &tenant.workspace.id, "edge", "cloudevents", None, true).await.expect("a source");
    let first = farebox_ingest::replay(&suite.app, &tenant.workspace.id, &Filter::default()).await.expect("a report");
    assert_eq!((first.read, first.accepted, first.rejected.get("not_an_object")), (2, 1, Some(&1)));
    until_outstanding(&tenant, 1).await;
    let second =
        farebox_ingest::replay(&suite.app, &tenant.workspace.id, &Filter { reason: Some("time_too_old".to_owned()), ..Filter::default() })
            .await
            .expect("a report");
    assert_eq!((second.read, second.accepted), (0, 0));
}

/// Envoy's OTLP log: the same call by two ways, or twice by one, counts once, because its decision is its id.
pub async fn a_decided_call_counts_once_whichever_way_it_comes(suite: &Suite) {
    let tenant = Tenant::new(suite, "otlp").await;
    let decision = uuid::Uuid::now_v7().simple().to_string();
    let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let record = json!({
        "timeUnixNano": format!("{}000", clock::now().timestamp_micros()),
        "attributes": [
            attribute("farebox.decision", &decision), attribute("http.response.status_code", "200"), attribute("http.request.method", "GET"),
            attribute("http.route", "GET /orders/{id}"), attribute("url.path", "/v1/orders/7"), attribute("duration_us", "3231"), attribute("farebox.consumer", "-"),
        ],
    });
    let broken = json!({ "timeUnixNano": "0", "attributes": [] });
    let body = json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": [record, record, broken] }] }] });
    for _ in 0..2 {
        let answer: Value = tenant.call(Method::POST, "/v1/logs").json(&body).send().await.expect("an answer").json().await.expect("JSON");
        assert_eq!(answer["partialSuccess"]["rejectedLogRecords"], 1, "{answer}");
    }
    let mut same = event("another-id");
    same["data"]["decision"] = json!(decision);
    assert_eq!(post(&tenant, ONE, same.to_string()).await.0, 202);
    until_outstanding(&tenant, 1).await;
    until_counted(&tenant, 1).await;
}

/// The workspace says how far back and ahead events may lie, by the API and by the catalogue; a source with `backfill` may
/// go further back; what was rejected before can come in afterwards.
pub async fn the_window_is_the_workspaces(suite: &Suite) {
    let tenant = Tenant::new(suite, "window").await;
    let aged = |id: &str, age: TimeDelta| {
        let mut event = event(id);
        event["time"] = json!(clock::now() - age);
        event
    };
    let change = async |settings: Value| {
        let answer = tenant.call(Method::PUT, "/api/v1/settings/intake").json(&settings).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    assert_eq!(tenant.get("/api/v1/settings/intake").await, json!({ "back_days": 35, "ahead_minutes": 5, "keep_rejected_days": 90 }));
    let (status, problem) = change(json!({ "back_days": 0, "ahead_minutes": 1441 })).await;
    assert_eq!(
        (status, &problem["errors"][0]["pointer"], &problem["errors"][1]["pointer"]),
        (422, &json!("/back_days"), &json!("/ahead_minutes"))
    );
    assert_eq!(change(json!({ "back_days": 2, "ahead_minutes": 0 })).await.0, 200);
    // In force within two seconds.
    let reasons = async |batch: Value| -> Vec<Value> {
        let (_, receipt) = post(&tenant, BATCH, batch.to_string()).await;
        receipt["rejected"].as_array().expect("a list").iter().map(|r| r["reason"].clone()).collect()
    };
    let three_days_old = aged("old", TimeDelta::days(3));
    eventually("the narrow window is in force", SOON, || async {
        let found = reasons(json!([three_days_old, aged("ahead", TimeDelta::minutes(-2))])).await;
        (found == [json!("time_too_old"), json!("time_in_future")]).then_some(())
    })
    .await;
    let letters = eventually("the detail names the window", SOON, || async {
        let letters = tenant.get("/api/v1/dead-letters?reason=time_too_old&text=OLD").await;
        letters["data"].as_array().is_some_and(|rows| !rows.is_empty()).then_some(letters)
    })
    .await;
    assert!(letters["data"][0]["detail"].as_str().is_some_and(|d| d.contains("2 days")), "{letters}");
    let catalogue = format!(
        "workspace: {}\ncurrency: USD\ntime_zone: UTC\nintake: {{back_days: 4}}\nsources: [{{name: history, format: cloudevents, backfill: true}}]\n",
        tenant.workspace.name
    );
    let applied = tenant.call(Method::POST, "/api/v1/catalog").header("content-type", "application/yaml").body(catalogue);
    let applied = applied.send().await.expect("an answer");
    assert!(applied.status().is_success(), "{}", applied.text().await.unwrap_or_default());
    assert_eq!(tenant.get("/api/v1/settings/intake").await, json!({ "back_days": 4, "ahead_minutes": 5, "keep_rejected_days": 90 }));
    let replayed = tenant
        .call(Method::POST, "/api/v1/dead-letters/replay")
        .json(&json!({ "reason": "time_too_old" }))
        .send()
        .await
        .expect("an answer");
    let report: Value = replayed.json().await.expect("JSON");
    assert!(report["accepted"].as_u64().is_some_and(|n| n > 0) && report["rejected"] == json!({}), "{report}");
    let mut history = aged("history", TimeDelta::days(400));
    history["source"] = json!("history");
    eventually("the source may backfill", SOON, || async { reasons(json!([history])).await.is_empty().then_some(()) }).await;
    assert_eq!(reasons(json!([aged("no-history", TimeDelta::days(400))])).await, [json!("time_too_old")]);
}

/// Found by reason, source, text (in the event as it came, too) and period; page by page.
pub async fn dead_letters_are_searched(suite: &Suite) {
    let tenant = Tenant::new(suite, "letters").await;
    let mut batch: Vec<Value> = (0..5)
        .map(|n| {
            let mut wrong = event(&format!("wrong-{n}"));
            wrong["data"]["status"] = json!(if n == 3 { "Zwölf" } else { "200" });
            wrong
        })
        .collect();
    batch.push(json!(7));
    let (status, _) = post(&tenant, BATCH, Value::Array(batch).to_string()).await;
    assert_eq!(status, 202);
    until_outstanding(&tenant, 6).await;
    let found = async |query: &str| tenant.get(&format!("/api/v1/dead-letters?{query}")).await["data"].as_array().expect("rows").len();
    let (past, future) = ("2026-01-01T00:00:00Z", "2100-01-01T00:00:00Z");
    assert_eq!(found("reason=wrong_type").await, 5);
    assert_eq!(found("reason=not_an_object").await, 1);
    assert_eq!(found("text=Zw%C3%B6lf").await, 1);
    assert_eq!(found("text=WRONG-4").await, 1);
    // The source is the name of the token that brought them.
    assert_eq!(found("source=test").await, 6);
    assert_eq!(found("source=another").await, 0);
    assert_eq!(found(&format!("until={past}")).await, 0);
    assert_eq!(found(&format!("since={past}&until={future}")).await, 6);
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    while pages.len() < 10 {
        let page = tenant.get(&format!("/api/v1/dead-letters?limit=4{cursor}")).await;
        pages.push(page["data"].as_array().expect("rows").len());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(pages, [4, 2]);
    let other = Tenant::new(suite, "letters-other").await;
    assert_eq!(other.get("/api/v1/dead-letters").await["data"], json!([]));
}
