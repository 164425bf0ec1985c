//! Signed calls: `Farebox-Signature: t=<unix seconds>,kid=<token id>,v1=<hex>`, where `v1` is HMAC-SHA-256 with the
//! secret over `t.METHOD.path.body-sha256`: the decimal seconds, the method, path with query as sent, and the body's
//! SHA-256 in lower-case hex, the body as on the wire (so the packed one, where it is packed).
//!
//! A signature is good for five minutes around its time, and once: taken ones are noted in PostgreSQL, so a replay is
//! refused by every instance, after a restart too. A sender that tries again signs anew, with a later second.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use tokio::sync::Semaphore;

use super::{Principal, Scope, Verified};
use crate::app::App;
use crate::auth::Limits;
use crate::clock;
use crate::ids::TokenId;
use crate::problem::Problem;
use crate::seal::{Purpose, Vault};

pub const HEADER: &str = "farebox-signature";
/// How far the sender's clock and ours may be apart.
const TOLERANCE: TimeDelta = TimeDelta::minutes(5);
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of bodies held for checking, at once.
static HELD_KIB: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(32 << 10)));

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    at: DateTime<Utc>,
    key: TokenId,
    mac: [u8; 32],
}

/// Checks calls that are signed; others pass, for whoever asks who calls.
pub async fn middleware(State(app): State<App>, request: Request, next: Next) -> Response {
    if !request.headers().contains_key(HEADER) {
        return next.run(request).await;
    }
    match checked(&app, request).await {
        // The share of memory is given back when the answer is there.
        Ok((request, _share)) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn checked(app: &App, request: Request) -> Result<(Request, tokio::sync::OwnedSemaphorePermit), Problem> {
    let claim = claim(request.headers())?;
    let now = clock::now();
    if (now - claim.at).abs() > TOLERANCE {
        return Err(Problem::unauthorized(format!(
            "The signature's time is {} seconds from ours; at most {} are tolerated. Set the sender's clock, and sign each try anew.",
            (now - claim.at).num_seconds(),
            TOLERANCE.num_seconds()
        )));
    }
    let refused = || {
        Problem::unauthorized(
            "The signature does not fit. It is HMAC-SHA-256 over `t.METHOD.path.body-sha256` with the secret of `kid`, which must be in force.",
        )
    };
    let (principal, secret) = key(app, &claim.key).await?.ok_or_else(refused)?;
    let most = app.config.ingest.max_body_bytes;
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let kib = u32::try_from(length.unwrap_or(most).min(most).div_ceil(1024)).unwrap_or(u32::MAX);
    let share = HELD_KIB.clone().try_acquire_many_owned(kib.max(1)).map_err(|_| {
        Problem::unavailable("More signed calls are under way than can be kept in memory. Nothing was taken; sign and send again.", 1)
    })?;
    let (mut parts, body) = request.into_parts();
    let body = tokio::time::timeout(READ_WITHIN, to_bytes(body, most)).await.map_err(|_| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "The body came too slowly", "Send the whole body within 30 seconds.")
    })?;
    let body = body.map_err(|_| Problem::too_large(most))?;
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let signed = format!("{}.{}.{path}.{}", claim.at.timestamp(), parts.method, hex::encode(Sha256::digest(&body)));
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret).expect("HMAC takes keys of any length");
    mac.update(signed.as_bytes());
    mac.verify_slice(&claim.mac).map_err(|_| refused())?;
    note(&app.pg, &claim, now).await?;
    parts.extensions.insert(Verified(Arc::new(principal)));
    Ok((Request::from_parts(parts, Body::from(body)), share))
}

fn claim(headers: &HeaderMap) -> Result<Claim, Problem> {
    let text = headers.get(HEADER).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let parts: HashMap<&str, &str> = text.split(',').filter_map(|part| part.trim().split_once('=')).collect();
    let claim = || {
        let mut mac = [0; 32];
        hex::decode_to_slice(parts.get("v1")?, &mut mac).ok()?;
        Some(Claim { at: DateTime::from_timestamp(parts.get("t")?.parse().ok()?, 0)?, key: parts.get("kid")?.parse().ok()?, mac })
    };
    claim()
        .ok_or_else(|| Problem::unauthorized("`Farebox-Signature` must be `t=<unix seconds>,kid=<token id>,v1=<64 hexadecimal digits>`."))
}

/// The principal and its secret; None when there is no such key in force.
async fn key(app: &App, id: &TokenId) -> Result<Option<(Principal, Vec<u8>)>, Problem> {
    let row = sqlx::query!(
        "SELECT workspace_id, name, scopes, sealed, expires_at, requests_per_second, bytes_per_second, in_flight, last_used_at FROM tokens
         WHERE id = $1 AND kind = 'signing' AND revoked_at IS NULL",
        id.as_str()
    )
    .fetch_optional(&app.pg)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let now = clock::now();
    // Not at each call: they would wait for one another.
    if row.last_used_at.is_none_or(|at| now - at > TimeDelta::seconds(1)) {
        sqlx::query!("UPDATE tokens SET last_used_at = $2 WHERE id = $1", id.as_str(), now).execute(&app.pg).await?;
    }
    let workspace = row.workspace_id.parse().map_err(|e| Problem::internal(&e))?;
    let vault = Vault::new(&app.config.billing.encryption_key).map_err(|e| Problem::internal(&e))?;
    let secret = vault.open(&workspace, Purpose::SigningSecret, &row.sealed.unwrap_or_default()).map_err(|e| Problem::internal(&e))?;
    let principal = Principal {
        workspace,
        token: id.clone(),
        name: row.name,
        scopes: row.scopes.iter().filter_map(|s| Scope::parse(s)).collect(),
        limits: Limits { requests_per_second: row.requests_per_second, bytes_per_second: row.bytes_per_second, in_flight: row.in_flight },
        expires_at: row.expires_at,
    };
    if principal.is_over() {
        return Ok(None);
    }
    Ok(Some((principal, secret.reveal().as_bytes().to_vec())))
}

/// After the check, so that nobody can use up a signature that they cannot make.
async fn note(pg: &PgPool, claim: &Claim, now: DateTime<Utc>) -> Result<(), Problem> {
    let first = sqlx::query!(
        "INSERT INTO seen_signatures (token_id, mac, seen_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        claim.key.as_str(),
        &claim.mac[..],
        now
    )
    .execute(pg)
    .await?;
    if first.rows_affected() == 1 {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNAUTHORIZED,
        "replayed-signature",
        "This signature was taken before",
        "A signature is good once. Sign again, with the time of the new try.",
    ))
}

/// Forgets signatures that are too old to be taken anyway. Run now and then.
pub async fn prune(pg: &PgPool) -> Result<(), sqlx::Error> {
    // A signature may be ahead by the tolerance, and is then good for twice as long.
    let old = clock::now() - TOLERANCE * 3;
    sqlx::query!("DELETE FROM seen_signatures WHERE seen_at < $1", old).execute(pg).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Claim, u16> {
        claim(&[(HEADER.parse().expect("a name"), text.parse().expect("a value"))].into_iter().collect()).map_err(|p| p.status)
    }

    #[test]
    fn the_header_is_read_in_any_order_and_nothing_else() {
        let (key, mac) = (TokenId::new(), "ab".repeat(32));
        let found = read(&format!("v1={mac}, t=1795268435,kid={key}")).expect("it is right");
        assert_eq!((found.at.timestamp(), found.key, found.mac), (1_795_268_435, key.clone(), [0xab; 32]));
        for wrong in [
            String::new(),
            format!("t=1,kid={key}"),
            format!("t=x,kid={key},v1={mac}"),
            format!("t=1,kid=tok_1,v1={mac}"),
            format!("t=1,kid={key},v1=ab"),
        ] {
            assert_eq!(read(&wrong), Err(401), "{wrong}");
        }
    }
}
