//! `/api/v1/tokens`.

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::tokens::{self, Kind, Limits, NewToken, TokenInfo};
use super::{Caller, Scope};
use crate::app::App;
use crate::audit_log;
use crate::clock;
use crate::http::Json;
use crate::ids::TokenId;
use crate::problem::{FieldError, Problem};
use crate::seal::Vault;
use crate::secret::Secret;
use crate::workspace;

/// Longest time for which a rotated token stays in force.
const LONGEST_OVERLAP: TimeDelta = TimeDelta::days(30);

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(rotate)).routes(routes!(revoke)).with_state(app.clone())
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Tokens {
    pub data: Vec<TokenInfo>,
    pub next_cursor: Option<String>,
}

/// List tokens
///
/// Those in force, the newest first; never the secrets.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", responses((status = 200, body = Tokens), (status = 403, body = Problem)))]
pub async fn list(State(app): State<App>, caller: Caller) -> Result<axum::Json<Tokens>, Problem> {
    caller.0.require(Scope::Manage)?;
    let mut conn = app.pg.acquire().await?;
    Ok(axum::Json(Tokens { data: tokens::list_tokens(&mut conn, &caller.0.workspace).await?, next_cursor: None }))
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Who uses it, such as a gateway's name: events that name no source come from it.
    pub name: String,
    /// At most those that the caller has.
    pub scopes: Vec<Scope>,
    #[serde(default)]
    pub kind: Kind,
    /// Without end unless given.
    pub expires_at: Option<DateTime<Utc>>,
    #[serde(default)]
    pub limits: Limits,
    /// Of kind `certificate`: the SHA-256 of the certificate in DER form, 64 hexadecimal digits, as
    /// `openssl x509 -noout -fingerprint -sha256` prints them (colons are left out).
    pub fingerprint: Option<String>,
}

/// A token that was just made.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Created {
    #[serde(flatten)]
    pub info: TokenInfo,
    /// Shown this once; a certificate has none.
    pub token: Option<String>,
}

/// Create a token
///
/// The answer has the secret, this once: only a hash of it is kept (of kind `signing` the secret itself, encrypted). So
/// no `Idempotency-Key` is taken; after a lost answer, revoke the token that nobody has and create another.
#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "tokens", request_body = CreateToken,
    responses((status = 201, body = Created), (status = 403, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub async fn create(State(app): State<App>, caller: Caller, Json(new): Json<CreateToken>) -> Result<Response, Problem> {
    caller.0.require(Scope::Manage)?;
    let fingerprint = check(&new)?;
    for scope in &new.scopes {
        // Nobody gives more than they have.
        caller.0.require(*scope)?;
    }
    let mut tx = app.pg.begin().await?;
    let workspace = workspace::by_id(&mut tx, &caller.0.workspace).await.map_err(|e| Problem::internal(&e))?;
    let workspace = workspace.ok_or_else(|| Problem::not_found("workspace"))?;
    let token = NewToken {
        name: new.name.trim(),
        scopes: &new.scopes,
        test_mode: workspace.test_mode,
        expires_at: new.expires_at,
        limits: new.limits,
    };
    let (id, secret) = match fingerprint {
        Some(fingerprint) => {
            let made = tokens::create_certificate(&mut tx, &workspace.id, &token, &fingerprint).await;
            (made.map_err(already_known)?, None)
        }
        None if new.kind == Kind::Signing => some(tokens::create_signing(&mut tx, &workspace.id, &token, &vault(&app)?).await?),
        None => some(tokens::create(&mut tx, &workspace.id, &token).await?),
    };
    let detail = json!({ "name": token.name, "kind": new.kind, "scopes": new.scopes, "limits": new.limits, "expires_at": new.expires_at });
    audit_log::record(&mut tx, &workspace.id, caller.0.token.as_str(), "token.create", id.as_str(), &detail).await?;
    let answer = created(&mut tx, &caller, &id, secret).await?;
    tx.commit().await?;
    Ok(answer)
}

fn some((id, secret): (TokenId, Secret)) -> (TokenId, Option<Secret>) {
    (id, Some(secret))
}

fn vault(app: &App) -> Result<Vault, Problem> {
    Vault::new(&app.config.billing.encryption_key).map_err(|e| Problem::internal(&e))
}

fn already_known(error: sqlx::Error) -> Problem {
    if error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation) {
        return Problem::conflict(
            "certificate-taken",
            "This certificate is registered already. Use the token that it has, or revoke it and have another certificate issued.",
        );
    }
    error.into()
}

/// The fingerprint, of a certificate.
fn check(new: &CreateToken) -> Result<Option<[u8; 32]>, Problem> {
    let mut errors = Vec::new();
    let mut wrong = |pointer: &str, detail: &str| errors.push(FieldError::new(pointer, detail));
    if new.name.trim().is_empty() || new.name.len() > 128 {
        wrong("/name", "must have 1 to 128 characters");
    }
    if new.scopes.is_empty() {
        wrong("/scopes", "must name at least one of ingest, decide, read, manage, finance");
    }
    if new.expires_at.is_some_and(|at| at <= clock::now()) {
        wrong("/expires_at", "must lie in the future");
    }
    for (pointer, value, least) in [
        ("/limits/requests_per_second", new.limits.requests_per_second, 1),
        ("/limits/bytes_per_second", new.limits.bytes_per_second, 1024),
        ("/limits/in_flight", new.limits.in_flight, 1),
    ] {
        if value.is_some_and(|value| value < least) {
            wrong(pointer, &format!("must be at least {least}, or left out for no limit"));
        }
    }
    let fingerprint = new.fingerprint.as_deref().map(|text| {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.replace(':', ""), &mut bytes).ok().map(|()| bytes)
    });
    match (new.kind, &fingerprint) {
        (Kind::Certificate, None | Some(None)) => wrong("/fingerprint", "must be the certificate's SHA-256, 64 hexadecimal digits"),
        (Kind::Bearer | Kind::Signing, Some(_)) => wrong("/fingerprint", "is only for tokens of kind `certificate`"),
        _ => {}
    }
    if errors.is_empty() { Ok(fingerprint.flatten()) } else { Err(Problem::invalid(errors)) }
}

async fn created(conn: &mut PgConnection, caller: &Caller, id: &TokenId, secret: Option<Secret>) -> Result<Response, Problem> {
    let all = tokens::list_tokens(conn, &caller.0.workspace).await?;
    let info = all.into_iter().find(|t| t.id == *id).ok_or_else(|| Problem::not_found("token"))?;
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    let created = Created { info, token: secret.map(|s| s.reveal().to_owned()) };
    Ok((StatusCode::CREATED, no_store, axum::Json(created)).into_response())
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateToken {
    /// For how long the old one stays in force beside the new one; a day unless given, 30 days at most.
    #[serde(default = "a_day")]
    pub overlap_minutes: i64,
}

fn a_day() -> i64 {
    24 * 60
}

/// Rotate a token
///
/// Makes one with the same name, scopes and limits, and ends the old one after the overlap. Rotating again ends the
/// first at once: of a token and its successors two are in force, never three.
#[utoipa::path(
    post, path = "/api/v1/tokens/{id}/rotate", tag = "tokens", params(("id" = String, Path)), request_body = RotateToken,
    responses((status = 201, body = Created), (status = 404, body = Problem), (status = 422, body = Problem))
)]
pub async fn rotate(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TokenId>,
    Json(how): Json<RotateToken>,
) -> Result<Response, Problem> {
    caller.0.require(Scope::Manage)?;
    let overlap = TimeDelta::try_minutes(how.overlap_minutes).filter(|o| (TimeDelta::zero()..=LONGEST_OVERLAP).contains(o));
    let overlap = overlap.ok_or_else(|| Problem::invalid_field("/overlap_minutes", "must lie between 0 and 43200 (30 days)"))?;
    let mut tx = app.pg.begin().await?;
    // The secret goes to the caller: they must not get further with it than they are.
    for token in tokens::list_tokens(&mut tx, &caller.0.workspace).await?.iter().filter(|t| t.id == id) {
        for scope in &token.scopes {
            caller.0.require(*scope)?;
        }
    }
    let rotated = tokens::rotate(&mut tx, &caller.0.workspace, &id, overlap, &vault(&app)?).await?;
    let (new, secret) = rotated.ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "There is nothing to rotate",
            "No such token is in force here, or it was rotated before (rotate its successor), or it is a certificate (register the next one beside it).",
        )
    })?;
    let detail = json!({ "replaced_by": new, "overlap_minutes": how.overlap_minutes });
    audit_log::record(&mut tx, &caller.0.workspace, caller.0.token.as_str(), "token.rotate", id.as_str(), &detail).await?;
    let answer = created(&mut tx, &caller, &new, Some(secret)).await?;
    tx.commit().await?;
    Ok(answer)
}

/// Revoke a token
///
/// Calls with it are refused within a second.
#[utoipa::path(
    delete, path = "/api/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem))
)]
pub async fn revoke(State(app): State<App>, caller: Caller, Path(id): Path<TokenId>) -> Result<StatusCode, Problem> {
    caller.0.require(Scope::Manage)?;
    let mut tx = app.pg.begin().await?;
    if !tokens::revoke_token(&mut tx, &caller.0.workspace, &id).await? {
        return Err(Problem::not_found("token"));
    }
    audit_log::record(&mut tx, &caller.0.workspace, caller.0.token.as_str(), "token.revoke", id.as_str(), &json!({})).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
