//! API keys of consumers: kept as hashes, linked to their consumer so that calls made with them are attributed.

use chrono::{DateTime, Utc};
use farebox_core::ids::{ConsumerId, CredentialId, WorkspaceId};
use farebox_core::period::floor_minute;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::MeteringError;
use crate::links::{self, Kind};

/// The PostgreSQL channel that tells `access` of a change.
pub const CHANNEL: &str = "farebox_access";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Credential {
    pub id: CredentialId,
    pub consumer_id: ConsumerId,
    pub name: String,
    /// Its first and last characters, to tell keys apart.
    pub hint: String,
    /// `production`, `sandbox`, ...
    pub environment: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone)]
pub struct NewCredential {
    pub name: String,
    pub hint: String,
    pub hash: [u8; 32],
    /// `production` unless it is a test key.
    pub environment: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// What decides about a call: every key that is neither revoked nor (by now) expired.
#[derive(Debug, Clone)]
pub struct ActiveCredential {
    pub id: CredentialId,
    pub workspace: WorkspaceId,
    pub consumer: ConsumerId,
    pub hash: Vec<u8>,
    pub environment: String,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Adds a key; calls that carry its id are the consumer's from the minute of `created_at` on.
pub async fn add(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    consumer: &ConsumerId,
    new: NewCredential,
) -> Result<Credential, MeteringError> {
    let credential = Credential {
        id: CredentialId::new(),
        consumer_id: consumer.clone(),
        name: new.name,
        hint: new.hint,
        environment: new.environment,
        created_at: new.created_at,
        expires_at: new.expires_at,
        revoked_at: None,
    };
    let done = sqlx::query!(
        "INSERT INTO credentials (id, workspace_id, consumer_id, name, hint, hash, environment, created_at, expires_at)
         SELECT $1, workspace_id, id, $4, $5, $6, $7, $8, $9 FROM consumers WHERE workspace_id = $2 AND id = $3",
        credential.id.as_str(),
        workspace.as_str(),
        consumer.as_str(),
        credential.name,
        credential.hint,
        &new.hash[..],
        credential.environment,
        credential.created_at,
        credential.expires_at
    )
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() == 0 {
        return Err(MeteringError::NotFound("consumer"));
    }
    let from = floor_minute(credential.created_at);
    links::assign(conn, workspace, Kind::Credential, credential.id.as_str(), consumer, &credential.environment, from, None).await?;
    tell(conn).await?;
    Ok(credential)
}

/// False when there is no such key, or it was revoked before. Calls made with it stay attributed.
pub async fn revoke(conn: &mut PgConnection, workspace: &WorkspaceId, id: &CredentialId, at: DateTime<Utc>) -> Result<bool, MeteringError> {
    let done = sqlx::query!(
        "UPDATE credentials SET revoked_at = $3 WHERE workspace_id = $1 AND id = $2 AND revoked_at IS NULL",
        workspace.as_str(),
        id.as_str(),
        at
    )
    .execute(&mut *conn)
    .await?;
    tell(conn).await?;
    Ok(done.rows_affected() == 1)
}

/// A consumer's keys, newest first, revoked ones included.
pub async fn list(conn: &mut PgConnection, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<Vec<Credential>, MeteringError> {
    Ok(sqlx::query_as!(
        Credential,
        r#"SELECT id AS "id: CredentialId", consumer_id AS "consumer_id: ConsumerId", name, hint, environment, created_at, expires_at, revoked_at
           FROM credentials WHERE workspace_id = $1 AND consumer_id = $2 ORDER BY created_at DESC, id DESC"#,
        workspace.as_str(),
        consumer.as_str()
    )
    .fetch_all(conn)
    .await?)
}

/// When each consumer got its first key: a step of the funnel.
pub async fn first_issued(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<(ConsumerId, DateTime<Utc>)>, MeteringError> {
    let rows = sqlx::query!(
        r#"SELECT consumer_id AS "consumer_id: ConsumerId", min(created_at) AS "first!" FROM credentials WHERE workspace_id = $1 GROUP BY consumer_id"#,
        workspace.as_str()
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.consumer_id, row.first)).collect())
}

/// A key that was issued, whatever became of it.
#[derive(Debug, Clone)]
pub struct Issued {
    pub id: CredentialId,
    pub consumer: ConsumerId,
    pub at: DateTime<Utc>,
}

/// Every key ever issued: for insights.
pub async fn issued(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<Issued>, MeteringError> {
    Ok(sqlx::query_as!(
        Issued,
        r#"SELECT id AS "id: CredentialId", consumer_id AS "consumer: ConsumerId", created_at AS at FROM credentials WHERE workspace_id = $1 ORDER BY id"#,
        workspace.as_str()
    )
    .fetch_all(conn)
    .await?)
}

/// Of all workspaces, for the snapshot of `access`.
pub async fn all_active(conn: &mut PgConnection) -> Result<Vec<ActiveCredential>, MeteringError> {
    Ok(sqlx::query_as!(
        ActiveCredential,
        r#"SELECT id AS "id: CredentialId", workspace_id AS "workspace: WorkspaceId", consumer_id AS "consumer: ConsumerId", hash, environment, expires_at
           FROM credentials WHERE revoked_at IS NULL"#
    )
    .fetch_all(conn)
    .await?)
}

/// Tells `access` when the transaction commits.
async fn tell(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_notify($1, '')", CHANNEL).execute(conn).await?;
    Ok(())
}
