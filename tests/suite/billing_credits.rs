//! Credits that a plan's periods come with, and credits in units of a meter, through the front door.

use std::collections::BTreeSet;

use bigdecimal::BigDecimal;
use chrono::{DateTime, TimeDelta, Utc};
use farebox_billing::invoices::Invoice;
use farebox_billing::subscriptions;
use farebox_core::period::Period;
use reqwest::Method;
use serde_json::{Value, json};

use crate::billing::{lines, month, utc};
use crate::finance::{decimal, rows};
use crate::harness::Suite;
use crate::seller::{Seller, day, months_to_come};

const PLANS: &str = r#"  - name: starter
    version: 1
    terms:
      credits:
        - {name: Included, amount: {USD: "20"}, prices: [Calls], rollover: {most: {USD: "5"}, periods: 1}}
        - {name: Searches, meter: requests, units: "10"}
    prices:
      - {name: Fee, model: flat, amount: "49"}
      - {name: Calls, model: per_unit, meter: requests, unit_amount: "1"}
  - name: bigger
    version: 1
    terms: {credits: [{name: Included, amount: "50"}]}
    prices: [{name: Calls, model: per_unit, meter: requests, unit_amount: "1"}]
  - {name: bare, version: 1, prices: [{name: Calls, model: per_unit, meter: requests, unit_amount: "1"}]}
"#;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Of money and of units: name, kind, amount, what is left, by when it began.
async fn grants(seller: &Seller<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (path, amount) in [("credits", "amount"), ("credits/units", "units")] {
        let all = seller.get(path).await;
        for grant in all["data"].as_array().expect("a list") {
            let from = text(&grant["effective_at"]);
            found.push(format!(
                "{from} {} {} {} of {}",
                text(&grant["name"]),
                text(&grant["kind"]),
                text(&grant["balance"]),
                text(&grant[amount])
            ));
        }
    }
    found.sort();
    found
}

async fn entries(seller: &Seller<'_>, path: &str, name: &str, amount: &str) -> Vec<String> {
    entries_of(seller, path, amount, |grant| grant["name"] == json!(name)).await
}

/// Of the first grant in the order of use that is meant.
async fn entries_of(seller: &Seller<'_>, path: &str, amount: &str, meant: impl Fn(&Value) -> bool) -> Vec<String> {
    let all = seller.get(path).await;
    let grant = all["data"].as_array().expect("a list").iter().find(|grant| meant(grant)).expect("the grant").clone();
    let found = seller.get(&format!("{path}/{}/entries", text(&grant["id"]))).await;
    let entries = found["data"].as_array().expect("a list");
    entries.iter().map(|e| format!("{} -> {} {}", text(&e["from"]), text(&e["to"]), text(&e[amount]))).collect()
}

fn credited(invoice: &Invoice) -> i64 {
    invoice.lines.iter().map(|line| line.credit.minor).sum()
}

/// Each period comes with its credits once, for usage alone; what is left rolls over; preview, invoice and its document tell
/// them; what-if knows them; and a void invoice gives back what it took.
pub async fn every_period_comes_with_its_credits(suite: &Suite) {
    let consumer = "  - {name: a, subjects: [a], subscriptions: [{plan: starter, from: 2026-08-01T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, PLANS, consumer).await;
    assert_eq!(seller.apply(&seller.catalogue(PLANS, consumer)).await, [] as [&str; 0], "the same file changes nothing");
    let exported = seller.tenant.call(Method::GET, "/api/v1/catalog").send().await.expect("an answer").text().await.expect("a file");
    assert_eq!(seller.apply(&exported).await, [] as [&str; 0], "{exported}");
    // Backdated: August, September and October came with theirs, and November, which has begun.
    let came: Vec<_> = grants(&seller).await.into_iter().map(|grant| grant[..7].to_owned()).collect();
    assert_eq!(came.iter().filter(|month| *month == "2026-07").count(), 2, "{came:?}: August begins on 31 July, 22:00 UTC");
    assert_eq!(came.len(), 8, "{came:?}");

    seller.usage("a", month("2026-08"), 27).await;
    seller.usage("a", month("2026-09"), 40).await;
    seller.close(month("2026-08")).await;
    let august = seller.invoices().await.remove(0);
    // Ten of 27 are prepaid; of the 17.00 that are left all are credited, and 3.00 roll over.
    assert_eq!(lines(&august), ["Fee 1 49.00", "Fee 1 49.00", "Calls 27 17.00"]);
    assert_eq!(august.lines[2].explanation, "27 less 10 prepaid leaves 17; 17 × 1 = 17");
    assert_eq!((credited(&august), august.lines[2].credit.minor, august.total.to_string()), (1700, 1700, "98.00".to_owned()));
    assert_eq!(seller.get(&format!("invoices/{}/audit", august.id)).await["equal"], json!(true));
    let document = seller.get(&format!("invoices/{}/document?format=json", august.id)).await;
    assert_eq!((&document["credits"][0]["name"], &document["credits"][0]["amount"]), (&json!("Included"), &json!("17.00")), "{document}");

    seller.close(month("2026-09")).await;
    let september = seller.invoices().await.remove(1);
    // Thirty after ten prepaid ones: 20.00 of the month's own, and 3.00 from August.
    assert_eq!((lines(&september), credited(&september)), (vec!["Fee 1 49.00".to_owned(), "Calls 40 30.00".to_owned()], 2300));
    let path = "credits/units";
    assert_eq!(entries(&seller, path, "Searches", "units").await, ["granted -> balance 10", "balance -> used 10"]);

    // What-if: nothing included, and more.
    let asked = json!({ "from": "2026-08", "to": "2026-09" });
    let bare = seller.post("plans/bare/simulate", asked.clone()).await;
    let figures =
        |answer: &Value| ["actual", "simulated", "actual_included", "simulated_included"].map(|field| text(&answer["rows"][0][field]));
    // 2 × 49 and 17 + 30, less 17 + 20; against 27 + 40.
    assert_eq!(figures(&bare), ["108.00", "67.00", "37.00", "0.00"]);
    assert_eq!(figures(&seller.post("plans/bigger/simulate", asked).await), ["108.00", "0.00", "37.00", "67.00"]);

    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    let ws = &seller.business.ws;
    assert!(farebox_billing::invoices::mark_void(&mut conn, ws, &september.id, farebox_core::clock::now()).await.expect("void"));
    let began = |grant: &Value| text(&grant["effective_at"]).starts_with("2026-08-31");
    let units = entries_of(&seller, "credits/units", "units", |grant| began(grant) && grant["name"] == json!("Searches")).await;
    assert_eq!(units[..3], ["granted -> balance 10", "balance -> used 10", "used -> balance 10"]);
    let rolled = entries_of(&seller, "credits", "amount", |grant| began(grant) && grant["kind"] == json!("rollover")).await;
    assert_eq!(rolled[..3], ["granted -> balance 3.00", "balance -> used 3.00", "used -> balance 3.00"]);

    let (id, november) = (seller.subscription("a").await, Period { start: month("2026-11").start, end: utc("2026-11-02T00:00:00Z") });
    seller.close(month("2026-10")).await;
    seller.usage("a", november, 15).await;
    let preview = seller.post(&format!("subscriptions/{id}/preview"), json!({})).await;
    assert_eq!(preview["credits"], json!([{ "grant": preview["credits"][0]["grant"], "name": "Included", "amount": "5.00" }]), "{preview}");
    assert_eq!((&preview["units"][0]["name"], &preview["units"][0]["units"]), (&json!("Searches"), &json!("10")), "{preview}");
}

/// One grant for a period whatever happens within it: changes there and back, workers at the same time, looks that repeat.
pub async fn a_change_within_a_period_grants_nothing_more(suite: &Suite) {
    let (first, second) = months_to_come();
    let from = first.start.format("%Y-%m-%dT%H:%M:%SZ");
    let consumers = format!(
        "  - {{name: a, subjects: [a], subscriptions: [{{plan: starter, from: {from}}}]}}\n  - {{name: b, subjects: [b], subscriptions: [{{plan: bare, from: {from}}}]}}\n"
    );
    let seller = Seller::new(suite, PLANS, &consumers).await;
    seller.advance_to(day(first, 10)).await;
    let (a, b) = (seller.subscription("a").await, seller.subscription("b").await);
    let change = async |id: &str, plan: &str| seller.post(&format!("subscriptions/{id}/change"), json!({ "plan": plan })).await;
    let of = async |name: &str| grants(&seller).await.into_iter().filter(|grant| grant.contains(name)).collect::<Vec<_>>();
    // The catalogue subscribed in the future: nothing had begun, so whoever looks first grants it.
    seller.post(&format!("subscriptions/{a}/preview"), json!({})).await;
    let begun = first.start.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    assert_eq!(of("Included").await, [format!("{begun} Included included 20.00 of 20.00")]);
    change(&a, "bigger").await;
    seller.advance_to(day(first, 12)).await;
    change(&a, "starter").await;
    assert_eq!(of("Included").await.len(), 1, "it had them already");
    // Who had none in this period has them with the change.
    change(&b, "bigger").await;
    let changed = day(first, 12);
    let found = of("50.00").await;
    assert!(found.len() == 1 && found[0].starts_with(&changed.format("%Y-%m-%d").to_string()), "{found:?}");
    let path = format!("subscriptions/{a}/preview");
    let looks = (0..6).map(|_| seller.post(&path, json!({})));
    futures::future::join_all(looks).await;
    seller.advance_to(second.start + TimeDelta::minutes(10)).await;
    let closes = (0..4).map(|_| seller.close(first));
    futures::future::join_all(closes).await;
    let all = grants(&seller).await;
    let next: Vec<_> = all.iter().filter(|grant| grant.starts_with(&second.start.format("%Y-%m-%dT%H:%M:%SZ").to_string())).collect();
    assert_eq!(
        next.iter().filter(|grant| grant.contains(" included ")).count(),
        3,
        "each subscription's own, of money and of units: {all:?}"
    );
    let twice = sqlx::query(
        "INSERT INTO credit_grants SELECT (jsonb_populate_record(g, jsonb_build_object('id', g.id || '0'))).* FROM credit_grants g WHERE workspace_id = $1 AND period_start IS NOT NULL LIMIT 1",
    );
    assert!(twice.bind(seller.business.ws.as_str()).execute(&suite.app.pg).await.is_err(), "the database keeps a second one out");
}

/// A change or an end that holds from where the period began takes its credits back.
pub async fn what_a_backdated_change_makes_of_credits(suite: &Suite) {
    let consumers = "  - {name: a, subjects: [a], subscriptions: [{plan: starter, from: 2026-10-01T00:00:00+02:00}]}\n  - {name: b, subjects: [b], subscriptions: [{plan: starter, from: 2026-10-01T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, PLANS, consumers).await;
    seller.close(month("2026-10")).await;
    let ws = &seller.business.ws;
    let november = month("2026-11").start;
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    let (a, b) = (seller.subscription("a").await.parse().expect("an id"), seller.subscription("b").await.parse().expect("an id"));
    subscriptions::change_at(&mut conn, ws, &a, "bigger", november).await.expect("changed");
    subscriptions::cancel_at(&mut conn, ws, &b, november).await.expect("ended");
    let of_november: Vec<_> = grants(&seller).await.into_iter().filter(|grant| grant.starts_with("2026-10-31")).collect();
    let expected = [
        "Included included 0.00 of 20.00",
        "Included included 0.00 of 20.00",
        "Included included 50.00 of 50.00",
        "Searches included 0 of 10",
        "Searches included 0 of 10",
    ];
    let shown: Vec<_> = of_november.iter().filter(|grant| !grant.contains("rollover")).map(|grant| grant[21..].to_owned()).collect();
    assert_eq!(shown, expected, "{of_november:?}");
    // Back again: what was taken back is granted anew.
    subscriptions::change_at(&mut conn, ws, &a, "starter", november).await.expect("changed");
    let again: Vec<_> =
        grants(&seller).await.into_iter().filter(|grant| grant.starts_with("2026-10-31") && !grant.contains(" 0")).collect();
    assert_eq!(again.iter().filter(|grant| grant.contains("included 20.00 of 20.00")).count(), 1, "{again:?}");
}

/// Units are taken off before tiers, those that are included first, by priority, then the soonest expiry, then the oldest; late
/// usage takes more, what is taken back gives back, and a void invoice gives back exactly what it took.
pub async fn units_cover_usage_in_the_order_of_the_ledger(suite: &Suite) {
    let consumer = "  - {name: a, subjects: [a], subscriptions: [{plan: growth, from: 2026-08-01T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, "", consumer).await;
    let a = seller.consumer("a").await;
    let grant = async |name: &str, units: &str, priority: i32, until: Value| {
        let body = json!({ "consumer": a, "name": name, "kind": "paid", "meter": "requests", "units": units, "priority": priority,
            "effective_at": "2026-08-01T00:00:00+02:00", "expires_at": until });
        seller.post("credits/units", body).await
    };
    grant("oldest", "4", 0, Value::Null).await;
    grant("later", "4", 0, Value::Null).await;
    grant("soon", "5", 0, json!("2026-12-01T00:00:00Z")).await;
    grant("first", "3", -1, Value::Null).await;
    grant("too short", "100", -5, json!("2026-08-31T00:00:00Z")).await;
    let (status, answer) =
        seller.send(Method::POST, "credits/units", &json!({ "consumer": a, "kind": "paid", "meter": "nope", "units": "1" })).await;
    assert_eq!((status, answer["errors"][0]["pointer"].as_str()), (422, Some("/meter")), "{answer}");
    // By hand only what somebody bought or was given: what a plan, an expiry or a credit note makes is booked as theirs.
    for kind in ["included", "rollover", "balance"] {
        for (path, much) in
            [("credits/units", json!({ "meter": "requests", "units": "1" })), ("credits", json!({ "currency": "EUR", "amount": "1" }))]
        {
            let mut body = json!({ "consumer": a, "kind": kind });
            body.as_object_mut().expect("an object").extend(much.as_object().expect("an object").clone());
            let (status, answer) = seller.send(Method::POST, path, &body).await;
            assert_eq!((status, answer["errors"][0]["pointer"].as_str()), (422, Some("/kind")), "{path}, {kind}: {answer}");
        }
    }
    // 10 are included; 24 above them: 3 + 5 + 4 + 2 of the units of the four are for the first close's 14.
    seller.usage("a", month("2026-08"), 24).await;
    seller.close(month("2026-08")).await;
    let august = seller.invoices().await.remove(0);
    assert_eq!(lines(&august)[2], "Requests 24 0.00");
    assert_eq!(august.lines[2].explanation, "24 less 10 included leaves 14; 14 less 14 prepaid leaves 0; nothing to charge");
    let of = async |name: &str| entries(&seller, "credits/units", name, "units").await;
    assert_eq!(of("first").await, ["granted -> balance 3", "balance -> used 3"]);
    assert_eq!(of("soon").await, ["granted -> balance 5", "balance -> used 5"]);
    assert_eq!(of("oldest").await, ["granted -> balance 4", "balance -> used 4"]);
    assert_eq!(of("later").await, ["granted -> balance 4", "balance -> used 2"]);
    assert_eq!(of("too short").await, ["granted -> balance 100", "balance -> expired 100"]);

    // Seven come late: two are prepaid, five are charged; and September has none left.
    seller.usage("a", month("2026-08"), 7).await;
    seller.usage("a", month("2026-09"), 12).await;
    seller.close(month("2026-09")).await;
    let september = seller.invoices().await.remove(1);
    assert_eq!(lines(&september), ["Platform 1 49.00", "Requests 12 1.00", "Requests, corrected 7 2.50"]);
    assert_eq!(of("later").await, ["granted -> balance 4", "balance -> used 2", "balance -> used 2"]);
    for invoice in [&august, &september] {
        assert_eq!(
            seller.get(&format!("invoices/{}/audit", invoice.id)).await["equal"],
            json!(invoice.id == september.id),
            "August has late usage"
        );
    }
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    for _ in 0..2 {
        farebox_billing::invoices::mark_void(&mut conn, &seller.business.ws, &september.id, farebox_core::clock::now())
            .await
            .expect("void");
    }
    assert_eq!(of("later").await, ["granted -> balance 4", "balance -> used 2", "balance -> used 2", "used -> balance 2"]);
    assert_eq!(of("first").await.len(), 2, "the other invoice's stay used");
    let overdrawn = sqlx::query(
        "INSERT INTO unit_entries (workspace_id, grant_id, from_account, to_account, units, at) SELECT workspace_id, id, 'balance', 'expired', balance + 1, now() FROM unit_grants WHERE workspace_id = $1 AND name = 'later'",
    );
    assert!(overdrawn.bind(seller.business.ws.as_str()).execute(&suite.app.pg).await.is_err(), "never below zero");
}

/// What is in an account by the journal, without what did not move, and every day on which it moved.
async fn account(seller: &Seller<'_>, name: &str) -> (BigDecimal, BTreeSet<String>) {
    let (_, postings) = rows(&seller.tenant, "journal", "from=2026-01-01&to=2030-01-01").await;
    let own: Vec<_> = postings.iter().filter(|posting| posting["account"] == name && posting["debit"] != posting["credit"]).collect();
    let sum = own.iter().map(|posting| decimal(&posting["debit"]) - decimal(&posting["credit"])).sum::<BigDecimal>();
    (sum.normalized(), own.iter().map(|posting| posting["booked_on"].clone()).collect())
}

/// Credits and units that were bought are owed until they are used, expire or are taken back, and are booked on the day it is in
/// the workspace, which may be ahead of everyone else's. What is booked of units adds up to their price.
pub async fn what_was_bought_is_booked_by_the_workspaces_clock(suite: &Suite) {
    let (first, second) = months_to_come();
    let consumers =
        format!("  - {{name: a, subjects: [a], subscriptions: [{{plan: bare, from: {}}}]}}\n", first.start.format("%Y-%m-%dT%H:%M:%SZ"));
    let seller = Seller::new(suite, PLANS, &consumers).await;
    let a = seller.consumer("a").await;
    let on = |at: DateTime<Utc>| at.with_timezone(&crate::seller::ZONE).format("%Y-%m-%d").to_string();
    seller.advance_to(day(first, 10)).await;
    let pack = json!({ "consumer": a, "name": "Pack", "kind": "paid", "meter": "requests", "units": "30", "price": "100", "currency": "USD",
        "effective_at": first.start, "expires_at": day(second, 5), "rollover": { "most": "10", "days": 30 } });
    let pack = seller.post("credits/units", pack).await;
    assert_eq!((&pack["price"], &pack["currency"]), (&json!("100.00"), &json!("USD")), "{pack}");
    let money = json!({ "consumer": a, "name": "Money", "kind": "paid", "amount": "5", "currency": "USD", "effective_at": first.start });
    let money = seller.post("credits", money).await;
    let bought = BTreeSet::from([on(day(first, 10))]);
    assert_eq!(account(&seller, "cash").await, (decimal("105"), bought.clone()));
    assert_eq!(account(&seller, "customer_credit").await, (decimal("-105"), bought.clone()));

    // Seven of thirty are used: 23.33 of 100.00.
    seller.usage("a", Period { start: first.start, end: day(first, 9) }, 7).await;
    seller.advance_to(second.start + TimeDelta::minutes(10)).await;
    seller.close(first).await;
    assert_eq!(account(&seller, "revenue").await, (decimal("-23.33"), BTreeSet::from([on(second.start + TimeDelta::minutes(10))])));
    // Ten of the rest go on and are still owed, thirteen are earned by their expiry; then what is left is paid back.
    seller.advance_to(day(second, 6)).await;
    seller.close(first).await;
    assert_eq!(account(&seller, "revenue").await.0, decimal("-66.66"));
    let all = seller.get("credits/units").await;
    let rolled = all["data"].as_array().expect("a list").iter().find(|grant| grant["kind"] == json!("rollover")).expect("rolled over");
    assert_eq!((&rolled["balance"], &rolled["price"]), (&json!("10"), &json!("33.34")), "{rolled}");
    for (path, grant) in [("credits/units", rolled), ("credits", &money)] {
        seller.post(&format!("{path}/{}/void", text(&grant["id"])), json!({})).await;
    }
    assert_eq!(account(&seller, "cash").await, (decimal("66.66"), BTreeSet::from([on(day(first, 10)), on(day(second, 6))])));
    assert_eq!(account(&seller, "customer_credit").await.0, decimal("0"));
    let (_, waterfall) = rows(&seller.tenant, "waterfall", "from=2026-01-01&to=2030-01-01").await;
    let prepaid: Vec<_> = waterfall.iter().filter(|row| row["source"] == "prepaid").collect();
    let months = |at: DateTime<Utc>| on(at)[..7].to_owned() + "-01";
    assert_eq!(prepaid.len(), 1, "{waterfall:?}");
    assert_eq!(
        ["issued_month", "earned_month", "revenue"].map(|name| prepaid[0][name].clone()),
        [months(day(first, 10)), months(day(second, 6)), "66.66".to_owned()]
    );
    // By id, entries are dated by the same clock.
    let entries = seller.get(&format!("credits/units/{}/entries", text(&pack["id"]))).await;
    let dated: Vec<_> =
        entries["data"].as_array().expect("a list").iter().map(|e| (text(&e["worth"]), text(&e["at"])[..10].to_owned())).collect();
    let utc = |at: DateTime<Utc>| at.format("%Y-%m-%d").to_string();
    let expired = utc(day(second, 6));
    assert_eq!(
        dated,
        [
            ("100.00", utc(day(first, 10))),
            ("23.33", utc(second.start + TimeDelta::minutes(10))),
            ("33.34", expired.clone()),
            ("43.33", expired)
        ]
        .map(|(worth, at)| (worth.to_owned(), at))
    );

    for (field, wrong) in [
        ("/price", json!({ "kind": "promotional", "price": "1", "currency": "USD" })),
        ("/currency", json!({ "kind": "paid", "price": "1" })),
        ("/price", json!({ "kind": "paid", "currency": "USD" })),
        ("/price", json!({ "kind": "paid", "price": "0", "currency": "USD" })),
        ("/price", json!({ "kind": "paid", "price": "1.001", "currency": "USD" })),
    ] {
        let mut body = json!({ "consumer": a, "meter": "requests", "units": "1" });
        body.as_object_mut().expect("an object").extend(wrong.as_object().expect("an object").clone());
        let (status, answer) = seller.send(Method::POST, "credits/units", &body).await;
        assert_eq!((status, answer["errors"][0]["pointer"].as_str()), (422, Some(field)), "{body}: {answer}");
    }
}

/// Units are of a quantity: where a meter has only prices by value, event or amount they would cover nothing, and are refused.
pub async fn units_that_could_cover_nothing_are_refused(suite: &Suite) {
    const BY_VALUE: &str = r#"  - {name: matrix, version: 1, prices: [{name: M, model: matrix, meter: requests, dimension: route, default: "1", values: {"GET /a": "2"}}]}
"#;
    let consumer = "  - {name: a, subscriptions: [{plan: matrix, from: 2026-08-01T00:00:00+02:00}]}\n  - {name: b}\n";
    let seller = Seller::new(suite, BY_VALUE, consumer).await;
    let grant = async |consumer: &str, meter: &str| {
        let body = json!({ "consumer": seller.consumer(consumer).await, "kind": "paid", "meter": meter, "units": "1" });
        seller.send(Method::POST, "credits/units", &body).await
    };
    let (status, answer) = grant("a", "requests").await;
    assert_eq!((status, answer["errors"][0]["pointer"].as_str()), (422, Some("/meter")), "{answer}");
    assert!(answer["errors"][0]["detail"].as_str().is_some_and(|detail| detail.contains("credits in money")), "{answer}");
    assert_eq!((grant("a", "calls").await.0, grant("b", "requests").await.0), (201, 201), "a price may come");
    let id = seller.subscription("a").await;
    let extra = json!({ "price": { "name": "Extra", "model": "per_unit", "meter": "requests", "unit_amount": "1" }, "from": "2026-08-01T00:00:00+02:00" });
    seller.post(&format!("subscriptions/{id}/add-ons"), extra).await;
    assert_eq!(grant("a", "requests").await.0, 201, "what was added takes them");
    let with = BY_VALUE.replace("version: 1,", "version: 2, terms: {credits: [{name: Some, meter: requests, units: \"5\"}]},");
    let (status, answer) = seller.catalog("/api/v1/catalog", &seller.catalogue(&(BY_VALUE.to_owned() + &with), consumer)).await;
    assert_eq!(status, 422, "{answer}");
    let said = answer["errors"][0]["detail"].as_str().unwrap_or_default();
    assert!(said.contains("could cover") && answer["errors"][0]["pointer"].as_str().is_some_and(|p| p.contains("credits")), "{answer}");
}

/// Where credits for money already taxed pay an invoice with its tax, its documents say what was taxed, the tax, and what was set
/// off after it: nothing reads as below nothing. Whoever asks may name the invoice by its number.
pub async fn what_credits_pay_after_tax_is_set_off_after_tax(suite: &Suite) {
    let consumer = "  - {name: a, address: {country: DE}, subjects: [a], subscriptions: [{plan: bare, from: 2026-08-01T00:00:00+02:00}]}\n";
    let plans = "  - {name: bare, version: 1, prices: [{name: Calls, model: per_unit, meter: requests, unit_amount: \"0.49\"}]}\n";
    let seller = Seller::new(suite, plans, consumer).await;
    let body = json!({ "consumer": seller.consumer("a").await, "name": "Bought", "kind": "paid", "amount": "100", "currency": "USD",
        "taxed": true, "effective_at": "2026-08-01T00:00:00+02:00" });
    seller.post("credits", body).await;
    seller.usage("a", month("2026-08"), 100).await;
    seller.close(month("2026-08")).await;
    let august = seller.invoices().await.remove(0);
    // 100 × 0.49, 19 % of it, and 58.31 of the hundred.
    assert_eq!(
        (august.subtotal.to_string(), august.tax.to_string(), august.total.to_string()),
        ("-9.31".into(), "9.31".into(), "0.00".into())
    );
    let number = august.number.clone().expect("a number");
    let document = seller.get(&format!("invoices/{number}/document?format=json")).await;
    let said = ["subtotal", "tax", "with_tax", "total"].map(|name| document[name].as_str().unwrap_or_default().to_owned());
    assert_eq!(said, ["49.00", "9.31", "58.31", "0.00"], "{document}");
    assert_eq!(document["lines"].as_array().map(Vec::len), Some(1), "{document}");
    assert_eq!((&document["set_off"][0]["name"], &document["set_off"][0]["amount"]), (&json!("Prepaid: Bought"), &json!("-58.31")));
    let page = seller.tenant.call(Method::GET, &format!("/api/v1/invoices/{number}/document?format=html"));
    let page = page.send().await.expect("an answer").text().await.expect("a text");
    let cells: Vec<_> = page.split("<tr").filter(|row| row.contains("class=\"n\"")).map(|row| row.replace(['\n', '\r'], " ")).collect();
    for (label, amount) in [("Subtotal", "49.00"), ("With tax", "58.31"), ("Prepaid: Bought", "−58.31"), ("Total", "USD 0.00")] {
        assert!(cells.iter().any(|row| row.contains(&format!(">{label}<")) && row.contains(&format!(">{amount}<"))), "{label} in {page}");
    }
    assert!(!page.contains("−9.31") && page.contains("taxed when they were bought"), "{page}");
    // The norm knows it as paid before.
    let norm = seller.tenant.call(Method::GET, &format!("/api/v1/invoices/{number}/document?format=ubl"));
    let norm = norm.send().await.expect("an answer").text().await.expect("a text");
    for (name, amount) in
        [("TaxExclusiveAmount", "49.00"), ("TaxInclusiveAmount", "58.31"), ("PrepaidAmount", "58.31"), ("PayableAmount", "0.00")]
    {
        assert!(norm.contains(&format!("<cbc:{name} currencyID=\"USD\">{amount}<")), "{name} in {norm}");
    }
    assert_eq!(seller.get(&format!("invoices/{number}")).await["id"], json!(august.id));
    assert_eq!(seller.get(&format!("invoices/{number}/audit")).await["equal"], json!(true));
    let (status, _) = seller.send(Method::GET, "invoices/ACME-0/audit", &json!({})).await;
    assert_eq!(status, 404);
}

/// A unit that is prepaid is not charged again: where a plan counts a meter by a quantity and by value, units of it are refused, in
/// the plan and as a grant, with both prices named; where each follows a meter of its own they cover.
pub async fn units_are_not_charged_again_by_another_price(suite: &Suite) {
    let plan = |version: u8, terms: &str, meter: &str| {
        format!(
            "  - {{name: mixed, version: {version}, {terms}prices: [{{name: R, model: per_unit, meter: requests, unit_amount: \"1\"}}, \
             {{name: M, model: matrix, meter: {meter}, dimension: route, default: \"2\", values: {{\"GET /a\": \"3\"}}}}]}}\n"
        )
    };
    let consumer = "  - {name: a, subjects: [a], subscriptions: [{plan: mixed, from: 2026-08-01T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, &plan(1, "", "requests"), consumer).await;
    let words = "units of `requests` would be taken off `R`, while `M` still charges them";
    let body = json!({ "consumer": seller.consumer("a").await, "kind": "paid", "meter": "requests", "units": "1" });
    let (status, answer) = seller.send(Method::POST, "credits/units", &body).await;
    assert_eq!((status, answer["errors"][0]["pointer"].as_str()), (422, Some("/meter")), "{answer}");
    assert!(answer["errors"][0]["detail"].as_str().is_some_and(|detail| detail.starts_with(words)), "{answer}");
    let units = "terms: {credits: [{name: Some, meter: requests, units: \"5\"}]}, ";
    let second = seller.catalogue(&(plan(1, "", "requests") + &plan(2, units, "requests")), consumer);
    let (status, answer) = seller.catalog("/api/v1/catalog", &second).await;
    assert!(status == 422 && answer["errors"][0]["detail"].as_str().is_some_and(|detail| detail.starts_with(words)), "{answer}");
    // `calls` counts the same calls, and is not `requests`.
    let second = seller.catalogue(&(plan(1, "", "requests") + &plan(2, units, "calls")), consumer);
    let (status, answer) = seller.catalog("/api/v1/catalog", &second).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(seller.post("plans/mixed/migrate", json!({ "when": "now" })).await["refused"], json!([]));
    assert_eq!(seller.send(Method::POST, "credits/units", &body).await.0, 201);
}

/// What takes usage away gives its units back, by a credit note's policy too: once.
pub async fn units_of_usage_that_is_taken_back_are_given_back(suite: &Suite) {
    let consumers = "  - {name: a, subjects: [a], subscriptions: [{plan: bare, from: 2026-08-01T00:00:00+02:00}]}\n  - {name: b, subjects: [b], subscriptions: [{plan: bare, from: 2026-08-01T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, PLANS, consumers).await;
    let settings = json!({ "close_by_hand": true, "late_days": 400, "late_usage": "credit_note" });
    assert_eq!(seller.send(Method::PUT, "billing-settings", &settings).await.0, 200);
    let a = seller.consumer("a").await;
    let body = json!({ "consumer": a, "name": "Pack", "kind": "paid", "meter": "requests", "units": "30", "price": "60", "currency": "USD",
        "effective_at": "2026-08-01T00:00:00+02:00" });
    seller.post("credits/units", body).await;
    let august = month("2026-08");
    seller.usage("a", august, 50).await;
    seller.close(august).await;
    let charged = seller.invoices().await.into_iter().find(|invoice| invoice.buyer["name"] == "a").expect("an invoice");
    assert_eq!(lines(&charged), ["Calls 50 20.00"]);
    // The second half of August's calls were b's: 25 are left, all prepaid.
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    let b = seller.business.consumer(&mut conn, "b").await;
    farebox_metering::links::link_subject(&mut conn, &seller.business.ws, "a", &b, utc("2026-08-16T10:00:00Z"), Some(august.end))
        .await
        .expect("linked");
    let workspace = seller.tenant.workspace.clone();
    for _ in 0..2 {
        farebox_billing::close::bill_corrections(&suite.app, &workspace, false).await.expect("corrects");
        assert_eq!(
            entries(&seller, "credits/units", "Pack", "units").await,
            ["granted -> balance 30", "balance -> used 30", "used -> balance 5"]
        );
    }
    let notes = farebox_billing::credit_notes::of_invoice(&mut conn, &seller.business.ws, &charged.id).await.expect("PostgreSQL");
    assert_eq!(notes.iter().map(|note| note.subtotal.to_string()).collect::<Vec<_>>(), ["20.00"]);
    // The invoice and its note come to nothing, b has an invoice of its own over 25.00; of the units 25 are earned, five are owed again.
    let (revenue, owed) = (account(&seller, "revenue").await.0, account(&seller, "customer_credit").await.0);
    assert_eq!((revenue, owed), (decimal("-75"), decimal("-10")));
}
