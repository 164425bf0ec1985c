//! The push to Stripe killed at each step, with Stripe's own faults on top: one customer, one invoice, no line twice,
//! totals equal.
//!
//! A lane for each step has a database of its own, so that only the process that is to die has work in it. What a
//! process died over is carried on by the next ones, which die too, and finished by one that lives.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use farebox_billing::credit_notes::{self, CreditNote, NewCreditNote, State};
use farebox_billing::{audit, close, stripe};
use farebox_core::config::Config;
use farebox_core::ids::CreditNoteId;
use farebox_core::{App, workspace};
use farebox_metering::faults;
use serde_json::json;
use tokio::process::Command;

use crate::billing::{Business, month, yaml};
use crate::harness::{Suite, eventually, free_port};
use crate::stripe::{Shop, assert_one};

const SIGABRT: i32 = 6;
const IN_TIME: Duration = Duration::from_secs(60);

pub async fn killed_at_each_step_of_the_push(suite: &Suite) {
    let lanes = [
        ("customer", "/v1/customers"),
        ("draft", "/v1/invoices"),
        ("lines", "/v1/invoices/*/add_lines"),
        ("finalize", "/v1/invoices/*/finalize"),
    ];
    let points: Vec<_> = faults::POINTS.iter().copied().filter(|point| point.starts_with("stripe.")).collect();
    assert_eq!(points.len(), 25);
    let lanes = lanes.map(|(lane, path)| {
        let own: Vec<_> = points.iter().copied().filter(|point| point.split('.').nth(1) == Some(lane)).collect();
        assert!(own.len() >= 4, "{lane}: {own:?}");
        async move { die_and_recover(suite, lane, path, &own).await }
    });
    futures::future::join_all(lanes).await;
}

async fn die_and_recover(suite: &Suite, lane: &str, path: &str, points: &[&str]) {
    let (app, database) = database_of_its_own(suite, lane).await;
    let stripes_faults = [
        json!({ "kind": "drop" }),
        json!({ "kind": "error_before" }),
        json!({ "kind": "conflict" }),
        json!({ "kind": "rate_limit", "retry_after": 1 }),
        json!({ "kind": "stored_error", "applied": true }),
    ];
    let mut shops = Vec::new();
    for (point, fault) in points.iter().zip(stripes_faults.iter().cycle()) {
        let shop = Shop::open(&app, &format!("kill-{lane}")).await;
        shop.order("faults", json!({ "method": "POST", "path": path, "fault": fault })).await;
        let invoice = shop.issue(0).await;
        shop.connect().await;
        billing_that_dies_at(suite, &app, point).await;
        shops.push((shop, invoice, format!("killed at {point}, with {fault} at {path}")));
    }
    // One that lives finishes what all of them left, as soon as their leases have run out.
    for (shop, invoice, what) in shops {
        let ours = eventually(&format!("the push, {what}"), IN_TIME, || async {
            stripe::workers::run_once(&app).await.expect("PostgreSQL");
            Some(shop.invoice(&invoice).await).filter(|ours| ours.stripe_id.is_some())
        })
        .await;
        assert_one(&shop, &ours, &what).await;
    }
    drop_database(suite, &app, &database).await;
}

/// The suite's engines, with a fresh database.
async fn database_of_its_own(suite: &Suite, lane: &str) -> (App, String) {
    let name = format!("kill_{lane}_{}", uuid::Uuid::now_v7().simple());
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE \"{name}\""))).execute(&suite.app.pg).await.expect("PostgreSQL");
    let mut config: Config = suite.app.config.as_ref().clone();
    let mut address = url::Url::parse(&config.postgres.url).expect("an address");
    address.set_path(&name);
    config.postgres.url = address.into();
    let app = App::connect(config).await.expect("connects");
    app.migrate().await.expect("migrates");
    (app, name)
}

async fn billing_that_dies_at(suite: &Suite, app: &App, point: &str) {
    let log = std::fs::File::create(suite.data.join(format!("push-{point}.log"))).expect("a log");
    let config: &Path = &suite.data.join("farebox.toml");
    let mut process = Command::new(env!("CARGO_BIN_EXE_farebox"))
        .arg("--config")
        .arg(config)
        .args(["serve", "--roles", "billing"])
        .env("FAREBOX_HTTP__LISTEN", format!("127.0.0.1:{}", free_port().expect("a port")))
        .env("FAREBOX_POSTGRES__URL", &app.config.postgres.url)
        .env("FAREBOX_KILL_AT", point)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("farebox serve starts");
    let status =
        tokio::time::timeout(IN_TIME, process.wait()).await.unwrap_or_else(|_| panic!("it did not die at {point}")).expect("a status");
    assert_eq!(status.signal(), Some(SIGABRT), "{point}");
}

/// A consumer's one invoice for all subscriptions is one at Stripe, whatever step dies: its lines, of both, in one draft; its
/// payment is one; and it can be derived again.
pub async fn a_consolidated_invoice_is_one_there(suite: &Suite) {
    let (app, database) = database_of_its_own(suite, "together").await;
    let august = month("2026-08");
    for point in ["stripe.draft.sent", "stripe.lines.sent", "stripe.finalize.stored"] {
        let business = Business::new(&app, "  []\n").await;
        let extended = yaml(
            &business.name,
            "  - {name: c, email: c@example.com, address: {country: DE}, subjects: [c], billing: {consolidated: true}, subscriptions: [{plan: growth, from: 2026-08-01T00:00:00+02:00}, {plan: mapper, from: 2026-08-01T00:00:00+02:00}]}\n",
        );
        let extended = extended.replace("apis:\n", "apis:\n  - {name: maps, product: maps, versions: [{name: v1}]}\n").replace(
            "plans:\n",
            "plans:\n  - {name: mapper, product: maps, version: 1, prices: [{name: Maps, model: flat, billed: in_arrears, amount: \"10\"}]}\n",
        );
        business.apply(&app, &extended).await.expect("applies");
        business.send(&app, "c", august, 30, 1).await;
        let consumer = business.consumer(&mut app.pg.acquire().await.expect("PostgreSQL"), "c").await;
        let shop = Shop::of(&app, "together", business.ws.clone(), consumer);
        shop.connect().await;
        let report = close::close_period(&app, &business.ws, august).await.expect("closes");
        assert_eq!(report.problems.len(), 0, "{report:?}");
        let invoice = business.invoices(&app).await.remove(0).id;
        billing_that_dies_at(suite, &app, point).await;
        let ours = eventually(&format!("the push, killed at {point}"), IN_TIME, || async {
            stripe::workers::run_once(&app).await.expect("PostgreSQL");
            Some(shop.invoice(&invoice).await).filter(|ours| ours.stripe_id.is_some())
        })
        .await;
        let theirs = shop.at_stripe("invoices").await;
        assert_eq!(theirs.len(), 1, "{point}");
        let shown: Vec<_> = theirs[0]["lines"]["data"].as_array().expect("lines").iter().map(|line| line["amount"].as_i64()).collect();
        // Two months of 49, twenty of 30 calls at 0.50 above the ten that are included, and of the maps' fee the month that is over.
        assert_eq!(shown, [4900, 4900, 1000, 1000].map(Some), "{point}: {}", theirs[0]);
        assert_eq!(
            (theirs[0]["total"].as_i64(), theirs[0]["number"].as_str()),
            (Some(ours.total.minor), ours.number.as_deref()),
            "{point}"
        );
        assert!(ours.lines.iter().all(|line| line.subscription.is_some()), "each line says whose it is");
        let said = theirs[0]["lines"]["data"][3]["description"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains("maps, mapper: Maps"), "Stripe's line names the subscription, too: {said}");
        assert!(audit::invoice(&app, &business.ws, &invoice).await.expect("audited").equal);
        let id = ours.stripe_id.as_deref().expect("pushed");
        shop.in_the_dashboard(&format!("invoices/{id}/pay"), &[("paid_out_of_band", "true")]).await;
        eventually("the payment", IN_TIME, || async {
            stripe::poll::poll(&app, &business.ws).await.expect("polled");
            stripe::events::apply_new(&app).await.expect("applied");
            Some(shop.invoice(&invoice).await).filter(|ours| ours.state == farebox_billing::invoices::State::Paid)
        })
        .await;
    }
    drop_database(suite, &app, &database).await;
}

/// The same for a credit note: one there, one here, and its number once.
pub async fn killed_at_each_step_of_a_credit_note(suite: &Suite) {
    let (app, database) = database_of_its_own(suite, "credit").await;
    for (shop, note, what) in die_with_a_note(suite, &app, "credit_note", "/v1/credit_notes").await {
        let ours = when(&app, &shop, &note, State::Issued, &what).await;
        let there = shop.at_stripe("credit_notes").await;
        assert_eq!(there.iter().map(|note| note["total"].as_i64()).collect::<Vec<_>>(), [Some(7299)], "{what}");
        assert_eq!((ours.number.as_deref(), ours.stripe_id.as_deref()), (Some("INV-CN-000001"), there[0]["id"].as_str()), "{what}");
        assert_eq!(shop.at_stripe("invoices").await[0]["status"], "paid", "{what}");
    }
    drop_database(suite, &app, &database).await;
}

/// And for its voiding: void on both sides, and the invoice asks for all of it again.
pub async fn killed_at_each_step_of_a_voiding(suite: &Suite) {
    let (app, database) = database_of_its_own(suite, "voiding").await;
    for (shop, note, what) in die_with_a_note(suite, &app, "void_credit_note", "/v1/credit_notes/*/void").await {
        when(&app, &shop, &note, State::Void, &what).await;
        let there = shop.at_stripe("credit_notes").await;
        assert_eq!(there.iter().map(|note| note["status"].as_str()).collect::<Vec<_>>(), [Some("void")], "{what}");
        let (theirs, ours) = (shop.at_stripe("invoices").await.remove(0), due(&app, &shop, &note).await);
        assert_eq!((theirs["amount_remaining"].as_i64(), ours), (Some(7299), 7299), "{what}");
    }
    drop_database(suite, &app, &database).await;
}

/// For each point of a step: a note that was asked for, or a voiding, and a process that died over it.
async fn die_with_a_note(suite: &Suite, app: &App, step: &str, path: &str) -> Vec<(Shop, CreditNoteId, String)> {
    let own = format!("stripe.{step}.");
    let points = faults::POINTS.iter().filter(|point| point.starts_with(&own));
    let stripes_faults = [json!({ "kind": "drop" }), json!({ "kind": "conflict" }), json!({ "kind": "stored_error", "applied": true })];
    let mut asked = Vec::new();
    for (point, fault) in points.zip(stripes_faults.iter().cycle()) {
        let shop = Shop::open(app, "kill-credit").await;
        let invoice = shop.issue(0).await;
        shop.connect().await;
        let pushed = eventually("the push", IN_TIME, || async {
            stripe::workers::run_once(app).await.expect("PostgreSQL");
            Some(shop.invoice(&invoice).await).filter(|ours| ours.stripe_id.is_some())
        })
        .await;
        let voids = step == "void_credit_note";
        let lines = if voids { vec![(pushed.lines[0].id.clone(), None)] } else { Vec::new() };
        let mut tx = app.pg.begin().await.expect("PostgreSQL");
        let workspace = workspace::by_id(&mut tx, &shop.workspace).await.expect("PostgreSQL").expect("is there");
        let new = NewCreditNote { lines, ..NewCreditNote::default() };
        let note = credit_notes::ask(&mut tx, &workspace, &invoice, &new, "a test").await.expect("asked for");
        tx.commit().await.expect("PostgreSQL");
        let what = format!("killed at {point}, with {fault}");
        if voids {
            when(app, &shop, &note, State::Issued, &what).await;
        }
        shop.order("faults", json!({ "method": "POST", "path": path, "fault": fault })).await;
        if voids {
            let mut tx = app.pg.begin().await.expect("PostgreSQL");
            credit_notes::ask_void(&mut tx, &workspace, &note, "a test").await.expect("asked for");
            tx.commit().await.expect("PostgreSQL");
        }
        billing_that_dies_at(suite, app, point).await;
        asked.push((shop, note, what));
    }
    assert_eq!(asked.len(), 4);
    asked
}

async fn when(app: &App, shop: &Shop, note: &CreditNoteId, state: State, what: &str) -> CreditNote {
    // A lease that its holder died with, and then Stripe's fault.
    eventually(&format!("the credit note, {what}"), 2 * IN_TIME, || async {
        credit_notes::run_once(app).await.expect("PostgreSQL");
        let mut conn = app.pg.acquire().await.expect("PostgreSQL");
        let found = credit_notes::get(&mut conn, &shop.workspace, note).await.expect("PostgreSQL");
        found.filter(|note| note.state == state)
    })
    .await
}

/// What is due of the note's invoice, in cents.
async fn due(app: &App, shop: &Shop, note: &CreditNoteId) -> i64 {
    let mut conn = app.pg.acquire().await.expect("PostgreSQL");
    let note = credit_notes::get(&mut conn, &shop.workspace, note).await.expect("PostgreSQL").expect("is there");
    drop(conn);
    shop.invoice(&note.invoice).await.due().minor
}

async fn drop_database(suite: &Suite, app: &App, database: &str) {
    app.pg.close().await;
    sqlx::query(sqlx::AssertSqlSafe(format!("DROP DATABASE \"{database}\" WITH (FORCE)")))
        .execute(&suite.app.pg)
        .await
        .expect("PostgreSQL");
}
