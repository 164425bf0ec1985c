//! Questions about usage: windows in any zone, filters, top groups, comparison, running totals, the events behind a
//! number, the live tail.

use std::collections::BTreeMap;
use std::time::Duration;

use bigdecimal::BigDecimal;
use chrono::{DateTime, Datelike, NaiveDate, Offset, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;
use farebox_core::auth::{self, Scope};
use farebox_core::period::{Period, Window};
use farebox_metering::usage::{self, Compare, UsageQuery};
use farebox_metering::{Condition, Dimension, Filter, Test, recompute};
use futures::StreamExt;
use reqwest::header::ACCEPT;
use serde_json::Value;

use crate::harness::Suite;
use crate::metering_flow::{World, event, hour, october, store_all, world};

/// Events around every clock change of 2026 in these zones.
const CHANGES: [&str; 6] = ["2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01"];

pub async fn windows_follow_the_calendar_across_clock_changes(suite: &Suite) {
    let (app, world) = (&suite.app, world(&suite.app, "zones").await);
    let mut sent = Vec::new();
    for (n, change) in (0_u32..).zip(CHANGES) {
        let day: NaiveDate = change.parse().expect("a date");
        let start = day.and_hms_opt(0, 0, 0).expect("midnight").and_utc() - TimeDelta::days(2);
        for k in 0..330_u32 {
            let mut event = event(&world, n * 1000 + k);
            event.time = start + TimeDelta::seconds(i64::from(k) * 1009);
            sent.push(event);
        }
    }
    let times: Vec<_> = sent.iter().map(|e| e.time).collect();
    store_all(app, &sent).await;
    let year = Period { start: at("2026-01-01T00:00:00Z"), end: at("2027-01-01T00:00:00Z") };
    for round in ["raw", "rolled up"] {
        for zone in [chrono_tz::Europe::Berlin, chrono_tz::America::New_York, chrono_tz::Australia::Lord_Howe, chrono_tz::Asia::Kathmandu] {
            for window in [Window::Hour, Window::Day, Window::Week, Window::SundayWeek, Window::Month] {
                let asked = UsageQuery::new(&world.workspace, "calls", year).windows(window, zone);
                let answer = usage::query(app, &asked).await.expect("answered");
                let mut found: BTreeMap<String, u64> = BTreeMap::new();
                for row in &answer.rows {
                    *found.entry(label(row.window.start, window, zone)).or_default() +=
                        row.value.to_plain_string().parse::<u64>().expect("a count");
                    assert_eq!(
                        label(row.window.end - TimeDelta::seconds(1), window, zone),
                        label(row.window.start, window, zone),
                        "{window:?} {zone}: one label"
                    );
                    assert_ne!(
                        label(row.window.end, window, zone),
                        label(row.window.start, window, zone),
                        "{window:?} {zone}: a whole one"
                    );
                }
                assert_eq!(found.len(), answer.rows.len(), "{window:?} {zone}: no window twice");
                let mut expected: BTreeMap<String, u64> = BTreeMap::new();
                for time in &times {
                    *expected.entry(label(*time, window, zone)).or_default() += 1;
                }
                assert_eq!(found, expected, "{window:?} {zone} {round}");
            }
        }
        recompute::workspace(app, &world.workspace).await.expect("recomputed");
    }
}

/// What a person in the zone would call the window, by chrono-tz alone.
fn label(at: DateTime<Utc>, window: Window, zone: Tz) -> String {
    let local = at.with_timezone(&zone);
    let date = local.date_naive();
    match window {
        // An hour that comes twice is two; one whose clock jumps by half is cut there.
        Window::Hour => format!("{date} {:02} {}", local.hour(), local.offset().fix()),
        Window::Day => date.to_string(),
        Window::Week => format!("{:?}", date.iso_week()),
        Window::SundayWeek => (date - TimeDelta::days(i64::from(date.weekday().num_days_from_sunday()))).to_string(),
        Window::Month => format!("{}-{}", date.year(), date.month()),
        Window::Minute | Window::None => panic!("not asked for"),
    }
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an RFC 3339 time")
}

/// 60 calls in October's first hours, over routes, statuses and regions; 10 in September.
async fn lived_in(suite: &Suite, name: &str) -> World {
    let world = world(&suite.app, name).await;
    let mut sent = Vec::new();
    for n in 0..60_u32 {
        let mut event = event(&world, n);
        event.time = hour() + TimeDelta::hours(i64::from(n % 3) * 24);
        event.data.route = format!("GET /r{}", n % 4 + n % 2);
        event.data.status = if n % 10 == 0 { 503 } else { 200 };
        event.data.response_bytes = u64::from(n);
        if n % 2 == 0 {
            event.data.properties = BTreeMap::from([
                ("/region".to_owned(), if n % 4 == 0 { "eu-west" } else { "us-east" }.to_owned()),
                ("/size".to_owned(), n.to_string()),
            ]);
        }
        if n >= 50 {
            event.time -= TimeDelta::days(30);
        }
        if n == 7 {
            event.subject = "nobody-knows".to_owned();
        }
        sent.push(event);
    }
    store_all(&suite.app, &sent).await;
    world
}

pub async fn filters_top_comparison_and_running_totals(suite: &Suite) {
    let app = &suite.app;
    let world = lived_in(suite, "questions").await;
    for round in ["raw", "rolled up"] {
        let all = || UsageQuery::new(&world.workspace, "calls", october());
        let count = async |dimension: &str, test: Test| {
            let asked = all().filter(Filter { dimension: dimension.parse().expect("a dimension"), test });
            usage::query(app, &asked).await.expect("answered").rows[0].value.to_plain_string()
        };
        let other = Test::Other;
        assert_eq!(count("status", vec!["503".to_owned()].into()).await, "5", "{round}");
        assert_eq!(count("status", other(Condition::NotIn(vec!["503".to_owned()]))).await, "45", "{round}");
        assert_eq!(count("status", other(Condition::Gte("500".parse().expect("a number")))).await, "5", "{round}");
        assert_eq!(count("status", other(Condition::Lt("500".parse().expect("a number")))).await, "45", "{round}");
        assert_eq!(count("route", other(Condition::Prefix("GET /r0".to_owned()))).await, "13", "{round}");
        assert_eq!(count("/region", other(Condition::Exists(true))).await, "25", "{round}");
        assert_eq!(count("/region", other(Condition::Exists(false))).await, "25", "{round}");
        assert_eq!(count("/region", other(Condition::Prefix("eu".to_owned()))).await, "13", "{round}");
        assert_eq!(count("/size", other(Condition::Gt("30.5".parse().expect("a number")))).await, "9", "{round}: 32, 34 to 48");
        assert_eq!(count("consumer", vec![String::new()].into()).await, "1", "{round}: the unknown consumer's");

        // The greatest group, and all others as one, in every window.
        let mut asked = all().by(Dimension::Route).windows(Window::Day, chrono_tz::Europe::Berlin);
        let every = usage::query(app, &asked).await.expect("answered");
        asked.top = Some(1);
        let top = usage::query(app, &asked).await.expect("answered");
        let sum = |answer: &usage::UsageAnswer, other: bool| -> u64 {
            let rows = answer.rows.iter().filter(|row| row.other == other);
            rows.map(|row| row.value.to_plain_string().parse::<u64>().expect("a count")).sum()
        };
        let mut by_route: BTreeMap<String, u64> = BTreeMap::new();
        for row in &every.rows {
            *by_route.entry(row.group["route"].clone()).or_default() += row.value.to_plain_string().parse::<u64>().expect("a count");
        }
        let greatest = *by_route.values().max().expect("some");
        assert_eq!((sum(&top, false), sum(&top, true)), (greatest, 50 - greatest), "{round}");
        assert_eq!(top.rows.len(), 6, "{round}: the greatest and the others, on three days");

        // September has 10, on the same days of the month but two.
        let mut asked = all();
        asked.compare = Some(Compare::Previous);
        let answer = usage::query(app, &asked).await.expect("answered");
        let row = &answer.rows[0];
        assert_eq!(
            (row.value.to_plain_string(), row.previous.as_ref().map(BigDecimal::to_plain_string)),
            ("50".into(), Some("10".into())),
            "{round}"
        );
        assert_eq!(usage::change(&row.value, row.previous.as_ref().expect("some")).map(|n| n.to_plain_string()).as_deref(), Some("400.00"));
        assert_eq!(answer.previous.map(|p| p.end), Some(october().start), "{round}");

        // A running total has every day, ends at the whole, and never falls.
        let mut asked = all().windows(Window::Day, chrono_tz::Europe::Berlin);
        asked.cumulative = true;
        let rows = usage::query(app, &asked).await.expect("answered").rows;
        let values: Vec<u64> = rows.iter().map(|row| row.value.to_plain_string().parse().expect("a count")).collect();
        assert!(values.is_sorted() && values.len() >= 14, "{round}: {values:?}");
        assert_eq!((values.first(), values.last()), (Some(&0), Some(&50)), "{round}");
        recompute::workspace(app, &world.workspace).await.expect("recomputed");
    }
}

struct Api {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Api {
    async fn of(suite: &Suite, world: &World) -> Self {
        let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL answers");
        let (_, token) = auth::create_token(&mut conn, &world.workspace, "reader", &[Scope::Read], true, None).await.expect("a token");
        Self { http: reqwest::Client::new(), base: suite.credentials.base_url.clone(), token: token.reveal().to_owned() }
    }

    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    async fn json(&self, path: &str) -> (u16, Value) {
        let response = self.get(path).send().await.expect("an answer");
        (response.status().as_u16(), response.json().await.expect("JSON"))
    }
}

pub async fn the_api_answers_in_json_and_csv_and_refuses_clearly(suite: &Suite) {
    let world = lived_in(suite, "api").await;
    let api = Api::of(suite, &world).await;
    let range = "from=2026-10-01&to=2026-11-01";
    let (status, answer) = api.json(&format!("/api/v1/usage?{range}&group_by=consumer")).await;
    assert_eq!(status, 200, "{answer}");
    let rows = answer["data"].as_array().expect("rows");
    let named: BTreeMap<_, _> =
        rows.iter().map(|r| (r["group"]["consumer"]["name"].as_str().expect("a name"), r["value"].as_str().expect("a value"))).collect();
    assert_eq!(named, BTreeMap::from([("acme", "49"), ("Unknown", "1")]));
    let (_, unknown) = api.json(&format!("/api/v1/usage?{range}&consumer=unknown")).await;
    assert_eq!(unknown["data"][0]["value"], "1");

    // The sample holds exactly the events behind the number.
    let (_, behind) = api.json(&format!("/api/v1/usage/events?{range}&meter=requests&filter[route][prefix]=GET%20/r0&limit=500")).await;
    let (_, number) = api.json(&format!("/api/v1/usage?{range}&meter=requests&filter[route][prefix]=GET%20/r0")).await;
    assert_eq!(behind["data"].as_array().expect("events").len().to_string(), number["data"][0]["value"].as_str().expect("a value"));
    assert!(behind["data"].as_array().expect("events").iter().all(|e| e["counted"] == true && e["amount"] == "1"));

    let csv =
        api.get(&format!("/api/v1/usage?{range}&window=day&group_by=status&compare=previous&time_zone=UTC")).header(ACCEPT, "text/csv");
    let csv = csv.send().await.expect("an answer").text().await.expect("text");
    insta::assert_snapshot!(csv);

    for (path, field) in [
        ("/api/v1/usage?from=2016-01-01&to=2026-01-01&window=minute", "window"),
        ("/api/v1/usage?meter=nope", "meter"),
        ("/api/v1/usage?time_zone=Mars/Olympus", "time_zone"),
        ("/api/v1/usage?filter[colour]=red", "filter[colour]"),
        ("/api/v1/usage?filter[status][about]=3", "filter[status][about]"),
        ("/api/v1/usage?filter[status][gt]=much", "filter[status][gt]"),
        ("/api/v1/usage?filter[status][gt]=1e9999", "filter[status]"),
        ("/api/v1/usage?top=3", "top"),
        ("/api/v1/usage?compare=yesterday", "compare"),
        ("/api/v1/usage?windo=day", "windo"),
    ] {
        let (status, problem) = api.json(path).await;
        assert_eq!(status, 422, "{path}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], field, "{path}: {problem}");
    }
}

/// Whoever watches sees each event that passes the filter once, soon after it is stored.
pub async fn events_can_be_watched_as_they_come(suite: &Suite) {
    let (app, world) = (&suite.app, world(&suite.app, "tail").await);
    let api = Api::of(suite, &world).await;
    let response = api.get("/api/v1/events/tail?filter[status][gte]=500").send().await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.bytes_stream();
    let now = farebox_core::clock::now();
    let fresh = |n: u32, status: u16| {
        let mut event = event(&world, n);
        (event.time, event.received_at, event.data.status) = (now, now, status);
        event
    };
    store_all(app, &[fresh(1, 200), fresh(2, 503), fresh(2, 503)]).await;
    let mut text = String::new();
    let read = async {
        while text.matches("event: event").count() < 2 {
            text.push_str(&String::from_utf8_lossy(&stream.next().await.expect("goes on").expect("bytes")));
            if text.matches("event: event").count() == 1 && !text.contains("gw/3") {
                store_all(app, &[fresh(2, 503), fresh(3, 500)]).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), read).await.expect("both are seen in time");
    assert_eq!(text.matches("\"id\":\"gw/2\"").count(), 1, "{text}");
    assert!(text.contains("\"id\":\"gw/3\"") && !text.contains("gw/1"), "{text}");
}
