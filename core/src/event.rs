//! The event contract: what `ingest` writes to [`crate::kafka::EVENTS`] and `metering` reads. One CloudEvents 1.0
//! JSON document per message, keyed by workspace and identity.
//!
//! An event's **identity** is one canonical string in its workspace: `dec:<decision id>` when there is a decision id,
//! whichever way the event came, otherwise `<source>/<id>`. Copies with the same identity count once.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::WorkspaceId;

/// The type of an event that is one API request.
pub const REQUEST: &str = "farebox.request.v1";

/// Who produced the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnsweredBy {
    Upstream,
    /// The gateway itself, such as a refusal.
    Gateway,
    Cache,
    /// The format cannot tell.
    #[default]
    Unknown,
}

impl AnsweredBy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Gateway => "gateway",
            Self::Cache => "cache",
            Self::Unknown => "",
        }
    }
}

/// One usage event, with everything as the gateway saw it. Attribution to a consumer is derived later, by event time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsageEvent {
    pub specversion: SpecVersion,
    /// The identity, see the module.
    pub id: String,
    /// Name of the source that sent it.
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// When the request started. Microseconds; finer digits are cut off at the door.
    pub time: DateTime<Utc>,
    /// The consumer's key as the gateway knows it; empty when anonymous.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    pub workspace: WorkspaceId,
    /// When Farebox first had it. Of copies with one identity, the first received is kept.
    #[serde(rename = "receivedat")]
    pub received_at: DateTime<Utc>,
    pub data: RequestData,
}

/// CloudEvents 1.0, the only version spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SpecVersion {
    #[default]
    #[serde(rename = "1.0")]
    V1,
}

/// What is known about the request. Empty or 0 where the format does not tell.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestData {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// Route template, such as `GET /orders/{id}` or the gateway's route name; empty when no route matched.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// HTTP status; 0 when the client vanished before an answer.
    pub status: u16,
    pub latency_us: u32,
    pub request_bytes: u64,
    pub response_bytes: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    pub answered_by: AnsweredBy,
    /// The decision id that the gateway got from `/v1/decide`; empty without one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub decision: String,
    /// Id of the credential (never the secret) when the gateway knows it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub credential: String,
    /// Such as `production` or `sandbox`; empty means production.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub environment: String,
    /// The gateway's kind or node, such as `envoy`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// ISO 3166-1 alpha-2.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_country: String,
    /// `mirror`, `health_check` or `retry` for calls that must not count twice; `from_decision` for one that stands in for
    /// a lost log; empty for all others.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub marker: String,
    /// Free properties by JSON pointer (`/total_tokens`), as JSON text of scalar values (strings unquoted).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// The canonical identity of an event.
pub fn identity(source: &str, id: &str, decision: &str) -> String {
    if decision.is_empty() { format!("{source}/{id}") } else { format!("dec:{decision}") }
}

/// The Kafka key: copies of one event meet in one partition.
pub fn kafka_key(event: &UsageEvent) -> String {
    format!("{}/{}", event.workspace, event.id)
}
