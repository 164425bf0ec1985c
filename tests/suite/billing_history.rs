//! Subscriptions' lives on real engines: every price from events to an audited invoice, late usage, seats, pauses,
//! add-ons, coupons, credits, thresholds, the checklist, what-if, and the refusals a person reads.

use chrono::{DateTime, TimeDelta, Utc};
use farebox_billing::close::checklist::{self, Closed, StepName, StepState};
use farebox_billing::credits::{self, GrantKind, NewGrant};
use farebox_billing::invoices::{self, Invoice, State};
use farebox_billing::subscriptions::{self, When};
use farebox_billing::what_if::{self, Candidate, Question};
use farebox_billing::{BillingError, audit, calendar, close, coupons, plans};
use farebox_core::App;
use farebox_core::auth::{self, Scope};
use farebox_core::event::UsageEvent;
use farebox_core::money::{BigDecimal, Money};
use farebox_core::period::Period;
use farebox_core::workspace;
use farebox_metering::timelines;
use serde_json::{Value, json};

use crate::billing::{Business, lines, month, utc, yaml};
use crate::harness::Suite;
use crate::metering_flow::store_all;

async fn store(app: &App, events: Vec<UsageEvent>) {
    let rows: Vec<_> = events.into_iter().collect();
    store_all(app, &rows).await;
}

fn payment(business: &Business, at: DateTime<Utc>, amount: &str) -> UsageEvent {
    let mut event = business.event("a", at);
    event.kind = "payment".to_owned();
    event.data.properties = [("/amount".to_owned(), amount.to_owned())].into();
    event
}

fn call(business: &Business, at: DateTime<Utc>, route: &str) -> UsageEvent {
    let mut event = business.event("a", at);
    event.data.route = route.to_owned();
    event
}

/// Catalogue text with further meters and plans.
fn extended(business: &Business, plans: &str, consumers: &str) -> String {
    yaml(&business.name, consumers)
        .replace("plans:\n", &format!("meters:\n  - {{name: volume, event: payment, aggregate: sum, value: /amount}}\nplans:\n{plans}"))
}

fn set(invoice: &Invoice) -> Vec<String> {
    let mut all = lines(invoice);
    all.sort();
    all
}

async fn advance_to(app: &App, business: &Business, at: DateTime<Utc>) {
    let mut conn = app.pg.acquire().await.expect("PostgreSQL");
    let now = workspace::by_id(&mut conn, &business.ws).await.expect("PostgreSQL").expect("there").clock.now();
    assert!(workspace::advance_clock(&mut conn, &business.ws, (at - now).num_seconds() + 1).await.expect("PostgreSQL"));
}

const MIX: &str = r#"  - name: mix
    version: 1
    prices:
      - {name: Share, model: percentage, meter: volume, rate: "0.01", fixed: "0.05", min_per_event: "0.50", max_per_event: 20}
      - {name: Fixed, model: percentage, meter: volume, rate: "0.002", fixed: "0.10", included: 100, included_events: 1}
      - {name: Calls, model: matrix, meter: requests, dimension: route, values: {"GET /orders": "0.015"}, default: "0.1"}
      - {name: Packs, model: package, meter: requests, amount: 3, package_size: 4}
"#;

/// Percentages by event, a matrix and packages are counted, sealed and audited; what comes late is corrected by line on
/// the next invoice, once; and all documents come to what the usage is worth.
pub async fn every_price_is_proven_and_late_usage_corrected(suite: &Suite) {
    let app = &suite.app;
    let consumer = "  - {name: a, subjects: [a], subscriptions: [{plan: mix, from: 2026-08-01T00:00:00+02:00}]}\n";
    let business = Business::new(app, "  - {name: a, subjects: [a]}\n").await;
    business.apply(app, &extended(&business, MIX, consumer)).await.expect("applies");
    let at = utc("2026-08-10T10:00:00Z");
    let mut events: Vec<_> =
        ["10", "80", "10000"].iter().zip(0..).map(|(amount, n)| payment(&business, at + TimeDelta::minutes(n), amount)).collect();
    events.extend((0..5).map(|n| call(&business, at + TimeDelta::hours(n), "GET /orders")));
    events.extend((0..3).map(|n| call(&business, at + TimeDelta::hours(n), "POST /orders")));
    store(app, events).await;
    close::close_period(app, &business.ws, month("2026-08")).await.expect("closes");
    let august = business.invoices(app).await.remove(0);
    // 0.50 + 0.85 + 20; 0.2 % of 9,990 + 2 × 0.10; 5 × 0.015 and 3 × 0.1; two packages of four.
    assert_eq!(
        set(&august),
        ["Calls: GET /orders 5 0.08", "Calls: POST /orders 3 0.30", "Fixed 10090 20.18", "Packs 8 6.00", "Share 10090 21.35"]
    );
    let report = audit::invoice(app, &business.ws, &august.id).await.expect("audited");
    assert!(report.equal, "{report:#?}");

    let late = utc("2026-08-20T10:00:00Z");
    let mut events = vec![payment(&business, late, "80")];
    events.extend((0..2).map(|n| call(&business, late + TimeDelta::hours(n), "GET /orders")));
    events.push(call(&business, utc("2026-09-02T00:00:00Z"), "GET /orders"));
    store(app, events).await;
    let preview = {
        let mut conn = app.pg.acquire().await.expect("PostgreSQL");
        let own = subscriptions::list(&mut conn, &business.ws, None, 1, "").await.expect("listed").remove(0);
        invoices::preview(app, &business.ws, &own.id).await.expect("previewed")
    };
    assert!(preview.lines.iter().any(|line| line.name == "Packs, corrected"), "a correction is in the preview: {preview:?}");
    close::close_period(app, &business.ws, month("2026-09")).await.expect("closes");
    let september = business.invoices(app).await.remove(1);
    assert_eq!(
        set(&september),
        [
            "Calls: GET /orders 1 0.02",
            "Calls: GET /orders, corrected 2 0.03",
            "Fixed 0 0.00",
            "Fixed, corrected 80 0.26",
            "Packs 1 3.00",
            "Packs, corrected 2 3.00",
            "Share 0 0.00",
            "Share, corrected 80 0.85",
        ]
    );
    let named = august.lines.iter().find(|line| line.name == "Packs").expect("a line");
    let correction = september.lines.iter().find(|line| line.name == "Packs, corrected").expect("a line");
    assert_eq!(correction.adjusts.as_ref(), Some(&named.id), "it names the original line");
    assert!(correction.explanation.contains(august.number.as_deref().expect("a number")), "{}", correction.explanation);
    let report = audit::invoice(app, &business.ws, &september.id).await.expect("audited");
    assert!(report.equal, "{report:#?}");

    // Once: nothing is corrected again, and a subscription that is over gets its correction by itself.
    let workspace = {
        let mut conn = app.pg.acquire().await.expect("PostgreSQL");
        let own = subscriptions::list(&mut conn, &business.ws, None, 1, "").await.expect("listed").remove(0);
        subscriptions::cancel_at(&mut conn, &business.ws, &own.id, month("2026-10").start).await.expect("canceled");
        workspace::by_id(&mut conn, &business.ws).await.expect("PostgreSQL").expect("there")
    };
    close::close_period(app, &business.ws, month("2026-10")).await.expect("closes");
    assert_eq!(close::bill_corrections(app, &workspace, false).await.expect("looked"), []);
    store(app, vec![call(&business, utc("2026-09-03T00:00:00Z"), "GET /orders")]).await;
    assert_eq!(close::bill_corrections(app, &workspace, false).await.expect("corrected").len(), 1);
    assert_eq!(close::bill_corrections(app, &workspace, false).await.expect("looked"), []);
    let last = business.invoices(app).await.pop().expect("an invoice");
    assert_eq!((last.kind.as_str(), set(&last)), ("adjustment", vec!["Calls: GET /orders, corrected 1 0.01".to_owned()]));
}

/// Seats, a pause, an add-on and an end without credit: all invoices come to what was in force, by definition.
pub async fn a_subscription_through_its_life(suite: &Suite) {
    let app = &suite.app;
    let business = Business::new(app, "  - {name: a, subjects: [a]}\n").await;
    let plan = "  - {name: team, version: 1, prices: [{name: Seats, model: flat, amount: \"31.00\", per_seat: true}, {name: R, model: per_unit, meter: requests, unit_amount: \"0.1\"}]}\n";
    business.apply(app, &extended(&business, plan, "  - {name: a, subjects: [a]}\n")).await.expect("applies");
    let first = calendar::period_of(farebox_core::clock::now(), chrono_tz::Europe::Berlin).expect("a month");
    let second = calendar::period_of(first.end, chrono_tz::Europe::Berlin).expect("a month");
    let third = calendar::period_of(second.end, chrono_tz::Europe::Berlin).expect("a month");
    let ws = &business.ws;
    let mut conn = app.pg.acquire().await.expect("PostgreSQL");
    let consumer = business.consumer(&mut conn, "a").await;
    let start = subscriptions::Start {
        consumer: &consumer,
        plan: "team",
        version: None,
        from: first.start,
        quantity: BigDecimal::from(2),
        currency: None,
    };
    let id = subscriptions::start(&mut conn, ws, start).await.expect("started").id;
    business.send(app, "a", Period { start: first.start, end: first.start + TimeDelta::hours(1) }, 10, 1).await;
    advance_to(app, &business, first.end + TimeDelta::minutes(10)).await;
    close::close_period(app, ws, first).await.expect("closes");
    let invoice = business.invoices(app).await.remove(0);
    assert_eq!(lines(&invoice), ["Seats 2 62.00", "Seats 2 62.00", "R 10 1.00"]);

    // Into the second month: more seats, an add-on, a pause, and back.
    let five = BigDecimal::from(5);
    advance_to(app, &business, second.start + TimeDelta::days(5)).await;
    subscriptions::set_quantity(&mut conn, ws, &id, &five, When::Now).await.expect("more seats");
    let price = farebox_billing::catalog::parse_price("{name: Support, model: flat, amount: \"10\"}", "USD".parse().expect("a currency"))
        .expect("a price");
    let from = workspace::by_id(&mut conn, ws).await.expect("PostgreSQL").expect("there").clock.now();
    subscriptions::add(&mut conn, ws, &id, &price, &BigDecimal::from(3), from).await.expect("added");
    advance_to(app, &business, second.start + TimeDelta::days(10)).await;
    let paused = subscriptions::pause(&mut conn, ws, &id, When::Now).await.expect("paused");
    assert!(paused.paused && subscriptions::current(&mut conn, ws, &consumer).await.expect("listed").is_empty());
    let refused = subscriptions::change(&mut conn, ws, &id, "scale", When::Now).await.expect_err("it is paused").to_string();
    assert!(refused.ends_with("It is paused: resume it first."), "{refused}");
    advance_to(app, &business, second.start + TimeDelta::days(20)).await;
    let now = workspace::by_id(&mut conn, ws).await.expect("PostgreSQL").expect("there").clock.now();
    subscriptions::resume(&mut conn, ws, &id, now).await.expect("resumed");
    subscriptions::cancel(&mut conn, ws, &id, When::PeriodEnd, true).await.expect("to end");
    advance_to(app, &business, second.end + TimeDelta::minutes(10)).await;
    timelines::sync(app).await.expect("copied");
    close::close_period(app, ws, second).await.expect("closes");
    advance_to(app, &business, third.end + TimeDelta::minutes(10)).await;
    let over = close::close_period(app, ws, third).await.expect("closes");
    assert_eq!(over.issued, 0, "it is over, and everything was given back");
    let total: i64 = business.invoices(app).await.iter().map(|invoice| invoice.subtotal.minor).sum();
    // By definition: what simulating the plan it had gives.
    let plan = plans::find(&mut conn, ws, "team", None).await.expect("found").expect("there").definition;
    let question = Question { plans: vec![Candidate::published(plan)], months: vec![first, second, third], consumers: None, on_plan: None };
    let worth = what_if::simulate(app, ws, &question).await.expect("simulated");
    assert_eq!((worth.totals[0].difference.minor, worth.totals[0].unchanged), (0, 1));
    let off = total - worth.totals[0].actual.minor;
    assert!(off.abs() <= 6, "the invoices come to {total}, it was worth {}", worth.totals[0].actual);
}

/// A coupon, prepaid credits and tax in their order; the preview shows the same; a void invoice gives back exactly.
pub async fn coupons_and_credits_on_an_invoice(suite: &Suite) {
    let app = &suite.app;
    let business = Business::new(
        app,
        "  - {name: a, address: {country: DE}, subjects: [a], subscriptions: [{plan: growth, from: 2026-08-01T00:00:00+02:00}]}\n",
    )
    .await;
    let (ws, august) = (&business.ws, month("2026-08"));
    business.send(app, "a", august, 50, 1).await;
    let mut conn = app.pg.acquire().await.expect("PostgreSQL");
    let consumer = business.consumer(&mut conn, "a").await;
    let id = subscriptions::list(&mut conn, ws, None, 1, "").await.expect("listed").remove(0).id;
    let half = coupons::NewCoupon {
        code: "HALF".to_owned(),
        share: Some("0.5".parse().expect("a decimal")),
        periods: Some(1),
        prices: vec!["Platform".to_owned()],
        ..coupons::NewCoupon::default()
    };
    coupons::create(&mut conn, ws, half).await.expect("made");
    coupons::redeem(&mut conn, ws, &id, "HALF", august.start).await.expect("redeemed");
    let usd = |minor| Money::new(minor, "USD".parse().expect("a currency"));
    let grant = |name: &str, minor, taxed, priority| NewGrant {
        consumer: consumer.clone(),
        name: name.to_owned(),
        kind: if taxed { GrantKind::Paid } else { GrantKind::Promotional },
        amount: usd(minor),
        taxed,
        priority,
        effective_at: august.start,
        expires_at: None,
        rollover: None,
    };
    let welcome = credits::grant(&mut conn, ws, grant("Welcome", 1500, false, 0)).await.expect("granted").id;
    let bought = credits::grant(&mut conn, ws, grant("Bought", 1000, true, 0)).await.expect("granted").id;
    close::close_period(app, ws, august).await.expect("closes");
    let invoice = business.invoices(app).await.remove(0);
    // 2 × 49 + 12.50; half of the fees off: 61.50; 15.00 of credits: 46.50; 19 % on what is left of each line; 10.00 bought before.
    assert_eq!(lines(&invoice), ["Platform 1 49.00", "Platform 1 49.00", "Requests 50 12.50", "Bought 1 -10.00"]);
    let sum = |of: fn(&invoices::InvoiceLine) -> i64| invoice.lines.iter().map(of).sum::<i64>();
    assert_eq!((sum(|l| l.discount.minor), sum(|l| l.credit.minor)), (4900, 1500));
    assert_eq!(
        (invoice.subtotal.to_string(), invoice.tax.to_string(), invoice.total.to_string()),
        ("36.50".into(), "8.84".into(), "45.34".into())
    );
    assert!(audit::invoice(app, ws, &invoice.id).await.expect("audited").equal);
    let balance = async |id| {
        credits::get(&mut app.pg.acquire().await.expect("PostgreSQL"), ws, id).await.expect("found").expect("there").balance.minor
    };
    assert_eq!((balance(&welcome).await, balance(&bought).await), (0, 0));

    assert!(invoices::mark_void(&mut conn, ws, &invoice.id, farebox_core::clock::now()).await.expect("void"));
    assert!(!invoices::mark_void(&mut conn, ws, &invoice.id, farebox_core::clock::now()).await.expect("twice"));
    assert_eq!((balance(&welcome).await, balance(&bought).await), (1500, 1000), "exactly what it took");
    let entries = credits::entries(&mut conn, ws, &welcome).await.expect("listed");
    let shown: Vec<_> = entries.iter().map(|e| format!("{} -> {} {}", e.from, e.to, e.amount)).collect();
    assert_eq!(shown, ["granted -> balance 15.00", "balance -> used 15.00", "used -> balance 15.00"]);
    let overdrawn = sqlx::query(
        "INSERT INTO credit_entries (workspace_id, grant_id, from_account, to_account, amount_minor, at) VALUES ($1, $2, 'balance', 'used', 1501, now())",
    );
    assert!(overdrawn.bind(ws.as_str()).bind(welcome.as_str()).execute(&app.pg).await.is_err(), "never below zero");

    close::close_period(app, ws, month("2026-09")).await.expect("closes");
    let next = business.invoices(app).await.remove(1);
    assert_eq!(next.lines.iter().map(|line| line.discount.minor).sum::<i64>(), 2450, "the void invoice did not use it up");
}

/// Usage that reaches its threshold is invoiced within the period; the period's own invoice takes it off.
pub async fn a_threshold_is_billed_within_the_period(suite: &Suite) {
    let app = &suite.app;
    let business = Business::new(app, "  - {name: a, subjects: [a]}\n").await;
    let this = calendar::period_of(farebox_core::clock::now(), chrono_tz::Europe::Berlin).expect("a month");
    let plan = "  - {name: metered, version: 1, terms: {threshold: 20}, minimum: 100, prices: [{name: R, model: graduated, meter: requests, tiers: [{up_to: 10, unit_amount: 2}, {unit_amount: 1}]}]}\n";
    let consumer =
        format!("  - {{name: a, subjects: [a], subscriptions: [{{plan: metered, from: {}}}]}}\n", this.start.format("%Y-%m-%dT%H:%M:%SZ"));
    business.apply(app, &extended(&business, plan, &consumer)).await.expect("applies");
    let hour = |n| Period { start: this.start + TimeDelta::hours(n), end: this.start + TimeDelta::hours(n + 1) };
    business.send(app, "a", hour(0), 9, 1).await;
    let mut workspace =
        workspace::by_id(&mut app.pg.acquire().await.expect("PostgreSQL"), &business.ws).await.expect("PostgreSQL").expect("there");
    assert_eq!(close::bill_thresholds(app, &workspace).await.expect("looked"), [], "18 of 20");
    business.send(app, "a", hour(1), 6, 1).await;
    assert_eq!(close::bill_thresholds(app, &workspace).await.expect("billed").len(), 1);
    assert_eq!(close::bill_thresholds(app, &workspace).await.expect("looked"), []);
    business.send(app, "a", hour(2), 5, 1).await;
    advance_to(app, &business, this.end + TimeDelta::minutes(10)).await;
    close::close_period(app, &business.ws, this).await.expect("closes");
    let found = business.invoices(app).await;
    let shown: Vec<_> = found.iter().map(|invoice| (invoice.kind.as_str(), lines(invoice))).collect();
    // 10 × 2 + 5 × 1; then 5 more at 1 of the whole period's position, and what is missing to 100.
    assert_eq!(
        shown,
        [("threshold", vec!["R 15 25.00".to_owned()]), ("regular", vec!["R 5 5.00".to_owned(), "Minimum 1 70.00".to_owned()])]
    );
    assert!(audit::invoice(app, &business.ws, &found[1].id).await.expect("audited").equal);
    workspace.clock =
        workspace::by_id(&mut app.pg.acquire().await.expect("PostgreSQL"), &business.ws).await.expect("PostgreSQL").expect("there").clock;
    assert_eq!(close::bill_corrections(app, &workspace, true).await.expect("looked"), []);
}

/// A month's checklist, step by step, until it is closed for good; and after that nothing is corrected any more.
pub async fn a_month_is_closed_by_its_checklist(suite: &Suite) {
    let app = &suite.app;
    let business =
        Business::new(app, "  - {name: a, subjects: [a], subscriptions: [{plan: growth, from: 2026-10-01T00:00:00+02:00}]}\n").await;
    let (ws, october) = (&business.ws, month("2026-10"));
    business.send(app, "a", october, 12, 1).await;
    business.send(app, "nobody", october, 2, 1).await;
    let state = |list: &checklist::Checklist, name| list.steps.iter().find(|step| step.step == name).map(|step| step.state);
    let open = checklist::checklist(app, ws, october).await.expect("looked");
    assert_eq!(
        (open.closed, state(&open, StepName::Drafted), state(&open, StepName::Unattributed)),
        (Closed::Open, Some(StepState::Waiting), Some(StepState::Attention))
    );
    let refused = checklist::hard_close(app, ws, october, &[], "test").await.expect_err("open").to_string();
    assert!(refused.contains("unattributed: 2 calls belong to nobody. Link their subjects or keys"), "{refused}");
    let soft = checklist::run_step(app, ws, october, StepName::Drafted).await.expect("ran");
    assert_eq!((soft.closed, state(&soft, StepName::Counted)), (Closed::Soft, Some(StepState::Done)));
    let compared = checklist::run_step(app, ws, october, StepName::Compared).await.expect("ran");
    assert_eq!(state(&compared, StepName::Compared), Some(StepState::Done), "{compared:#?}");
    business.send(app, "a", october, 30, 1).await;
    let late = checklist::checklist(app, ws, october).await.expect("looked");
    assert_eq!(state(&late, StepName::Late), Some(StepState::Attention));
    assert!(checklist::hard_close(app, ws, october, &[StepName::Unattributed], "test").await.is_err(), "something came late");
    let corrected = checklist::run_step(app, ws, october, StepName::Late).await.expect("ran");
    assert_eq!(state(&corrected, StepName::Late), Some(StepState::Done));
    let hard = checklist::hard_close(app, ws, october, &[StepName::Unattributed], "test").await.expect("closes");
    assert_eq!(hard.closed, Closed::Hard);
    let before = business.invoices(app).await.len();
    business.send(app, "a", october, 5, 1).await;
    checklist::run_step(app, ws, october, StepName::Late).await.expect("ran");
    assert_eq!(business.invoices(app).await.len(), before, "closed for good");
}

/// What a plan would have come to; a contract for one; a new version for all; and a plan that is retired.
pub async fn what_if_contracts_and_versions(suite: &Suite) {
    let app = &suite.app;
    let consumers = "  - {name: a, subjects: [a], subscriptions: [{plan: growth, from: 2026-08-01T00:00:00+02:00}]}\n  - {name: b, subjects: [b], subscriptions: [{plan: growth, from: 2026-08-01T00:00:00+02:00}]}\n";
    let business = Business::new(app, consumers).await;
    let ws = &business.ws;
    business.send(app, "a", month("2026-08"), 100, 1).await;
    let mut conn = app.pg.acquire().await.expect("PostgreSQL");
    let scale = plans::find(&mut conn, ws, "scale", None).await.expect("found").expect("there").definition;
    let question = Question { plans: vec![Candidate::published(scale)], months: vec![month("2026-08")], consumers: None, on_plan: None };
    let asked = what_if::simulate(app, ws, &question).await.expect("simulated");
    // a: 49 + 10 + 8.75 against 99 + 10; b: 49 against 99.
    let shown: Vec<_> = asked.rows.iter().map(|r| format!("{} {} {} {}", r.name, r.actual, r.simulated, r.difference)).collect();
    assert_eq!(shown, ["b 49.00 99.00 50.00", "a 67.75 109.00 41.25"]);
    assert_eq!((asked.totals[0].losers, asked.totals[0].difference.to_string()), (2, "91.25".to_owned()));

    let (a, b) = (business.consumer(&mut conn, "a").await, business.consumer(&mut conn, "b").await);
    let changes = json!({ "prices": [{ "name": "Platform", "model": "flat", "amount": "39" }] });
    let contract = farebox_billing::contracts::agree(&mut conn, ws, &a, "growth", &changes).await.expect("agreed");
    assert_eq!((contract.name.as_str(), contract.version, contract.definition.prices.len()), ("growth (a)", 1, 2));
    assert!(
        plans::list_published(&mut conn, ws).await.expect("listed").iter().all(|plan| plan.name != contract.name),
        "nobody else sees it"
    );
    let own = subscriptions::list(&mut conn, ws, Some(&a), 1, "").await.expect("listed").remove(0);
    let theirs = subscriptions::list(&mut conn, ws, Some(&b), 1, "").await.expect("listed").remove(0);
    assert!(matches!(
        subscriptions::change_at(&mut conn, ws, &theirs.id, "growth (a)", month("2026-09").start).await,
        Err(BillingError::NotFound("plan"))
    ));
    subscriptions::change_at(&mut conn, ws, &own.id, "growth (a)", month("2026-09").start).await.expect("changed");

    let text = yaml(&business.name, consumers);
    let second = text.replace("name: growth\n    version: 1", "name: growth\n    version: 2").replace("amount: \"49\"", "amount: \"59\"");
    business.apply(app, &second).await.expect("applies");
    let moved = subscriptions::migrate(
        &mut conn,
        ws,
        &subscriptions::Migration { plan: "growth", from_version: Some(1), to_version: None, when: When::PeriodEnd },
    )
    .await;
    let moved = moved.expect("moved");
    assert_eq!((moved.to_version, moved.subscriptions, moved.refused.len()), (2, vec![theirs.id.clone()], 0), "the contract stays");

    let retired = second.replace("name: scale\n    version: 1", "name: scale\n    version: 1\n    retired: true");
    business.apply(app, &retired).await.expect("applies");
    let refused = subscriptions::change(&mut conn, ws, &theirs.id, "scale", When::Now).await.expect_err("retired").to_string();
    assert!(refused.starts_with("Plan `scale` is retired"), "{refused}");
}

/// What a person reads when something cannot be, through the front door: each says the way out.
pub async fn refusals_say_the_way_out(suite: &Suite) {
    let app = &suite.app;
    let business =
        Business::new(app, "  - {name: a, subjects: [a], subscriptions: [{plan: growth, from: 2026-10-01T00:00:00+02:00}]}\n").await;
    let mut conn = app.pg.acquire().await.expect("PostgreSQL");
    let (_, secret) = auth::create_token(&mut conn, &business.ws, "test", &[Scope::Manage, Scope::Finance, Scope::Read], true, None)
        .await
        .expect("a token");
    let a = business.consumer(&mut conn, "a").await;
    let http = reqwest::Client::new();
    let send = async |method: reqwest::Method, path: &str, body: Value| {
        let request =
            http.request(method, format!("{}/api/v1/{path}", suite.credentials.base_url)).bearer_auth(secret.reveal()).json(&body);
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap_or_default())
    };
    let post = async |path: &str, body: Value| send(reqwest::Method::POST, path, body).await;
    let (status, _) = send(reqwest::Method::PUT, &format!("consumers/{a}/billing"), json!({ "currency": "JPY" })).await;
    assert_eq!(status, 200);
    let (status, answer) = post("subscriptions", json!({ "consumer": a, "plan": "scale" })).await;
    assert_eq!(
        (status, answer["detail"].as_str()),
        (409, Some("Plan `scale` has no amount in JPY for: Platform, Requests. Publish a version that has them, or choose another plan."))
    );
    let (status, answer) = post("subscriptions", json!({ "consumer": a, "plan": "scale", "currency": "USD" })).await;
    assert_eq!(status, 409);
    assert_eq!(
        answer["detail"].as_str(),
        Some("The consumer would have two subscriptions to the product `default` at once. End one before the other starts.")
    );
    let (status, answer) = post("close/2026-10/hard", json!({})).await;
    assert_eq!((status, answer["type"].as_str().is_some_and(|t| t.ends_with("open-differences"))), (409, true), "{answer}");
    let (status, answer) = send(reqwest::Method::PUT, &format!("consumers/{a}/billing"), json!({ "tax_status": "exempt" })).await;
    assert_eq!((status, answer["errors"][0]["pointer"].as_str()), (422, Some("/tax_reason")), "{answer}");
    let (status, answer) = post("plans/growth/simulate", json!({ "from": "2026-10", "to": "2026-09" })).await;
    assert_eq!((status, answer["errors"][0]["pointer"].as_str()), (422, Some("/to")), "{answer}");
    let (status, answer) = post("credits", json!({ "consumer": a, "kind": "paid", "amount": "1.005", "currency": "USD" })).await;
    assert_eq!((status, answer["errors"][0]["detail"].as_str()), (422, Some("`1.005` has more decimals than USD has")), "{answer}");
    let own = subscriptions::list(&mut conn, &business.ws, Some(&a), 1, "").await.expect("listed").remove(0).id;
    let (status, answer) = post(&format!("subscriptions/{own}/resume"), json!({})).await;
    assert_eq!((status, answer["detail"].as_str()), (409, Some("The subscription is not paused; there is nothing to resume.")));
    let (status, _) = post("coupons", json!({ "code": "X", "share": "0.1", "max_redemptions": 1 })).await;
    assert_eq!(status, 201);
    let (status, answer) = post("coupons", json!({ "code": "X", "share": "0.1" })).await;
    assert_eq!((status, answer["detail"].as_str()), (409, Some("There is a coupon with the code `X`. Choose another.")));
    assert_eq!(business.invoices(app).await.iter().filter(|invoice| invoice.state == State::Draft).count(), 0);
}
