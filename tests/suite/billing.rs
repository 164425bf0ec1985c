//! Billing on real engines: the catalogue, the close and the audit, with events in ClickHouse and several workers.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_billing::catalog::{self, Catalog};
use farebox_billing::invoices::{self, Invoice, InvoiceFilter, State};
use farebox_billing::{BillingError, audit, calendar, close, credit_notes, documents, plans, revenue, subscriptions};
use farebox_core::App;
use farebox_core::event::{AnsweredBy, RequestData, UsageEvent};
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::period::Period;
use farebox_core::workspace::{self, NewWorkspace};
use farebox_metering::{consumers, links, timelines};
use serde_json::json;
use sqlx::PgConnection;

use crate::harness::Suite;
use crate::metering_flow::{call, store_all};

const ZONE: chrono_tz::Tz = chrono_tz::Europe::Berlin;

/// A workspace with a catalogue, whose months August to October 2026 are over.
pub struct Business {
    pub ws: WorkspaceId,
    pub name: String,
}

pub fn yaml(workspace: &str, consumers: &str) -> String {
    format!(
        r#"workspace: {workspace}
currency: USD
time_zone: Europe/Berlin
seller: {{name: Acme Ltd, address: {{country: DE}}, invoice_number_prefix: ACME-}}
taxes: [{{name: VAT, rate: "0.19", inclusive: false, countries: [DE]}}]
billing: {{close_by_hand: true, late_days: 400}}
apis:
  - {{name: orders, product: default, versions: [{{name: v1}}]}}
plans:
  - name: free
    version: 1
    prices: [{{name: Requests, model: per_unit, meter: requests, unit_amount: "0"}}]
  - name: growth
    version: 1
    prices:
      - {{name: Platform, model: flat, amount: "49"}}
      - {{name: Requests, model: graduated, meter: requests, included: 10, tiers: [{{up_to: 20, unit_amount: "0.5"}}, {{unit_amount: "0.125"}}]}}
  - name: scale
    version: 1
    prices:
      - {{name: Platform, model: flat, amount: "99"}}
      - {{name: Requests, model: per_unit, meter: requests, unit_amount: "0.1"}}
  - name: every
    version: 1
    prices: [{{name: All, model: per_unit, meter: calls, unit_amount: "0.1"}}]
consumers:
{consumers}"#
    )
}

fn parsed(text: &str) -> Catalog {
    catalog::parse(text).map_err(|e| format!("{e:#?}")).expect("a right catalogue")
}

pub fn utc(text: &str) -> DateTime<Utc> {
    text.parse().expect("an RFC 3339 time")
}

pub fn month(name: &str) -> Period {
    calendar::parse(name, ZONE).expect("a month")
}

impl Business {
    pub async fn new(app: &App, consumers: &str) -> Self {
        let name = format!("billing/b{}", uuid::Uuid::now_v7().simple());
        let mut conn = app.pg.acquire().await.expect("PostgreSQL");
        let new = NewWorkspace {
            name: &name,
            display_name: "Billing",
            currency: "USD".parse().expect("a currency"),
            time_zone: ZONE,
            test_mode: true,
            is_default: false,
        };
        let ws = workspace::create(&mut conn, new).await.expect("a workspace").id;
        catalog::apply(&mut conn, &parsed(&yaml(&name, consumers)), "test").await.expect("applies");
        Self { ws, name }
    }

    /// Applies another catalogue file for this workspace.
    pub async fn apply(&self, app: &App, text: &str) -> Result<(), BillingError> {
        let mut conn = app.pg.acquire().await.expect("PostgreSQL");
        catalog::apply(&mut conn, &parsed(text), "test").await.map(drop)
    }

    pub async fn consumer(&self, conn: &mut PgConnection, name: &str) -> ConsumerId {
        consumers::find_by_name(conn, &self.ws, name).await.expect("PostgreSQL").expect("the consumer").id
    }

    /// `count` requests of a subject, evenly over the period, `copies` of each delivered.
    pub async fn send(&self, app: &App, subject: &str, period: Period, count: i64, copies: usize) {
        let step = (period.end - period.start) / i32::try_from(count).expect("few");
        let mut rows = Vec::new();
        for n in 0..count {
            let event = self.event(subject, period.start + step * i32::try_from(n).expect("few"));
            for _ in 0..copies {
                rows.push(event.clone());
            }
        }
        store_all(app, &rows).await;
    }

    pub fn event(&self, subject: &str, time: DateTime<Utc>) -> UsageEvent {
        call(&self.ws, subject, time)
    }

    pub async fn invoices(&self, app: &App) -> Vec<Invoice> {
        let mut conn = app.pg.acquire().await.expect("PostgreSQL");
        let mut found = invoices::list(&mut conn, &self.ws, &InvoiceFilter::default(), 500, "").await.expect("listed");
        found.reverse();
        found
    }
}

pub fn lines(invoice: &Invoice) -> Vec<String> {
    invoice.lines.iter().map(|line| format!("{} {} {}", line.name, line.quantity.normalized().to_plain_string(), line.amount)).collect()
}

/// Usage over three months is billed to the cent, once, whoever closes again; and the audit agrees, until something
/// changes.
pub async fn a_month_is_closed_to_the_cent_and_audited(suite: &Suite) {
    let app = &suite.app;
    let business = Business::new(
        app,
        r"  - {name: initech, email: dev@initech.example, address: {country: DE}, subjects: [initech], subscriptions: [{plan: growth, from: 2026-08-16T00:00:00+02:00}]}
  - {name: hooli, address: {country: US}, subjects: [hooli], subscriptions: [{plan: free, from: 2026-08-01T00:00:00+02:00}]}
",
    )
    .await;
    let (august, september) = (month("2026-08"), month("2026-09"));
    let half = Period { start: utc("2026-08-15T22:00:00Z"), end: august.end };
    business.send(app, "initech", half, 50, 2).await;
    // Before the subscription: counted, and not billed.
    business.send(app, "initech", Period { start: august.start, end: half.start }, 7, 1).await;
    business.send(app, "hooli", august, 5, 1).await;

    let rehearsed = close::rehearse(app, &business.ws, august).await.expect("rates");
    assert_eq!((rehearsed.invoices, rehearsed.problems.len(), rehearsed.totals[0].total.to_string()), (2, 0, "103.29".to_owned()));
    assert!(business.invoices(app).await.is_empty(), "a rehearsal stores nothing");
    let report = close::close_period(app, &business.ws, august).await.expect("closes");
    assert_eq!((report.issued, report.problems.len()), (2, 0), "{report:?}");
    let found = business.invoices(app).await;
    let initech = found.iter().find(|i| i.buyer["name"] == "initech").expect("an invoice");
    // 16 of 31 days in force: 49 × 16/31 = 25.29; 50 - 10 included = 40: 20 × 0.5 + 20 × 0.125 = 12.50; September in advance.
    assert_eq!(lines(initech), ["Platform 1 25.29", "Platform 1 49.00", "Requests 50 12.50"]);
    assert_eq!(
        (initech.subtotal.to_string(), initech.tax.to_string(), initech.total.to_string()),
        ("86.79".into(), "16.50".into(), "103.29".into())
    );
    let hooli = found.iter().find(|i| i.buyer["name"] == "hooli").expect("an invoice");
    assert_eq!((lines(hooli), hooli.state), (vec!["Requests 5 0.00".to_owned()], State::Paid), "nothing to pay is paid");

    let again = close::close_period(app, &business.ws, august).await.expect("closes");
    assert_eq!((again.issued, again.invoices), (0, 2));
    business.send(app, "initech", september, 30, 1).await;
    close::close_period(app, &business.ws, september).await.expect("closes");
    let second = business.invoices(app).await.into_iter().rfind(|i| i.buyer["name"] == "initech").expect("an invoice");
    assert_eq!(lines(&second), ["Platform 1 49.00", "Requests 30 10.00"], "September was paid in advance");

    let pushed = invoices::issued_not_pushed(&mut app.pg.acquire().await.expect("PostgreSQL"), 100_000).await.expect("listed");
    let own: Vec<_> = pushed.into_iter().filter(|(ws, _)| *ws == business.ws).map(|(_, id)| id).collect();
    assert_eq!(own, [initech.id.clone(), second.id.clone()], "an invoice of zero is not pushed");

    let report = audit::invoice(app, &business.ws, &initech.id).await.expect("audited");
    assert!(report.equal, "{report:#?}");
    business.send(app, "initech", half, 3, 1).await;
    let report = audit::invoice(app, &business.ws, &initech.id).await.expect("audited");
    let usage = report.lines.iter().find(|line| line.rederived.is_some()).expect("a usage line");
    assert!(!report.equal);
    assert_eq!(usage.differences[0], "the quantity is 53 now and was 50");
    // What was issued stays as it is.
    assert!(
        sqlx::query("UPDATE invoice_lines SET amount_minor = 0 WHERE invoice_id = $1")
            .bind(initech.id.as_str())
            .execute(&app.pg)
            .await
            .is_err()
    );
    assert!(
        sqlx::query("UPDATE invoices SET total_minor = 0, subtotal_minor = 0, tax_minor = 0 WHERE id = $1")
            .bind(initech.id.as_str())
            .execute(&app.pg)
            .await
            .is_err()
    );
}

/// An invoice says how many calls of its period it does not bill, and why; and nothing of it where a plan bills them all.
pub async fn calls_that_are_not_billed_are_told(suite: &Suite) {
    let app = &suite.app;
    let business = Business::new(
        app,
        r"  - {name: initech, subjects: [initech], subscriptions: [{plan: growth, from: 2026-08-01T00:00:00+02:00}]}
  - {name: hooli, subjects: [hooli], subscriptions: [{plan: every, from: 2026-08-01T00:00:00+02:00}]}
",
    )
    .await;
    let august = month("2026-08");
    let failed = |subject: &str, n: i64, status, marker: &str, answered_by| {
        let event = business.event(subject, august.start + TimeDelta::hours(n));
        UsageEvent { data: RequestData { status, marker: marker.to_owned(), answered_by, ..event.data.clone() }, ..event }
    };
    let mut rows = Vec::new();
    for subject in ["initech", "hooli"] {
        business.send(app, subject, august, 15, 1).await;
        rows.extend((0..4).map(|n| failed(subject, n, 503, "", AnsweredBy::Upstream)));
        rows.extend((4..6).map(|n| failed(subject, n, 429, "", AnsweredBy::Gateway)));
        rows.push(failed(subject, 6, 200, "retry", AnsweredBy::Upstream));
        // In September.
        rows.push(failed(subject, 24 * 31, 503, "", AnsweredBy::Upstream));
    }
    store_all(app, &rows).await;
    close::close_period(app, &business.ws, august).await.expect("closes");
    let found = business.invoices(app).await;
    let of = |name: &str| found.iter().find(|invoice| invoice.buyer["name"] == name).expect("an invoice");
    assert_eq!(lines(of("initech"))[1..], ["Platform 1 49.00", "Requests 15 2.50"]);
    assert_eq!(serde_json::to_value(&of("initech").left_out).expect("JSON"), json!({"marked": 1, "refused": 2, "server_error": 4}));
    let said = "Not billed: 7 calls (4 failed on our side, 2 refused, 1 marked as a retry, a health check or mirrored).";
    let document = documents::document(of("initech"), ZONE).expect("a document");
    assert!(document.notes.iter().any(|note| note == said), "{:?}", document.notes);
    assert_eq!(lines(of("hooli")), ["All 22 2.20"]);
    assert!(of("hooli").left_out.is_empty());
}

/// Many workers at once: one invoice for each subscription, and numbers without gaps.
pub async fn many_workers_close_a_month_exactly_once(suite: &Suite) {
    let app = &suite.app;
    let mut consumers = String::new();
    for n in 0..12 {
        consumers += &format!("  - {{name: c{n}, subjects: [c{n}], subscriptions: [{{plan: growth, from: 2026-09-01T00:00:00+02:00}}]}}\n");
    }
    let business = Business::new(app, &consumers).await;
    let workers = (0..6).map(|_| close::close_period(app, &business.ws, month("2026-09")));
    let reports = futures::future::join_all(workers).await;
    let issued: usize = reports
        .into_iter()
        .map(|report| report.expect("closes"))
        .map(|r| {
            assert!(r.problems.is_empty(), "{r:?}");
            r.issued
        })
        .sum();
    close::close_period(app, &business.ws, month("2026-09")).await.expect("closes");
    let found = business.invoices(app).await;
    // The running system's own close may be at the next month already; its numbers belong to the same series.
    let september: Vec<_> = found.iter().filter(|i| i.period.start == month("2026-09").start).collect();
    assert!(issued <= 12 && september.len() == 12, "{issued} issued, {} there", september.len());
    let subscriptions: BTreeSet<_> = september.iter().map(|i| i.subscription.clone()).collect();
    let numbers: BTreeSet<_> = found.iter().filter_map(|i| i.number.clone()).collect();
    let expected: BTreeSet<_> = (1..=found.len()).map(|n| format!("ACME-{n:06}")).collect();
    assert_eq!((subscriptions.len(), numbers), (12, expected));
}

/// What the preview gathers is what the invoice says when nothing more happens.
pub async fn a_preview_is_the_invoice_to_come(suite: &Suite) {
    let app = &suite.app;
    let now = farebox_core::clock::now();
    let this = calendar::period_of(now, ZONE).expect("a month");
    let started = this.start.format("%Y-%m-%dT%H:%M:%SZ");
    let consumers =
        format!("  - {{name: a, address: {{country: DE}}, subjects: [a], subscriptions: [{{plan: growth, from: {started}}}]}}\n");
    let business = Business::new(app, &consumers).await;
    business.send(app, "a", Period { start: this.start, end: this.start + TimeDelta::hours(1) }, 30, 2).await;
    timelines::sync(app).await.expect("copied");
    let mut conn = app.pg.acquire().await.expect("PostgreSQL");
    let subscription = subscriptions::list(&mut conn, &business.ws, None, 1, "").await.expect("listed").remove(0);
    let preview = invoices::preview(app, &business.ws, &subscription.id).await.expect("previewed");
    // 49 for this month, 49 for the next in advance, 20 × 0.5; and 19 %.
    assert_eq!((preview.period, preview.subtotal.to_string(), preview.total.to_string()), (this, "108.00".to_owned(), "128.52".to_owned()));
    let ahead = (this.end - now + TimeDelta::minutes(10)).num_seconds();
    assert!(workspace::advance_clock(&mut conn, &business.ws, ahead).await.expect("PostgreSQL"));
    close::close_period(app, &business.ws, this).await.expect("closes");
    let invoice = business.invoices(app).await.remove(0);
    assert_eq!(invoice.total, preview.total);
    assert_eq!(
        invoice.lines.iter().map(|l| &l.explanation).collect::<Vec<_>>(),
        preview.lines.iter().map(|l| &l.explanation).collect::<Vec<_>>()
    );
}

/// A subscription in somebody's hands, as all of a batch are while their month is counted, does not make a payment of one of
/// its invoices wait.
pub async fn a_payment_waits_for_no_subscription(suite: &Suite) {
    let app = &suite.app;
    let business =
        Business::new(app, "  - {name: a, subjects: [a], subscriptions: [{plan: growth, from: 2026-08-01T00:00:00+02:00}]}\n").await;
    close::close_period(app, &business.ws, month("2026-08")).await.expect("closes");
    let invoice = business.invoices(app).await.remove(0);
    let mut holder = app.pg.begin().await.expect("PostgreSQL");
    subscriptions::cancel_at(&mut holder, &business.ws, &invoice.subscription, month("2026-10").start).await.expect("canceled");

    let mut payment = app.pg.begin().await.expect("PostgreSQL");
    sqlx::query("SET LOCAL lock_timeout = '5s'").execute(&mut *payment).await.expect("set");
    // As Stripe's news are applied: both in one transaction, which makes PostgreSQL look after the subscription's row.
    invoices::record_stripe(&mut payment, &business.ws, &invoice.id, "in_waits_for_nobody", None).await.expect("recorded");
    assert!(invoices::mark_paid(&mut payment, &business.ws, &invoice.id, month("2026-09").start).await.expect("paid at once"));
    payment.commit().await.expect("committed");
    holder.rollback().await.expect("PostgreSQL");
}

/// A change in the middle of a month, a cancellation, and what was paid in advance for the time after.
pub async fn changes_cut_usage_and_fees_at_their_instant(suite: &Suite) {
    let app = &suite.app;
    let business =
        Business::new(app, "  - {name: a, subjects: [a], subscriptions: [{plan: growth, from: 2026-07-01T00:00:00+02:00}]}\n").await;
    close::close_period(app, &business.ws, month("2026-07")).await.expect("closes");
    let change = utc("2026-08-16T22:00:00Z");
    business.send(app, "a", Period { start: month("2026-08").start, end: change }, 20, 1).await;
    business.send(app, "a", Period { start: change, end: month("2026-08").end }, 100, 1).await;
    let mut conn = app.pg.acquire().await.expect("PostgreSQL");
    let consumer = business.consumer(&mut conn, "a").await;
    let subscription = subscriptions::list(&mut conn, &business.ws, Some(&consumer), 1, "").await.expect("listed").remove(0);
    let refused = subscriptions::change_at(&mut conn, &business.ws, &subscription.id, "scale", utc("2026-07-15T00:00:00Z")).await;
    assert!(matches!(refused, Err(BillingError::Conflict { slug: "period-closed", .. })), "{refused:?}");
    subscriptions::change_at(&mut conn, &business.ws, &subscription.id, "scale", change).await.expect("changed");
    timelines::sync(app).await.expect("copied");
    close::close_period(app, &business.ws, month("2026-08")).await.expect("closes");
    let found = business.invoices(app).await;
    // 15 of 31 days left: 49 × 15/31 = 23.71 back, 99 × 15/31 = 47.90 charged; September at the new fee.
    let august = lines(&found[1]);
    assert_eq!(
        august.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        BTreeSet::from([
            "Platform, unused part -1 -23.71",
            "Platform 1 47.90",
            "Platform 1 99.00",
            "Requests 20 5.00",
            "Requests 100 10.00"
        ])
    );

    // Ended where September begins: its fee, paid in advance, is given back, and the credit waits for a next invoice.
    subscriptions::cancel_at(&mut conn, &business.ws, &subscription.id, month("2026-09").start).await.expect("canceled");
    assert!(subscriptions::at(&mut conn, &business.ws, &consumer, utc("2026-09-02T00:00:00Z")).await.expect("listed").is_empty());
    close::close_period(app, &business.ws, month("2026-09")).await.expect("closes");
    let last = business.invoices(app).await.pop().expect("an invoice");
    assert_eq!((lines(&last), last.carried, last.state), (vec!["Platform, unused part -1 -99.00".to_owned()], true, State::Issued));
    assert_eq!(close::close_period(app, &business.ws, month("2026-10")).await.expect("closes").issued, 0, "it is over");

    // A new subscription's first invoice takes the credit over.
    subscriptions::subscribe(&mut conn, &business.ws, &consumer, "scale", month("2026-10").start).await.expect("subscribed");
    close::close_period(app, &business.ws, month("2026-10")).await.expect("closes");
    let found = business.invoices(app).await;
    let (credit, first) = (&found[2], &found[3]);
    assert_eq!(
        first.lines.last().map(|line| (line.name.clone(), line.amount.to_string())),
        Some((format!("From invoice {}", credit.number.as_deref().expect("a number")), "-99.00".to_owned()))
    );
    assert_eq!((first.total.to_string(), credit.state, &credit.carried_into), ("99.00".to_owned(), State::Paid, &Some(first.id.clone())));
}

/// The same file changes nothing, the export is that file, and what was published stays.
pub async fn the_catalogue_is_idempotent_and_versions_stay(suite: &Suite) {
    let app = &suite.app;
    let consumers = "  - {name: a, email: a@a.example, signed_up: 2026-07-01T00:00:00Z, subjects: [a, b], subscriptions: [{plan: growth, from: 2026-08-01T00:00:00Z}]}\n";
    let business = Business::new(app, consumers).await;
    let mut conn = app.pg.acquire().await.expect("PostgreSQL");
    let text = yaml(&business.name, consumers);
    assert_eq!(catalog::diff(&mut conn, &parsed(&text)).await.expect("compared").changes, []);
    assert_eq!(catalog::apply(&mut conn, &parsed(&text), "test").await.expect("applies").changes, []);
    let exported = catalog::export(&mut conn, &business.ws).await.expect("exported");
    assert_eq!(catalog::diff(&mut conn, &parsed(&exported)).await.expect("compared").changes, [], "{exported}");

    let dearer = text.replace("amount: \"49\"", "amount: \"59\"");
    let refused = catalog::apply(&mut conn, &parsed(&dearer), "test").await.expect_err("version 1 is published");
    assert_eq!(refused.to_string(), "Version 1 of plan `growth` is published and never changes. Publish the change as version 2.");
    let second = dearer.replace("name: growth\n    version: 1", "name: growth\n    version: 2");
    let would = catalog::diff(&mut conn, &parsed(&second)).await.expect("compared");
    assert_eq!(would.changes.iter().map(|c| format!("{} {}", c.action, c.what)).collect::<Vec<_>>(), ["publish plan growth version 2"]);
    assert_eq!(
        plans::find(&mut conn, &business.ws, "growth", None).await.expect("found").expect("there").version,
        1,
        "a diff changes nothing"
    );
    catalog::apply(&mut conn, &parsed(&second), "test").await.expect("applies");
    let consumer = business.consumer(&mut conn, "a").await;
    let current = subscriptions::at(&mut conn, &business.ws, &consumer, utc("2026-09-01T00:00:00Z")).await.expect("listed").remove(0);
    assert_eq!(current.phases[0].version, 1, "a subscription keeps its version");

    let twice = text.replace("subscriptions: [{", "subscriptions: [{plan: scale, from: 2026-08-15T00:00:00Z}, {");
    let refused = catalog::apply(&mut conn, &parsed(&twice), "test").await.expect_err("two at once");
    assert!(refused.to_string().contains("two subscriptions to the product `default` at once"), "{refused}");
}

/// A month in a second: the clock is advanced, a trial ends, the close is due by the workspace's own time.
pub async fn a_test_clock_ends_trials_and_periods(suite: &Suite) {
    let app = &suite.app;
    let business = Business::new(app, "  - {name: a, subjects: [a]}\n").await;
    let mut conn = app.pg.acquire().await.expect("PostgreSQL");
    let with_trial = yaml(&business.name, "  - {name: a, subjects: [a]}\n").replace(
        "consumers:",
        "  - {name: tried, version: 1, trial: {days: 14, then: growth}, prices: [{name: Fee, model: flat, amount: \"5\"}]}\nconsumers:",
    );
    catalog::apply(&mut conn, &parsed(&with_trial), "test").await.expect("applies");
    let consumer = business.consumer(&mut conn, "a").await;
    let now = farebox_core::clock::now();
    let subscription = subscriptions::subscribe(&mut conn, &business.ws, &consumer, "tried", now).await.expect("subscribed");
    assert_eq!(subscription.phases.iter().map(|p| (p.plan.as_str(), p.trial)).collect::<Vec<_>>(), [("tried", true), ("growth", false)]);
    let this = calendar::period_of(now, ZONE).expect("a month");
    let refused = close::close_period(app, &business.ws, this).await;
    assert!(matches!(refused, Err(BillingError::Conflict { slug: "period-not-over", .. })), "{refused:?}");
    let next = calendar::period_of(this.end, ZONE).expect("a month");
    let ahead = next.end - now + TimeDelta::hours(2);
    assert!(workspace::advance_clock(&mut conn, &business.ws, ahead.num_seconds()).await.expect("PostgreSQL"));
    for _ in 0..2 {
        // Others may be at it already: the scheduled close of the running system.
        close::close_period(app, &business.ws, next).await.expect("closes");
    }
    let found = business.invoices(app).await;
    assert_eq!(found.len(), 2, "this month and the next");
    let trial_end = subscription.phases[1].from;
    for invoice in &found {
        let of_the_trial = invoice.lines.iter().find(|line| line.plan_version.as_ref() == Some(&subscription.phases[0].plan_version));
        assert!(of_the_trial.is_none(), "a trial costs nothing, but there is {of_the_trial:?}");
        assert!(invoice.lines.iter().all(|line| line.period.start >= trial_end), "{:?}", lines(invoice));
    }
    let stretches = revenue::stretches(&mut conn, &business.ws).await.expect("listed");
    assert_eq!(
        stretches.iter().map(|s| (s.free, s.monthly.to_string())).collect::<Vec<_>>(),
        [(true, "0.00".to_owned()), (false, "49.00".to_owned())]
    );
    let converted = revenue::free_to_paid(&mut conn, &business.ws).await.expect("listed");
    assert_eq!(converted.iter().map(|c| c.at).collect::<Vec<_>>(), [trial_end]);
}

/// For each named point: a close of a workspace of its own is started by `close_and_die`, which must have died there;
/// then closed again. There is one invoice for each subscription, with the right total and the next number.
pub async fn dies_and_recovers_at(suite: &Suite, points: &[&str], close_and_die: impl AsyncFn(&WorkspaceId, &str, &str)) {
    let app = &suite.app;
    let now = farebox_core::clock::now();
    let this = calendar::period_of(now, ZONE).expect("a month");
    let month = calendar::name(this, ZONE);
    for point in points {
        let started = this.start.format("%Y-%m-%dT%H:%M:%SZ");
        let consumers = format!(
            "  - {{name: a, subjects: [a], subscriptions: [{{plan: growth, from: {started}}}]}}\n  - {{name: b, subjects: [b], subscriptions: [{{plan: scale, from: {started}}}]}}\n"
        );
        let business = Business::new(app, &consumers).await;
        business.send(app, "a", Period { start: this.start, end: this.start + TimeDelta::hours(1) }, 30, 1).await;
        business.send(app, "b", Period { start: this.start, end: this.start + TimeDelta::hours(1) }, 40, 2).await;
        // Ten minutes after the month: a person may close it, and the scheduled close of the running system still waits.
        let ahead = (this.end - now + TimeDelta::minutes(10)).num_seconds();
        let mut conn = app.pg.acquire().await.expect("PostgreSQL");
        assert!(workspace::advance_clock(&mut conn, &business.ws, ahead).await.expect("PostgreSQL"));
        close_and_die(&business.ws, &month, point).await;
        let left = business.invoices(app).await.len();
        assert!(
            left < 2 || *point == "close.issued" || *point == "close.drafted" || *point == "close.before_issue_commit",
            "{point}: {left} invoices"
        );

        let report = close::close_period(app, &business.ws, this).await.expect("closes");
        assert_eq!((report.invoices, report.problems.len(), report.busy), (2, 0, 0), "{point}: {report:?}");
        let found = business.invoices(app).await;
        // 49 + 49 + 20 × 0.5; 99 + 99 + 40 × 0.1.
        let totals: BTreeSet<_> = found.iter().map(|invoice| (invoice.buyer["name"].to_string(), invoice.total.to_string())).collect();
        assert_eq!(
            totals,
            BTreeSet::from([("\"a\"".to_owned(), "108.00".to_owned()), ("\"b\"".to_owned(), "202.00".to_owned())]),
            "{point}"
        );
        let numbers: BTreeSet<_> = found.iter().filter_map(|invoice| invoice.number.clone()).collect();
        assert_eq!(numbers, BTreeSet::from(["ACME-000001".to_owned(), "ACME-000002".to_owned()]), "{point}");
    }
}

/// Usage that turns out to be another consumer's after it was invoiced: credited on the invoice that charged it, and charged at
/// once where it belongs; once, and the next period knows nothing of it.
pub async fn late_usage_is_credited_where_it_was_charged(suite: &Suite) {
    let app = &suite.app;
    let consumers = r"  - {name: initech, address: {country: DE}, subjects: [initech], subscriptions: [{plan: growth, from: 2026-08-01T00:00:00+02:00}]}
  - {name: hooli, address: {country: US}, subjects: [hooli], subscriptions: [{plan: growth, from: 2026-08-01T00:00:00+02:00}]}
";
    let business = Business::new(app, consumers).await;
    let policy = yaml(&business.name, consumers).replace("late_days: 400", "late_days: 400, late_usage: credit_note");
    business.apply(app, &policy).await.expect("applies");
    let august = month("2026-08");
    business.send(app, "initech", august, 50, 1).await;
    close::close_period(app, &business.ws, august).await.expect("closes");
    let of = async |name: &str| business.invoices(app).await.into_iter().filter(|i| i.buyer["name"] == name).collect::<Vec<_>>();
    let charged = of("initech").await.remove(0);
    assert_eq!(lines(&charged)[2], "Requests 50 12.50");

    // The second half of August's calls were hooli's.
    let mut conn = app.pg.acquire().await.expect("PostgreSQL");
    let hooli = business.consumer(&mut conn, "hooli").await;
    let from = utc("2026-08-15T22:00:00Z");
    links::link_subject(&mut conn, &business.ws, "initech", &hooli, from, Some(august.end)).await.expect("linked");
    let workspace = workspace::by_id(&mut conn, &business.ws).await.expect("PostgreSQL").expect("is there");
    for _ in 0..2 {
        close::bill_corrections(app, &workspace, false).await.expect("corrects");
        let notes = credit_notes::of_invoice(&mut conn, &business.ws, &charged.id).await.expect("PostgreSQL");
        // 25 calls: 15 over what is included, 7.50 instead of 12.50.
        let shown: Vec<_> = notes.iter().map(|note| (note.number.as_deref(), note.subtotal.to_string(), note.tax.to_string())).collect();
        assert_eq!(shown, [(Some("ACME-CN-000001"), "5.00".to_owned(), "0.95".to_owned())]);
        let own = of("hooli").await;
        assert_eq!(own.iter().map(|i| i.kind.as_str()).collect::<Vec<_>>(), ["regular", "adjustment"]);
        assert_eq!(lines(&own[1]), ["Requests, corrected 25 7.50"]);
    }
    close::close_period(app, &business.ws, month("2026-09")).await.expect("closes");
    let next = of("initech").await.remove(1);
    assert_eq!(lines(&next), ["Platform 1 49.00", "Requests 0 0.00"]);
    let audited = audit::invoice(app, &business.ws, &next.id).await.expect("audited");
    assert!(audited.equal, "{audited:#?}");
}
