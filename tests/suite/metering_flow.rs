//! The way through Kafka, meters over properties, proofs, and questions that must be refused.

use std::collections::BTreeMap;
use std::time::Duration;

use bigdecimal::BigDecimal;
use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::event::{AnsweredBy, REQUEST, RequestData, SpecVersion, UsageEvent, kafka_key};
use farebox_core::ids::{PlanVersionId, SubscriptionId, WorkspaceId};
use farebox_core::kafka::EVENTS;
use farebox_core::period::{Period, Window};
use farebox_core::workspace::{self, NewWorkspace};
use farebox_metering::block::Block;
use farebox_metering::consumers::{self, Consumer, NewConsumer};
use farebox_metering::events::{self, EventsQuery};
use farebox_metering::meters::{self, Aggregate, Definition};
use farebox_metering::rule::{self, CountingRule};
use farebox_metering::store;
use farebox_metering::timelines::{self, BEGINNING, TimelineEntry};
use farebox_metering::usage::{self, UsageQuery};
use farebox_metering::{Condition, Dimension, Filter, MeteringError, Test, pipeline, proof, recompute, stored};
use rdkafka::producer::FutureRecord;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::harness::{Suite, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// A workspace with one consumer, `acme`, subscribed since ever.
pub struct World {
    pub workspace: WorkspaceId,
    pub consumer: Consumer,
    pub subscription: SubscriptionId,
}

pub async fn world(app: &App, name: &str) -> World {
    let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
    let name = format!("{name}/t{}", uuid::Uuid::now_v7().simple());
    let new = NewWorkspace {
        name: &name,
        display_name: "Test",
        currency: "USD".parse().expect("a currency"),
        time_zone: chrono_tz::Europe::Berlin,
        test_mode: true,
        is_default: false,
    };
    let workspace = workspace::create(&mut conn, new).await.expect("a workspace").id;
    let new = NewConsumer {
        name: "acme".to_owned(),
        email: None,
        signed_up_at: hour(),
        country: None,
        address: serde_json::json!({}),
        subjects: vec!["acme-prod".to_owned()],
    };
    let consumer = consumers::create(&mut conn, &workspace, new).await.expect("a consumer");
    let subscription = SubscriptionId::new();
    let entry = TimelineEntry {
        from: BEGINNING,
        to: None,
        subscription: subscription.clone(),
        plan_version: PlanVersionId::new(),
        plan: "growth".to_owned(),
    };
    timelines::set_subscription_timeline(&mut conn, &workspace, &consumer.id, "default", &[entry]).await.expect("subscribed");
    timelines::sync(app).await.expect("copied");
    World { workspace, consumer, subscription }
}

pub fn hour() -> DateTime<Utc> {
    "2026-10-12T10:00:00Z".parse().expect("an RFC 3339 time")
}

pub fn october() -> Period {
    farebox_core::period::month(2026, 10, chrono_tz::Europe::Berlin).expect("a month")
}

pub fn event(world: &World, n: u32) -> UsageEvent {
    UsageEvent {
        specversion: SpecVersion::V1,
        id: format!("gw/{n}"),
        source: "gw".to_owned(),
        kind: REQUEST.to_owned(),
        time: hour() + TimeDelta::seconds(i64::from(n)),
        subject: "acme-prod".to_owned(),
        workspace: world.workspace.clone(),
        received_at: hour() + TimeDelta::seconds(i64::from(n) + 1),
        data: RequestData { route: "GET /orders".to_owned(), status: 200, answered_by: AnsweredBy::Upstream, ..RequestData::default() },
    }
}

/// An answered call of orders.
pub fn call(workspace: &WorkspaceId, subject: &str, time: DateTime<Utc>) -> UsageEvent {
    UsageEvent {
        specversion: SpecVersion::V1,
        id: format!("gw/{}", uuid::Uuid::now_v7().simple()),
        source: "gw".to_owned(),
        kind: REQUEST.to_owned(),
        time,
        subject: subject.to_owned(),
        workspace: workspace.clone(),
        received_at: time,
        data: RequestData {
            api: "orders".to_owned(),
            route: "GET /orders".to_owned(),
            status: 200,
            answered_by: AnsweredBy::Upstream,
            ..RequestData::default()
        },
    }
}

pub async fn produce(app: &App, key: &str, payload: &str) {
    let topic = app.kafka.name(EVENTS);
    app.kafka.producer.send(FutureRecord::to(&topic).key(key).payload(payload), PATIENCE).await.expect("Kafka acknowledges");
}

pub async fn store_all(app: &App, all: &[UsageEvent]) {
    store::store(&app.clickhouse, &[&Block::of(all)]).await.expect("stored");
}

pub async fn value(app: &App, query: UsageQuery) -> String {
    let answer = usage::query(app, &query).await.expect("answered");
    assert_eq!(answer.rows.len(), 1, "one window, no groups");
    answer.rows[0].value.to_plain_string()
}

#[derive(Debug, PartialEq, Row, Deserialize)]
struct Stored {
    fields: Vec<String>,
    properties: Vec<(String, String)>,
}

/// Blocks of one insert have words of their own, and texts of any length, none at all, and what is no ASCII.
pub async fn what_is_stored_is_what_was_sent(suite: &Suite) {
    let (app, world) = (&suite.app, world(&suite.app, "stored").await);
    let text = |length: usize, n: u32| "a\u{fc}\u{1f980}\u{0}\"'\\\t".chars().cycle().skip(n as usize).take(length).collect::<String>();
    let sent: Vec<_> = (0..600_u32)
        .map(|n| {
            let mut event = event(&world, n);
            let length = [0, 1, 7, 127, 128, 300, 16_384][n as usize % 7];
            event.time += TimeDelta::microseconds(i64::from(n));
            event.source = format!("source-{}", n % 3);
            event.subject = text(length / 7, n);
            let data = &mut event.data;
            (data.credential, data.api, data.route) = (text(length % 130, n), format!("api-{}", n % 2), text(length, n % 70));
            (data.status, data.latency_us, data.request_bytes, data.cached) =
                (100 + (n % 500) as u16, n, u64::MAX - u64::from(n), n % 2 == 0);
            data.properties = (0..n % 4).map(|k| (format!("/{k}"), text(length % 200, n + k))).collect();
            event
        })
        .collect();
    let blocks: Vec<_> = [&sent[..1], &sent[1..300], &[], &sent[300..]].map(Block::of).into();
    store::store(&app.clickhouse, &blocks.iter().collect::<Vec<_>>()).await.expect("stored");

    let question = "SELECT [id, toString(source), subject, credential, toString(api), toString(route), \
                    toString(toUnixTimestamp64Micro(time)), toString(toUnixTimestamp64Milli(received_at)), toString(status), \
                    toString(latency_us), toString(request_bytes), toString(cached)] AS fields, CAST(properties, 'Array(Tuple(String, String))') AS properties \
                    FROM events FINAL WHERE workspace = ? ORDER BY time";
    let stored: Vec<Stored> = app.clickhouse.query(question).bind(world.workspace.as_str()).fetch_all().await.expect("read");
    let as_stored = |event: UsageEvent| {
        let data = event.data;
        let times = [event.time.timestamp_micros(), event.received_at.timestamp_millis()].map(|time| time.to_string());
        let numbers = [data.status.to_string(), data.latency_us.to_string(), data.request_bytes.to_string(), data.cached.to_string()];
        let texts = [event.id, event.source, event.subject, data.credential, data.api, data.route];
        let fields = texts.into_iter().chain(times).chain(numbers).collect();
        Stored { fields, properties: data.properties.into_iter().collect() }
    };
    assert_eq!(stored.len(), sent.len());
    for (stored, sent) in stored.into_iter().zip(sent) {
        assert_eq!(stored, as_stored(sent));
    }
}

/// Copies count once, and what is no event becomes a dead letter without stopping what is behind it.
pub async fn events_travel_from_kafka_and_count_once(suite: &Suite) {
    let (app, world) = (&suite.app, world(&suite.app, "flow").await);
    for n in 0..200_u32 {
        let event = event(&world, n);
        let text = serde_json::to_string(&event).expect("JSON");
        for _ in 0..=n % 3 {
            produce(app, &kafka_key(&event), &text).await;
        }
        if n % 50 == 0 {
            produce(app, &kafka_key(&event), "{\"no\": \"event\"}").await;
            produce(app, &kafka_key(&event), &text.replace("2026-10-12", "1969-10-12")).await;
        }
    }
    let all = UsageQuery::new(&world.workspace, "calls", october());
    eventually("every event counted", PATIENCE, async || (value(app, all.clone()).await == "200").then_some(())).await;
    // Recomputed, the answer is the same, and comes from rollups alone.
    eventually("all minutes clean", PATIENCE, async || {
        let status = pipeline::status(app, &world.workspace).await.expect("a status");
        assert_eq!((status.counted, stored::before(app, &world.workspace, status.until).await.expect("counted")), (200, 200));
        (status.dirty_minutes == 0 && status.deliveries >= 399).then_some(())
    })
    .await;
    assert_eq!(value(app, all.by(Dimension::Consumer)).await, "200");
    // A copy of a known event and a new one, on a day that was counted before.
    store_all(app, &[event(&world, 0), event(&world, 200)]).await;
    assert_eq!(stored::before(app, &world.workspace, october().end).await.expect("counted"), 201);
    assert_eq!(stored::before(app, &world.workspace, october().start).await.expect("counted"), 0);
    eventually("nothing left in Kafka", PATIENCE, async || {
        pipeline::lag(app).await.filter(|partitions| partitions.iter().all(|p| p.lag == 0)).map(drop)
    })
    .await;
}

/// Another instance joins and leaves while events flow: partitions move to and fro, and each event counts once.
pub async fn a_second_instance_may_come_and_go(suite: &Suite) {
    let (app, world) = (&suite.app, world(&suite.app, "rebalance").await);
    let all = UsageQuery::new(&world.workspace, "calls", october());
    let mut sent = 0;
    for _ in 0..3 {
        let stop = CancellationToken::new();
        let second = tokio::spawn(farebox_metering::run(app.clone(), stop.clone()));
        for _ in 0..400 {
            let event = event(&world, sent);
            produce(app, &kafka_key(&event), &serde_json::to_string(&event).expect("JSON")).await;
            sent += 1;
        }
        stop.cancel();
        second.await.expect("no panic").expect("a clean end");
    }
    let sent = sent.to_string();
    eventually("every event counted", PATIENCE, async || (value(app, all.clone()).await == sent).then_some(())).await;
}

/// Sums of properties keep every decimal, skip what is no decimal, and divide at the end.
pub async fn meters_over_properties_are_exact(suite: &Suite) {
    let (app, world) = (&suite.app, world(&suite.app, "meters").await);
    let amounts = ["0.1", "0.2", "123456789012345.000000000001", "-3", "7", "1e3", "", "0.1234567890123"];
    let mut sent = Vec::new();
    for (n, amount) in (0_u32..).zip(amounts) {
        let mut event = event(&world, n);
        event.kind = "llm.completion".to_owned();
        event.data = RequestData::default();
        event.data.properties = BTreeMap::from([
            ("/total_tokens".to_owned(), amount.to_owned()),
            ("/model".to_owned(), if n % 2 == 0 { "small" } else { "large" }.to_owned()),
        ]);
        sent.push(event);
    }
    for n in 100..103_u32 {
        let mut event = event(&world, n);
        event.data.response_bytes = 1_500_000_000;
        event.data.route = if n == 102 { "GET /other" } else { "GET /files" }.to_owned();
        sent.push(event);
    }
    store_all(app, &sent).await;
    let definition = |name: &str, event: &str, value: &str, divide_by: Option<&str>| Definition {
        name: name.to_owned(),
        event: event.to_owned(),
        aggregate: Aggregate::Sum,
        value: Some(value.to_owned()),
        percentile: None,
        unit: None,
        divide_by: divide_by.map(|by| by.parse().expect("a decimal")),
        filter: BTreeMap::new(),
        counted: false,
        group_by: Vec::new(),
    };
    let mut egress = definition("egress_gb", REQUEST, "response_bytes", Some("1000000000"));
    egress.filter.insert("route".to_owned(), vec!["GET /files".to_owned()].into());
    let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
    for definition in [&definition("tokens", "llm.completion", "/total_tokens", None), &egress] {
        meters::upsert(&mut conn, &world.workspace, definition).await.expect("a meter");
    }
    drop(conn);
    for round in ["raw", "rolled up"] {
        let ask = |meter: &str| UsageQuery::new(&world.workspace, meter, october()).of_subscription(&world.subscription);
        assert_eq!(value(app, ask("tokens")).await, "123456789012349.300000000001", "{round}");
        assert_eq!(value(app, ask("egress_gb")).await, "3", "{round}");
        let by_model = usage::query(app, &ask("tokens").by("/model".parse().expect("a pointer"))).await.expect("answered");
        let by_model: BTreeMap<_, _> = by_model.rows.iter().map(|r| (r.group["/model"].as_str(), r.value.to_plain_string())).collect();
        assert_eq!(
            by_model,
            BTreeMap::from([("large", "-2.8".to_owned()), ("small", "123456789012352.100000000001".to_owned())]),
            "{round}"
        );
        assert_eq!(value(app, ask("calls")).await, "11", "{round}: calls are all events");
        assert_eq!(value(app, ask("requests")).await, "3", "{round}: requests are not");
        recompute::workspace(app, &world.workspace).await.expect("recomputed");
    }
}

/// A proof is read from raw events and agrees with usage; its events are the events.
pub async fn a_proof_agrees_with_usage(suite: &Suite) {
    let (app, world) = (&suite.app, world(&suite.app, "proof").await);
    let mut sent: Vec<_> = (0..50).map(|n| event(&world, n)).collect();
    sent[7].data.status = 503;
    store_all(app, &sent).await;
    let prove = async || proof::of(app, &world.workspace, &world.subscription, "requests", october()).await.expect("a proof");
    let first = prove().await;
    let total = usage::total(app, &world.workspace, "requests", &world.subscription, october()).await.expect("a total");
    assert_eq!((first.events, &first.value), (49, &BigDecimal::from(49)));
    assert_eq!(first.value, total);
    recompute::workspace(app, &world.workspace).await.expect("recomputed");
    assert_eq!(prove().await.hash, first.hash, "the same events, the same hash");
    let behind = proof::events(app, &world.workspace, &world.subscription, "requests", october(), 1000, "").await.expect("events");
    assert_eq!(behind.len(), 49);
    assert!(behind.iter().all(|e| e.id != "gw/7"), "the failed call does not count");
    let page = proof::events(app, &world.workspace, &world.subscription, "requests", october(), 10, &behind[9].id).await.expect("events");
    assert_eq!(page, behind[10..20]);
    // One more event, another proof.
    store_all(app, &[event(&world, 51)]).await;
    let second = prove().await;
    assert_eq!(second.events, 50);
    assert_ne!(second.hash, first.hash);
    // Any number of usage has one; whoever runs its query finds the same.
    let asked = UsageQuery::new(&world.workspace, "requests", october());
    let number = proof::of_usage(app, &asked).await.expect("a proof");
    assert_eq!((number.events, number.value.as_deref(), &number.hash), (50, Some("50"), &second.hash));
    let none = proof::of_usage(app, &asked.clone().only(Dimension::Status, "503")).await.expect("a proof");
    assert_eq!((none.events, none.value.as_deref(), none.hash.as_str()), (0, Some("0"), "0".repeat(32).as_str()));
    let mut by_hand = app.clickhouse.query_raw(&number.query);
    for (name, bound) in &number.parameters {
        by_hand = by_hand.param(name, bound);
    }
    let found: (u64, String, String, u64, u64) = by_hand.fetch_one().await.expect("an answer");
    assert_eq!((found.0, found.1, found.2.as_str()), (50, number.hash, "50"));
}

/// A changed counting rule re-evaluates what was counted before.
pub async fn another_rule_recounts_history(suite: &Suite) {
    let (app, world) = (&suite.app, world(&suite.app, "rule").await);
    let mut sent: Vec<_> = (0..10).map(|n| event(&world, n)).collect();
    sent[0].data.status = 503;
    sent[1].data.marker = "mirror".to_owned();
    store_all(app, &sent).await;
    recompute::workspace(app, &world.workspace).await.expect("recomputed");
    let requests = UsageQuery::new(&world.workspace, "requests", october());
    assert_eq!(value(app, requests.clone()).await, "8");
    let changed = CountingRule { count_server_errors: true, markers: Vec::new(), ..CountingRule::default() };
    let version = rule::set(&mut app.pg.acquire().await.expect("a connection"), &world.workspace, &changed).await.expect("set");
    assert_eq!(version, 1);
    timelines::sync(app).await.expect("copied");
    assert_eq!(value(app, requests.clone()).await, "10");
    recompute::workspace(app, &world.workspace).await.expect("recomputed");
    assert_eq!(value(app, requests).await, "10");
}

/// Text that would like to be SQL stays text, and what would be too much is refused.
pub async fn hostile_and_boundless_questions_are_bounded(suite: &Suite) {
    let app = &suite.app;
    let (mine, theirs) = (world(app, "mine").await, world(app, "theirs").await);
    store_all(app, &[event(&mine, 1), event(&theirs, 1), event(&theirs, 2)]).await;
    let all = || UsageQuery::new(&mine.workspace, "calls", october());
    for hostile in
        ["' OR 1=1 --", "x') OR ('1'='1", "\\'; DROP TABLE events; --", "{ws:String}", "{facts}", "'] UNION ALL SELECT 1", "\0", "?"]
    {
        assert_eq!(value(app, all().only(Dimension::Route, hostile)).await, "0", "{hostile}");
        assert_eq!(value(app, all().only(Dimension::Property(format!("/{hostile}")), hostile)).await, "0", "{hostile}");
        assert!(hostile.parse::<Dimension>().is_err(), "{hostile} names no dimension");
        let refused = usage::query(app, &UsageQuery::new(&mine.workspace, hostile, october())).await;
        assert!(matches!(refused, Err(MeteringError::Invalid { ref field, .. }) if field == "meter"), "{hostile}: {refused:?}");
        let asked = EventsQuery { ids: Some(vec![hostile.to_owned()]), ..EventsQuery::new(&mine.workspace, october()) };
        assert!(events::list(app, &asked).await.expect("answered").is_empty(), "{hostile}");
        for test in [Condition::NotIn(vec![hostile.to_owned()]), Condition::Prefix(hostile.to_owned())] {
            let none = matches!(test, Condition::Prefix(_));
            let asked = all().filter(Filter { dimension: Dimension::Route, test: Test::Other(test) });
            assert_eq!(value(app, asked).await, if none { "0" } else { "1" }, "{hostile}");
        }
    }
    assert_eq!(value(app, all()).await, "1", "only this workspace's");
    assert_eq!(value(app, all().only(Dimension::Consumer, theirs.consumer.id.as_str())).await, "0");
    let decade = Period { start: "2016-01-01T00:00:00Z".parse().expect("a time"), end: "2026-01-01T00:00:00Z".parse().expect("a time") };
    let refused = usage::query(app, &UsageQuery::new(&mine.workspace, "calls", decade).windows(Window::Minute, chrono_tz::UTC)).await;
    assert!(matches!(refused, Err(MeteringError::Invalid { ref field, .. }) if field == "window"), "{refused:?}");
}
