//! One invoice for all subscriptions of a consumer whose periods end together.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use farebox_billing::close;
use farebox_billing::invoices::{self, Invoice};
use farebox_core::period::Period;
use reqwest::Method;
use serde_json::{Value, json};

use crate::billing::{lines, month};
use crate::harness::Suite;
use crate::metering_flow::store_all;
use crate::seller::{Seller, day, months_to_come};

const MAPS: &str = r#"  - {name: mapper, product: maps, version: 1, prices: [{name: Maps, model: flat, amount: "10"}, {name: Calls, model: per_unit, meter: requests, unit_amount: "2"}]}
  - {name: weekly, product: weeks, version: 1, interval: week, prices: [{name: Week, model: flat, billed: in_arrears, amount: "7"}]}
  - {name: huge, product: maps, version: 1, prices: [{name: R, model: per_unit, meter: requests, unit_amount: "92233720368547758.07"}]}
"#;

fn consumer(name: &str, second: &str) -> String {
    format!(
        "  - {{name: {name}, address: {{country: DE}}, subjects: [{name}], subscriptions: [{{plan: growth, from: 2026-08-01T00:00:00+02:00}}, {{plan: {second}, from: 2026-08-01T00:00:00+02:00}}]}}\n"
    )
}

/// With an api of another product, and these consumers, of whom those named have one invoice for all.
async fn selling<'a>(suite: &'a Suite, consumers: &str, together: &[&str]) -> Seller<'a> {
    let seller = Seller::new(suite, "", "  []\n").await;
    let apis = "apis:\n  - {name: maps, product: maps, versions: [{name: v1}]}\n";
    seller.apply(&seller.catalogue(MAPS, consumers).replace("apis:\n", apis)).await;
    for name in together {
        let path = format!("consumers/{}/billing", seller.consumer(name).await);
        let (status, answer) = seller.send(Method::PUT, &path, &json!({ "consolidated": true })).await;
        assert_eq!((status, &answer["consolidated"]), (200, &json!(true)), "{answer}");
    }
    seller
}

/// Calls of maps.
async fn maps(seller: &Seller<'_>, subject: &str, period: Period, count: i32) {
    let step = (period.end - period.start) / count;
    let rows: Vec<_> = (0..count)
        .map(|n| {
            let mut event = seller.business.event(subject, period.start + step * n);
            event.data.api = "maps".to_owned();
            event
        })
        .collect();
    store_all(&seller.suite.app, &rows).await;
}

fn titles(invoice: &Invoice) -> Vec<String> {
    invoice.lines.iter().map(|line| format!("{} {}", line.title(), line.amount)).collect()
}

/// Many workers close; there is one invoice with one number, its lines by subscription, each with its own coupons; credits and
/// tax are the whole's; late usage names its line; and who is not set so has an invoice for each.
pub async fn one_invoice_for_all_whose_periods_end_together(suite: &Suite) {
    let seller = selling(suite, &format!("{}{}", consumer("c", "mapper"), consumer("each", "mapper")), &["c"]).await;
    let (august, september, c) = (month("2026-08"), month("2026-09"), seller.consumer("c").await);
    let subscriptions = seller.get("subscriptions?limit=500").await;
    let of = |plan: &str| {
        let all = subscriptions["data"].as_array().expect("a list");
        let own = all.iter().find(|own| own["consumer"] == json!(c) && own["phases"][0]["plan"] == json!(plan)).expect("a subscription");
        own["id"].as_str().expect("an id").to_owned()
    };
    let (growth, mapper) = (of("growth"), of("mapper"));
    seller.post("coupons", json!({ "code": "HALF", "share": "0.5", "periods": 1 })).await;
    seller.post(&format!("subscriptions/{mapper}/coupons"), json!({ "code": "HALF" })).await;
    let grant = json!({ "consumer": c, "name": "Gift", "kind": "promotional", "amount": "30", "currency": "USD", "effective_at": "2026-08-01T00:00:00+02:00" });
    let gift = seller.post("credits", grant).await;
    for name in ["c", "each"] {
        seller.usage(name, august, 30).await;
        maps(&seller, name, august, 5).await;
    }
    let rehearsed = seller.get("close/2026-08/rehearsal").await;
    assert_eq!(rehearsed["invoices"], json!(3), "{rehearsed}");
    let closes = (0..4).map(|_| seller.close(august));
    futures::future::join_all(closes).await;
    let found = seller.invoices().await;
    assert_eq!(found.iter().filter(|invoice| invoice.buyer["name"] == "each").count(), 2);
    let own: Vec<_> = found.iter().filter(|invoice| invoice.buyer["name"] == "c").cloned().collect();
    assert_eq!(own.len(), 1);
    let first = &own[0];
    assert_eq!(
        titles(first),
        [
            "growth: Platform 49.00",
            "growth: Platform 49.00",
            "growth: Requests 10.00",
            "maps, mapper: Maps 10.00",
            "maps, mapper: Maps 10.00",
            "maps, mapper: Calls 10.00"
        ]
    );
    let by =
        |id: &str| first.lines.iter().filter(|line| line.subscription.as_ref().is_some_and(|own| own.as_str() == id)).collect::<Vec<_>>();
    let off = |id: &str| by(id).iter().map(|line| line.discount.minor).sum::<i64>();
    assert_eq!((off(&growth), off(&mapper)), (0, 1500), "a coupon is off its own subscription's lines");
    // 108 + 30 - 15 - 30 of credits over all; 19 % of what is left of each line.
    assert_eq!((first.subtotal.to_string(), first.total.to_string()), ("93.00".to_owned(), "110.68".to_owned()));
    let numbers: BTreeSet<_> = found.iter().filter_map(|invoice| invoice.number.clone()).collect();
    assert_eq!(numbers.len(), 3, "one number for it, without gaps: {numbers:?}");
    assert_eq!(seller.get(&format!("invoices/{}/audit", first.id)).await["equal"], json!(true));
    let document = seller.get(&format!("invoices/{}/document?format=json", first.id)).await;
    assert_eq!(document["lines"][5]["name"], json!("maps, mapper: Calls"));
    for id in [&growth, &mapper] {
        let listed = seller.get(&format!("invoices?subscription={id}")).await;
        assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");
    }
    let exported =
        seller.tenant.call(Method::GET, "/api/v1/exports/lines?from=2026-08&to=2026-09&by=period").send().await.expect("an answer");
    let exported = exported.text().await.expect("a file");
    assert_eq!((exported.matches(&growth).count(), exported.matches(&mapper).count()), (3, 3), "{exported}");
    let again = sqlx::query(
        "INSERT INTO invoice_parts SELECT $2, subscription_id, workspace_id, kind, sequence, period_start, period_end, label FROM invoice_parts WHERE invoice_id = $1",
    );
    let other = found.iter().find(|invoice| invoice.buyer["name"] == "each").expect("an invoice");
    assert!(again.bind(first.id.as_str()).bind(other.id.as_str()).execute(&suite.app.pg).await.is_err(), "a period is invoiced once");

    // What comes late for one of them is on the next invoice of both, and names its line.
    maps(&seller, "c", august, 2).await;
    seller.close(september).await;
    let second = seller.invoices().await.into_iter().rfind(|invoice| invoice.buyer["name"] == "c").expect("an invoice");
    let corrected = second.lines.iter().find(|line| line.name == "Calls, corrected").expect("a correction");
    assert_eq!(
        (corrected.amount.to_string(), corrected.subscription.as_ref().map(ToString::to_string)),
        ("4.00".to_owned(), Some(mapper.clone()))
    );
    assert_eq!(corrected.adjusts, first.lines.iter().find(|line| line.name == "Calls").map(|line| line.id.clone()));
    assert!(second.lines.iter().all(|line| line.discount.is_zero()), "the coupon was for one period");
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    assert!(invoices::mark_void(&mut conn, &seller.business.ws, &first.id, farebox_core::clock::now()).await.expect("void"));
    let balance = seller.get(&format!("credits?consumer={c}")).await;
    assert_eq!((&balance["data"][0]["id"], &balance["data"][0]["balance"]), (&gift["id"], &json!("30.00")), "it gives back what it took");
}

/// What ends at other times is another invoice; what cannot be priced keeps those it is invoiced with, and says so; and who is
/// taken out of it has an invoice for each from then on, none twice.
pub async fn what_ends_apart_or_cannot_be_priced(suite: &Suite) {
    let seller = selling(suite, &format!("{}{}", consumer("c", "weekly"), consumer("stuck", "huge")), &["c", "stuck"]).await;
    let august = month("2026-08");
    maps(&seller, "stuck", august, 2).await;
    let report = seller.post("close", json!({ "period": "2026-08" })).await;
    let problems = report["problems"].as_array().expect("problems");
    let details: Vec<_> = problems.iter().map(|problem| problem["detail"].as_str().unwrap_or_default()).collect();
    assert!(
        !details.is_empty() && details.iter().any(|detail| detail.contains("too large") || detail.contains("invoiced together")),
        "{report}"
    );
    let found = seller.invoices().await;
    assert!(found.iter().all(|invoice| invoice.buyer["name"] == "c"), "of the other nothing is invoiced by half");
    // Weeks end on 3, 10, 17, 24 and 31 August, the month a day later.
    let ends: Vec<_> = found.iter().map(|invoice| (invoice.period.end.to_rfc3339()[..10].to_owned(), lines(invoice).len())).collect();
    assert_eq!(ends.len(), 6, "{ends:?}");
    let (status, _) = seller.send(Method::PUT, &format!("consumers/{}/billing", seller.consumer("stuck").await), &json!({})).await;
    assert_eq!(status, 200);
    let report = seller.post("close", json!({ "period": "2026-08" })).await;
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(1), "only what cannot be priced is left: {report}");
    let issued: Vec<_> = seller.invoices().await.into_iter().filter(|invoice| invoice.buyer["name"] == "stuck").collect();
    assert_eq!(issued.iter().map(lines).collect::<Vec<_>>(), [["Platform 1 49.00", "Platform 1 49.00", "Requests 0 0.00"]]);
    let parts: Vec<(i64,)> = sqlx::query_as(
        "SELECT count(*) FROM invoice_parts WHERE workspace_id = $1 GROUP BY subscription_id, period_start HAVING count(*) > 1",
    )
    .bind(seller.business.ws.as_str())
    .fetch_all(&suite.app.pg)
    .await
    .expect("PostgreSQL");
    assert_eq!(parts, [], "no period is invoiced twice");
    assert_ne!(report, Value::Null);
}

/// A threshold is the consumer's where one invoice is for all: what all of them used reaches the lowest of their plans', as often as
/// it takes, and the period's own invoice takes it off. By subscription none of these would have been reached.
pub async fn a_threshold_is_reached_by_all_together(suite: &Suite) {
    let plans = format!(
        "{MAPS}  - {{name: metered, version: 1, terms: {{threshold: 10}}, prices: [{{name: R, model: per_unit, meter: requests, unit_amount: 1}}]}}\n  - {{name: charted, product: maps, version: 1, terms: {{threshold: 12}}, prices: [{{name: M, model: per_unit, meter: requests, unit_amount: 1}}]}}\n"
    );
    let (first, _) = months_to_come();
    let from = first.start.format("%Y-%m-%dT%H:%M:%SZ");
    let consumer = |name: &str| {
        format!(
            "  - {{name: {name}, subjects: [{name}], subscriptions: [{{plan: metered, from: {from}}}, {{plan: charted, from: {from}}}]}}\n"
        )
    };
    let seller = Seller::new(suite, "", "  []\n").await;
    let apis = "apis:\n  - {name: maps, product: maps, versions: [{name: v1}]}\n";
    let catalogue = seller.catalogue(&plans, &format!("{}{}", consumer("c"), consumer("each"))).replace("apis:\n", apis);
    seller.apply(&catalogue.replace("name: c, ", "name: c, billing: {consolidated: true}, ")).await;
    let week = |n: i64| Period { start: day(first, 7 * n), end: day(first, 7 * (n + 1)) };
    let thresholds = async || {
        let workspace = farebox_core::workspace::by_id(&mut suite.app.pg.acquire().await.expect("PostgreSQL"), &seller.business.ws).await;
        let workspace = workspace.expect("PostgreSQL").expect("is there");
        close::bill_thresholds(&suite.app, &workspace).await.expect("looked");
    };
    for n in 0..3 {
        for name in ["c", "each"] {
            seller.usage(name, week(n), 3).await;
            if n < 2 {
                maps(&seller, name, week(n), 3).await;
            }
        }
        seller.advance_to(week(n).end).await;
        thresholds().await;
    }
    // Six in the first week; twelve after the second.
    let of = |name: &str, found: &[Invoice]| {
        found
            .iter()
            .filter(|invoice| invoice.buyer["name"] == name)
            .map(|invoice| (invoice.kind.clone(), titles(invoice)))
            .collect::<Vec<_>>()
    };
    let found = seller.invoices().await;
    assert_eq!(of("c", &found), [("threshold".to_owned(), vec!["metered: R 6.00".to_owned(), "maps, charted: M 6.00".to_owned()])]);
    assert_eq!(of("each", &found), [], "nine of 10, and six of 12");
    maps(&seller, "c", week(3), 8).await;
    seller.advance_to(week(3).end).await;
    thresholds().await;
    maps(&seller, "c", week(3), 8).await;
    thresholds().await;
    seller.usage("c", week(3), 2).await;
    seller.advance_to(first.end + TimeDelta::minutes(10)).await;
    seller.close(first).await;
    let found = of("c", &seller.invoices().await);
    assert_eq!(
        found[1..],
        [
            ("threshold".to_owned(), vec!["metered: R 3.00".to_owned(), "maps, charted: M 8.00".to_owned()]),
            ("regular".to_owned(), vec!["metered: R 2.00".to_owned(), "maps, charted: M 8.00".to_owned()])
        ]
    );
    for invoice in seller.invoices().await.iter().filter(|invoice| invoice.kind == "regular") {
        assert_eq!(seller.get(&format!("invoices/{}/audit", invoice.id)).await["equal"], json!(true));
    }
}
