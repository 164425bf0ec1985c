//! A business of one test and the calls its own program makes: catalogue, subscriptions, credits, closes.

use chrono::{DateTime, TimeDelta, Utc};
use farebox_billing::calendar;
use farebox_billing::invoices::Invoice;
use farebox_core::period::Period;
use farebox_core::workspace;
use reqwest::Method;
use serde_json::{Value, json};

use crate::billing::{Business, yaml};
use crate::harness::Suite;
use crate::tenant::Tenant;
use crate::webhooks::answer;

pub const ZONE: chrono_tz::Tz = chrono_tz::Europe::Berlin;

pub struct Seller<'a> {
    pub suite: &'a Suite,
    pub business: Business,
    pub tenant: Tenant,
}

impl<'a> Seller<'a> {
    /// With further plans, and these consumers.
    pub async fn new(suite: &'a Suite, plans: &str, consumers: &str) -> Self {
        let business = Business::new(&suite.app, "  []\n").await;
        let tenant = Tenant::of(suite, &business.ws).await;
        let seller = Self { suite, business, tenant };
        seller.apply(&seller.catalogue(plans, consumers)).await;
        seller
    }

    pub fn catalogue(&self, plans: &str, consumers: &str) -> String {
        yaml(&self.business.name, consumers).replace("plans:\n", &format!("plans:\n{plans}"))
    }

    /// What was changed, as `action what`.
    pub async fn apply(&self, catalogue: &str) -> Vec<String> {
        let (status, applied) = self.catalog("/api/v1/catalog", catalogue).await;
        assert_eq!(status, 200, "{applied}\n{catalogue}");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        applied["changes"].as_array().expect("changes").iter().map(|c| format!("{} {}", text(&c["action"]), text(&c["what"]))).collect()
    }

    pub async fn catalog(&self, path: &str, catalogue: &str) -> (u16, Value) {
        let request = self.tenant.call(Method::POST, path).header("content-type", "application/yaml").body(catalogue.to_owned());
        let (status, answered) = answer(request).await;
        (status.as_u16(), answered)
    }

    pub async fn send(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let (status, answered) = answer(self.tenant.call(method, &format!("/api/v1/{path}")).json(body)).await;
        (status.as_u16(), answered)
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answered) = self.send(Method::POST, path, &body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answered}");
        answered
    }

    pub async fn refused(&self, path: &str, body: Value) -> (u16, String) {
        let (status, problem) = self.send(Method::POST, path, &body).await;
        assert!(status >= 400, "{path} was not refused: {problem}");
        (status, problem["detail"].as_str().unwrap_or_default().to_owned())
    }

    pub async fn get(&self, path: &str) -> Value {
        self.tenant.get(&format!("/api/v1/{path}")).await
    }

    pub async fn consumer(&self, name: &str) -> String {
        let mut conn = self.suite.app.pg.acquire().await.expect("PostgreSQL");
        self.business.consumer(&mut conn, name).await.to_string()
    }

    /// The only subscription of a consumer, by id.
    pub async fn subscription(&self, consumer: &str) -> String {
        let consumer = self.consumer(consumer).await;
        let found = self.get("subscriptions?limit=500").await;
        let mut own = found["data"].as_array().expect("a list").iter().filter(|own| own["consumer"] == json!(consumer));
        own.next().expect("a subscription")["id"].as_str().expect("an id").to_owned()
    }

    /// Closes a month, without problems.
    pub async fn close(&self, month: Period) -> Value {
        let report = self.post("close", json!({ "period": calendar::name(month, ZONE) })).await;
        assert_eq!(report["problems"], json!([]), "{report}");
        report
    }

    pub async fn advance_to(&self, at: DateTime<Utc>) {
        let ahead = (at - self.now().await).num_seconds() + 1;
        self.post("workspace/clock", json!({ "advance_seconds": ahead })).await;
    }

    pub async fn now(&self) -> DateTime<Utc> {
        let mut conn = self.suite.app.pg.acquire().await.expect("PostgreSQL");
        workspace::by_id(&mut conn, &self.business.ws).await.expect("PostgreSQL").expect("is there").clock.now()
    }

    pub async fn usage(&self, subject: &str, period: Period, count: i64) {
        self.business.send(&self.suite.app, subject, period, count, 1).await;
    }

    /// In the order in which they were drafted.
    pub async fn invoices(&self) -> Vec<Invoice> {
        self.business.invoices(&self.suite.app).await
    }
}

/// The month after this one and the one after that, so that a test is in the middle of the first by its own clock.
pub fn months_to_come() -> (Period, Period) {
    let month = |at| calendar::period_of(at, ZONE).expect("a month");
    let first = month(month(farebox_core::clock::now()).end);
    (first, month(first.end))
}

pub fn day(period: Period, n: i64) -> DateTime<Utc> {
    period.start + TimeDelta::days(n)
}
