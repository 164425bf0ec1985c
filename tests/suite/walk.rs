//! A workspace with something to see in each place, for walks through all routes: whoever is a stranger to it must
//! never meet one of its marks.

use chrono::{Datelike, Months, TimeDelta};
use farebox_access::keys;
use farebox_billing::credit_notes::NewCreditNote;
use farebox_billing::{calendar, catalog, close, credit_notes, invoices, subscriptions};
use farebox_core::clock;
use farebox_core::ids::ConsumerId;
use farebox_core::workspace::{self, Workspace};
use farebox_metering::{consumers, sources};
use farebox_portal::people::session::{self, Session};
use farebox_portal::people::{self, NewPerson, Role};
use reqwest::{Method, RequestBuilder};
use sqlx::PgConnection;

use crate::harness::Suite;
use crate::tenant::Tenant;

pub struct World {
    pub tenant: Tenant,
    pub host: String,
    /// Stands in the names of everything that is this workspace's own.
    pub mark: String,
    pub consumer: ConsumerId,
    pub other_consumer: ConsumerId,
    pub key: String,
    pub plan: String,
    pub subscription: String,
    pub invoice: String,
    pub credit_note: String,
    /// What it comes to with tax, as the API and as pages write it: nothing else comes to this.
    pub total: [String; 2],
    pub source: String,
    pub dead_letter: String,
    pub webhook: String,
}

impl World {
    pub async fn new(suite: &Suite, name: &str) -> Self {
        let tenant = Tenant::new(suite, name).await;
        let ws = tenant.workspace.id.clone();
        let mark = format!("mark-{}", &uuid::Uuid::now_v7().simple().to_string()[24..]);
        let host = format!("{mark}.example");
        let month = clock::now().date_naive().with_day(1).and_then(|first| first.checked_sub_months(Months::new(2))).expect("a month");
        let catalogue = format!(
            "workspace: {}\ncurrency: USD\ntime_zone: UTC\nseller: {{name: {mark}, address: {{country: DE}}, invoice_number_prefix: {mark}-}}\n\
             taxes: [{{name: VAT, rate: \"0.19\", inclusive: false, countries: [DE]}}]\n\
             sources:\n  - {{name: {mark}-edge, format: cloudevents}}\n\
             apis:\n  - {{name: {mark}-api, product: default, versions: [{{name: v1, deprecated: 2026-01-01}}]}}\n\
             plans:\n  - name: {mark}-plan\n    product: default\n    version: 1\n    interval: month\n    anchor: calendar\n\
             \x20   terms: {{credits: [{{name: {mark}-units, meter: requests, units: \"1000\", rollover: {{most: \"100\"}}}}]}}\n\
             \x20   prices:\n      - {{name: Platform, model: flat, amount: {{USD: \"7777.77\"}}}}\n\
             consumers:\n  - {{name: {mark}-initech, email: {mark}@initech.example, signed_up: {month}T00:00:00Z, address: {{country: DE}}, subjects: [{mark}-subject], \
             subscriptions: [{{plan: {mark}-plan, from: {month}T00:00:00Z}}]}}\n  - {{name: hooli, signed_up: {month}T00:00:00Z}}\n",
            tenant.workspace.name
        );
        let catalogue = catalog::parse(&catalogue).map_err(|e| format!("{e:#?}")).expect("a right catalogue");
        let mut tx = suite.app.pg.begin().await.expect("PostgreSQL answers");
        Box::pin(catalog::apply(&mut tx, &catalogue, "test")).await.expect("it applies");
        workspace::update_portal(&mut tx, &ws, &mark, Some(&host)).await.expect("a host of its own");
        let consumer = of_name(&mut tx, &tenant.workspace, &format!("{mark}-initech")).await;
        let other_consumer = of_name(&mut tx, &tenant.workspace, "hooli").await;
        let (key, _) = keys::issue(&mut tx, &suite.app.config, &tenant.workspace, &consumer, &format!("{mark}-key")).await.expect("a key");
        tx.commit().await.expect("PostgreSQL answers");

        let period = calendar::parse(&month.format("%Y-%m").to_string(), chrono_tz::UTC).expect("a month");
        Box::pin(close::close_period(&suite.app, &ws, period)).await.expect("it closes");
        let rejected = format!(
            "{{\"specversion\":\"1.0\",\"type\":\"farebox.request.v1\",\"source\":\"{mark}\",\"id\":\"{mark}-bad\",\"time\":\"never\"}}"
        );
        let sent = tenant.call(Method::POST, "/v1/events").header("content-type", "application/cloudevents+json").body(rejected);
        assert_eq!(sent.send().await.expect("an answer").status(), 400);
        let dead_letter = crate::harness::eventually("the dead letter is listed", std::time::Duration::from_secs(20), || async {
            tenant.get("/api/v1/dead-letters").await["data"][0]["id"].as_str().map(str::to_owned)
        })
        .await;

        let (webhook, _) = crate::webhooks::hook(&tenant, &format!("https://{mark}.example/hooks"), &["key.revoked"]).await;

        let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL answers");
        let invoice = invoices::list(&mut conn, &ws, &invoices::InvoiceFilter::default(), 10, "").await.expect("listed");
        let invoice = invoice.into_iter().find(|invoice| invoice.total.minor > 1_000_000).expect("two months' fees, and tax");
        let total = invoice.total.to_string();
        let part = NewCreditNote {
            lines: vec![(invoice.lines[0].id.clone(), Some("1.11".parse().expect("a decimal")))],
            ..NewCreditNote::default()
        };
        let credit_note = credit_notes::credit(&suite.app, &ws, &invoice.id, &part, "a test").await.expect("a credit note");
        let subscription = subscriptions::current(&mut conn, &ws, &consumer).await.expect("listed").remove(0);
        let source = sources::list(&mut conn, &ws).await.expect("listed").remove(0);
        Self {
            host,
            mark,
            consumer,
            other_consumer,
            key: key.id.to_string(),
            plan: tenant.get("/api/v1/plans").await["data"][0]["id"].as_str().expect("a plan").to_owned(),
            subscription: subscription.id.to_string(),
            invoice: invoice.id.to_string(),
            credit_note: credit_note.id.to_string(),
            total: [format!("{},{}", &total[..2], &total[2..]), total],
            source: source.id.to_string(),
            dead_letter,
            webhook,
            tenant,
        }
    }

    /// Someone who is signed in: a person of this role is made anew, because some routes end sessions.
    pub async fn sign_in(&self, suite: &Suite, role: Role, consumer: Option<&ConsumerId>) -> Session {
        let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL answers");
        let ws = &self.tenant.workspace.id;
        let email = format!("{}@people.example", uuid::Uuid::now_v7().simple());
        let new = NewPerson { workspace: ws, consumer, email: &email, name: "Someone", role, password_hash: None };
        let person = people::create(&mut conn, new).await.expect("a person");
        let token = session::start(&mut conn, &person, "127.0.0.1", "a test").await.expect("a session");
        session::find(&mut conn, ws, role.side(), token).await.expect("PostgreSQL answers").expect("the session")
    }

    /// A call to a page of this workspace's portal.
    pub fn page(&self, method: Method, path: &str) -> RequestBuilder {
        self.tenant.anonymous(method, path).header("host", &self.host)
    }

    /// A route with its parameters filled in: ids of this workspace where it has one of the kind.
    pub fn fill(&self, path: &str) -> String {
        let id = |parameter: &str| match (parameter, path) {
            ("workspace", _) => self.tenant.workspace.id.to_string(),
            ("source", _) => format!("{}-edge", self.mark),
            ("token", _) => "A".repeat(43),
            ("format", _) => "cloudevents".to_owned(),
            ("system", _) => "xero".to_owned(),
            ("report", _) => "invoices".to_owned(),
            ("period", _) => "2026-01".to_owned(),
            ("step", _) => "over".to_owned(),
            (_, path) if path.contains("/tokens/") => format!("tok_{}", "0".repeat(32)),
            (_, path) if path.contains("/consumers/") => self.consumer.to_string(),
            (_, path) if path.contains("/keys/") => self.key.clone(),
            (_, path) if path.contains("/plans/") => self.plan.clone(),
            (_, path) if path.contains("/subscriptions/") => self.subscription.clone(),
            (_, path) if path.contains("/credit-notes/") => self.credit_note.clone(),
            (_, path) if path.contains("/invoices/") => self.invoice.clone(),
            (_, path) if path.contains("/sources/") => self.source.clone(),
            (_, path) if path.contains("/dead-letters/") => self.dead_letter.clone(),
            ("id", path) if path.contains("/webhooks/") => self.webhook.clone(),
            // Nothing has this name: what may be answered is 404, to nobody else.
            _ => "walk".to_owned(),
        };
        let mut parts = path.split('{');
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (parameter, rest) = part.split_once('}').expect("a template");
            filled += &id(parameter.trim_start_matches('*'));
            filled += rest;
        }
        filled
    }

    pub fn tells_what_was_invoiced(&self, body: &str) -> bool {
        self.total.iter().any(|total| body.contains(total))
    }

    /// Panics when a stranger was shown something of this workspace.
    pub fn keeps_to_itself(&self, what: &str, body: &str) {
        assert!(!body.contains(&self.mark), "{what} shows something of another's: {body}");
    }
}

async fn of_name(conn: &mut PgConnection, workspace: &Workspace, name: &str) -> ConsumerId {
    consumers::find_by_name(conn, &workspace.id, name).await.expect("PostgreSQL answers").expect("the consumer").id
}

/// The last day and the next, as query parameters want them.
pub fn yesterday_and_tomorrow() -> (String, String) {
    let stamp = |days| (clock::now() + TimeDelta::days(days)).format("%Y-%m-%dT00:00:00Z").to_string();
    (stamp(-1), stamp(1))
}
