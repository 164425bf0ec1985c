//! Service credits: what a plan promised and the service did not keep is given back on the invoice, with evidence that
//! can be derived again.

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::event::{RequestData, UsageEvent};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::finance::issued;
use crate::harness::Suite;
use crate::metering_flow::{call, store_all};
use crate::tenant::Tenant;
use crate::webhooks::answer;

const SLA: &str = r#"[{name: Availability, good: answered, of: calls, credits: [{below: "0.999", share: "0.1"}, {below: "0.99", share: "0.25"}]},
      {name: Latency, meter: p95_ms, credits: [{above: "300", share: "0.05"}]}]"#;

fn catalogue(workspace: &str, sla: &str, subscription: &str) -> String {
    format!(
        r#"workspace: {workspace}
currency: USD
time_zone: UTC
seller: {{name: Acme Ltd, address: {{country: DE}}, invoice_number_prefix: SLA-}}
taxes: [{{name: VAT, rate: "0.19", inclusive: false, countries: [DE]}}]
billing: {{close_by_hand: true}}
meters:
  - {{name: answered, event: farebox.request.v1, aggregate: count, filter: {{status: {{lt: "500"}}}}, counted: false}}
  - {{name: p95_ms, event: farebox.request.v1, aggregate: percentile, percentile: "95", value: latency_us, divide_by: "1000", counted: false}}
plans:
  - name: growth
    version: 1
    prices:
      - {{name: Platform, model: flat, amount: "100"}}
      - {{name: Requests, model: per_unit, meter: requests, unit_amount: "0.01"}}
    sla: {sla}
consumers:
  - {{name: initech, address: {{country: DE}}, subjects: [initech], subscriptions: {subscription}}}
"#
    )
}

async fn apply(tenant: &Tenant, catalogue: String) -> (StatusCode, Value) {
    answer(tenant.call(Method::POST, "/api/v1/catalog").header("content-type", "application/yaml").body(catalogue)).await
}

/// A thousand calls of a month, of which `failed` failed and `slow` took 400 ms instead of 40.
async fn month(suite: &Suite, tenant: &Tenant, month: u32, failed: i32, slow: i32) {
    let start: DateTime<Utc> = format!("2026-{month:02}-03T00:00:00Z").parse().expect("an instant");
    let event = |n: i32| {
        let event = call(&tenant.workspace.id, "initech", start + TimeDelta::minutes(n.into()));
        let data =
            RequestData { status: if n < failed { 503 } else { 200 }, latency_us: if n < slow { 400_000 } else { 40_000 }, ..event.data };
        UsageEvent { id: format!("gw/{month}-{n}"), data, ..event }
    };
    let rows: Vec<_> = (0..1000).map(event).collect();
    store_all(&suite.app, &rows).await;
}

pub async fn what_was_promised_and_not_kept_is_given_back(suite: &Suite) {
    let tenant = Tenant::new(suite, "sla").await;
    let name = &tenant.workspace.name;
    assert_eq!(apply(&tenant, catalogue(name, SLA, "[]")).await.0, StatusCode::OK);
    // August as promised, September a little below, October far below and slow.
    month(suite, &tenant, 8, 1, 49).await;
    month(suite, &tenant, 9, 2, 49).await;
    month(suite, &tenant, 10, 20, 51).await;
    let (status, applied) = apply(&tenant, catalogue(name, SLA, "[{plan: growth, from: 2026-08-01T00:00:00Z}]")).await;
    assert_eq!(status, StatusCode::OK, "{applied}");
    let (status, closed) = answer(tenant.call(Method::POST, "/api/v1/close").json(&json!({ "period": "2026-10" }))).await;
    assert_eq!(status, StatusCode::OK, "{closed}");
    let invoices = issued(&tenant, "initech").await;
    let credits: Vec<Vec<_>> = invoices
        .iter()
        .map(|invoice| invoice["lines"].as_array().expect("lines").iter().filter(|line| line["kind"] == "service_credit").collect())
        .collect();
    let told = |month: usize| {
        credits[month].iter().map(|l| (l["name"].as_str().expect("a name"), l["amount"].as_str().expect("an amount"))).collect::<Vec<_>>()
    };
    assert_eq!(told(0), [], "999 of 1,000 are what was promised, and the 95th percentile is within 300 ms");
    // 100 for the time, 998 requests that count: 109.98, and a tenth of it.
    assert_eq!(told(1), [("Availability, not as promised", "-11.00")]);
    let slow = tenant.get("/api/v1/usage?meter=p95_ms&window=none&from=2026-10-01T00:00:00Z&to=2026-11-01T00:00:00Z").await;
    assert_eq!(slow["data"][0]["value"], json!("400"), "{slow}");
    // 980 requests count: 109.80; a quarter, and a twentieth.
    assert_eq!(told(2), [("Availability, not as promised", "-27.45"), ("Latency, not as promised", "-5.49")]);
    let line = credits[2][0];
    assert_eq!(line["explanation"], json!("980 answered of 1,000 calls are 98 %, below 99 %: 25 % of 109.80 = 27.45 given back"));
    assert_eq!(line["tax"]["amount"], json!("-5.22"), "less is taxed, too");
    let measured = line["proof"]["measured"].as_array().expect("the evidence");
    let counts: Vec<_> = measured.iter().map(|proof| (&proof["meter"], &proof["events"])).collect();
    assert_eq!(counts, [(&json!("answered"), &json!(980)), (&json!("calls"), &json!(1000))]);
    assert!(measured.iter().all(|proof| proof["query"].as_str().is_some_and(|query| query.starts_with("SELECT"))));

    let id = invoices[2]["id"].as_str().expect("an id");
    let audit = async || tenant.get(&format!("/api/v1/invoices/{id}/audit")).await;
    assert_eq!(audit().await["equal"], json!(true));
    // Ten of the failed calls are taken back: the evidence is no longer what it was.
    let ids: Vec<_> = (0..10).map(|n| format!("gw/10-{n}")).collect();
    let void = json!({ "action": "void", "ids": ids, "reason": "a test of ours" });
    let (status, voided) = answer(tenant.call(Method::POST, "/api/v1/corrections").json(&void)).await;
    assert!(status.is_success(), "{status} {voided}");
    let again = audit().await;
    let differences =
        again["lines"].as_array().expect("lines").iter().find(|l| l["line"] == line["id"]).expect("the line")["differences"].to_string();
    assert!(differences.contains("`calls` is 990 now and was 1000"), "{again}");
    // The documents have the line, and the books balance.
    let html = tenant.call(Method::GET, &format!("/api/v1/invoices/{id}/document?format=html")).send().await.expect("an answer");
    assert!(html.text().await.expect("a text").contains("Availability, not as promised"));
}

pub async fn promises_that_cannot_be_measured_are_refused(suite: &Suite) {
    let tenant = Tenant::new(suite, "promises").await;
    for (sla, says) in [
        (r#"[{name: x, good: answered, credits: [{below: "0.9", share: "0.1"}]}]"#, "plans[0].sla[0]"),
        (r"[{name: x, good: answered, of: calls, credits: []}]", "plans[0].sla[0].credits"),
        (r#"[{name: x, good: answered, of: calls, credits: [{below: "99.9", share: "0.1"}]}]"#, "plans[0].sla[0].credits[0]"),
        (r#"[{name: x, good: answered, of: calls, credits: [{below: "0.9", share: "2"}]}]"#, "plans[0].sla[0].credits[0].share"),
        (r#"[{name: x, meter: p95_ms, credits: [{share: "0.1"}]}]"#, "plans[0].sla[0].credits[0]"),
        (r#"[{name: x, meter: unheard, credits: [{above: "300", share: "0.1"}]}]"#, "plans[0].sla[0]"),
    ] {
        let (status, problem) = apply(&tenant, catalogue(&tenant.workspace.name, sla, "[]")).await;
        assert!(status.is_client_error() && problem.to_string().contains(says), "{sla}: {status} {problem}");
    }
}
