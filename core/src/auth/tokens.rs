//! Workspace tokens as they are managed: created, listed, rotated with an overlap, revoked.
//!
//! A token is a secret that is sent with each call (bearer), a secret with which each call is signed (signing), or a
//! client certificate. All three have scopes, limits and an end.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::Scope;
use crate::clock;
use crate::ids::{TokenId, WorkspaceId};
use crate::seal::{Purpose, Vault};
use crate::secret::Secret;

/// What a token may do at most; each instance of Farebox counts for itself. None: no limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests that send events, per second.
    pub requests_per_second: Option<i32>,
    /// Bytes of bodies as sent, per second; at least 1024. A body must then say its length.
    pub bytes_per_second: Option<i32>,
    /// Requests that send events, at once.
    pub in_flight: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TokenKind)]
pub enum Kind {
    /// Sent as `Authorization: Bearer` or `X-Farebox-Token`.
    #[default]
    Bearer,
    /// Never sent: each call carries `Farebox-Signature`.
    Signing,
    /// A client certificate, where Farebox listens with mutual TLS.
    Certificate,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Signing => "signing",
            Self::Certificate => "certificate",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "signing" => Self::Signing,
            "certificate" => Self::Certificate,
            _ => Self::Bearer,
        }
    }
}

#[derive(Debug, Clone)]
pub struct NewToken<'a> {
    pub name: &'a str,
    pub scopes: &'a [Scope],
    pub test_mode: bool,
    pub expires_at: Option<DateTime<Utc>>,
    pub limits: Limits,
}

/// What may be shown of a token.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct TokenInfo {
    pub id: TokenId,
    pub kind: Kind,
    pub name: String,
    /// Its first and last characters.
    pub hint: String,
    pub scopes: Vec<Scope>,
    pub limits: Limits,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
    /// The token that was made from this one by a rotation.
    pub replaced_by: Option<TokenId>,
}

struct Row {
    id: TokenId,
    kind: String,
    name: String,
    hint: String,
    scopes: Vec<String>,
    requests_per_second: Option<i32>,
    bytes_per_second: Option<i32>,
    in_flight: Option<i32>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
    replaced_by: Option<TokenId>,
}

impl From<Row> for TokenInfo {
    fn from(row: Row) -> Self {
        let Row { requests_per_second, bytes_per_second, in_flight, .. } = row;
        Self {
            id: row.id,
            kind: Kind::parse(&row.kind),
            name: row.name,
            hint: row.hint,
            scopes: row.scopes.iter().filter_map(|s| Scope::parse(s)).collect(),
            limits: Limits { requests_per_second, bytes_per_second, in_flight },
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            replaced_by: row.replaced_by,
        }
    }
}

/// What a token is told by.
enum Proof<'a> {
    Secret(&'a Secret),
    /// With the vault that keeps it.
    SigningSecret(&'a Secret, &'a Vault),
    /// SHA-256 of the DER form.
    Certificate(&'a [u8; 32]),
}

async fn insert(conn: &mut PgConnection, workspace: &WorkspaceId, new: &NewToken<'_>, proof: Proof<'_>) -> Result<TokenId, sqlx::Error> {
    let id = TokenId::new();
    let (kind, hint, hash, sealed) = match proof {
        Proof::Secret(secret) => (Kind::Bearer, secret.hint(), secret.hash(), None),
        Proof::SigningSecret(secret, vault) => {
            (Kind::Signing, secret.hint(), secret.hash(), Some(vault.seal(workspace, Purpose::SigningSecret, secret.reveal())))
        }
        Proof::Certificate(fingerprint) => {
            let hex = hex::encode(fingerprint);
            (Kind::Certificate, format!("{}…{}", &hex[..8], &hex[60..]), *fingerprint, None)
        }
    };
    let scopes: Vec<String> = new.scopes.iter().map(|s| s.as_str().to_owned()).collect();
    sqlx::query!(
        "INSERT INTO tokens (id, workspace_id, kind, name, hint, hash, sealed, scopes, created_at, expires_at, requests_per_second, bytes_per_second, in_flight)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        id.as_str(),
        workspace.as_str(),
        kind.as_str(),
        new.name,
        hint,
        &hash[..],
        sealed,
        &scopes,
        clock::now(),
        new.expires_at,
        new.limits.requests_per_second,
        new.limits.bytes_per_second,
        new.limits.in_flight
    )
    .execute(conn)
    .await?;
    Ok(id)
}

/// Creates a token; the secret is returned once and never again.
pub async fn create(conn: &mut PgConnection, workspace: &WorkspaceId, new: &NewToken<'_>) -> Result<(TokenId, Secret), sqlx::Error> {
    let secret = Secret::generate(if new.test_mode { "fbx_test_" } else { "fbx_live_" });
    let id = insert(conn, workspace, new, Proof::Secret(&secret)).await?;
    Ok((id, secret))
}

/// A secret with which a sender signs its calls; it is returned once and never again.
pub async fn create_signing(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    new: &NewToken<'_>,
    vault: &Vault,
) -> Result<(TokenId, Secret), sqlx::Error> {
    let secret = Secret::generate(if new.test_mode { "fbx_sign_test_" } else { "fbx_sign_live_" });
    let id = insert(conn, workspace, new, Proof::SigningSecret(&secret, vault)).await?;
    Ok((id, secret))
}

/// A client certificate, by the SHA-256 of its DER form. Fails with a unique violation where it is known already.
pub async fn create_certificate(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    new: &NewToken<'_>,
    fingerprint: &[u8; 32],
) -> Result<TokenId, sqlx::Error> {
    insert(conn, workspace, new, Proof::Certificate(fingerprint)).await
}

/// As [`create`], without limits.
pub async fn create_token(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    name: &str,
    scopes: &[Scope],
    test_mode: bool,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(TokenId, Secret), sqlx::Error> {
    create(conn, workspace, &NewToken { name, scopes, test_mode, expires_at, limits: Limits::default() }).await
}

/// A secret in the place of another, which stays in force for `overlap` so that its holders can change over. One that was
/// itself replaced before ends at once: two are in force, never three. None when there is no such token, it is over, was
/// replaced before, or is a certificate.
pub async fn rotate(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    id: &TokenId,
    overlap: TimeDelta,
    vault: &Vault,
) -> Result<Option<(TokenId, Secret)>, sqlx::Error> {
    let old = in_force(&mut *conn, workspace, id).await?;
    let Some(old) = old.filter(|old| old.replaced_by.is_none() && old.kind != Kind::Certificate) else { return Ok(None) };
    let test_mode = old.hint.contains("_test_");
    // An end that was set for the old one holds for its successor, too.
    let new = NewToken { name: &old.name, scopes: &old.scopes, test_mode, expires_at: old.expires_at, limits: old.limits };
    let (new_id, secret) = match old.kind {
        Kind::Signing => create_signing(&mut *conn, workspace, &new, vault).await?,
        Kind::Bearer | Kind::Certificate => create(&mut *conn, workspace, &new).await?,
    };
    let now = clock::now();
    sqlx::query!(
        "UPDATE tokens SET expires_at = least(expires_at, $3) WHERE workspace_id = $1 AND replaced_by = $2",
        workspace.as_str(),
        id.as_str(),
        now
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "UPDATE tokens SET replaced_by = $3, expires_at = least(expires_at, $4) WHERE workspace_id = $1 AND id = $2",
        workspace.as_str(),
        id.as_str(),
        new_id.as_str(),
        now + overlap
    )
    .execute(conn)
    .await?;
    Ok(Some((new_id, secret)))
}

/// False when there is no such token, or it was revoked before.
pub async fn revoke_token(conn: &mut PgConnection, workspace: &WorkspaceId, id: &TokenId) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE tokens SET revoked_at = $3 WHERE workspace_id = $1 AND id = $2 AND revoked_at IS NULL",
        workspace.as_str(),
        id.as_str(),
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Held for the transaction, so that two rotations of one token become one.
async fn in_force(conn: &mut PgConnection, workspace: &WorkspaceId, id: &TokenId) -> Result<Option<TokenInfo>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT id AS "id: TokenId", kind, name, hint, scopes, requests_per_second, bytes_per_second, in_flight, created_at, expires_at,
             last_used_at, replaced_by AS "replaced_by: TokenId"
           FROM tokens WHERE workspace_id = $1 AND id = $2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3) FOR UPDATE"#,
        workspace.as_str(),
        id.as_str(),
        clock::now()
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(TokenInfo::from))
}

/// Those that are in force, the newest first.
pub async fn list_tokens(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<TokenInfo>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id AS "id: TokenId", kind, name, hint, scopes, requests_per_second, bytes_per_second, in_flight, created_at, expires_at,
             last_used_at, replaced_by AS "replaced_by: TokenId"
           FROM tokens WHERE workspace_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)
           ORDER BY created_at DESC, id DESC"#,
        workspace.as_str(),
        clock::now()
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(TokenInfo::from).collect())
}
