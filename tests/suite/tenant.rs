//! A workspace of its own for one test, and the calls a program makes in it.

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::auth::{self, Scope};
use farebox_core::clock;
use farebox_core::ids::WorkspaceId;
use farebox_core::workspace::{self, NewWorkspace, Workspace};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::harness::Suite;

pub struct Tenant {
    pub workspace: Workspace,
    pub token: String,
    base: String,
    http: reqwest::Client,
}

impl Tenant {
    pub async fn new(suite: &Suite, name: &str) -> Self {
        Self::named(suite, &format!("{name}/t{}", uuid::Uuid::now_v7().simple())).await
    }

    /// Where the workspace's name matters.
    pub async fn named(suite: &Suite, name: &str) -> Self {
        let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL answers");
        let short = name.split('/').next().unwrap_or(name);
        let new = NewWorkspace {
            name,
            display_name: short,
            currency: "USD".parse().expect("a currency"),
            time_zone: chrono_tz::UTC,
            test_mode: false,
            is_default: false,
        };
        let workspace = workspace::create(&mut conn, new).await.expect("a workspace");
        drop(conn);
        Self::of(suite, &workspace.id).await
    }

    /// A workspace that is there, with a token for everything.
    pub async fn of(suite: &Suite, id: &WorkspaceId) -> Self {
        let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL answers");
        let workspace = workspace::by_id(&mut conn, id).await.expect("a workspace").expect("is there");
        let (_, token) = auth::create_token(&mut conn, &workspace.id, "test", &Scope::ALL, false, None).await.expect("a token");
        Self {
            workspace,
            token: token.reveal().to_owned(),
            base: suite.credentials.base_url.clone(),
            // A redirect is an answer, too.
            http: reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client"),
        }
    }

    pub async fn token_with(&self, suite: &Suite, scopes: &[Scope]) -> String {
        let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL answers");
        let (_, token) = auth::create_token(&mut conn, &self.workspace.id, "other", scopes, false, None).await.expect("a token");
        token.reveal().to_owned()
    }

    /// A call to the front door with the workspace's token.
    pub fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).header("x-farebox-token", &self.token)
    }

    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub async fn get(&self, path: &str) -> Value {
        let response = self.call(Method::GET, path).send().await.expect("an answer");
        let status = response.status();
        let body: Value = response.json().await.expect("JSON");
        assert!(status.is_success(), "{path}: {status} {body}");
        body
    }

    /// All events of the last day and the next minute, as usage counts them: each once.
    pub async fn calls(&self) -> u64 {
        let stamp = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:00Z").to_string();
        let now = clock::now();
        let (from, to) = (stamp(now - TimeDelta::days(1)), stamp(now + TimeDelta::minutes(2)));
        let usage = self.get(&format!("/api/v1/usage?meter=calls&window=none&from={from}&to={to}")).await;
        let rows = usage["data"].as_array().expect("rows");
        rows.iter().map(|row| row["value"].as_str().expect("a decimal").parse::<u64>().expect("a whole number")).sum()
    }
}
