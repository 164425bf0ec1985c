//! Corrections and rules through the API: previewed, made once, recorded; copies reported; strangers named.

use std::time::Duration;

use chrono::TimeDelta;
use farebox_core::clock;
use farebox_core::event::RequestData;
use farebox_metering::usage::UsageQuery;
use farebox_metering::{Dimension, corrections, recompute, repair};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Suite, eventually};
use crate::metering_flow::{World, event, hour, october, store_all, value, world};
use crate::tenant::Tenant;

async fn post(tenant: &Tenant, path: &str, body: Value) -> (u16, Value) {
    let response = tenant.call(Method::POST, path).json(&body).send().await.expect("an answer");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

/// Forty calls, ten of them with a status that was logged wrongly.
async fn lived_in(suite: &Suite, name: &str) -> (World, Tenant) {
    let world = world(&suite.app, name).await;
    let tenant = Tenant::of(suite, &world.workspace).await;
    let mut sent: Vec<_> = (0..40).map(|n| event(&world, n)).collect();
    for event in sent.iter_mut().take(10) {
        event.data.status = 503;
    }
    store_all(&suite.app, &sent).await;
    recompute::workspace(&suite.app, &world.workspace).await.expect("recomputed");
    (world, tenant)
}

pub async fn events_are_voided_and_amended_with_a_preview(suite: &Suite) {
    let app = &suite.app;
    let (world, tenant) = lived_in(suite, "corrections").await;
    let requests = || UsageQuery::new(&world.workspace, "requests", october());
    assert_eq!(value(app, requests()).await, "30");
    let wrong = json!({ "action": "amend", "filter": { "status": ["503"] }, "from": october().start, "to": october().end,
        "set": { "status": 200 }, "reason": "the gateway logged 503 for 200" });
    let with = |more: Value| {
        let mut body = wrong.clone();
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    // A filter without a dry run is refused; the dry run tells the effect and changes nothing.
    let (status, refused) = post(&tenant, "/api/v1/corrections", wrong.clone()).await;
    assert_eq!((status, &refused["errors"][0]["pointer"]), (422, &json!("/expected_events")));
    let (status, effect) = post(&tenant, "/api/v1/corrections", with(json!({ "dry_run": true }))).await;
    assert_eq!((status, &effect["events"]), (200, &json!(10)), "{effect}");
    let gained: Vec<_> = effect["meters"].as_array().expect("meters").iter().filter(|m| m["meter"] == "requests").collect();
    assert_eq!(
        (gained.len(), &gained[0]["before"], &gained[0]["after"], &gained[0]["month"]),
        (1, &json!("0"), &json!("10"), &json!("2026-10")),
        "{effect}"
    );
    assert_eq!(gained[0]["subscription"], world.subscription.as_str());
    assert_eq!(value(app, requests()).await, "30");
    let (status, conflict) = post(&tenant, "/api/v1/corrections", with(json!({ "expected_events": 9 }))).await;
    assert_eq!((status, &conflict["type"]), (409, &json!("urn:farebox:problem:choice-changed")));
    let (status, made) = post(&tenant, "/api/v1/corrections", with(json!({ "expected_events": 10 }))).await;
    assert_eq!((status, made["applied_at"].is_string()), (201, true), "{made}");
    for round in ["raw", "rolled up"] {
        assert_eq!(value(app, requests()).await, "40", "{round}");
        recompute::workspace(app, &world.workspace).await.expect("recomputed");
    }
    // By id; and a copy that the gateway sends again, with this time or another, does not bring it back.
    let (status, _) =
        post(&tenant, "/api/v1/corrections", json!({ "action": "void", "ids": ["gw/3", "gw/nope"], "reason": "a test call" })).await;
    assert_eq!(status, 201);
    let again = event(&world, 3);
    let mut later = again.clone();
    later.time += TimeDelta::hours(3);
    later.received_at += TimeDelta::hours(5);
    store_all(app, &[again, later]).await;
    repair::repair(app, &world.workspace, october()).await.expect("repaired");
    assert_eq!(value(app, requests()).await, "39");
    let (status, _) = post(&tenant, "/api/v1/corrections", json!({ "action": "void", "ids": ["gw/3"], "reason": "again" })).await;
    assert_eq!(status, 404, "nothing of it stands");
    // Who did what and why is there, and nothing of another workspace can be touched.
    let list = tenant.get("/api/v1/corrections").await;
    assert_eq!(list["data"].as_array().expect("corrections").len(), 2);
    assert_eq!((&list["data"][1]["reason"], &list["data"][1]["events"]), (&json!("the gateway logged 503 for 200"), &json!(10)));
    let (_, stranger) = lived_in(suite, "others").await;
    let (status, _) = post(&stranger, "/api/v1/corrections", json!({ "action": "void", "ids": ["gw/30"], "reason": "mine" })).await;
    assert_eq!(status, 201, "the stranger's own event of that id");
    assert_eq!(value(app, requests()).await, "39", "not this workspace's");
    // What was removed, and why.
    let report = tenant.get("/api/v1/duplicates?from=2026-10-01&to=2026-11-01").await;
    let days = report["data"].as_array().expect("days");
    assert_eq!(days.iter().map(|d| d["events"].as_u64().expect("a count")).sum::<u64>(), 40, "{report}");
    assert_eq!(days.iter().map(|d| d["other_time"].as_u64().expect("a count")).sum::<u64>(), 1, "{report}");
    assert_eq!(days.iter().map(|d| d["same_time"].as_u64().expect("a count")).sum::<u64>(), 1, "{report}");
    let removed = tenant.get("/api/v1/duplicates/events?from=2026-10-01&to=2026-11-01").await;
    assert_eq!((&removed["data"][0]["id"], &removed["data"][0]["reason"]), (&json!("gw/3"), &json!("corrected")), "{removed}");
}

/// A correction whose process died before the rows were written is finished by whoever finds it.
pub async fn an_interrupted_correction_is_finished(suite: &Suite) {
    let app = &suite.app;
    let (world, _) = lived_in(suite, "interrupted").await;
    let long_ago = clock::now() - TimeDelta::minutes(5);
    let choice = json!({ "filter": { "period": october(), "filter": { "status": ["503"] } } });
    sqlx::query(
        "INSERT INTO corrections (id, workspace_id, action, choice, changes, reason, author, events, created_at) VALUES ($1, $2, 'amend', $3, $4, 'x', 'x', 10, $5)",
    )
    .bind(farebox_core::ids::CorrectionId::new().as_str())
    .bind(world.workspace.as_str())
    .bind(&choice)
    .bind(json!({ "shift_seconds": 3600 }))
    .bind(long_ago)
    .execute(&app.pg)
    .await
    .expect("recorded");
    for _ in 0..2 {
        // The second time finds nothing to do: no event moves twice.
        let later = farebox_core::period::Period { start: hour() + TimeDelta::hours(1), end: october().end };
        eventually("ten calls moved", Duration::from_secs(30), async || {
            // Another instance may have it in hand.
            corrections::take_up(app).await.expect("taken up");
            (value(app, UsageQuery::new(&world.workspace, "calls", later)).await == "10").then_some(())
        })
        .await;
        assert_eq!(value(app, UsageQuery::new(&world.workspace, "calls", october())).await, "40");
        sqlx::query("UPDATE corrections SET applied_at = NULL WHERE workspace_id = $1")
            .bind(world.workspace.as_str())
            .execute(&app.pg)
            .await
            .expect("reopened");
    }
    sqlx::query("UPDATE corrections SET applied_at = now() WHERE workspace_id = $1")
        .bind(world.workspace.as_str())
        .execute(&app.pg)
        .await
        .expect("closed");
}

pub async fn a_rule_is_previewed_and_strangers_are_named(suite: &Suite) {
    let app = &suite.app;
    let (world, tenant) = lived_in(suite, "rules").await;
    let mut stranger = event(&world, 100);
    stranger.subject = "who-is-this".to_owned();
    stranger.data = RequestData { status: 200, ..stranger.data };
    store_all(app, &[stranger]).await;
    let mut rule = tenant.get("/api/v1/counting-rule").await["rule"].clone();
    rule["count_server_errors"] = json!(true);
    let (status, preview) =
        post(&tenant, "/api/v1/counting-rule/preview", json!({ "rule": rule, "from": october().start, "to": october().end })).await;
    assert_eq!(status, 200, "{preview}");
    assert_eq!(
        (&preview["events"], &preview["counted_before"], &preview["counted_after"]),
        (&json!(41), &json!(30), &json!(40)),
        "{preview}"
    );
    assert_eq!(preview["changes"], json!([{ "before": "server_error", "after": "", "events": 10 }]));
    let requests = || UsageQuery::new(&world.workspace, "requests", october());
    assert_eq!(value(app, requests()).await, "30", "a preview changes nothing");
    let set = tenant.call(Method::PUT, "/api/v1/counting-rule").json(&rule).send().await.expect("an answer");
    assert_eq!(set.json::<Value>().await.expect("JSON")["version"], 1);
    farebox_metering::timelines::sync(app).await.expect("copied");
    assert_eq!(value(app, requests()).await, "40", "as previewed");

    let unknown = tenant.get("/api/v1/unattributed?from=2026-10-01&to=2026-11-01").await;
    assert_eq!((&unknown["data"][0]["subject"], &unknown["data"][0]["calls"]), (&json!("who-is-this"), &json!(1)), "{unknown}");
    let link = json!({ "subject": "who-is-this" });
    let (status, _) = post(&tenant, &format!("/api/v1/consumers/{}/subjects", world.consumer.id), link).await;
    assert_eq!(status, 200);
    farebox_metering::timelines::sync(app).await.expect("copied");
    assert_eq!(value(app, requests()).await, "41");
    assert_eq!(value(app, requests().only(Dimension::Subject, "who-is-this")).await, "1");
    assert!(tenant.get("/api/v1/unattributed?from=2026-10-01&to=2026-11-01").await["data"].as_array().expect("a list").is_empty());
}
