//! Gateways to provision: where their Admin APIs are, and the keys that wait for their delivery.

use chrono::{DateTime, Utc};
use farebox_billing::rating::plan::Per;
use farebox_core::clock;
use farebox_core::config::Config;
use farebox_core::ids::{ConsumerId, CredentialId, WorkspaceId};
use farebox_core::problem::{FieldError, Problem};
use farebox_core::seal::{Purpose, SealError, Vault};
use farebox_core::secret::Secret;
use farebox_metering::MeteringError;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::desired::kong_period;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GatewayKind)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Kind {
    Apisix,
    Kong,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apisix => "apisix",
            Self::Kong => "kong",
        }
    }
}

/// What each address may call without a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    pub limit: u32,
    pub per: Per,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTarget {
    pub kind: Kind,
    /// Of the Admin API, such as `http://apisix.internal:9180`.
    pub url: String,
    /// What the Admin API asks for. Kept sealed, never shown; left out, the one before stays.
    pub admin_key: Option<String>,
    /// The consumer `anonymous_WORKSPACE` is made with this limit for each address.
    pub anonymous: Option<Allowance>,
}

impl NewTarget {
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let address = self.url.strip_prefix("http://").or_else(|| self.url.strip_prefix("https://"));
        if address.is_none_or(|a| a.is_empty() || a.contains(['?', '#', '@', ' ']) || a.ends_with('/')) {
            errors.push(FieldError::new("/url", "must be an address such as `http://apisix.internal:9180`, without a slash at its end"));
        }
        if self.admin_key.as_ref().is_some_and(|k| k.is_empty() || !k.bytes().all(|b| b.is_ascii_graphic())) {
            errors.push(FieldError::new("/admin_key", "must be what goes into the header, without spaces"));
        }
        if let Some(anonymous) = &self.anonymous {
            if anonymous.limit == 0 {
                errors.push(FieldError::new("/anonymous/limit", "must be at least 1; leave `anonymous` out for none"));
            }
            if self.kind == Kind::Kong && kong_period(anonymous.per).is_none() {
                errors.push(FieldError::new("/anonymous/per", "Kong counts by second, minute, hour, day and month"));
            }
        }
        errors
    }
}

/// As the workers need it.
pub struct Target {
    pub id: i64,
    pub workspace: WorkspaceId,
    pub kind: Kind,
    pub url: String,
    pub admin_key_sealed: Option<Vec<u8>>,
    pub anonymous: Option<serde_json::Value>,
}

/// How far a gateway is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct State {
    pub name: String,
    pub kind: Kind,
    pub url: String,
    #[schema(value_type = Option<Allowance>)]
    pub anonymous: Option<serde_json::Value>,
    /// Consumers that are there.
    pub consumers: i64,
    /// Keys that are there.
    pub keys: i64,
    /// Keys that cannot be brought there, because they were issued before the gateway was registered (or were deleted over
    /// there) and only their hash is left: their consumers take new ones.
    pub keys_missing: i64,
    /// Consumers that still have to be brought there.
    pub waiting: i64,
    /// When everything was last compared.
    pub reconciled_at: Option<DateTime<Utc>>,
    /// What stands in the way, if anything.
    pub error: Option<String>,
}

/// Registers or changes a gateway; everything is then brought there.
pub async fn put(conn: &mut PgConnection, config: &Config, workspace: &WorkspaceId, name: &str, new: &NewTarget) -> Result<(), Problem> {
    let vault = Vault::new(&config.billing.encryption_key).map_err(|e| Problem::internal(&e))?;
    let sealed = new.admin_key.as_ref().map(|key| vault.seal(workspace, Purpose::GatewayKey, key));
    let anonymous = new.anonymous.as_ref().and_then(|a| serde_json::to_value(a).ok());
    sqlx::query!(
        "INSERT INTO provision_targets (workspace_id, name, kind, url, admin_key_sealed, anonymous, created_at, reconcile_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
         ON CONFLICT (workspace_id, name) DO UPDATE SET kind = excluded.kind, url = excluded.url, anonymous = excluded.anonymous,
             admin_key_sealed = coalesce(excluded.admin_key_sealed, provision_targets.admin_key_sealed), reconcile_at = excluded.reconcile_at",
        workspace.as_str(),
        name,
        new.kind.as_str(),
        new.url,
        sealed,
        anonymous,
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// False when there is none of this name. What is at the gateway stays there.
pub async fn delete(conn: &mut PgConnection, workspace: &WorkspaceId, name: &str) -> Result<bool, sqlx::Error> {
    let done =
        sqlx::query!("DELETE FROM provision_targets WHERE workspace_id = $1 AND name = $2", workspace.as_str(), name).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}

/// Everything is compared now. False when there is none of this name.
pub async fn reconcile(conn: &mut PgConnection, workspace: &WorkspaceId, name: &str) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE provision_targets SET reconcile_at = $3 WHERE workspace_id = $1 AND name = $2",
        workspace.as_str(),
        name,
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub async fn list(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<State>, sqlx::Error> {
    sqlx::query_as!(
        State,
        r#"SELECT t.name, t.kind AS "kind: Kind", t.url, t.anonymous, t.reconciled_at,
                  coalesce(t.error, (SELECT o.error FROM provision_outbox o WHERE o.target_id = t.id AND o.error IS NOT NULL LIMIT 1)) AS error,
                  (SELECT count(*) FROM provision_outbox o WHERE o.target_id = t.id AND o.next_at <= $2::timestamptz + interval '10 minutes') AS "waiting!",
                  coalesce(s.consumers, 0) AS "consumers!", coalesce(s.keys, 0) AS "keys!", coalesce(s.missing, 0) AS "keys_missing!"
           FROM provision_targets t
           LEFT JOIN (SELECT target_id, count(*) AS consumers, sum(keys)::bigint AS keys, sum(missing)::bigint AS missing
                      FROM provision_state GROUP BY target_id) s ON s.target_id = t.id
           WHERE t.workspace_id = $1 ORDER BY t.name"#,
        workspace.as_str(),
        clock::now()
    )
    .fetch_all(conn)
    .await
}

/// Keeps an issued key, sealed, for every gateway of the workspace that needs it.
pub async fn keep(
    conn: &mut PgConnection,
    config: &Config,
    workspace: &WorkspaceId,
    consumer: &ConsumerId,
    credential: &CredentialId,
    secret: &Secret,
) -> Result<(), MeteringError> {
    let targets =
        sqlx::query_scalar!("SELECT id FROM provision_targets WHERE workspace_id = $1", workspace.as_str()).fetch_all(&mut *conn).await?;
    if targets.is_empty() {
        return Ok(());
    }
    let unreadable = |e: SealError| MeteringError::Unreadable { what: "billing.encryption_key", cause: e.to_string() };
    let vault = Vault::new(&config.billing.encryption_key).map_err(unreadable)?;
    for target in targets {
        sqlx::query!(
            "INSERT INTO provision_secrets (target_id, credential_id, consumer_id, sealed, created_at) VALUES ($1, $2, $3, $4, $5)",
            target,
            credential.as_str(),
            consumer.as_str(),
            vault.seal(workspace, Purpose::ConsumerKey, secret.reveal()),
            clock::now()
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// For a state of one consumer at one gateway.
pub async fn note(
    conn: &mut PgConnection,
    target: i64,
    consumer: &ConsumerId,
    keys: i32,
    missing: i32,
    writes: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO provision_state (target_id, consumer_id, synced_at, keys, missing, writes) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (target_id, consumer_id) DO UPDATE SET synced_at = excluded.synced_at, keys = excluded.keys, missing = excluded.missing,
             writes = provision_state.writes + excluded.writes",
        target,
        consumer.as_str(),
        clock::now(),
        keys,
        missing,
        writes
    )
    .execute(conn)
    .await?;
    Ok(())
}
