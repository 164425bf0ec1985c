//! What calls cost beside what they bring; two versions of an API side by side; and one's own months on other plans.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_billing::{calendar, plans, what_if};
use farebox_core::clock;
use farebox_core::event::{RequestData, UsageEvent};
use farebox_metering::consumers;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::finance;
use crate::harness::{Suite, eventually};
use crate::metering_flow::{call, store_all};
use crate::tenant::Tenant;
use crate::webhooks::answer;

fn catalogue(workspace: &str, subscription: &str) -> String {
    format!(
        r#"workspace: {workspace}
currency: USD
time_zone: UTC
seller: {{name: Acme Ltd, address: {{country: DE}}, invoice_number_prefix: M-}}
taxes: [{{name: VAT, rate: "0.19", inclusive: false, countries: [DE]}}]
billing: {{close_by_hand: true}}
apis: [{{name: orders, versions: [{{name: v1}}, {{name: v2}}]}}]
costs:
  - {{route: "GET /orders*", per_call: "0.004"}}
  - {{route: "GET /orders*", per_call: "0.002", from: 2026-10-10T00:00:00Z}}
  - {{api: orders, route: "POST /orders", per_call: "0.0005"}}
plans:
  - name: growth
    version: 1
    prices:
      - {{name: Platform, model: flat, amount: "100"}}
      - {{name: Requests, model: per_unit, meter: requests, unit_amount: "0.01"}}
consumers:
  - {{name: initech, address: {{country: DE}}, subjects: [initech], subscriptions: {subscription}}}
"#
    )
}

async fn apply(tenant: &Tenant, subscription: &str) {
    let body = catalogue(&tenant.workspace.name, subscription);
    let (status, applied) =
        answer(tenant.call(Method::POST, "/api/v1/catalog").header("content-type", "application/yaml").body(body)).await;
    assert_eq!(status, StatusCode::OK, "{applied}");
}

struct Call<'a> {
    at: DateTime<Utc>,
    version: &'a str,
    route: &'a str,
    status: u16,
    latency_us: u32,
}

async fn calls(suite: &Suite, tenant: &Tenant, calls: impl IntoIterator<Item = Call<'_>>) {
    let row = |told: Call| {
        let event = call(&tenant.workspace.id, "initech", told.at);
        let data = RequestData {
            api_version: told.version.to_owned(),
            route: told.route.to_owned(),
            status: told.status,
            latency_us: told.latency_us,
            ..event.data
        };
        UsageEvent { data, ..event }
    };
    let rows: Vec<_> = calls.into_iter().map(row).collect();
    store_all(&suite.app, &rows).await;
}

pub async fn revenue_and_cost_add_up_by_route_and_consumer(suite: &Suite) {
    let tenant = Tenant::new(suite, "margin").await;
    apply(&tenant, "[]").await;
    let of = |day: &str, route: &'static str, status: u16, count: usize| {
        let at: DateTime<Utc> = format!("2026-10-{day}T12:00:00Z").parse().expect("an instant");
        (0..count).map(move |_| Call { at, version: "v1", route, status, latency_us: 1 })
    };
    let all = of("03", "GET /orders/{id}", 200, 100)
        .chain(of("20", "GET /orders/{id}", 200, 201))
        .chain(of("20", "GET /search", 200, 200))
        .chain(of("20", "POST /orders", 503, 500));
    calls(suite, &tenant, all).await;
    apply(&tenant, "[{plan: growth, from: 2026-10-01T00:00:00Z}]").await;
    let (status, closed) = answer(tenant.call(Method::POST, "/api/v1/close").json(&json!({ "period": "2026-10" }))).await;
    assert_eq!(status, StatusCode::OK, "{closed}");

    let report = tenant.get("/api/v1/margin?from=2026-10").await;
    let rows: Vec<_> = report["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            let text = |field: &str| row[field].as_str().expect("a text").to_owned();
            (
                text("route"),
                row["calls"].as_u64().expect("a count"),
                text("revenue"),
                text("cost"),
                text("margin"),
                row["calls_without_cost"].as_u64().expect("a count"),
            )
        })
        .collect();
    let row = |route: &str, calls: u64, revenue: &str, cost: &str, margin: &str, without: u64| {
        (route.to_owned(), calls, revenue.to_owned(), cost.to_owned(), margin.to_owned(), without)
    };
    // 501 requests count: 5.01 for usage, over 301 and 200 of them; failed calls bring nothing and cost all the same.
    let expected = [
        row("", 0, "100.00", "0", "100", 0),
        row("GET /orders/{id}", 301, "3.01", "0.802", "2.208", 0),
        row("GET /search", 200, "2.00", "0", "2", 200),
        row("POST /orders", 500, "0.00", "0.25", "-0.25", 0),
    ];
    assert_eq!(rows, expected, "{report}");
    let total = &report["total"];
    assert_eq!(
        (&total["calls"], &total["revenue"], &total["cost"], &total["margin"]),
        (&json!(1001), &json!("105.01"), &json!("1.052"), &json!("103.958"))
    );

    let by_consumer = tenant.get("/api/v1/margin?from=2026-10&by=consumer").await;
    assert_eq!((&by_consumer["rows"][0]["consumer"]["name"], &by_consumer["rows"][0]["revenue"]), (&json!("initech"), &json!("105.01")));
    assert_eq!(by_consumer["total"], *total, "however it is split");
    let csv = tenant
        .call(Method::GET, "/api/v1/margin?from=2026-10&by=route,consumer")
        .header("accept", "text/csv")
        .send()
        .await
        .expect("an answer");
    let csv = csv.text().await.expect("a text");
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines[0], "api,route,consumer_id,consumer,calls,revenue,cost,margin,calls_without_cost");
    assert!(
        lines.iter().any(|line| line.starts_with("orders,GET /orders/{id},con_") && line.ends_with(",initech,301,3.01,0.802,2.208,0")),
        "{csv}"
    );
    // The catalogue has the costs, and only refuses what it could not follow.
    let file = tenant.call(Method::GET, "/api/v1/catalog").send().await.expect("an answer").text().await.expect("a file");
    assert!(file.contains("per_call"), "{file}");
    for (costs, pointer) in [
        (json!([{ "route": "GET /*/x", "per_call": "1" }]), "/costs/0/route"),
        (json!([{ "route": "GET /x", "per_call": "-1" }]), "/costs/0/per_call"),
        (json!([{ "route": "GET /x", "per_call": "1" }, { "route": "GET /x", "per_call": "2" }]), "/costs"),
    ] {
        let (status, problem) = answer(tenant.call(Method::PUT, "/api/v1/costs").json(&json!({ "costs": costs }))).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(pointer)), "{problem}");
    }
}

pub async fn two_versions_are_set_side_by_side(suite: &Suite) {
    let tenant = Tenant::new(suite, "canary").await;
    let since = (clock::now() - TimeDelta::days(3)).format("%Y-%m-%dT00:00:00Z");
    apply(&tenant, &format!("[{{plan: growth, from: {since}}}]")).await;
    let at = clock::now() - TimeDelta::hours(2);
    let v1 =
        (1..=100).map(|n| Call { at, version: "v1", route: "GET /orders", status: if n <= 2 { 404 } else { 200 }, latency_us: n * 1000 });
    let v2 =
        (1..=10).map(|n| Call { at, version: "v2", route: "GET /orders", status: if n == 1 { 500 } else { 200 }, latency_us: n * 100 });
    calls(suite, &tenant, v1.chain(v2)).await;
    let answer = eventually("the calls are known to be initech's", Duration::from_secs(20), || async {
        let answer = tenant.get("/api/v1/kpis/versions/compare?api=orders&base=v1&canary=v2").await;
        (answer["consumers"] != json!([])).then_some(answer)
    })
    .await;
    let side = |side: &Value| {
        json!([
            side["version"],
            side["calls"],
            side["client_errors"],
            side["server_errors"],
            side["error_rate"],
            side["p50_us"],
            side["p95_us"],
            side["p99_us"],
            side["consumers"]
        ])
    };
    // Positions floor(p * n), counted from 0.
    assert_eq!(side(&answer["base"]), json!(["v1", 100, 2, 0, "0.02", 51_000, 96_000, 100_000, 1]), "{answer}");
    assert_eq!(side(&answer["canary"]), json!(["v2", 10, 0, 1, "0.1", 600, 1000, 1000, 1]));
    assert_eq!(answer["canary"]["share"], json!("0.090909"));
    let consumer = &answer["consumers"][0];
    assert_eq!((&consumer["consumer"]["name"], side(&consumer["canary"])), (&json!("initech"), side(&answer["canary"])));
    let csv = tenant.call(Method::GET, "/api/v1/kpis/versions/compare?api=orders&base=v1&canary=v2").header("accept", "text/csv");
    let csv = csv.send().await.expect("an answer").text().await.expect("a text");
    assert!(csv.contains("\n,,v2,10,0,1,600,1000,1000\n"), "{csv}");
    for (query, pointer) in [
        ("api=orders&base=v1", "canary"),
        ("api=orders&base=v1&canary=v1", "canary"),
        ("api=orders&base=v1&canary=v2&from=2020-01-01", "from"),
    ] {
        let asked = tenant.call(Method::GET, &format!("/api/v1/kpis/versions/compare?{query}"));
        let (status, problem) = crate::webhooks::answer(asked).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(pointer)), "{query}: {problem}");
    }
}

pub async fn own_months_are_priced_on_every_plan(suite: &Suite) {
    let tenant = Tenant::new(suite, "own-plans").await;
    finance::close(suite, &tenant).await;
    let ws = &tenant.workspace.id;
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    let initech = consumers::find_by_name(&mut conn, ws, "initech").await.expect("PostgreSQL").expect("the consumer").id;
    let offered = plans::list_published(&mut conn, ws).await.expect("listed");
    drop(conn);
    let zone = chrono_tz::Europe::Berlin;
    let months: Vec<_> = ["2026-07", "2026-08", "2026-09", "2026-10"].map(|name| calendar::parse(name, zone).expect("a month")).into();
    let compared = what_if::compare(&suite.app, ws, &initech, &offered, &months).await.expect("compared").expect("subscribed");
    let texts = |months: &[farebox_core::money::Money]| months.iter().map(ToString::to_string).collect::<Vec<_>>();
    // 49 and 0.125 for each of 10, 21 and 32 requests; before the subscription there was nothing.
    assert_eq!(texts(&compared.actual), ["0.00", "50.25", "51.63", "53.00"]);
    let on = |name: &str| texts(compared.plans.iter().find(|plan| plan.plan == name).expect("the plan").months.as_ref().expect("priced"));
    assert_eq!(on("growth"), texts(&compared.actual));
    assert_eq!(on("free"), ["0.00"; 4]);
    let stranger = Tenant::new(suite, "own-stranger").await;
    let nothing = what_if::compare(&suite.app, &stranger.workspace.id, &initech, &offered, &months).await.expect("compared");
    assert!(nothing.is_none(), "another workspace's consumer has nothing there");
}
