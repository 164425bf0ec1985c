//! `Idempotency-Key`: the same key and request get the same answer for at least 24 hours; the same key with another
//! request is refused. A middleware for every mutating management route.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use crate::app::App;
use crate::auth;
use crate::clock;
use crate::ids::WorkspaceId;
use crate::problem::Problem;

const MAX_BODY: usize = 8 << 20;

pub async fn middleware(State(app): State<App>, request: Request, next: Next) -> Response {
    match replay_or_run(&app, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn replay_or_run(app: &App, request: Request, next: Next) -> Result<Response, Problem> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let key = request.headers().get("idempotency-key").map(|v| v.to_str().unwrap_or_default().to_owned());
    let (Some(key), false) = (key, safe) else { return Ok(next.run(request).await) };
    if key.is_empty() || key.len() > 255 {
        return Err(Problem::invalid_field("Idempotency-Key", "must have 1 to 255 visible ASCII characters"));
    }
    let workspace = match (auth::verified(request.extensions()), auth::token_of(request.headers())) {
        (Some(caller), _) => caller.workspace.clone(),
        (None, Some(token)) => app.tokens.verify(token).await?.workspace.clone(),
        (None, None) => return Ok(next.run(request).await),
    };

    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.map_err(|_| Problem::too_large(MAX_BODY))?;
    let hash: [u8; 32] =
        Sha256::new().chain_update(parts.method.as_str()).chain_update(parts.uri.to_string()).chain_update(&body).finalize().into();
    if let Some(answer) = claim(&app.pg, &workspace, &key, &hash).await? {
        return Ok(answer);
    }
    // From here on this call owns the key: either its answer is stored, or the key is given back.
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    store(&app.pg, &workspace, &key, response).await
}

/// None when this call is the first with the key; the earlier answer when there is one.
async fn claim(pg: &PgPool, workspace: &WorkspaceId, key: &str, hash: &[u8; 32]) -> Result<Option<Response>, Problem> {
    let first = sqlx::query!(
        "INSERT INTO idempotency_keys (workspace_id, key, request_hash, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        workspace.as_str(),
        key,
        &hash[..],
        clock::now()
    )
    .execute(pg)
    .await?;
    if first.rows_affected() == 1 {
        return Ok(None);
    }
    let earlier = sqlx::query!(
        "SELECT request_hash, status, content_type, body FROM idempotency_keys WHERE workspace_id = $1 AND key = $2",
        workspace.as_str(),
        key
    )
    .fetch_optional(pg)
    .await?;
    let running = || {
        Problem::conflict(
            "idempotency-running",
            "A request with this Idempotency-Key is still running. Wait a moment and send the same again.",
        )
    };
    let Some(earlier) = earlier else { return Err(running()) };
    if earlier.request_hash != hash {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-mismatch",
            "Another request had this key",
            "This Idempotency-Key was used for another request. Use a new key for a new request.",
        ));
    }
    let (Some(status), Some(body)) = (earlier.status, earlier.body) else { return Err(running()) };
    let status = u16::try_from(status).ok().and_then(|s| StatusCode::from_u16(s).ok()).unwrap_or(StatusCode::OK);
    let mut response = (status, body).into_response();
    if let Some(value) = earlier.content_type.and_then(|v| HeaderValue::from_str(&v).ok()) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    Ok(Some(response))
}

/// Keeps the answer; a failure of ours (5xx) or a "not now" (409, 429) gives the key back, so that a retry may succeed.
async fn store(pg: &PgPool, workspace: &WorkspaceId, key: &str, response: Response) -> Result<Response, Problem> {
    let status = response.status();
    if status.is_server_error() || matches!(status, StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS) {
        sqlx::query!("DELETE FROM idempotency_keys WHERE workspace_id = $1 AND key = $2", workspace.as_str(), key).execute(pg).await?;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body: Bytes = to_bytes(body, MAX_BODY).await.map_err(|e| Problem::internal(&e))?;
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    sqlx::query!(
        "UPDATE idempotency_keys SET status = $3, content_type = $4, body = $5 WHERE workspace_id = $1 AND key = $2",
        workspace.as_str(),
        key,
        i16::try_from(status.as_u16()).unwrap_or(200),
        content_type,
        &body[..]
    )
    .execute(pg)
    .await?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// Forgets keys older than two days. Run now and then. A key whose call died half-way is freed after ten minutes.
pub async fn prune(pg: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM idempotency_keys WHERE created_at < $1::timestamptz - interval '2 days' OR (status IS NULL AND created_at < $1::timestamptz - interval '10 minutes')", clock::now())
        .execute(pg)
        .await?;
    Ok(())
}
