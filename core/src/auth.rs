//! Who is calling: workspace tokens with scopes. (People's sessions are the portal's, consumers' keys `access`'s.)

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use moka::future::Cache;
use sqlx::{PgConnection, PgPool};

use crate::app::App;
use crate::clock;
use crate::ids::{TokenId, WorkspaceId};
use crate::problem::Problem;
use crate::secret::{self, Secret};

/// How long a token's look-up is trusted: a revoked one is refused within this time.
const TRUST: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Send events.
    Ingest,
    /// Ask for decisions.
    Decide,
    /// Read everything but money.
    Read,
    /// Change consumers, catalogue, keys.
    Manage,
    /// Read and change invoices and payments.
    Finance,
}

impl Scope {
    pub const ALL: [Self; 5] = [Self::Ingest, Self::Decide, Self::Read, Self::Manage, Self::Finance];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Decide => "decide",
            Self::Read => "read",
            Self::Manage => "manage",
            Self::Finance => "finance",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// A verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub workspace: WorkspaceId,
    pub token: TokenId,
    pub name: String,
    pub scopes: Vec<Scope>,
    expires_at: Option<DateTime<Utc>>,
}

impl Principal {
    pub fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.contains(&scope) {
            return Ok(());
        }
        Err(Problem::forbidden(format!(
            "The token `{}` lacks the scope `{}`. Create one that has it, or add the scope.",
            self.name,
            scope.as_str()
        )))
    }
}

/// Looks tokens up, and remembers the answer for [`TRUST`].
#[derive(Clone)]
pub struct Tokens {
    pg: PgPool,
    known: Cache<[u8; 32], Option<Arc<Principal>>>,
}

impl Tokens {
    pub fn new(pg: PgPool) -> Self {
        Self { pg, known: Cache::builder().max_capacity(10_000).time_to_live(TRUST).build() }
    }

    pub async fn verify(&self, token: &str) -> Result<Arc<Principal>, Problem> {
        if !secret::is_well_formed(token) {
            return Err(Problem::unauthorized("The token is mistyped or cut off: its checksum does not fit. Copy it again."));
        }
        let hash = secret::hash(token);
        let found = self.known.try_get_with(hash, look_up(&self.pg, hash)).await.map_err(|e: Arc<sqlx::Error>| {
            tracing::warn!("a token could not be looked up: {e}");
            Problem::unavailable("Tokens cannot be checked right now. Try again.", 1)
        })?;
        match found {
            Some(principal) if principal.expires_at.is_none_or(|at| clock::now() < at) => Ok(principal),
            Some(_) => Err(Problem::unauthorized("The token has expired. Create a new one.")),
            None => Err(Problem::unauthorized("The token is unknown or was revoked. Create a new one.")),
        }
    }
}

async fn look_up(pg: &PgPool, hash: [u8; 32]) -> Result<Option<Arc<Principal>>, sqlx::Error> {
    let row = sqlx::query!(
        "UPDATE tokens SET last_used_at = $2 WHERE hash = $1 AND revoked_at IS NULL RETURNING id, workspace_id, name, scopes, expires_at",
        &hash[..],
        clock::now()
    )
    .fetch_optional(pg)
    .await?;
    Ok(row.and_then(|row| {
        Some(Arc::new(Principal {
            workspace: row.workspace_id.parse().ok()?,
            token: row.id.parse().ok()?,
            name: row.name,
            scopes: row.scopes.iter().filter_map(|s| Scope::parse(s)).collect(),
            expires_at: row.expires_at,
        }))
    }))
}

/// A live token, for a room that must answer while PostgreSQL is away and so keeps them in memory.
#[derive(Debug, Clone)]
pub struct LiveToken {
    pub hash: Vec<u8>,
    pub workspace: WorkspaceId,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Of all workspaces: the tokens that are not revoked and have `scope`.
pub async fn all_with_scope(conn: &mut PgConnection, scope: Scope) -> Result<Vec<LiveToken>, sqlx::Error> {
    sqlx::query_as!(
        LiveToken,
        r#"SELECT hash, workspace_id AS "workspace: WorkspaceId", expires_at FROM tokens WHERE revoked_at IS NULL AND $1 = ANY (scopes)"#,
        scope.as_str()
    )
    .fetch_all(conn)
    .await
}

/// Creates a token; the secret is returned once and never again.
pub async fn create_token(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    name: &str,
    scopes: &[Scope],
    test_mode: bool,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(TokenId, Secret), sqlx::Error> {
    let secret = Secret::generate(if test_mode { "fbx_test_" } else { "fbx_live_" });
    let id = TokenId::new();
    let scopes: Vec<String> = scopes.iter().map(|s| s.as_str().to_owned()).collect();
    sqlx::query!(
        "INSERT INTO tokens (id, workspace_id, name, hint, hash, scopes, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        id.as_str(),
        workspace.as_str(),
        name,
        secret.hint(),
        &secret.hash()[..],
        &scopes,
        clock::now(),
        expires_at
    )
    .execute(conn)
    .await?;
    Ok((id, secret))
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

/// What may be shown of a token.
#[derive(Debug, Clone)]
pub struct TokenInfo {
    pub id: TokenId,
    pub name: String,
    /// Its first and last characters.
    pub hint: String,
    pub created_at: DateTime<Utc>,
    pub last_used_at: Option<DateTime<Utc>>,
}

/// Those that are not revoked, the newest first.
pub async fn list_tokens(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<TokenInfo>, sqlx::Error> {
    sqlx::query_as!(
        TokenInfo,
        r#"SELECT id AS "id: TokenId", name, hint, created_at, last_used_at FROM tokens
           WHERE workspace_id = $1 AND revoked_at IS NULL ORDER BY created_at DESC, id DESC"#,
        workspace.as_str()
    )
    .fetch_all(conn)
    .await
}

/// The token in `X-Farebox-Token`, or the Bearer token.
pub fn token_of(headers: &axum::http::HeaderMap) -> Option<&str> {
    if let Some(token) = headers.get("x-farebox-token") {
        return token.to_str().ok();
    }
    headers.get(axum::http::header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Extractor: the caller, verified. Check the scope with [`Principal::require`].
#[derive(Debug, Clone)]
pub struct Caller(pub Arc<Principal>);

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let token = token_of(&parts.headers)
            .ok_or_else(|| Problem::unauthorized("Send a workspace token as `Authorization: Bearer fbx_...` or `X-Farebox-Token`."))?;
        app.tokens.verify(token).await.map(Self)
    }
}
