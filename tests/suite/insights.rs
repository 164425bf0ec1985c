//! The worked examples of the KPI definitions, through the real pipeline: events on Kafka as ingest writes them,
//! counted by metering, answered by the routes.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::App;
use farebox_core::auth::{self, Scope};
use farebox_core::event::{AnsweredBy, REQUEST, RequestData, SpecVersion, UsageEvent, identity, kafka_key};
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::kafka::EVENTS;
use farebox_core::workspace::{self, NewWorkspace};
use farebox_metering::consumers::{self, NewConsumer};
use farebox_metering::credentials::{self, NewCredential};
use farebox_metering::sources;
use rdkafka::producer::FutureRecord;
use serde_json::{Value, json};

use crate::harness::eventually;

const WAIT: Duration = Duration::from_secs(60);
const SOURCE: &str = "history";

/// Example 1, in a zone whose days begin at 22:00 UTC, with copies, failures and others' calls in between.
pub async fn worked_example_1_n_day_retention(app: &App, base_url: &str) {
    let world = World::new(app, base_url, &["A", "B"]).await;
    let mut events = Vec::new();
    for (who, days) in [("A", vec![0, 1, 2, 5, 6]), ("B", vec![1, 2, 3, 6])] {
        for day in days {
            // Half past midnight in Berlin: still the day before in UTC.
            events.push(world.call(who, midnight(day) + TimeDelta::minutes(30), 200));
        }
    }
    let mut copies = events.clone();
    events.append(&mut copies);
    events.push(world.call("A", midnight(3) + TimeDelta::hours(9), 500));
    events.push(world.call("B", midnight(4) + TimeDelta::hours(9), 404));
    let mut sandbox = world.call("B", midnight(5) + TimeDelta::hours(9), 200);
    sandbox.data.environment = "sandbox".to_owned();
    events.push(sandbox);
    world.send(app, &events).await;
    world.all_counted(12).await;

    let common = "interval=day&from=2026-06-10&to=2026-06-21&time_zone=Europe/Berlin";
    let answer = world.kpi(&format!("retention?mode=n_day&cohort=recurring&{common}")).await;
    let expected: [&[u64]; 7] = [&[1, 1, 1, 0, 0, 1, 1], &[2, 2, 1, 0, 1, 2], &[2, 1, 0, 1, 2], &[1, 0, 0, 1], &[], &[1, 1], &[2]];
    let rows = answer["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 11);
    for (day, row) in rows.iter().enumerate() {
        let columns = 11 - day;
        let start = expected.get(day).copied().unwrap_or_default();
        let padded: Vec<u64> = start.iter().copied().chain(std::iter::repeat(0)).take(columns).collect();
        assert_eq!(row["values"], json!(padded), "cohort of day {day}");
        assert_eq!(row["size"], json!(padded[0]));
        assert_eq!(row["complete"], json!(vec![true; columns]), "long over, and the source delivers history");
        assert_eq!(row["cohort"], json!(format!("2026-06-{}", 10 + day)));
    }
    // 1 + 2 + 1 + 0 + 1 of the 1 + 2 + 2 + 1 + 1 + 2 that started came back the day after.
    assert_eq!(answer["mean"][1], json!("0.555556"));
    for field in ["definition", "version", "formula", "unit", "time_zone"] {
        assert!(!answer[field].is_null(), "{field} is missing");
    }

    let csv = world.text(&format!("retention?{common}"), "text/csv").await;
    assert_eq!(
        csv.lines().take(3).collect::<Vec<_>>(),
        ["cohort,size,period,value,rate,complete", "2026-06-10,1,0,1,1,true", "2026-06-10,1,1,1,1,true"]
    );

    let stickiness = world.kpi(&format!("stickiness?{common}")).await;
    assert_eq!(
        stickiness["rows"],
        json!([{"intervals": 4, "consumers": 1, "complete": true}, {"intervals": 5, "consumers": 1, "complete": true}])
    );
    let usage = world.kpi("usage?interval=month&from=2026-06-01&to=2026-07-01&time_zone=Europe/Berlin").await;
    assert_eq!((&usage["rows"][0]["calls"], &usage["rows"][0]["consumers"]), (&json!(12), &json!(2)));
    assert_eq!(
        (&usage["rows"][0]["client_errors"], &usage["rows"][0]["server_errors"], &usage["rows"][0]["error_rate"]),
        (&json!(1), &json!(1), &json!("0.166667"))
    );
}

/// Example 2: in n or later.
pub async fn worked_example_2_unbounded_retention(app: &App, base_url: &str) {
    let active = [("P1", vec![0, 3, 4]), ("P2", vec![0, 1]), ("P3", vec![1, 2, 3]), ("P4", vec![3, 4]), ("P5", vec![4])];
    let world = World::play(app, base_url, &active).await;
    let answer = world.kpi("retention?mode=unbounded&interval=day&from=2026-06-11&to=2026-06-16&time_zone=Europe/Berlin").await;
    let values: Vec<_> = answer["rows"].as_array().expect("rows").iter().map(|row| row["values"].clone()).collect();
    assert_eq!(json!(values), json!([[2, 1, 1, 0, 0], [1, 1, 0, 0], [3, 2, 0], [3, 0], [0]]));
}

/// Example 3: 9 to 19 January are days 0 to 10 here.
pub async fn worked_example_3_lifecycle(app: &App, base_url: &str) {
    let active = [("p1", vec![2, 3, 4, 6, 8, 10]), ("p2", vec![0, 3]), ("p3", vec![3]), ("p4", vec![6])];
    let world = World::play(app, base_url, &active).await;
    let answer = world.kpi("lifecycle?interval=day&from=2026-06-10&to=2026-06-21&time_zone=Europe/Berlin").await;
    let column = |name: &str| answer["rows"].as_array().expect("rows").iter().map(|row| row[name].clone()).collect::<Vec<_>>();
    assert_eq!(json!(column("new")), json!([1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0]));
    assert_eq!(json!(column("returning")), json!([0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]));
    assert_eq!(json!(column("resurrecting")), json!([0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 1]));
    assert_eq!(json!(column("dormant")), json!([0, -1, 0, 0, -2, -1, 0, -2, 0, -1, 0]));
}

/// Example 4, with sign-up, key and first call as the steps; and activation of the same people.
pub async fn worked_example_4_funnel(app: &App, base_url: &str) {
    let world = World::new(app, base_url, &[]).await;
    let hour = |h: i64| midnight(0) + TimeDelta::hours(h);
    let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
    let mut callers = BTreeMap::new();
    for (who, signed_up, key) in [("p1", 12, 13), ("p2", 14, 16), ("p3", 14, 16)] {
        let id = consumer(&mut conn, &world.workspace, who, hour(signed_up)).await;
        let new = NewCredential {
            name: "first".to_owned(),
            hint: "k…".to_owned(),
            hash: farebox_core::secret::hash(id.as_str()),
            environment: "production".to_owned(),
            created_at: hour(key),
            expires_at: None,
        };
        credentials::add(&mut conn, &world.workspace, &id, new).await.expect("a key");
        callers.insert(who, id);
    }
    drop(conn);
    let world = World { consumers: callers, ..world };
    world.send(app, &[world.call("p1", hour(15), 200), world.call("p3", hour(17), 200), world.call("p3", hour(19), 200)]).await;
    world.all_counted(3).await;

    let answer =
        world.kpi("funnel?steps=signup,key,call&window=14d&interval=day&from=2026-06-10&to=2026-06-11&time_zone=Europe/Berlin").await;
    let steps = &answer["steps"];
    assert_eq!(json!([steps[0]["count"], steps[1]["count"], steps[2]["count"]]), json!([3, 3, 2]));
    assert_eq!((&steps[1]["mean_seconds"], &steps[1]["median_seconds"]), (&json!(6000), &json!(7200)));
    assert_eq!((&steps[2]["mean_seconds"], &steps[2]["median_seconds"]), (&json!(5400), &json!(5400)));
    assert_eq!((&steps[2]["conversion_from_start"], &steps[2]["complete"]), (&json!("0.666667"), &json!(true)));

    let activation = world.kpi("activation?interval=week&from=2026-06-08&to=2026-06-15&time_zone=Europe/Berlin").await;
    let row = &activation["rows"][0];
    assert_eq!(json!([row["size"], row["converted"], row["rate"], row["complete"]]), json!([3, 2, "0.666667", true]));
    assert_eq!((&row["median_seconds"], &row["p90_seconds"]), (&json!(3 * 3600), &json!(3 * 3600)));
}

/// Wrong parameters are named; an unknown KPI, no token and another's token tell nothing.
pub async fn wrong_questions_get_clear_problems(app: &App, base_url: &str) {
    let world = World::new(app, base_url, &["A"]).await;
    for (question, pointer) in [
        ("retention?mode=weekly", "mode"),
        ("retention?mode=bracket", "brackets"),
        ("retention?time_zone=Mars/Olympus", "time_zone"),
        ("funnel?steps=signup,keys", "steps"),
        ("lifecycle?periods=3", "periods"),
        ("usage?from=2026-06-10&to=2026-06-10", "to"),
        ("conversion?unit=credential", "start"),
    ] {
        let response = world.ask(question, "application/json").await;
        assert_eq!(response.status(), 422, "{question}");
        let problem: Value = response.json().await.expect("a problem");
        assert_eq!(problem["errors"][0]["pointer"], json!(pointer), "{problem}");
    }
    assert_eq!(world.ask("happiness", "application/json").await.status(), 404);
    let nobody = reqwest::get(format!("{base_url}/api/v1/kpis/retention")).await.expect("an answer");
    assert_eq!(nobody.status(), 401);
    let other = World::new(app, base_url, &[]).await;
    let versions = other.kpi("versions").await;
    assert_eq!(versions["rows"], json!([]));
}

/// A workspace of its own, its consumers and a token to read with.
struct World {
    workspace: WorkspaceId,
    consumers: BTreeMap<&'static str, ConsumerId>,
    base_url: String,
    token: String,
}

impl World {
    async fn new(app: &App, base_url: &str, names: &[&'static str]) -> Self {
        let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
        let new = NewWorkspace {
            name: &format!("kpis/w{}", uuid::Uuid::now_v7().simple()),
            display_name: "KPIs",
            currency: "EUR".parse().expect("a currency"),
            time_zone: chrono_tz::UTC,
            test_mode: false,
            is_default: false,
        };
        let workspace = workspace::create(&mut conn, new).await.expect("a workspace").id;
        sources::upsert(&mut conn, &workspace, SOURCE, "cloudevents", None, true).await.expect("a source");
        let (_, token) = auth::create_token(&mut conn, &workspace, "reader", &[Scope::Read], false, None).await.expect("a token");
        let mut consumers = BTreeMap::new();
        for name in names {
            consumers.insert(*name, consumer(&mut conn, &workspace, name, midnight(-30)).await);
        }
        Self { workspace, consumers, base_url: base_url.to_owned(), token: token.reveal().to_owned() }
    }

    /// Everybody calls at noon of their days.
    async fn play(app: &App, base_url: &str, active: &[(&'static str, Vec<i64>)]) -> Self {
        let names: Vec<_> = active.iter().map(|(who, _)| *who).collect();
        let world = Self::new(app, base_url, &names).await;
        let calls =
            active.iter().flat_map(|(who, days)| days.iter().map(|day| world.call(who, midnight(*day) + TimeDelta::hours(12), 200)));
        let events: Vec<_> = calls.collect();
        world.send(app, &events).await;
        world.all_counted(events.len()).await;
        world
    }

    fn call(&self, who: &str, time: DateTime<Utc>, status: u16) -> UsageEvent {
        UsageEvent {
            specversion: SpecVersion::V1,
            id: identity(SOURCE, &format!("{who}-{}", time.timestamp()), ""),
            source: SOURCE.to_owned(),
            kind: REQUEST.to_owned(),
            time,
            subject: self.consumers[who].as_str().to_owned(),
            workspace: self.workspace.clone(),
            received_at: farebox_core::clock::now(),
            data: RequestData {
                api: "orders".to_owned(),
                api_version: "v1".to_owned(),
                route: "GET /orders".to_owned(),
                method: "GET".to_owned(),
                status,
                latency_us: 1200,
                answered_by: AnsweredBy::Upstream,
                ..RequestData::default()
            },
        }
    }

    async fn send(&self, app: &App, events: &[UsageEvent]) {
        let topic = app.kafka.name(EVENTS);
        for event in events {
            let (key, payload) = (kafka_key(event), serde_json::to_vec(event).expect("serialises"));
            let record = FutureRecord::to(&topic).key(&key).payload(&payload);
            app.kafka.producer.send(record, WAIT).await.expect("Kafka acknowledges");
        }
    }

    /// Waits until usage has all calls, whose they are included.
    async fn all_counted(&self, calls: usize) {
        eventually("all calls are counted and attributed", WAIT, || async move {
            let usage = self.kpi("usage?interval=month&from=2026-06-01&to=2026-07-01&time_zone=Europe/Berlin").await;
            let of_known: u64 = usage["top"].as_array()?.iter().filter_map(|top| top["calls"].as_u64()).sum();
            (of_known == calls as u64).then_some(())
        })
        .await;
    }

    async fn ask(&self, question: &str, accept: &str) -> reqwest::Response {
        let request = reqwest::Client::new().get(format!("{}/api/v1/kpis/{question}", self.base_url));
        request.bearer_auth(&self.token).header("accept", accept).send().await.expect("an answer")
    }

    async fn text(&self, question: &str, accept: &str) -> String {
        let response = self.ask(question, accept).await;
        let (status, text) = (response.status(), response.text().await.expect("a body"));
        assert!(status.is_success(), "{question}: {text}");
        text
    }

    async fn kpi(&self, question: &str) -> Value {
        serde_json::from_str(&self.text(question, "application/json").await).expect("JSON")
    }
}

/// Midnight in Berlin of the n-th day from 10 June 2026.
fn midnight(day: i64) -> DateTime<Utc> {
    "2026-06-09T22:00:00Z".parse::<DateTime<Utc>>().expect("an instant") + TimeDelta::days(day)
}

async fn consumer(conn: &mut sqlx::PgConnection, workspace: &WorkspaceId, name: &str, signed_up_at: DateTime<Utc>) -> ConsumerId {
    let new = NewConsumer { name: name.to_owned(), email: None, signed_up_at, country: None, address: json!({}), subjects: Vec::new() };
    consumers::create(conn, workspace, new).await.expect("a consumer").id
}
