//! What a plan's terms and a subscription's changes do to invoices: tiers carried over a change, an end without credit,
//! a late policy of one's own, prepaid credits that expire and roll over.

use farebox_billing::invoices::Invoice;
use farebox_core::period::Period;
use serde_json::{Value, json};

use crate::billing::{lines, month};
use crate::harness::Suite;
use crate::seller::{Seller, day, months_to_come};

fn sorted(invoice: &Invoice) -> Vec<String> {
    let mut all = lines(invoice);
    all.sort();
    all
}

/// A change in the middle of a month: the new plan's tiers go on from what was counted under the old one, and usage that
/// comes late under the old one moves the position of the new one, too.
pub async fn tiers_go_on_after_a_change_of_plan(suite: &Suite) {
    let plans = r#"  - {name: first, version: 1, prices: [{name: R, model: graduated, meter: requests, tiers: [{up_to: 20, unit_amount: "1"}, {unit_amount: "0.5"}]}]}
  - {name: on, version: 1, prices: [{name: R, model: graduated, meter: requests, carry_over: true, tiers: [{up_to: 30, unit_amount: "2"}, {unit_amount: "1"}]}]}
  - {name: anew, version: 1, prices: [{name: R, model: graduated, meter: requests, tiers: [{up_to: 30, unit_amount: "2"}, {unit_amount: "1"}]}]}
"#;
    let (first, second) = months_to_come();
    let from = first.start.format("%Y-%m-%dT%H:%M:%SZ");
    let consumers: String = ["a", "b"]
        .iter()
        .map(|name| format!("  - {{name: {name}, subjects: [{name}], subscriptions: [{{plan: first, from: {from}}}]}}\n"))
        .collect();
    let seller = Seller::new(suite, plans, &consumers).await;
    seller.advance_to(day(first, 10)).await;
    for (name, to) in [("a", "on"), ("b", "anew")] {
        let changed = seller.post(&format!("subscriptions/{}/change", seller.subscription(name).await), json!({ "plan": to })).await;
        assert_eq!(changed["phases"].as_array().map(Vec::len), Some(2), "{changed}");
        seller.usage(name, Period { start: first.start, end: day(first, 9) }, 25).await;
        seller.usage(name, Period { start: day(first, 11), end: first.end }, 20).await;
    }
    seller.advance_to(second.start + chrono::TimeDelta::minutes(10)).await;
    seller.close(first).await;
    let found = seller.invoices().await;
    let of = |name: &str| found.iter().find(|invoice| invoice.buyer["name"] == name).expect("an invoice").clone();
    // Under the first plan: 20 × 1 + 5 × 0.5. Going on from 25: 5 × 2 + 15 × 1. Anew: 20 × 2.
    assert_eq!(sorted(&of("a")), ["R 20 25.00", "R 25 22.50"]);
    assert_eq!(sorted(&of("b")), ["R 20 40.00", "R 25 22.50"]);
    let went_on = of("a").lines.into_iter().find(|line| line.amount.to_string() == "25.00").expect("a line");
    assert!(went_on.explanation.starts_with("goes on from 25 counted earlier in the period, to 45"), "{}", went_on.explanation);
    assert_eq!(seller.get(&format!("invoices/{}/audit", of("a").id)).await["equal"], json!(true));

    seller.usage("a", Period { start: first.start, end: day(first, 9) }, 10).await;
    seller.advance_to(second.end + chrono::TimeDelta::minutes(10)).await;
    seller.close(second).await;
    let next = seller.invoices().await.into_iter().rfind(|invoice| invoice.buyer["name"] == "a").expect("an invoice");
    // 10 × 0.5 more before; and five of the twenty after have moved from 2 to 1.
    assert_eq!(sorted(&next), ["R 0 0.00", "R, corrected 0 -5.00", "R, corrected 10 5.00"]);
    assert_eq!(seller.get(&format!("invoices/{}/audit", next.id)).await["equal"], json!(true));
}

/// An end at once without credit keeps what was paid in advance, an end with credit gives it back; usage is billed by both.
pub async fn an_end_at_once_without_credit_keeps_what_was_paid(suite: &Suite) {
    let (first, second) = months_to_come();
    let from = first.start.format("%Y-%m-%dT%H:%M:%SZ");
    let consumers: String = ["kept", "back"]
        .iter()
        .map(|name| format!("  - {{name: {name}, subjects: [{name}], subscriptions: [{{plan: growth, from: {from}}}]}}\n"))
        .collect();
    let seller = Seller::new(suite, "", &consumers).await;
    seller.advance_to(second.start + chrono::TimeDelta::minutes(10)).await;
    seller.close(first).await;
    seller.advance_to(day(second, 10)).await;
    for (name, credit) in [("kept", false), ("back", true)] {
        seller.usage(name, Period { start: second.start, end: day(second, 10) }, 30).await;
        let path = format!("subscriptions/{}/cancel", seller.subscription(name).await);
        let ended = seller.post(&path, json!({ "when": "now", "credit": credit })).await;
        assert_eq!(ended["credit_at_end"], json!(credit));
        let again = seller.post(&path, json!({ "when": "now", "credit": !credit })).await;
        assert_eq!((&again["ended_at"], &again["credit_at_end"]), (&ended["ended_at"], &ended["credit_at_end"]), "it ended once");
    }
    seller.advance_to(second.end + chrono::TimeDelta::minutes(10)).await;
    seller.close(second).await;
    let found = seller.invoices().await;
    let of = |name: &str| found.iter().filter(|invoice| invoice.buyer["name"] == name).cloned().collect::<Vec<_>>();
    let (kept, back) = (of("kept"), of("back"));
    assert_eq!(lines(&kept[0]), ["Platform 1 49.00", "Platform 1 49.00", "Requests 0 0.00"]);
    assert_eq!((kept.len(), lines(&kept[1])), (2, vec!["Requests 30 10.00".to_owned()]), "nothing is given back");
    let given_back: Vec<_> = back[1].lines.iter().map(|line| (line.name.as_str(), line.amount.minor < 0)).collect();
    assert_eq!(given_back, [("Platform, unused part", true), ("Requests", false)]);
    let third = farebox_billing::calendar::period_of(second.end, crate::seller::ZONE).expect("a month");
    seller.advance_to(third.end + chrono::TimeDelta::minutes(10)).await;
    assert_eq!(seller.close(third).await["issued"], json!(0), "both are over");
}

/// What comes late is corrected by the plan's own policy, whatever the workspace's is.
pub async fn a_plans_own_late_policy_holds(suite: &Suite) {
    let plan = |name: &str, terms: &str| {
        format!(
            "  - {{name: {name}, version: 1, terms: {terms}, prices: [{{name: R, model: per_unit, meter: requests, unit_amount: \"2\"}}]}}\n"
        )
    };
    let policies = [
        ("waits", "{late_usage: next_invoice}"),
        ("apart", "{late_usage: own_invoice}"),
        ("credits", "{late_usage: credit_note}"),
        ("silent", "{}"),
    ];
    let plans: String = policies.iter().map(|(name, terms)| plan(name, terms)).collect();
    let consumers: String = policies
        .iter()
        .map(|(name, _)| {
            format!("  - {{name: {name}, subjects: [{name}], subscriptions: [{{plan: {name}, from: 2026-08-01T00:00:00+02:00}}]}}\n")
        })
        .collect();
    let seller = Seller::new(suite, &plans, &consumers).await;
    // The workspace's policy is an invoice apart.
    let settings = json!({ "close_by_hand": true, "late_days": 400, "late_usage": "own_invoice" });
    let (status, answer) = seller.send(reqwest::Method::PUT, "billing-settings", &settings).await;
    assert_eq!(status, 200, "{answer}");
    let (august, september) = (month("2026-08"), month("2026-09"));
    for (name, _) in policies {
        seller.usage(name, august, 10).await;
    }
    seller.close(august).await;
    for (name, _) in policies {
        seller.usage(name, august, 3).await;
    }
    let workspace = seller.tenant.workspace.clone();
    let correct = async || farebox_billing::close::bill_corrections(&suite.app, &workspace, false).await.expect("corrected").len();
    // Too little is an invoice of its own by two policies, and by the workspace's; the one that waits, waits.
    assert_eq!(correct().await, 3);
    assert_eq!(correct().await, 0, "once");
    let found = seller.invoices().await;
    let apart: Vec<_> = found
        .iter()
        .filter(|invoice| invoice.kind == "adjustment")
        .map(|invoice| (invoice.buyer["name"].clone(), lines(invoice)))
        .collect();
    let mut names: Vec<_> = apart.iter().map(|(name, _)| name.as_str().expect("a name")).collect();
    names.sort_unstable();
    assert_eq!(names, ["apart", "credits", "silent"]);
    assert!(apart.iter().all(|(_, lines)| *lines == ["R, corrected 3 6.00"]), "{apart:?}");
    seller.close(september).await;
    for invoice in seller.invoices().await.iter().filter(|invoice| invoice.kind == "regular" && invoice.period == september) {
        let expected: &[&str] = if invoice.buyer["name"] == "waits" { &["R 0 0.00", "R, corrected 3 6.00"] } else { &["R 0 0.00"] };
        assert_eq!(sorted(invoice), expected, "{}", invoice.buyer["name"]);
    }
}

async fn entries(seller: &Seller<'_>, grant: &Value) -> Vec<String> {
    let id = grant["id"].as_str().expect("an id");
    let found = seller.get(&format!("credits/{id}/entries")).await;
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    found["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|e| format!("{} -> {} {}", text(&e["from"]), text(&e["to"]), text(&e["amount"])))
        .collect()
}

/// Credits serve the periods that end while they are valid; what is left then rolls over once, as far as it may, in time for
/// the next period, however late the months are closed and across the change of clocks; the rest expires.
pub async fn credits_expire_and_roll_over_in_time(suite: &Suite) {
    let consumer = "  - {name: a, subjects: [a], subscriptions: [{plan: scale, from: 2026-08-01T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, "", consumer).await;
    let a = seller.consumer("a").await;
    let grant = |name: &str, amount: &str, until: &str, rollover: Value| {
        json!({ "consumer": a, "name": name, "kind": "promotional", "amount": amount, "currency": "USD",
            "effective_at": "2026-08-01T00:00:00+02:00", "expires_at": until, "rollover": rollover })
    };
    // Until the end of September; at most 50.00 goes on for October, whose 31 days are an hour longer.
    let rolls = seller.post("credits", grant("Rolls", "400", "2026-10-01T00:00:00+02:00", json!({ "most": "50", "days": 31 }))).await;
    // A minute before August's end: too short for it.
    let short = seller.post("credits", grant("Short", "7", "2026-08-31T23:59:00+02:00", Value::Null)).await;
    // All months are over, and closed at once.
    let october = month("2026-10");
    seller.close(october).await;
    let found = seller.invoices().await;
    let credited: Vec<_> = found.iter().map(|invoice| invoice.lines.iter().map(|line| line.credit.minor).sum::<i64>()).collect();
    // 2 × 99 for August, 99 for September, and of the 103 that are left 50 for October.
    assert_eq!(credited, [19_800, 9_900, 5_000]);
    assert_eq!(
        entries(&seller, &rolls).await,
        [
            "granted -> balance 400.00",
            "balance -> used 198.00",
            "balance -> used 99.00",
            "balance -> rolled_over 50.00",
            "balance -> expired 53.00"
        ]
    );
    assert_eq!(entries(&seller, &short).await, ["granted -> balance 7.00", "balance -> expired 7.00"]);
    let all = seller.get(&format!("credits?consumer={a}")).await;
    let rolled =
        all["data"].as_array().expect("a list").iter().find(|grant| grant["kind"] == json!("rollover")).expect("rolled over").clone();
    assert_eq!((&rolled["effective_at"], &rolled["expires_at"]), (&json!("2026-09-30T22:00:00Z"), &json!("2026-10-31T23:00:00Z")));
    assert_eq!(entries(&seller, &rolled).await, ["granted -> balance 50.00", "balance -> used 50.00"]);
    // Closing again, by several workers, moves nothing.
    let again = (0..4).map(|_| seller.close(october));
    futures::future::join_all(again).await;
    assert_eq!(entries(&seller, &rolls).await.len(), 5);
    assert_eq!(seller.get(&format!("credits?consumer={a}")).await, all);
}
