//! Who is calling: workspace tokens with scopes. (People's sessions are the portal's, consumers' keys `access`'s.)
//!
//! A program shows a token ([`Caller`]), signs its call ([`signature`]), or connects with a client certificate
//! ([`certificate`]); [`tokens`] manages all three, [`http`] over the API.

pub mod certificate;
pub mod http;
pub mod signature;
pub mod tokens;

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
use crate::secret;

pub use tokens::{Kind, Limits, NewToken, TokenInfo, create_token, list_tokens, revoke_token};

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
    pub limits: Limits,
    expires_at: Option<DateTime<Utc>>,
}

impl Principal {
    fn is_over(&self) -> bool {
        self.expires_at.is_some_and(|at| clock::now() >= at)
    }

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
    known: Cache<(Kind, [u8; 32]), Option<Arc<Principal>>>,
}

impl Tokens {
    pub fn new(pg: PgPool) -> Self {
        Self { pg, known: Cache::builder().max_capacity(10_000).time_to_live(TRUST).build() }
    }

    pub async fn verify(&self, token: &str) -> Result<Arc<Principal>, Problem> {
        if !secret::is_well_formed(token) {
            return Err(Problem::unauthorized("The token is mistyped or cut off: its checksum does not fit. Copy it again."));
        }
        let found = self.with_hash(Kind::Bearer, secret::hash(token)).await?;
        found.ok_or_else(|| Problem::unauthorized("The token is unknown or was revoked. Create a new one."))
    }

    /// None when it is unknown or revoked.
    async fn with_hash(&self, kind: Kind, hash: [u8; 32]) -> Result<Option<Arc<Principal>>, Problem> {
        let found = self.known.try_get_with((kind, hash), look_up(&self.pg, kind, hash)).await.map_err(|e: Arc<sqlx::Error>| {
            tracing::warn!("a token could not be looked up: {e}");
            Problem::unavailable("Tokens cannot be checked right now. Try again.", 1)
        })?;
        if found.as_ref().is_some_and(|principal| principal.is_over()) {
            return Err(Problem::unauthorized("The token has expired. Create a new one."));
        }
        Ok(found)
    }
}

async fn look_up(pg: &PgPool, kind: Kind, hash: [u8; 32]) -> Result<Option<Arc<Principal>>, sqlx::Error> {
    let row = sqlx::query!(
        "UPDATE tokens SET last_used_at = $3 WHERE hash = $1 AND kind = $2 AND revoked_at IS NULL
         RETURNING id, workspace_id, name, scopes, expires_at, requests_per_second, bytes_per_second, in_flight",
        &hash[..],
        kind.as_str(),
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
            limits: Limits {
                requests_per_second: row.requests_per_second,
                bytes_per_second: row.bytes_per_second,
                in_flight: row.in_flight,
            },
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

/// Of all workspaces: the tokens of this kind that are not revoked and have `scope`.
pub async fn all_with_scope(conn: &mut PgConnection, kind: Kind, scope: Scope) -> Result<Vec<LiveToken>, sqlx::Error> {
    sqlx::query_as!(
        LiveToken,
        r#"SELECT hash, workspace_id AS "workspace: WorkspaceId", expires_at FROM tokens
           WHERE kind = $1 AND revoked_at IS NULL AND $2 = ANY (scopes)"#,
        kind.as_str(),
        scope.as_str()
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

/// A caller whose signature or certificate was verified on the way in: what the layers leave for [`Caller`].
#[derive(Debug, Clone)]
struct Verified(Arc<Principal>);

/// Who calls, where the layers have found it out.
pub fn verified(extensions: &axum::http::Extensions) -> Option<&Arc<Principal>> {
    extensions.get::<Verified>().map(|Verified(principal)| principal)
}

/// Extractor: the caller, verified. Check the scope with [`Principal::require`].
#[derive(Debug, Clone)]
pub struct Caller(pub Arc<Principal>);

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if let Some(principal) = verified(&parts.extensions) {
            return Ok(Self(principal.clone()));
        }
        let token = token_of(&parts.headers)
            .ok_or_else(|| Problem::unauthorized("Send a workspace token as `Authorization: Bearer fbx_...` or `X-Farebox-Token`."))?;
        app.tokens.verify(token).await.map(Self)
    }
}
