//! Currencies, extremes and calendars, each from its events to its issued invoice; and what is refused, with the reason and
//! the way out. One case, one test, found by its name.

use chrono::{DateTime, TimeDelta, Utc};
use farebox_billing::invoices::{Invoice, State};
use farebox_billing::subscriptions;
use farebox_core::money::Money;
use farebox_core::period::Period;
use reqwest::Method;
use serde_json::json;

use crate::billing::{lines, month, utc};
use crate::harness::Suite;
use crate::metering_flow::store_all;
use crate::seller::{Seller, ZONE};

/// A fee and usage in every currency, for one consumer who is taxed.
const PRICED: &str = r#"  - name: world
    version: 1
    prices:
      - {name: Fee, model: flat, billed: in_arrears, amount: {JPY: "1000", KWD: "1.005", USD: "9.99", EUR: "8.95", ISK: "1200"}}
      - {name: Calls, model: per_unit, meter: requests, unit_amount: {JPY: "1.49505", KWD: "1.49505", USD: "1.49505", EUR: "1.49505", ISK: "1.49505"}}
"#;
const A: &str = "  - {name: a, address: {country: DE}, subjects: [a]}\n";

fn figures(invoice: &Invoice) -> [String; 3] {
    [invoice.subtotal, invoice.tax, invoice.total].map(|amount| amount.to_string())
}

async fn subscribe(seller: &Seller<'_>, consumer: &str, plan: &str, from: &str) -> String {
    let body = json!({ "consumer": seller.consumer(consumer).await, "plan": plan, "from": from });
    seller.post("subscriptions", body).await["id"].as_str().expect("an id").to_owned()
}

async fn audited(seller: &Seller<'_>, invoice: &Invoice) {
    let report = seller.get(&format!("invoices/{}/audit", invoice.id)).await;
    assert_eq!(report["equal"], json!(true), "{report}");
}

/// A hundred calls and a month's fee, with 19 %, in the currency's own minor unit; on the document, and derived again.
async fn in_currency(suite: &Suite, code: &str, expected: [&str; 5]) {
    let seller = Seller::new(suite, PRICED, A).await;
    let a = seller.consumer("a").await;
    let (status, answer) = seller.send(Method::PUT, &format!("consumers/{a}/billing"), &json!({ "currency": code })).await;
    assert_eq!(status, 200, "{answer}");
    subscribe(&seller, "a", "world", "2026-08-01T00:00:00+02:00").await;
    seller.usage("a", month("2026-08"), 100).await;
    let report = seller.close(month("2026-08")).await;
    let invoice = seller.invoices().await.remove(0);
    let [fee, calls, subtotal, tax, total] = expected;
    assert_eq!(lines(&invoice), [format!("Fee 1 {fee}"), format!("Calls 100 {calls}")]);
    assert_eq!(figures(&invoice), [subtotal, tax, total]);
    assert_eq!(report["totals"], json!([{ "currency": code, "total": total, "paid": Money::zero(invoice.currency) }]));
    let document = seller.get(&format!("invoices/{}/document?format=json", invoice.id)).await;
    assert_eq!((&document["currency"], &document["total"]), (&json!(code), &json!(total)), "{document}");
    audited(&seller, &invoice).await;
}

pub async fn currency_jpy_has_no_decimals(suite: &Suite) {
    in_currency(suite, "JPY", ["1000", "150", "1150", "219", "1369"]).await;
}

pub async fn currency_kwd_has_three_decimals(suite: &Suite) {
    in_currency(suite, "KWD", ["1.005", "149.505", "150.510", "28.597", "179.107"]).await;
}

pub async fn currency_usd_has_two_decimals(suite: &Suite) {
    in_currency(suite, "USD", ["9.99", "149.51", "159.50", "30.31", "189.81"]).await;
}

pub async fn currency_eur_has_two_decimals(suite: &Suite) {
    in_currency(suite, "EUR", ["8.95", "149.51", "158.46", "30.11", "188.57"]).await;
}

pub async fn currency_isk_has_no_decimals(suite: &Suite) {
    in_currency(suite, "ISK", ["1200", "150", "1350", "257", "1607"]).await;
}

const HUGE: &str =
    "  - {name: huge, version: 1, prices: [{name: R, model: per_unit, meter: requests, unit_amount: \"92233720368547758.07\"}]}\n";

pub async fn the_last_amount_of_64_bits_is_invoiced_exactly(suite: &Suite) {
    let consumer = "  - {name: a, subjects: [a], subscriptions: [{plan: huge, from: 2026-08-01T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, HUGE, consumer).await;
    seller.usage("a", month("2026-08"), 1).await;
    let report = seller.close(month("2026-08")).await;
    let invoice = seller.invoices().await.remove(0);
    assert_eq!(figures(&invoice), ["92233720368547758.07", "0.00", "92233720368547758.07"]);
    assert_eq!(report["totals"][0]["total"], json!("92233720368547758.07"));
    audited(&seller, &invoice).await;
}

pub async fn an_amount_beyond_64_bits_is_named_and_holds_up_nobody(suite: &Suite) {
    let consumers = "  - {name: a, subjects: [a], subscriptions: [{plan: huge, from: 2026-08-01T00:00:00+02:00}]}\n  - {name: taxed, address: {country: DE}, subjects: [taxed], subscriptions: [{plan: huge, from: 2026-08-01T00:00:00+02:00}]}\n  - {name: b, subjects: [b], subscriptions: [{plan: growth, from: 2026-08-01T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, HUGE, consumers).await;
    // Twice the last amount; and the last amount with tax on top.
    seller.usage("a", month("2026-08"), 2).await;
    seller.usage("taxed", month("2026-08"), 1).await;
    let report = seller.post("close", json!({ "period": "2026-08" })).await;
    let problems = report["problems"].as_array().expect("problems");
    let mut named: Vec<_> = problems.iter().map(|problem| problem["subscription"].as_str().expect("an id").to_owned()).collect();
    named.sort();
    let mut expected = [seller.subscription("a").await, seller.subscription("taxed").await];
    expected.sort();
    assert_eq!(named, expected, "{report}");
    let too_large = json!("the amount is too large for USD's minor units in 64 bits");
    assert!(problems.iter().all(|problem| problem["detail"] == too_large), "{report}");
    let found = seller.invoices().await;
    assert_eq!((found.len(), found[0].buyer["name"].as_str()), (1, Some("b")));
}

pub async fn a_sum_beyond_64_bits_is_said_and_not_wrapped(suite: &Suite) {
    let consumers: String = ["a", "b"]
        .map(|name| format!("  - {{name: {name}, subjects: [{name}], subscriptions: [{{plan: huge, from: 2026-08-01T00:00:00+02:00}}]}}\n"))
        .concat();
    let seller = Seller::new(suite, HUGE, &consumers).await;
    for name in ["a", "b"] {
        seller.usage(name, month("2026-08"), 1).await;
    }
    let (status, detail) = seller.refused("close", json!({ "period": "2026-08" })).await;
    assert_eq!((status, detail.as_str()), (409, "the amount is too large for USD's minor units in 64 bits."));
    let found = seller.invoices().await;
    assert!(found.len() == 2 && found.iter().all(|invoice| invoice.state == State::Issued), "each by itself is right, and issued once");
}

pub async fn usage_below_zero_costs_nothing_and_is_carried_nowhere(suite: &Suite) {
    let plan = "  - {name: sums, version: 1, prices: [{name: Volume, model: per_unit, meter: volume, unit_amount: \"2\"}]}\n";
    let consumer = "  - {name: a, subjects: [a], subscriptions: [{plan: sums, from: 2026-08-01T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, "", "  - {name: a, subjects: [a]}\n").await;
    let catalogue = seller.catalogue(plan, consumer);
    seller
        .apply(&catalogue.replace("plans:\n", "meters:\n  - {name: volume, event: payment, aggregate: sum, value: /amount}\nplans:\n"))
        .await;
    let taken_back = |at: &str, amount: &str| {
        let mut event = seller.business.event("a", utc(at));
        event.kind = "payment".to_owned();
        event.data.properties = [("/amount".to_owned(), amount.to_owned())].into();
        event
    };
    let rows =
        [taken_back("2026-08-10T00:00:00Z", "3"), taken_back("2026-08-11T00:00:00Z", "-8.5"), taken_back("2026-09-10T00:00:00Z", "4")];
    store_all(&suite.app, &rows).await;
    seller.close(month("2026-09")).await;
    let found = seller.invoices().await;
    assert_eq!((lines(&found[0]), lines(&found[1])), (vec!["Volume -5.5 0.00".to_owned()], vec!["Volume 4 8.00".to_owned()]));
    assert_eq!(found[0].lines[0].explanation, "−5.5 was counted, which is below zero and rates as zero; 0 × 2 = 0");
    audited(&seller, &found[0]).await;
}

pub async fn an_invoice_of_zero_is_issued_and_paid(suite: &Suite) {
    let consumer = "  - {name: a, address: {country: DE}, subjects: [a], subscriptions: [{plan: free, from: 2026-08-01T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, "", consumer).await;
    let report = seller.close(month("2026-08")).await;
    assert_eq!((&report["issued"], &report["totals"][0]["total"]), (&json!(1), &json!("0.00")));
    let invoice = seller.invoices().await.remove(0);
    assert_eq!(
        (invoice.state, lines(&invoice), figures(&invoice)),
        (State::Paid, vec!["Requests 0 0.00".to_owned()], ["0.00", "0.00", "0.00"].map(str::to_owned))
    );
    assert!(invoice.number.is_some() && !invoice.carried, "it has its number in the series");
}

pub async fn a_fee_of_zero_is_a_line(suite: &Suite) {
    let plan = "  - {name: nothing, version: 1, prices: [{name: Fee, model: flat, amount: \"0\"}, {name: R, model: per_unit, meter: requests, unit_amount: \"1\"}]}\n";
    let consumer = "  - {name: a, subjects: [a], subscriptions: [{plan: nothing, from: 2026-08-10T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, plan, consumer).await;
    seller.usage("a", Period { start: utc("2026-08-10T00:00:00Z"), end: month("2026-08").end }, 3).await;
    seller.close(month("2026-09")).await;
    let found = seller.invoices().await;
    assert_eq!(lines(&found[0]), ["Fee 1 0.00", "Fee 1 0.00", "R 3 3.00"], "of August's part, and of September in advance");
    assert_eq!(lines(&found[1]), ["Fee 1 0.00", "R 0 0.00"], "it is billed once, as any other");
}

pub async fn a_period_of_no_length_has_no_invoice(suite: &Suite) {
    let consumer = "  - {name: a, subjects: [a], subscriptions: [{plan: growth, from: 2026-08-10T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, "", consumer).await;
    let start = utc("2026-08-09T22:00:00Z");
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    let id = seller.subscription("a").await.parse().expect("an id");
    // Within the minute in which it began.
    let ended = subscriptions::cancel_at(&mut conn, &seller.business.ws, &id, start + TimeDelta::seconds(59)).await.expect("ended");
    assert_eq!((ended.ended_at, ended.phases.len()), (Some(start), 0));
    assert_eq!(seller.close(month("2026-08")).await["issued"], json!(0));
    assert!(seller.invoices().await.is_empty());
    // The same time can be subscribed to again.
    subscribe(&seller, "a", "scale", "2026-08-10T00:00:00+02:00").await;
    assert_eq!(seller.close(month("2026-08")).await["issued"], json!(1));
}

const BY_DAY: &str = "  - {name: daily, version: 1, terms: {proration: day}, prices: [{name: Fee, model: flat, billed: in_arrears, amount: \"290\"}, {name: R, model: per_unit, meter: requests, unit_amount: \"1\"}]}\n";

pub async fn a_leap_day_is_a_day_of_its_month(suite: &Suite) {
    let seller = Seller::new(suite, BY_DAY, A).await;
    seller.advance_to(utc("2028-03-01T00:10:00Z")).await;
    subscribe(&seller, "a", "daily", "2028-02-29T00:00:00+01:00").await;
    let leap_day = Period { start: utc("2028-02-28T23:00:00Z"), end: utc("2028-02-29T23:00:00Z") };
    seller.usage("a", leap_day, 7).await;
    seller.close(month("2028-02")).await;
    let invoice = seller.invoices().await.remove(0);
    // One day of 29.
    assert_eq!((invoice.lines[0].period, lines(&invoice)), (leap_day, vec!["Fee 1 10.00".to_owned(), "R 7 7.00".to_owned()]));
    audited(&seller, &invoice).await;
}

/// Monthly periods from an anchor in January 2027, as local dates on which they begin, and the last one's end.
async fn anchored(suite: &Suite, start: &str, expected: [&str; 5]) {
    let plan =
        "  - {name: own, version: 1, anchor: subscription, prices: [{name: Fee, model: flat, billed: in_arrears, amount: \"31\"}]}\n";
    let seller = Seller::new(suite, plan, A).await;
    seller.advance_to(utc("2027-06-02T00:00:00Z")).await;
    subscribe(&seller, "a", "own", start).await;
    seller.close(month("2027-05")).await;
    let found = seller.invoices().await;
    let local = |at: DateTime<Utc>| at.with_timezone(&ZONE).format("%m-%d %H:%M").to_string();
    let mut boundaries: Vec<_> = found.iter().map(|invoice| local(invoice.period.start)).collect();
    boundaries.extend(found.last().map(|invoice| local(invoice.period.end)));
    assert_eq!(boundaries, expected);
    assert!(found.iter().all(|invoice| lines(invoice) == ["Fee 1 31.00"]), "each is a whole period");
    assert!(found.windows(2).all(|pair| pair[0].period.end == pair[1].period.start), "none is left out, none twice");
}

pub async fn an_anchor_on_the_29th_takes_the_28th_of_february(suite: &Suite) {
    anchored(suite, "2027-01-29T12:00:00+01:00", ["01-29 12:00", "02-28 12:00", "03-29 12:00", "04-29 12:00", "05-29 12:00"]).await;
}

pub async fn an_anchor_on_the_30th_returns_to_its_day(suite: &Suite) {
    anchored(suite, "2027-01-30T00:00:00+01:00", ["01-30 00:00", "02-28 00:00", "03-30 00:00", "04-30 00:00", "05-30 00:00"]).await;
}

pub async fn an_anchor_on_the_31st_takes_each_months_last_day(suite: &Suite) {
    anchored(suite, "2027-01-31T00:00:00+01:00", ["01-31 00:00", "02-28 00:00", "03-31 00:00", "04-30 00:00", "05-31 00:00"]).await;
}

/// A day's fee of 1.00 for each of its hours, in force from noon on; and a call in each hour of the day.
async fn a_day_of(suite: &Suite, hours: i64, day: Period) {
    assert_eq!((day.end - day.start).num_hours(), hours);
    let plan = format!(
        "  - {{name: hours, version: 1, interval: day, prices: [{{name: Fee, model: flat, billed: in_arrears, amount: \"{hours}\"}}, {{name: R, model: per_unit, meter: requests, unit_amount: \"1\"}}]}}\n"
    );
    let seller = Seller::new(suite, &plan, "  - {name: whole, subjects: [whole]}\n  - {name: half, subjects: [half]}\n").await;
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    for (name, from) in [("whole", day.start), ("half", day.end - TimeDelta::hours(12))] {
        let id = subscribe(&seller, name, "hours", &from.to_rfc3339()).await;
        subscriptions::cancel_at(&mut conn, &seller.business.ws, &id.parse().expect("an id"), day.end).await.expect("to end");
        seller.usage(name, day, hours).await;
    }
    let name = day.start.with_timezone(&ZONE).format("%Y-%m").to_string();
    seller.close(month(&name)).await;
    let found = seller.invoices().await;
    let of = |name: &str| found.iter().find(|invoice| invoice.buyer["name"] == name).map(lines).expect("an invoice");
    assert_eq!(of("whole"), [format!("Fee 1 {hours}.00"), format!("R {hours} {hours}.00")]);
    // Noon is twelve hours before the day's end, whatever the morning had.
    assert_eq!(of("half"), ["Fee 1 12.00", "R 12 12.00"]);
}

pub async fn the_day_that_lacks_an_hour_has_23(suite: &Suite) {
    a_day_of(suite, 23, Period { start: utc("2026-03-28T23:00:00Z"), end: utc("2026-03-29T22:00:00Z") }).await;
}

pub async fn the_day_with_an_hour_twice_has_25(suite: &Suite) {
    a_day_of(suite, 25, Period { start: utc("2026-10-24T22:00:00Z"), end: utc("2026-10-25T23:00:00Z") }).await;
}

/// Refused, named, and what the message says to do works.
pub async fn refused_a_plan_without_the_consumers_currency(suite: &Suite) {
    let seller = Seller::new(suite, "", A).await;
    let a = seller.consumer("a").await;
    seller.send(Method::PUT, &format!("consumers/{a}/billing"), &json!({ "currency": "JPY" })).await;
    let wanted = json!({ "consumer": a, "plan": "scale" });
    let (status, detail) = seller.refused("subscriptions", wanted.clone()).await;
    assert_eq!(
        (status, detail.as_str()),
        (409, "Plan `scale` has no amount in JPY for: Platform, Requests. Publish a version that has them, or choose another plan.")
    );
    let second = seller.catalogue("", A).replace(
        "  - name: scale\n    version: 1\n    prices:\n      - {name: Platform, model: flat, amount: \"99\"}\n      - {name: Requests, model: per_unit, meter: requests, unit_amount: \"0.1\"}\n",
        "  - name: scale\n    version: 2\n    prices:\n      - {name: Platform, model: flat, amount: {USD: \"99\", JPY: \"9900\"}}\n      - {name: Requests, model: per_unit, meter: requests, unit_amount: {USD: \"0.1\", JPY: \"10\"}}\n",
    );
    assert_eq!(seller.apply(&second).await, ["publish plan scale version 2"]);
    assert_eq!(seller.post("subscriptions", wanted).await["currency"], json!("JPY"));
}

pub async fn refused_a_subscription_that_overlaps(suite: &Suite) {
    let seller = Seller::new(suite, "", A).await;
    let a = seller.consumer("a").await;
    let first = subscribe(&seller, "a", "growth", "2026-08-01T00:00:00+02:00").await;
    let (status, detail) = seller.refused("subscriptions", json!({ "consumer": a, "plan": "scale" })).await;
    let expected = "The consumer would have two subscriptions to the product `default` at once. End one before the other starts.";
    assert_eq!((status, detail.as_str()), (409, expected));
    // Backdated before the first, it would run into it just as well.
    let (status, detail) =
        seller.refused("subscriptions", json!({ "consumer": a, "plan": "scale", "from": "2026-07-01T00:00:00+02:00" })).await;
    assert_eq!((status, detail.as_str()), (409, expected));
    let ended = seller.post(&format!("subscriptions/{first}/cancel"), json!({ "when": "now" })).await;
    let from = ended["ended_at"].as_str().expect("an instant").to_owned();
    seller.post("subscriptions", json!({ "consumer": a, "plan": "scale", "from": from })).await;
}

pub async fn refused_a_change_of_a_published_version(suite: &Suite) {
    let seller = Seller::new(suite, "", A).await;
    let dearer = seller.catalogue("", A).replace("amount: \"49\"", "amount: \"59\"");
    for path in ["/api/v1/catalog?dry_run=true", "/api/v1/catalog"] {
        let (status, problem) = seller.catalog(path, &dearer).await;
        assert_eq!(
            (status, problem["detail"].as_str()),
            (409, Some("Version 1 of plan `growth` is published and never changes. Publish the change as version 2.")),
            "{path}"
        );
    }
    let changed = sqlx::query("UPDATE plan_versions SET definition = '{}' WHERE workspace_id = $1").bind(seller.business.ws.as_str());
    assert!(changed.execute(&suite.app.pg).await.is_err(), "nor does the database let anybody else");
    let second = dearer.replace("name: growth\n    version: 1", "name: growth\n    version: 2");
    assert_eq!(seller.apply(&second).await, ["publish plan growth version 2"]);
}

pub async fn refused_a_close_with_open_differences(suite: &Suite) {
    let consumer = "  - {name: a, subjects: [a], subscriptions: [{plan: growth, from: 2026-10-01T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, "", consumer).await;
    let october = month("2026-10");
    seller.usage("a", october, 12).await;
    seller.usage("nobody", october, 2).await;
    let (status, detail) = seller.refused("close/2026-10/hard", json!({})).await;
    assert_eq!(status, 409);
    assert!(detail.contains("unattributed: 2 calls belong to nobody. Link their subjects or keys"), "{detail}");
    assert!(detail.contains("drafted: "), "{detail}");
    let (status, detail) = seller.refused("close/2026-10/hard", json!({ "accept": ["unattributed", "drafted"] })).await;
    assert!(
        status == 409 && detail.contains("drafted: ") && !detail.contains("unattributed: "),
        "what is not done cannot be accepted: {detail}"
    );
    // What must be done is done; what may be taken as it is must be said to be.
    seller.close(october).await;
    seller.post("close/2026-10/steps/compared", json!({})).await;
    let (status, detail) = seller.refused("close/2026-10/hard", json!({})).await;
    assert!(status == 409 && detail.contains("unattributed: ") && !detail.contains("drafted: "), "{detail}");
    assert_eq!(seller.post("close/2026-10/hard", json!({ "accept": ["unattributed"] })).await["closed"], json!("hard"));
}

/// A price may follow how long a call took and how large its answer was: a line for each class, and it can be derived again.
pub async fn priced_by_how_long_and_how_large(suite: &Suite) {
    let plans = r#"  - name: classed
    version: 1
    prices:
      - {name: Speed, model: matrix, meter: requests, dimension: latency_class, values: {under_100ms: "3", under_1s: "2"}, default: "1"}
      - {name: Size, model: matrix, meter: requests, dimension: size_class, values: {from_10mb: "10"}, default: "0"}
"#;
    let consumer =
        "  - {name: a, address: {country: DE}, subjects: [a], subscriptions: [{plan: classed, from: 2026-08-01T00:00:00+02:00}]}\n";
    let seller = Seller::new(suite, plans, consumer).await;
    let august = month("2026-08");
    let calls = [(99_999, 1), (100_000, 999), (300_000, 1_000), (999_999, 9_999_999), (3_000_000, 10_000_000), (0, 0)];
    let rows: Vec<_> = (0..)
        .zip(calls)
        .map(|(n, (latency_us, response_bytes))| {
            let mut event = seller.business.event("a", august.start + TimeDelta::hours(n));
            (event.data.latency_us, event.data.response_bytes) = (latency_us, response_bytes);
            event
        })
        .collect();
    store_all(&suite.app, &rows).await;
    seller.close(august).await;
    let invoice = seller.invoices().await.remove(0);
    let mut shown = lines(&invoice);
    shown.sort();
    assert_eq!(
        shown,
        [
            "Size: from_10mb 1 10.00",
            "Size: under_10kb 1 0.00",
            "Size: under_10mb 1 0.00",
            "Size: under_1kb 3 0.00",
            "Speed: from_3s 1 1.00",
            "Speed: under_100ms 1 3.00",
            "Speed: under_1s 2 4.00",
            "Speed: under_300ms 1 1.00",
            "Speed: unknown 1 1.00"
        ]
    );
    audited(&seller, &invoice).await;
}
