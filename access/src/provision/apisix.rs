//! APISIX 3.11 and newer: <https://apisix.apache.org/docs/apisix/admin-api/>. A consumer's `username` is our id, which
//! is a subject of its own, so that its calls are attributed; its keys are credentials with `key-auth`; a plan version is
//! a consumer group with `limit-count`, by which routes may also be restricted (`consumer-restriction`).

use farebox_core::ids::{ConsumerId, CredentialId, WorkspaceId};
use farebox_core::secret;
use reqwest::Method;
use serde_json::{Value, json};

use super::desired::{Desired, Group, Limit};
use super::remote::{Api, FoundKey, Gateway, RemoteError, says};
use super::targets::Allowance;
use crate::rate;

/// The most that a page may have.
const PAGE: usize = 500;

pub struct Apisix {
    api: Api,
    workspace: WorkspaceId,
}

impl Apisix {
    pub fn new(url: &str, key: Option<String>, workspace: &WorkspaceId) -> Result<Self, RemoteError> {
        Ok(Self { api: Api::new(url, "x-api-key", key)?, workspace: workspace.clone() })
    }

    fn labels(&self) -> Value {
        json!({ "managed-by": "farebox", "farebox-workspace": self.workspace })
    }

    fn anonymous(&self) -> String {
        format!("anonymous_{}", self.workspace)
    }

    /// Whether it had to be written.
    async fn put(&self, read: &str, write: &str, wanted: &Value) -> Result<bool, RemoteError> {
        let found = self.api.call(Method::GET, read, None).await?;
        if found.as_ref().and_then(|f| f.get("value")).is_some_and(|value| says(value, wanted) && !more(value, wanted)) {
            return Ok(false);
        }
        self.api.call(Method::PUT, write, Some(wanted)).await?.ok_or(RemoteError::Unreadable("it knows no consumers"))?;
        Ok(true)
    }

    async fn put_group(&self, group: &Group) -> Result<bool, RemoteError> {
        let path = format!("/apisix/admin/consumer_groups/{}", group.plan_version);
        let plugins = group.limit.map_or_else(|| json!({}), |limit| json!({ "limit-count": limit_count(limit, "consumer_name") }));
        self.put(&path, &path, &json!({ "plugins": plugins, "desc": shortened(&group.plan), "labels": self.labels() })).await
    }

    /// Values of a resource that carry our label.
    async fn ours(&self, resource: &str) -> Result<Vec<Value>, RemoteError> {
        let mut found = Vec::new();
        for page in 1.. {
            let answer = self.api.call(Method::GET, &format!("/apisix/admin/{resource}?page={page}&page_size={PAGE}"), None).await?;
            let list = answer.and_then(|mut a| a.get_mut("list").map(Value::take)).unwrap_or_default();
            let list = list.as_array().cloned().unwrap_or_default();
            let last = list.len() < PAGE;
            found.extend(list.into_iter().filter_map(|mut row| row.get_mut("value").map(Value::take)));
            if last {
                break;
            }
        }
        found.retain(|value| value["labels"]["farebox-workspace"] == self.workspace.as_str());
        Ok(found)
    }
}

impl Gateway for Apisix {
    async fn put_consumer(&self, desired: &Desired) -> Result<bool, RemoteError> {
        let mut written = false;
        for group in &desired.groups {
            written |= self.put_group(group).await?;
        }
        let mut wanted = json!({ "username": desired.consumer, "desc": shortened(&desired.name), "labels": self.labels() });
        // A consumer has one group there: that of its first plan.
        if let Some(group) = desired.groups.first() {
            wanted["group_id"] = json!(group.plan_version);
        }
        Ok(self.put(&format!("/apisix/admin/consumers/{}", desired.consumer), "/apisix/admin/consumers", &wanted).await? || written)
    }

    async fn keys(&self, consumer: &ConsumerId) -> Result<Vec<FoundKey>, RemoteError> {
        let answer = self.api.call(Method::GET, &format!("/apisix/admin/consumers/{consumer}/credentials"), None).await?;
        let list = answer.as_ref().and_then(|a| a["list"].as_array()).map(Vec::as_slice).unwrap_or_default();
        let key = |row: &Value| {
            let id = row["key"].as_str()?.rsplit('/').next()?.to_owned();
            // One of another kind is none that we brought.
            Some(FoundKey { id, hash: secret::hash(row["value"]["plugins"]["key-auth"]["key"].as_str()?) })
        };
        Ok(list.iter().filter_map(key).collect())
    }

    async fn put_key(&self, consumer: &ConsumerId, credential: &CredentialId, key: &str, _: Option<i64>) -> Result<(), RemoteError> {
        let path = format!("/apisix/admin/consumers/{consumer}/credentials/{credential}");
        let body = json!({ "plugins": { "key-auth": { "key": key } }, "labels": self.labels() });
        self.api.call(Method::PUT, &path, Some(&body)).await?.map(drop).ok_or(RemoteError::Unreadable("the consumer is gone"))
    }

    async fn delete_key(&self, consumer: &ConsumerId, id: &str) -> Result<(), RemoteError> {
        self.api.call(Method::DELETE, &format!("/apisix/admin/consumers/{consumer}/credentials/{id}"), None).await.map(drop)
    }

    async fn delete_consumer(&self, consumer: &ConsumerId) -> Result<(), RemoteError> {
        for key in self.keys(consumer).await? {
            self.delete_key(consumer, &key.id).await?;
        }
        self.api.call(Method::DELETE, &format!("/apisix/admin/consumers/{consumer}"), None).await.map(drop)
    }

    async fn consumers(&self) -> Result<Vec<ConsumerId>, RemoteError> {
        let ours = self.ours("consumers").await?;
        Ok(ours.iter().filter_map(|value| value["username"].as_str()?.parse().ok()).collect())
    }

    async fn delete_other_groups(&self, kept: &[Group]) -> Result<(), RemoteError> {
        for value in self.ours("consumer_groups").await? {
            let id = value["id"].as_str().unwrap_or_default();
            if !id.is_empty() && !kept.iter().any(|group| group.plan_version.as_str() == id) {
                self.api.call(Method::DELETE, &format!("/apisix/admin/consumer_groups/{id}"), None).await?;
            }
        }
        Ok(())
    }

    async fn put_anonymous(&self, allowance: Option<&Allowance>) -> Result<(), RemoteError> {
        let path = format!("/apisix/admin/consumers/{}", self.anonymous());
        let Some(allowance) = allowance else { return self.api.call(Method::DELETE, &path, None).await.map(drop) };
        let limit = Limit { calls: allowance.limit.into(), window_s: rate::seconds(allowance.per) };
        let plugins = json!({ "limit-count": limit_count(limit, "remote_addr") });
        let wanted = json!({ "username": self.anonymous(), "desc": "Calls without a key", "labels": self.labels(), "plugins": plugins });
        self.put(&path, "/apisix/admin/consumers", &wanted).await.map(drop)
    }
}

fn limit_count(limit: Limit, by: &str) -> Value {
    json!({
        "count": limit.calls, "time_window": limit.window_s, "key_type": "var", "key": by, "rejected_code": 429, "policy": "local",
        "show_limit_quota_header": true
    })
}

/// A group or plugins that nobody asked for.
fn more(found: &Value, wanted: &Value) -> bool {
    let empty = |value: &Value| value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
    let names = |value: &Value| value["plugins"].as_object().map(|plugins| plugins.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    (!empty(&found["group_id"]) && empty(&wanted["group_id"])) || names(found).len() > names(wanted).len()
}

fn shortened(text: &str) -> String {
    text.chars().take(250).collect()
}
