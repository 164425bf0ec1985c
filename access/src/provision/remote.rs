//! What both Admin APIs have in common: JSON over HTTP, within bounds.

use std::time::Duration;

use farebox_core::ids::{ConsumerId, CredentialId};
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use super::desired::{Desired, Group};
use super::targets::Allowance;

/// An answer's body, at most.
const MAX_BODY: usize = 8 << 20;

#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("the Admin API does not answer: {0}")]
    Away(String),
    #[error("the Admin API refuses {what} with {status}: {why}")]
    Refused { what: String, status: StatusCode, why: String },
    #[error("the Admin API's answer cannot be read: {0}")]
    Unreadable(&'static str),
}

/// A key that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundKey {
    /// Its id there.
    pub id: String,
    pub hash: [u8; 32],
}

/// An Admin API. Every write may be repeated.
pub trait Gateway: Sync {
    /// Whether the consumer and its groups had to be written.
    fn put_consumer(&self, desired: &Desired) -> impl Future<Output = Result<bool, RemoteError>> + Send;
    fn keys(&self, consumer: &ConsumerId) -> impl Future<Output = Result<Vec<FoundKey>, RemoteError>> + Send;
    /// `ttl_s`: seconds after which it is over, where the gateway can forget it by itself.
    fn put_key(
        &self,
        consumer: &ConsumerId,
        credential: &CredentialId,
        key: &str,
        ttl_s: Option<i64>,
    ) -> impl Future<Output = Result<(), RemoteError>> + Send;
    fn delete_key(&self, consumer: &ConsumerId, id: &str) -> impl Future<Output = Result<(), RemoteError>> + Send;
    /// With its keys. Also when it is not there.
    fn delete_consumer(&self, consumer: &ConsumerId) -> impl Future<Output = Result<(), RemoteError>> + Send;
    /// Those that this workspace brought there.
    fn consumers(&self) -> impl Future<Output = Result<Vec<ConsumerId>, RemoteError>> + Send;
    /// Those that this workspace brought there and no one of `kept` is.
    fn delete_other_groups(&self, kept: &[Group]) -> impl Future<Output = Result<(), RemoteError>> + Send;
    /// The consumer of calls without a key, for the gateway's own configuration to name; gone when none.
    fn put_anonymous(&self, allowance: Option<&Allowance>) -> impl Future<Output = Result<(), RemoteError>> + Send;
}

pub struct Api {
    client: Client,
    base: String,
    key_header: &'static str,
    key: Option<String>,
}

impl Api {
    pub fn new(base: &str, key_header: &'static str, key: Option<String>) -> Result<Self, RemoteError> {
        // No redirects: they would carry the admin key elsewhere.
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(Duration::from_secs(10));
        let client = client.build().map_err(|e| RemoteError::Away(e.to_string()))?;
        Ok(Self { client, base: base.to_owned(), key_header, key })
    }

    /// None: there is no such thing.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Option<Value>, RemoteError> {
        let what = format!("{method} {path}");
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header(self.key_header, key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|e| RemoteError::Away(away(&e)))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| RemoteError::Away(away(&e)))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BODY {
                return Err(RemoteError::Unreadable("it is larger than 8 MiB"));
            }
        }
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let value = if body.is_empty() { Some(Value::Null) } else { serde_json::from_slice::<Value>(&body).ok() };
        if !status.is_success() {
            // Only what an Admin API says about a wrong body; whatever else answers there is nobody's business.
            let said = value.as_ref().and_then(|v| v.get("error_msg").or_else(|| v.get("message"))?.as_str().map(str::to_owned));
            let why = said.map_or_else(|| "without a reason".to_owned(), |said| said.chars().take(200).collect());
            return Err(RemoteError::Refused { what, status, why });
        }
        value.map(Some).ok_or(RemoteError::Unreadable("it is no JSON"))
    }
}

/// Without the address, which may hold what is secret.
fn away(error: &reqwest::Error) -> String {
    let what = match error {
        e if e.is_timeout() => "it takes longer than 10 seconds",
        e if e.is_connect() => "no connection can be made",
        _ => "the connection broke",
    };
    what.to_owned()
}

/// Whether everything that `wanted` says is so in `found`, which may say more (defaults, times).
pub fn says(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted.iter().all(|(name, value)| found.get(name).is_some_and(|f| says(f, value))),
        (Value::Array(found), Value::Array(wanted)) => found.len() == wanted.len() && wanted.iter().all(|w| found.contains(w)),
        (found, wanted) => found == wanted,
    }
}
