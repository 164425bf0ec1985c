//! Calls whose log was lost: shown by number, billed from their decisions where somebody chooses so, and replaced by the
//! true log whenever it comes.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use farebox_core::auth::Scope;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::kafka::DECISIONS;
use farebox_core::period::Period;
use farebox_core::{clock, decision};
use rdkafka::producer::FutureRecord;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Suite, eventually};
use crate::shop::{SOON, Shop};

const SOURCE: &str = "envoy-1";

/// What an instance counted: calls that passed, and one that was refused.
pub async fn decide(suite: &Suite, workspace: &WorkspaceId, source: &str, consumer: &ConsumerId, at: &[DateTime<Utc>]) -> Vec<String> {
    let ids: Vec<String> = at.iter().map(|at| decision::new_id(*at, false).simple().to_string()).collect();
    let row = |outcome: &str, minute: DateTime<Utc>, n: usize, ids: &str| {
        json!({
            "workspace": workspace, "source": source, "api": "orders", "consumer": consumer, "outcome": outcome,
            "minute": minute.duration_trunc(TimeDelta::minutes(1)).expect("a minute"), "n": n, "ids": ids,
        })
    };
    let mut rows: Vec<Value> = at.iter().zip(&ids).map(|(at, id)| row("allowed", *at, 1, id)).collect();
    rows.push(row("rate_limited", at[0], 1, ""));
    // A batch for each row: rows of one minute and consumer would be one.
    for (n, row) in rows.into_iter().enumerate() {
        let id = format!("test-{workspace}-{n}");
        let payload = json!({ "id": id, "rows": [row] }).to_string();
        let topic = suite.app.kafka.name(DECISIONS);
        let record = FutureRecord::to(&topic).key(&id).payload(&payload);
        suite.app.kafka.producer.send_result(record).map_err(|(error, _)| error).expect("room").await.expect("it lives").expect("kept");
    }
    ids
}

async fn tell(shop: &Shop, decision: &str, time: DateTime<Utc>, status: u16) {
    let data = json!({ "api": "orders", "route": "GET /orders", "status": status, "decision": decision, "answered_by": "upstream" });
    let event = json!({
        "specversion": "1.0", "id": uuid::Uuid::now_v7(), "source": SOURCE, "type": "farebox.request.v1", "time": time,
        "subject": shop.consumer, "data": data,
    });
    assert_eq!(shop.tenant.call(Method::POST, "/v1/events").json(&event).send().await.expect("an answer").status(), 202);
}

async fn bill(shop: &Shop, token: &str, hour: DateTime<Utc>, reason: &str) -> (StatusCode, Value) {
    let call = shop.tenant.anonymous(Method::POST, "/api/v1/decisions/gap").header("x-farebox-token", token);
    let answer = call.json(&json!({ "source": SOURCE, "hour": hour, "reason": reason })).send().await.expect("an answer");
    (answer.status(), answer.json().await.expect("JSON"))
}

/// Counted by marker; what is not marked under the empty one.
async fn counted(shop: &Shop, meter: &str, hour: Period) -> Vec<(String, u64)> {
    let stamp = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:00Z").to_string();
    let (from, to) = (stamp(hour.start), stamp(hour.end));
    let found = shop.tenant.get(&format!("/api/v1/usage?meter={meter}&window=none&from={from}&to={to}&group_by=marker")).await;
    let row = |row: &Value| Some((row["group"]["marker"].as_str()?.to_owned(), row["value"].as_str()?.parse().ok()?));
    let mut rows: Vec<_> = found["data"].as_array().expect("rows").iter().map(|found| row(found).expect("a row")).collect();
    rows.sort();
    rows
}

fn expected(rows: &[(&str, u64)]) -> Vec<(String, u64)> {
    rows.iter().map(|(marker, n)| ((*marker).to_owned(), *n)).collect()
}

/// Explicit, by source and hour, noted, never twice, and never instead of the true log.
pub async fn a_gap_is_billed_once_and_a_late_log_takes_its_place(suite: &Suite) {
    let shop = Shop::open(suite, "gap").await;
    let start = (clock::now() - TimeDelta::hours(2)).duration_trunc(TimeDelta::hours(1)).expect("an hour");
    let hour = Period { start, end: start + TimeDelta::hours(1) };
    let at = [600, 601, 1200, 1230, 3599].map(|seconds| start + TimeDelta::seconds(seconds));
    let ids = decide(suite, &shop.tenant.workspace.id, SOURCE, &shop.consumer, &at).await;
    tell(&shop, &ids[0], at[0], 200).await;
    // The source goes on: what it told of that hour has surely arrived.
    tell(&shop, "", clock::now(), 200).await;
    let reconciled = || async {
        let found = shop.tenant.get(&format!("/api/v1/decisions/reconciliation?from={}", start.format("%Y-%m-%dT%H:%M:%SZ"))).await;
        let hours = found["data"].as_array().expect("hours").clone();
        hours.into_iter().find(|h| h["source"] == SOURCE && h["hour"] == json!(start)).unwrap_or_default()
    };
    let hours_gap = |billed: u64| async move {
        let hour = reconciled().await;
        let numbers = ["decisions", "events", "missing", "billed_from_decisions"].map(|name| hour[name].as_u64().unwrap_or(0));
        (numbers == [6, 1, 5, billed] && hour["complete"] == true).then_some(())
    };
    eventually("five are missing", SOON, || hours_gap(0)).await;

    let path = format!("/api/v1/decisions/gap?source={SOURCE}&hour={}", at[2].format("%Y-%m-%dT%H:%M:%SZ"));
    let gap = shop.tenant.get(&path).await;
    assert_eq!((&gap["missing"], &gap["billable"], &gap["complete"]), (&json!(5), &json!(4), &json!(true)), "{gap}");
    assert_eq!(gap["by"], json!([{ "consumer": shop.consumer, "api": "orders", "calls": 4 }]));

    let all = shop.tenant.token.as_str();
    let manager = shop.tenant.token_with(suite, &[Scope::Manage, Scope::Read]).await;
    assert_eq!(bill(&shop, &manager, start, "the disk was full").await.0, 403, "it is about money");
    assert_eq!(bill(&shop, all, start, " ").await.0, 422, "no reason");
    let (status, problem) = bill(&shop, all, clock::now(), "too early").await;
    assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("urn:farebox:problem:hour-not-complete")));
    // Twice at once: both may make the same events, and they count once.
    for (status, billed) in [bill(&shop, all, start, "the disk was full").await, bill(&shop, all, at[4], "the disk was full").await] {
        assert_eq!(status, 202, "{billed}");
    }
    eventually("four more are counted", SOON, || async {
        (counted(&shop, "requests", hour).await == expected(&[("", 1), ("from_decision", 4)])).then_some(())
    })
    .await;
    eventually("the gap is shown as billed, not as gone", SOON, || hours_gap(4)).await;
    assert_eq!(bill(&shop, all, start, "once more").await.1["events"], 0);

    // One log comes after all, and says that the call failed; another lies in the minute before its decision.
    tell(&shop, &ids[1], at[1], 503).await;
    tell(&shop, &ids[2], at[2] - TimeDelta::seconds(1), 200).await;
    eventually("the true logs have come", SOON, || async {
        let _ = farebox_metering::repair::repair(&suite.app, &shop.tenant.workspace.id, hour).await.expect("ClickHouse answers");
        (counted(&shop, "calls", hour).await == expected(&[("", 3), ("from_decision", 2)])).then_some(())
    })
    .await;
    assert_eq!(counted(&shop, "requests", hour).await, expected(&[("", 2), ("from_decision", 2)]), "the call that failed is free");
    let noted: Vec<(String, Value)> =
        sqlx::query_as("SELECT target, detail FROM audit_log WHERE workspace_id = $1 AND action = 'decisions.bill_gap' ORDER BY id")
            .bind(shop.tenant.workspace.id.as_str())
            .fetch_all(&suite.app.pg)
            .await
            .expect("the audit log");
    assert_eq!(noted.len(), 3, "each choice: {noted:?}");
    assert_eq!((&noted[0].1["events"], &noted[0].1["reason"]), (&json!(4), &json!("the disk was full")));
}
