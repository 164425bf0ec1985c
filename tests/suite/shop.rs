//! A workspace with gateways, an API, a plan, and a consumer `initech` with a key: what tests of decisions need.

use std::time::Duration;

use farebox_access::keys;
use farebox_core::ids::{ConsumerId, CredentialId};
use farebox_metering::consumers;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::harness::{Suite, eventually};
use crate::tenant::Tenant;

pub const SOON: Duration = Duration::from_secs(20);

/// Orders may be read; of `few`, three an hour.
const READING: &[&str] = &[
    r#"{feature: few, routes: ["GET /orders/few"], rate: {limit: 3, per: hour, burst: 3}}"#,
    r#"{feature: orders, routes: ["GET /orders*"]}"#,
];

pub struct Shop {
    pub tenant: Tenant,
    pub consumer: ConsumerId,
    pub key: String,
    pub credential: CredentialId,
}

impl Shop {
    pub async fn open(suite: &Suite, name: &str) -> Self {
        Self::selling(suite, name, "[]", READING).await
    }

    /// With a plan of its own.
    pub async fn selling(suite: &Suite, name: &str, prices: &str, entitlements: &[&str]) -> Self {
        let tenant = Tenant::new(suite, name).await;
        let entitlements: String = entitlements.iter().map(|e| format!("      - {e}\n")).collect();
        let catalogue = format!(
            "workspace: {}\ncurrency: USD\ntime_zone: UTC\n\
             seller: {{name: Shop, address: {{country: US}}, invoice_number_prefix: S-}}\n\
             sources:\n  - {{name: envoy-1, format: envoy}}\n  - {{name: nginx-1, format: nginx}}\n  - {{name: traefik-1, format: traefik}}\n\
             apis:\n  - {{name: orders, product: default, versions: [{{name: v1, deprecated: 2026-09-01, sunset: 2027-03-01}}, {{name: v2}}]}}\n\
             plans:\n  - name: reader\n    product: default\n    version: 1\n    interval: month\n    anchor: calendar\n    prices: {prices}\n    entitlements:\n\
             {entitlements}\
             consumers:\n  - {{name: initech, email: dev@initech.example, signed_up: 2026-01-01T00:00:00Z, subscriptions: [{{plan: reader, from: 2026-01-01T00:00:00Z}}]}}\n",
            tenant.workspace.name
        );
        let catalogue = farebox_billing::catalog::parse(&catalogue).map_err(|e| format!("{e:#?}")).expect("a right catalogue");
        let mut tx = suite.app.pg.begin().await.expect("PostgreSQL answers");
        farebox_billing::catalog::apply(&mut tx, &catalogue, "test").await.expect("it applies");
        let consumer =
            consumers::find_by_name(&mut tx, &tenant.workspace.id, "initech").await.expect("PostgreSQL answers").expect("the consumer").id;
        let (credential, secret) = keys::issue(&mut tx, &suite.app.config, &tenant.workspace, &consumer, "main").await.expect("a key");
        tx.commit().await.expect("PostgreSQL answers");
        let shop = Self { tenant, consumer, key: secret.reveal().to_owned(), credential: credential.id };
        // Under another name, so that the ledger of the sources has only what a test asks itself; refused, so that no
        // limit has counted it.
        let known = || async {
            let asked = shop.ask_as("opening", Some(&shop.key), "OPTIONS", "/no/such").await;
            asked.1.contains_key("x-farebox-consumer")
        };
        eventually("the key is known", SOON, || async { known().await.then_some(()) }).await;
        shop
    }

    /// As Envoy asks.
    pub async fn ask(&self, key: Option<&str>, method: &str, path: &str) -> (StatusCode, HeaderMap, String) {
        self.ask_as("envoy-1", key, method, path).await
    }

    pub async fn ask_as(&self, source: &str, key: Option<&str>, method: &str, path: &str) -> (StatusCode, HeaderMap, String) {
        self.ask_with(source, key, method, path, &[]).await
    }

    pub async fn ask_with(
        &self,
        source: &str,
        key: Option<&str>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (StatusCode, HeaderMap, String) {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.tenant.call(method, &format!("/v1/decide/{source}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = key.into_iter().fold(request, |r, key| r.header("x-api-key", key)).send().await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        (status, headers, response.text().await.expect("a body"))
    }

    /// Chooses about decisions, and waits until it is in force at the suite's instance.
    pub async fn choose(&self, policy: Value) {
        let put = self.tenant.call(Method::PUT, "/api/v1/decision-policy").json(&policy).send().await.expect("an answer");
        assert_eq!(put.status(), 200, "{}", put.text().await.unwrap_or_default());
        self.until_in_force().await;
    }

    /// Waits until the suite's instance decides by what PostgreSQL has now.
    pub async fn until_in_force(&self) {
        let set_at = farebox_core::clock::now();
        eventually("what was set is in force", SOON, || async {
            let (_, headers, _) = self.ask_as("opening", None, "OPTIONS", "/no/such").await;
            let age: i64 = header(&headers, "x-farebox-snapshot-age").parse().expect("an age");
            // A whole second older than its set time, it would not have it.
            (farebox_core::clock::now() - chrono::TimeDelta::seconds(age + 1) > set_at).then_some(())
        })
        .await;
    }
}

pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// The stable type of a refusal.
pub fn slug(body: &str) -> String {
    let problem: Value = serde_json::from_str(body).expect("a problem");
    problem["type"].as_str().expect("a type").trim_start_matches("urn:farebox:problem:").to_owned()
}
