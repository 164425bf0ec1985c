//! What a provider chooses about decisions, as one document per workspace: `decisions` in the catalogue, or
//! `/api/v1/decision-policy`. `access` decides by it.

use std::collections::BTreeMap;

use farebox_core::clock;
use farebox_core::ids::WorkspaceId;
use farebox_core::problem::FieldError;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::rating::plan::Per;

/// The name in [`Policy::apis`] that stands for every API without an entry of its own.
pub const EVERY: &str = "*";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = DecisionPolicy)]
pub struct Policy {
    /// Days after an invoice's due date from which calls of who owes it are refused with 402; null: never.
    pub unpaid_grace_days: Option<u32>,
    /// Keys, plans or usage that are older than this (because PostgreSQL or the usage store is away) are no longer
    /// simply believed: `when_stale` decides.
    pub trust_seconds: u32,
    /// Proxies in front of the gateway that each add an address to `X-Forwarded-For`; the caller's own is the one
    /// before theirs.
    pub proxies: u8,
    /// The header with the caller's key, such as `apikey`; `x-api-key` unless given. Where a call does not have it,
    /// `Authorization: Bearer` is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_header: Option<String>,
    /// Sources whose traffic is a copy of other sources' (mirrored, shadowed): let through, told as such, never billed.
    pub mirrors: Vec<String>,
    /// By the API's name; `*` for all others.
    pub apis: BTreeMap<String, ApiPolicy>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { unpaid_grace_days: None, trust_seconds: 300, proxies: 0, key_header: None, mirrors: Vec::new(), apis: BTreeMap::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiPolicy {
    pub when_stale: WhenStale,
    /// Calls without a key; none unless given.
    pub anonymous: Option<AnonymousPolicy>,
    /// A header that names the version where the path does not, such as `x-api-version`.
    pub version_header: Option<String>,
    /// What a call is that names no version anywhere.
    pub default_version: Option<String>,
}

/// What to do with a call when what decides about it is older than is trusted. Counted either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenStale {
    /// Decide by what was known last.
    #[default]
    Open,
    /// Refuse with 503.
    Closed,
}

/// What each address may call without a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnonymousPolicy {
    /// At least 1.
    pub limit: u32,
    pub per: Per,
    /// Patterns as in plans; all routes of the API unless given.
    #[serde(default)]
    pub routes: Vec<String>,
}

impl Policy {
    pub fn key_header(&self) -> &str {
        self.key_header.as_deref().unwrap_or("x-api-key")
    }

    pub fn of_api(&self, api: &str) -> Option<&ApiPolicy> {
        self.apis.get(api).or_else(|| self.apis.get(EVERY))
    }

    /// What is wrong with it.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.trust_seconds < 10 {
            errors.push(FieldError::new("/trust_seconds", "must be at least 10: usage is refreshed every few seconds"));
        }
        let is_header = |name: &str| axum::http::HeaderName::try_from(name).is_ok();
        if self.key_header.as_ref().is_some_and(|name| !is_header(name) || name.eq_ignore_ascii_case("authorization")) {
            errors.push(FieldError::new("/key_header", "must be the name of a header, such as `apikey`; `authorization` is read anyway"));
        }
        for (name, api) in &self.apis {
            let mut wrong = |field: &str, detail: &str| errors.push(FieldError::new(format!("/apis/{name}/{field}"), detail));
            if let Some(anonymous) = &api.anonymous {
                if anonymous.limit == 0 {
                    wrong("anonymous/limit", "must be at least 1; leave `anonymous` out to refuse calls without a key");
                }
                if anonymous.routes.iter().any(|r| !r.contains('/')) {
                    wrong("anonymous/routes", "are patterns such as \"GET /orders*\"");
                }
            }
            if api.version_header.as_ref().is_some_and(|name| !is_header(name)) {
                wrong("version_header", "must be the name of a header, such as `x-api-version`");
            }
        }
        errors
    }
}

pub async fn get(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Policy, sqlx::Error> {
    let found = sqlx::query_scalar!("SELECT policy FROM decision_policies WHERE workspace_id = $1", workspace.as_str())
        .fetch_optional(conn)
        .await?;
    Ok(found.map(read).unwrap_or_default())
}

/// Those that were ever set, of all workspaces.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<(WorkspaceId, Policy)>, sqlx::Error> {
    let rows = sqlx::query!(r#"SELECT workspace_id AS "workspace: WorkspaceId", policy FROM decision_policies"#).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|row| (row.workspace, read(row.policy))).collect())
}

/// In force at every instance within a second.
pub async fn set(conn: &mut PgConnection, workspace: &WorkspaceId, policy: &Policy) -> Result<(), sqlx::Error> {
    let json = serde_json::to_value(policy).map_err(|e| sqlx::Error::Encode(Box::new(e)))?;
    sqlx::query!(
        "INSERT INTO decision_policies (workspace_id, policy, updated_at) VALUES ($1, $2, $3)
         ON CONFLICT (workspace_id) DO UPDATE SET policy = excluded.policy, updated_at = excluded.updated_at",
        workspace.as_str(),
        json,
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(())
}

fn read(stored: serde_json::Value) -> Policy {
    serde_json::from_value(stored).unwrap_or_else(|error| {
        tracing::error!("a decision policy cannot be read, and the default one is in force instead: {error}");
        Policy::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let policy: Policy = serde_json::from_str(
            r#"{"trust_seconds": 1, "key_header": "Authorization", "apis": {"orders": {"version_header": "no header", "anonymous": {"limit": 0, "per": "hour", "routes": ["orders"]}}}}"#,
        )
        .expect("it parses");
        let pointers: Vec<_> = policy.check().into_iter().map(|e| e.pointer).collect();
        assert_eq!(
            pointers,
            [
                "/trust_seconds",
                "/key_header",
                "/apis/orders/anonymous/limit",
                "/apis/orders/anonymous/routes",
                "/apis/orders/version_header"
            ]
        );
        assert!(Policy::default().check().is_empty());
        assert!(serde_json::from_str::<Policy>(r#"{"grace": 1}"#).is_err());
    }
}
