//! Kong 3: <https://developer.konghq.com/api/gateway/admin-ee/>. A consumer's `username` is our id, which is a subject of its
//! own, so that its calls are attributed; its keys are `key-auth` credentials; each plan is an ACL group `plan-NAME`, by
//! which the operator's `acl` plugin lets in, and to which rates are given there.

use farebox_core::ids::{ConsumerId, CredentialId, WorkspaceId};
use farebox_core::secret;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::desired::{Desired, Group, kong_period};
use super::remote::{Api, FoundKey, Gateway, RemoteError, says};
use super::targets::Allowance;

pub struct Kong {
    api: Api,
    workspace: WorkspaceId,
}

impl Kong {
    pub fn new(url: &str, key: Option<String>, workspace: &WorkspaceId) -> Result<Self, RemoteError> {
        Ok(Self { api: Api::new(url, "kong-admin-token", key)?, workspace: workspace.clone() })
    }

    fn tags(&self) -> Value {
        json!(["farebox", self.workspace])
    }

    fn anonymous(&self) -> String {
        format!("anonymous_{}", self.workspace)
    }

    /// All pages of a list.
    async fn list(&self, path: &str) -> Result<Vec<Value>, RemoteError> {
        let mut found = Vec::new();
        let mut next = Some(path.to_owned());
        while let Some(path) = next {
            let Some(mut answer) = self.api.call(Method::GET, &path, None).await? else { break };
            found.extend(answer["data"].take().as_array().cloned().unwrap_or_default());
            // It names the next page by its path, `/consumers?offset=...`.
            next = answer["next"].as_str().filter(|next| next.starts_with('/')).map(str::to_owned);
        }
        Ok(found)
    }

    /// Whether it had to be written.
    async fn put(&self, path: &str, wanted: &Value) -> Result<bool, RemoteError> {
        if self.api.call(Method::GET, path, None).await?.is_some_and(|found| says(&found, wanted)) {
            return Ok(false);
        }
        self.api.call(Method::PUT, path, Some(wanted)).await?.ok_or(RemoteError::Unreadable("it knows no such path"))?;
        Ok(true)
    }
}

impl Gateway for Kong {
    async fn put_consumer(&self, desired: &Desired) -> Result<bool, RemoteError> {
        let path = format!("/consumers/{}", desired.consumer);
        let mut written = self.put(&path, &json!({ "username": desired.consumer, "tags": self.tags() })).await?;
        let wanted: Vec<String> = desired.groups.iter().map(group_name).collect();
        let found = self.list(&format!("{path}/acls")).await?;
        for acl in &found {
            if !wanted.iter().any(|group| acl["group"] == group.as_str()) {
                self.api.call(Method::DELETE, &format!("{path}/acls/{}", acl["id"].as_str().unwrap_or_default()), None).await?;
                written = true;
            }
        }
        for group in wanted.iter().filter(|group| !found.iter().any(|acl| acl["group"] == group.as_str())) {
            self.api.call(Method::POST, &format!("{path}/acls"), Some(&json!({ "group": group, "tags": self.tags() }))).await?;
            written = true;
        }
        Ok(written)
    }

    async fn keys(&self, consumer: &ConsumerId) -> Result<Vec<FoundKey>, RemoteError> {
        let found = self.list(&format!("/consumers/{consumer}/key-auth")).await?;
        let key = |row: &Value| Some(FoundKey { id: row["id"].as_str()?.to_owned(), hash: secret::hash(row["key"].as_str()?) });
        Ok(found.iter().filter_map(key).collect())
    }

    async fn put_key(&self, consumer: &ConsumerId, credential: &CredentialId, key: &str, ttl_s: Option<i64>) -> Result<(), RemoteError> {
        let mut body = json!({ "key": key, "tags": self.tags() });
        if let Some(ttl_s) = ttl_s {
            body["ttl"] = json!(ttl_s);
        }
        let path = format!("/consumers/{consumer}/key-auth/{}", uuid_of(credential.as_str()));
        self.api.call(Method::PUT, &path, Some(&body)).await?.map(drop).ok_or(RemoteError::Unreadable("the consumer is gone"))
    }

    async fn delete_key(&self, consumer: &ConsumerId, id: &str) -> Result<(), RemoteError> {
        self.api.call(Method::DELETE, &format!("/consumers/{consumer}/key-auth/{id}"), None).await.map(drop)
    }

    async fn delete_consumer(&self, consumer: &ConsumerId) -> Result<(), RemoteError> {
        // Its keys and groups go with it.
        self.api.call(Method::DELETE, &format!("/consumers/{consumer}"), None).await.map(drop)
    }

    async fn consumers(&self) -> Result<Vec<ConsumerId>, RemoteError> {
        let found = self.list(&format!("/consumers?tags=farebox,{}&size=1000", self.workspace)).await?;
        Ok(found.iter().filter_map(|row| row["username"].as_str()?.parse().ok()).collect())
    }

    async fn delete_other_groups(&self, _: &[Group]) -> Result<(), RemoteError> {
        // A group is there as long as a consumer is in it.
        Ok(())
    }

    async fn put_anonymous(&self, allowance: Option<&Allowance>) -> Result<(), RemoteError> {
        let path = format!("/consumers/{}", self.anonymous());
        let Some((allowance, period)) = allowance.and_then(|a| Some((a, kong_period(a.per)?))) else {
            return self.api.call(Method::DELETE, &path, None).await.map(drop);
        };
        self.put(&path, &json!({ "username": self.anonymous(), "tags": self.tags() })).await?;
        let plugin = format!("{path}/plugins/{}", uuid_of(&self.anonymous()));
        let config = json!({ period: allowance.limit, "limit_by": "ip", "policy": "local" });
        self.put(&plugin, &json!({ "name": "rate-limiting", "config": config, "tags": self.tags() })).await.map(drop)
    }
}

fn group_name(group: &Group) -> String {
    format!("plan-{}", group.plan)
}

/// The same for the same name, so that writing twice writes one thing.
fn uuid_of(name: &str) -> Uuid {
    let digest = Sha256::digest(name.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
