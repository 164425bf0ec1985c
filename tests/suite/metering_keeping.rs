//! What is kept and what is not: raw events expire and numbers stay; a person is erased and no total changes; claims,
//! money in previews, a cluster's schema, and hours that only Kafka knows.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Datelike, Days, NaiveTime, TimeDelta, Utc};
use farebox_core::clock;
use farebox_core::event::kafka_key;
use farebox_core::period::Period;
use farebox_ingest::dead_letters;
use farebox_metering::meters::{self, Aggregate, Definition};
use farebox_metering::timelines::BEGINNING;
use farebox_metering::usage::{self, UsageQuery};
use farebox_metering::{Dimension, audit, links, recompute, repair, retention, tiers, timelines};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Suite, eventually};
use crate::metering_flow::{World, event, october, produce, store_all, value, world};
use crate::shop::Shop;
use crate::tenant::Tenant;

const PATIENCE: Duration = Duration::from_secs(60);

async fn send(tenant: &Tenant, method: Method, path: &str, body: Value) -> (u16, Value) {
    let response = tenant.call(method, path).json(&body).send().await.expect("an answer");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

/// Noon of a day in a month that has expired once only 62 days are kept.
fn long_ago() -> DateTime<Utc> {
    let day = (clock::now() - TimeDelta::days(100)).date_naive().with_day(12).expect("every month has one");
    day.and_time(NaiveTime::from_hms_opt(12, 0, 0).expect("noon")).and_utc()
}

pub async fn raw_events_expire_and_numbers_stay(suite: &Suite) {
    let app = &suite.app;
    let world = world(app, "retention").await;
    let tenant = Tenant::of(suite, &world.workspace).await;
    let old: Vec<_> = (0..40)
        .map(|n| {
            let mut event = event(&world, n);
            event.time = long_ago() + TimeDelta::seconds(i64::from(n) * 7);
            event.received_at = event.time + TimeDelta::seconds(1);
            event
        })
        .collect();
    let young: Vec<_> = (100..110).map(|n| event(&world, n)).collect();
    store_all(app, &[old.clone(), young].concat()).await;
    let period = Period { start: long_ago() - TimeDelta::hours(1), end: long_ago() + TimeDelta::hours(1) };
    let calls = || UsageQuery::new(&world.workspace, "calls", period);

    let (status, refused) = send(&tenant, Method::PUT, "/api/v1/retention", json!({ "keep_days": 30 })).await;
    assert_eq!((status, &refused["errors"][0]["pointer"]), (422, &json!("/keep_days")));
    let (status, set) = send(&tenant, Method::PUT, "/api/v1/retention", json!({ "keep_days": 62 })).await;
    assert_eq!((status, &set["keep_days"], &set["frozen"]), (200, &json!(62), &json!([])));
    retention::step(app, TimeDelta::zero()).await.expect("frozen");
    let left = "SELECT count() FROM events WHERE workspace = ? AND time < now() - INTERVAL 70 DAY";
    let raw: u64 = app.clickhouse.query(left).bind(world.workspace.as_str()).fetch_one().await.expect("an answer");
    assert_eq!(raw, 0, "the events are gone");
    assert_eq!(value(app, calls()).await, "40");
    let kept = tenant.get("/api/v1/retention").await;
    assert_eq!((&kept["frozen"][0]["events"], kept["frozen"][0]["hash"].as_str().map(str::len)), (&json!(40), Some(32)), "{kept}");

    // Questions that only events could answer are refused, in words that help.
    let refused = usage::query(app, &calls().by(Dimension::Source)).await.expect_err("the events are gone").to_string();
    assert!(refused.contains("raw events are kept since"), "{refused}");
    let cut = Period { start: period.start + TimeDelta::seconds(5), ..period };
    usage::query(app, &UsageQuery::new(&world.workspace, "calls", cut)).await.expect_err("a minute that is cut needs its events");
    // What touches it changes nothing, and nothing is moved into it.
    let other = {
        let new = farebox_metering::consumers::NewConsumer {
            name: "other".to_owned(),
            email: None,
            signed_up_at: long_ago(),
            country: None,
            address: json!({}),
            subjects: Vec::new(),
        };
        let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
        let other = farebox_metering::consumers::create(&mut conn, &world.workspace, new).await.expect("a consumer").id;
        links::link_subject(&mut conn, &world.workspace, "acme-prod", &other, BEGINNING, None).await.expect("linked");
        other
    };
    timelines::sync(app).await.expect("copied");
    assert_eq!(value(app, calls().of_consumer(&world.consumer.id)).await, "40");
    assert_eq!(
        value(app, UsageQuery::new(&world.workspace, "calls", october()).of_consumer(&other)).await,
        "10",
        "what is not frozen moved"
    );
    let moved = json!({ "action": "amend", "ids": ["gw/100"], "set": { "time": long_ago() }, "reason": "earlier" });
    let (status, refused) = send(&tenant, Method::POST, "/api/v1/corrections", moved).await;
    assert_eq!((status, &refused["type"]), (409, &json!("urn:farebox:problem:period-frozen")), "{refused}");

    // Late events become dead letters as soon as the running instance knows; those before change no number.
    let n = std::cell::Cell::new(1000);
    eventually("a late event is refused", PATIENCE, async || {
        n.set(n.get() + 1);
        let mut late = old[0].clone();
        late.id = format!("gw/{}", n.get());
        produce(app, &kafka_key(&late), &serde_json::to_string(&late).expect("JSON")).await;
        let filter = dead_letters::Filter { reason: Some("period-frozen".to_owned()), ..dead_letters::Filter::default() };
        let found = dead_letters::list(app, &world.workspace, &filter, 10, None).await.expect("ClickHouse answers");
        (!found.is_empty()).then_some(())
    })
    .await;
    recompute::workspace(app, &world.workspace).await.expect("recomputed");
    tiers::workspace(app, &world.workspace).await.expect("filled");
    farebox_metering::forget_plans();
    assert_eq!(value(app, calls()).await, "40");
    retention::step(app, TimeDelta::zero()).await.expect("nothing to do");
}

/// Each of them by its name, as text.
async fn numbers(suite: &Suite, world: &World) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for meter in ["calls", "requests", "people", "tokens"] {
        let query = UsageQuery::new(&world.workspace, meter, october());
        for (by, query) in [("", query.clone()), (" of acme", query.of_consumer(&world.consumer.id))] {
            let answer = usage::query(&suite.app, &query.by(Dimension::Subscription)).await.expect("answered");
            for row in answer.rows {
                found.insert(format!("{meter}{by} {}", row.group["subscription"]), row.value.to_plain_string());
            }
        }
    }
    found
}

pub async fn a_person_is_erased_and_no_total_changes(suite: &Suite) {
    let app = &suite.app;
    let world = world(app, "erasure").await;
    let tenant = Tenant::of(suite, &world.workspace).await;
    let meter = |name: &str, aggregate, value: &str| Definition {
        name: name.to_owned(),
        event: String::new(),
        aggregate,
        value: Some(value.to_owned()),
        percentile: None,
        unit: None,
        divide_by: None,
        filter: BTreeMap::new(),
        counted: false,
        group_by: vec!["subject".to_owned()],
    };
    {
        let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
        for definition in [meter("people", Aggregate::UniqueCount, "subject"), meter("tokens", Aggregate::Sum, "/tokens")] {
            meters::upsert(&mut conn, &world.workspace, &definition).await.expect("a meter");
        }
    }
    let mut sent: Vec<_> = (0..40).map(|n| event(&world, n * 30)).collect();
    for (n, event) in sent.iter_mut().enumerate() {
        event.data.properties =
            BTreeMap::from([("/tokens".to_owned(), n.to_string()), ("/email".to_owned(), "jo@acme.example".to_owned())]);
    }
    // Somebody else's, a copy with another time, and one that was voided.
    let mut stranger = event(&world, 2000);
    stranger.subject = "stranger".to_owned();
    let mut copy = sent[4].clone();
    copy.time += TimeDelta::hours(2);
    copy.received_at += TimeDelta::hours(2);
    store_all(app, &[sent.clone(), vec![stranger, copy]].concat()).await;
    repair::repair(app, &world.workspace, october()).await.expect("repaired");
    let (status, _) =
        send(&tenant, Method::POST, "/api/v1/corrections", json!({ "action": "void", "ids": [sent[9].id], "reason": "a test" })).await;
    assert_eq!(status, 201);
    recompute::workspace(app, &world.workspace).await.expect("recomputed");
    tiers::workspace(app, &world.workspace).await.expect("filled");
    let bad = json!({ "specversion": "1.0", "type": "farebox.request.v1", "source": "gw", "subject": "acme-prod", "data": {} });
    let refused = tenant.call(Method::POST, "/v1/events").header("content-type", "application/cloudevents+json").body(bad.to_string());
    assert_eq!(refused.send().await.expect("an answer").status(), 400, "an event without an id");
    let letters = async |word: &str| {
        let filter = dead_letters::Filter { text: Some(word.to_owned()), ..dead_letters::Filter::default() };
        dead_letters::list(app, &world.workspace, &filter, 10, None).await.expect("ClickHouse answers").len()
    };
    eventually("the dead letter is there", PATIENCE, async || (letters("acme-prod").await == 1).then_some(())).await;
    let before = numbers(suite, &world).await;
    assert_eq!(before[&format!("people of acme {}", world.subscription)], "1");

    let path = format!("/api/v1/consumers/{}/erasures", world.consumer.id);
    let (status, erased) = send(&tenant, Method::POST, &path, json!({})).await;
    assert_eq!((status, erased["done_at"].is_string()), (201, true), "{erased}");
    assert_eq!((&erased["report"]["dead_letters"], &erased["report"]["keys"]), (&json!(1), &json!(1)), "{erased}");
    let traces =
        "SELECT count() FROM events WHERE workspace = ? AND (subject = 'acme-prod' OR has(mapValues(properties), 'jo@acme.example'))";
    let trace = async || app.clickhouse.query(traces).bind(world.workspace.as_str()).fetch_one::<u64>().await.expect("an answer");
    assert_eq!(trace().await, 0, "not even in rows that were replaced");
    let linked = "SELECT count() FROM link WHERE workspace = ? AND key = 'acme-prod'";
    assert_eq!(app.clickhouse.query(linked).bind(world.workspace.as_str()).fetch_one::<u64>().await.expect("an answer"), 0);
    assert_eq!((letters("acme-prod").await, letters("erased_").await), (0, 1));
    let consumer = tenant.get(&format!("/api/v1/consumers/{}", world.consumer.id)).await;
    assert!(consumer["name"].as_str().is_some_and(|name| name.starts_with("erased ")), "{consumer}");
    for round in ["raw", "rolled up", "in days"] {
        assert_eq!(numbers(suite, &world).await, before, "{round}");
        match round {
            "raw" => drop(recompute::workspace(app, &world.workspace).await.expect("recomputed")),
            _ => drop(tiers::workspace(app, &world.workspace).await.expect("filled")),
        }
    }
    // A copy that comes again neither counts nor stands: its revision is lower.
    store_all(app, &[sent[3].clone(), sent[9].clone()]).await;
    assert_eq!(numbers(suite, &world).await, before);
    let stands = "SELECT count() FROM events FINAL WHERE workspace = ? AND subject = 'acme-prod'";
    assert_eq!(app.clickhouse.query(stands).bind(world.workspace.as_str()).fetch_one::<u64>().await.expect("an answer"), 0);
    // Again: nothing is left to replace.
    let (status, again) = send(&tenant, Method::POST, &path, json!({})).await;
    assert_eq!((status, &again["report"]["keys"]), (201, &json!(0)), "{again}");
    assert_eq!(numbers(suite, &world).await, before);
    let missing = send(&tenant, Method::POST, "/api/v1/consumers/con_00000000000000000000000000000000/erasures", json!({})).await;
    assert_eq!(missing.0, 404);
}

/// Instances that look at the same time share the minutes out: each is published once.
pub async fn two_instances_never_recompute_the_same_minute(suite: &Suite) {
    let app = &suite.app;
    let world = world(app, "claims").await;
    let all: Vec<_> = (0..300)
        .map(|n| {
            let mut event = event(&world, n);
            event.time += TimeDelta::minutes(i64::from(n) * 3);
            event
        })
        .collect();
    store_all(app, &all).await;
    let one = || recompute::workspace(app, &world.workspace);
    let (a, b, c) = tokio::join!(one(), one(), one());
    let done = a.expect("recomputed") + b.expect("recomputed") + c.expect("recomputed");
    let published = "SELECT count(), uniqExact(bucket) FROM rollup_gen WHERE workspace = ? AND rollup = 'billing_minute'";
    let (rows, minutes): (u64, u64) = app.clickhouse.query(published).bind(world.workspace.as_str()).fetch_one().await.expect("an answer");
    assert_eq!((rows, minutes), (300, 300), "{done} were recomputed by these three, the others by the running instance");
    assert_eq!(value(app, UsageQuery::new(&world.workspace, "calls", october())).await, "300");
}

/// Generated from the same migrations; the engine here has no cluster, so it is asked to read them.
pub async fn the_schema_of_a_cluster_is_understood(suite: &Suite) {
    let app = &suite.app;
    let config = farebox_core::config::ClickHouse { cluster: "eu-1".to_owned(), ..app.config.clickhouse.clone() };
    let ddl = farebox_core::clickhouse::ddl(&config);
    let tables = ddl.iter().filter(|s| s.contains("ENGINE = Replicated")).count();
    assert_eq!(tables, ddl.iter().filter(|s| s.contains("ENGINE = Distributed('eu-1'")).count(), "one in front of each");
    assert!(tables >= 20, "{tables}");
    assert!(ddl.iter().all(|s| s.contains("ON CLUSTER 'eu-1'")));
    for statement in &ddl {
        let read = app.clickhouse.query_raw(&format!("EXPLAIN AST {statement}")).fetch_all::<String>().await;
        let lines = read.unwrap_or_else(|error| panic!("{error}: {statement}"));
        assert!(!lines.is_empty());
    }
}

pub async fn previews_tell_money(suite: &Suite) {
    let app = &suite.app;
    let prices = "[{name: Platform, model: flat, amount: {USD: \"10\"}}, {name: Requests, model: per_unit, meter: requests, unit_amount: {USD: \"0.5\"}}]";
    let shop = Shop::selling(suite, "money", prices, &[r#"{feature: orders, routes: ["GET /orders*"]}"#]).await;
    let tenant = &shop.tenant;
    let base = {
        let day = (clock::now() - TimeDelta::days(40)).date_naive().with_day(10).expect("every month has one");
        day.and_time(NaiveTime::MIN).and_utc()
    };
    let world = World {
        workspace: tenant.workspace.id.clone(),
        consumer: farebox_metering::consumers::get(
            &mut app.pg.acquire().await.expect("PostgreSQL answers"),
            &tenant.workspace.id,
            &shop.consumer,
        )
        .await
        .expect("PostgreSQL answers")
        .expect("the consumer"),
        subscription: farebox_core::ids::SubscriptionId::new(),
    };
    let all: Vec<_> = (0..20)
        .map(|n| {
            let mut event = event(&world, n);
            (event.time, event.subject) = (base + TimeDelta::seconds(i64::from(n)), shop.consumer.to_string());
            event.data.api = "orders".to_owned();
            if n < 4 {
                event.data.status = 503;
            }
            if n >= 18 {
                event.subject = "who-is-this".to_owned();
            }
            event
        })
        .collect();
    timelines::sync(app).await.expect("copied");
    store_all(app, &all).await;
    let (from, to) = (base, base + TimeDelta::hours(1));
    let month = base.format("%Y-%m").to_string();
    let wrong = json!({ "action": "amend", "filter": { "status": ["503"] }, "from": from, "to": to, "set": { "status": 200 },
        "reason": "the gateway logged 503 for 200", "dry_run": true });
    let (status, effect) = send(tenant, Method::POST, "/api/v1/corrections", wrong).await;
    assert_eq!(status, 200, "{effect}");
    // 14 requests are 10.00 + 7.00; four more are 2.00 more.
    let money = &effect["money"][0];
    assert_eq!((&money["before"], &money["after"], &money["month"]), (&json!("17.00"), &json!("19.00"), &json!(month)), "{effect}");
    let mut rule = tenant.get("/api/v1/counting-rule").await["rule"].clone();
    rule["count_server_errors"] = json!(true);
    let (status, preview) =
        send(tenant, Method::POST, "/api/v1/counting-rule/preview", json!({ "rule": rule, "from": from, "to": to })).await;
    assert_eq!((status, &preview["money"][0]["after"]), (200, &json!("19.00")), "{preview}");
    let unknown =
        tenant.get(&format!("/api/v1/unattributed?from={}&to={}", from.format("%Y-%m-%d"), (to.date_naive() + Days::new(1)))).await;
    assert_eq!(unknown["unknown"]["usage"]["requests"], "2", "{unknown}");
    let list = &unknown["unknown"]["list_value"][0];
    assert_eq!((&list["plan"], &list["amount"]), (&json!("reader"), &json!("1.00")), "{unknown}");
}

/// Events that Kafka has and the store has none of leave no touch, and are missed all the same.
pub async fn an_hour_that_only_kafka_knows_is_audited(suite: &Suite) {
    let app = &suite.app;
    let world = world(app, "unstored").await;
    // Longer ago than the running system looks by itself.
    let hour = DateTime::from_timestamp((clock::now() - TimeDelta::hours(40)).timestamp().div_euclid(3600) * 3600, 0).expect("in range");
    for n in 0..5 {
        let mut event = event(&world, n);
        (event.time, event.received_at) = (hour + TimeDelta::seconds(i64::from(n)), clock::now());
        produce(app, &kafka_key(&event), &serde_json::to_string(&event).expect("JSON")).await;
    }
    let calls = UsageQuery::new(&world.workspace, "calls", Period { start: hour, end: hour + TimeDelta::hours(1) });
    eventually("everything stored", PATIENCE, async || (value(app, calls.clone()).await == "5").then_some(())).await;
    for table in ["events", "touched"] {
        let gone = format!("ALTER TABLE {table} DELETE WHERE workspace = '{}' SETTINGS mutations_sync = 1", world.workspace);
        app.clickhouse.query_raw(&gone).execute().await.expect("deleted");
    }
    audit::sweep(app, Period { start: hour, end: hour + TimeDelta::hours(1) }).await.expect("audited");
    let kept = audit::recent(&mut app.pg.acquire().await.expect("PostgreSQL answers"), &world.workspace, 5).await.expect("read");
    assert_eq!(kept.len(), 1);
    assert!(kept[0].differences.iter().any(|d| d.contains("5 events of Kafka are not stored")), "{:?}", kept[0].differences);
}

fn line(n: u32) -> String {
    line_at(n, october().start + TimeDelta::hours(30) + TimeDelta::minutes(i64::from(n)))
}

fn line_at(n: u32, time: DateTime<Utc>) -> String {
    json!({ "specversion": "1.0", "id": n.to_string(), "source": "old", "type": "farebox.request.v1", "time": time, "subject": "acme-prod",
        "data": { "route": "GET /orders", "status": 200 } })
    .to_string()
        + "\n"
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(line).collect()
}

pub async fn history_is_brought_in_as_a_job(suite: &Suite) {
    let app = &suite.app;
    let world = world(app, "history").await;
    let tenant = Tenant::of(suite, &world.workspace).await;
    let there: Vec<_> = (0..5)
        .map(|n| {
            let mut event = event(&world, n);
            event.id = format!("old/{n}");
            event.time = october().start + TimeDelta::hours(30) + TimeDelta::minutes(i64::from(n));
            event
        })
        .collect();
    store_all(app, &there).await;
    let calls = || UsageQuery::new(&world.workspace, "calls", october());
    let (status, refused) =
        send(&tenant, Method::POST, "/api/v1/backfills", json!({ "source": "old", "file": "f1", "format": "no-such" })).await;
    assert_eq!((status, &refused["errors"][0]["pointer"]), (422, &json!("/format")), "{refused}");

    let begin = async |file: &str| {
        let (status, job) = send(&tenant, Method::POST, "/api/v1/backfills", json!({ "source": "old", "file": file })).await;
        assert_eq!((status, &job["state"]), (201, &json!("open")), "{job}");
        format!("/api/v1/backfills/{}", job["id"].as_str().expect("an id"))
    };
    let put = async |path: &str, number: u32, body: String| {
        let request =
            tenant.call(Method::PUT, &format!("{path}/chunks/{number}")).header("content-type", "application/x-ndjson").body(body);
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), response.json::<Value>().await.expect("JSON"))
    };
    let path = begin("f1").await;
    let (status, taken) = put(&path, 0, lines(0..100) + "{\"specversion\":\"1.0\"}\n").await;
    assert_eq!((status, &taken["accepted"], taken["rejected"].as_array().map(Vec::len)), (200, &json!(100), Some(1)), "{taken}");
    assert_eq!(put(&path, 2, lines(0..1)).await.0, 409, "no chunk is left out");
    let (_, again) = put(&path, 0, lines(0..100)).await;
    assert_eq!((&again["accepted"], &again["next_chunk"]), (&json!(0), &json!(1)));
    assert_eq!(put(&path, 1, lines(90..140)).await.0, 200);
    assert_eq!(value(app, calls()).await, "5", "nothing counts yet");
    let preview = tenant.get(&format!("{path}/preview")).await;
    assert_eq!(
        (&preview["events"], &preview["new"], &preview["already_there"], &preview["frozen"]),
        (&json!(140), &json!(135), &json!(5), &json!(0)),
        "{preview}"
    );
    assert_eq!((&preview["days"][0]["consumer"], &preview["days"][0]["events"]), (&json!(world.consumer.id), &json!(135)), "{preview}");
    let gained: Vec<_> = preview["meters"].as_array().expect("meters").iter().filter(|m| m["meter"] == "requests").collect();
    assert_eq!(
        (gained.len(), &gained[0]["after"], &gained[0]["subscription"]),
        (1, &json!("135"), &json!(world.subscription)),
        "{preview}"
    );

    let commit = format!("{path}/commit");
    let (status, refused) = send(&tenant, Method::POST, &commit, json!({ "expected_events": 134 })).await;
    assert_eq!((status, &refused["type"]), (409, &json!("urn:farebox:problem:choice-changed")));
    assert_eq!(send(&tenant, Method::POST, &commit, json!({ "expected_events": 135 })).await.0, 202);
    let done = async |path: &str| {
        eventually("the backfill is done", PATIENCE, async || {
            let job = tenant.get(path).await;
            (job["state"] == "done").then_some(job)
        })
        .await
    };
    let job = done(&path).await;
    assert_eq!(
        (&job["minutes"], &job["minutes_done"], &job["new"], &job["already_there"]),
        (&json!(140), &json!(140), &json!(135), &json!(5))
    );
    for round in ["raw", "rolled up"] {
        assert_eq!(value(app, calls().of_consumer(&world.consumer.id)).await, "140", "{round}");
        recompute::workspace(app, &world.workspace).await.expect("recomputed");
    }
    // The pipeline's audit knows that these were never on Kafka.
    let day = Period { start: october().start + TimeDelta::hours(30), end: october().start + TimeDelta::hours(34) };
    let audited = audit::pipeline(app, &world.workspace, day).await.expect("audited");
    assert!(!audited.differences.iter().any(|d| (5..140).any(|n| d.contains(&format!("old/{n},")))), "{:?}", audited.differences);

    // The same file again brings nothing; it is forgotten.
    let path = begin("f1").await;
    put(&path, 0, lines(0..100)).await;
    assert_eq!(tenant.get(&format!("{path}/preview")).await["new"], 0);
    let cancelled = tenant.call(Method::DELETE, &path).send().await.expect("an answer");
    assert_eq!(cancelled.json::<Value>().await.expect("JSON")["state"], "cancelled");
    assert_eq!(put(&path, 1, lines(100..101)).await.0, 409);

    // The topic of a source, whose events were too old when they came; never anybody else's.
    let topic = format!("history-{}", uuid::Uuid::now_v7().simple());
    app.kafka.create_exact_topics(&[&topic]).await.expect("created");
    for n in 200..220 {
        let text = line_at(n, long_ago() + TimeDelta::minutes(i64::from(n)));
        let record = rdkafka::producer::FutureRecord::<str, str>::to(&topic).payload(text.trim_end());
        app.kafka.producer.send(record, PATIENCE).await.expect("Kafka acknowledges");
    }
    let new = json!({ "source": "old", "topic": topic });
    assert_eq!(send(&tenant, Method::POST, "/api/v1/backfills", new.clone()).await.0, 422, "the topic of no source of this workspace");
    {
        let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
        let source = farebox_metering::sources::upsert(&mut conn, &world.workspace, "old", "cloudevents", Some(&topic), false);
        source.await.expect("a source");
    }
    let (status, job) = send(&tenant, Method::POST, "/api/v1/backfills", new).await;
    assert_eq!((status, &job["state"]), (201, &json!("reading")), "{job}");
    let path = format!("/api/v1/backfills/{}", job["id"].as_str().expect("an id"));
    let preview = eventually("the topic is read", PATIENCE, async || {
        (tenant.get(&path).await["state"] == "open").then_some(())?;
        Some(tenant.get(&format!("{path}/preview")).await)
    })
    .await;
    assert_eq!(preview["new"], 20, "{preview}");
    assert_eq!(send(&tenant, Method::POST, &format!("{path}/commit"), json!({ "expected_events": 20 })).await.0, 202);
    done(&path).await;
    let then = Period { start: long_ago(), end: long_ago() + TimeDelta::days(1) };
    assert_eq!(value(app, UsageQuery::new(&world.workspace, "calls", then)).await, "20");
}
