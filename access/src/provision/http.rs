//! `/api/v1/provisioning`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::Json;
use farebox_core::problem::Problem;
use farebox_core::{App, audit_log};
use serde::Serialize;

use super::targets::{self, NewTarget};

#[derive(Serialize, utoipa::ToSchema)]
pub struct Targets {
    pub data: Vec<targets::State>,
    pub next_cursor: Option<String>,
}

/// List provisioned gateways
///
/// Gateways that check keys themselves, and how far each is.
#[utoipa::path(get, path = "/api/v1/provisioning", tag = "access", responses((status = 200, body = Targets)))]
pub async fn list(State(app): State<App>, caller: Caller) -> Result<axum::Json<Targets>, Problem> {
    caller.0.require(Scope::Read)?;
    let mut conn = app.pg.acquire().await?;
    Ok(axum::Json(Targets { data: targets::list(&mut conn, &caller.0.workspace).await?, next_cursor: None }))
}

/// Provision a gateway
///
/// Consumers, keys and plans are brought to its Admin API, and kept so. Keys that were issued before cannot be brought
/// there, since only their hash is kept: `keys_missing` counts them.
#[utoipa::path(
    put, path = "/api/v1/provisioning/{name}", tag = "access", params(("name" = String, Path)), request_body = NewTarget,
    responses((status = 204), (status = 422, body = Problem))
)]
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Json(new): Json<NewTarget>,
) -> Result<StatusCode, Problem> {
    caller.0.require(Scope::Manage)?;
    let mut errors = new.check();
    if !(1..=64).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        errors.push(farebox_core::problem::FieldError::new("name", "has 1 to 64 letters, digits, `-`, `_` and `.`"));
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let mut tx = app.pg.begin().await?;
    targets::put(&mut tx, &app.config, &caller.0.workspace, &name, &new).await?;
    let detail = serde_json::json!({ "kind": new.kind, "url": new.url });
    audit_log::record(&mut tx, &caller.0.workspace, caller.0.token.as_str(), "provisioning.put", &name, &detail).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stop provisioning a gateway
///
/// What is there stays there.
#[utoipa::path(
    delete, path = "/api/v1/provisioning/{name}", tag = "access", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem))
)]
pub async fn delete(State(app): State<App>, caller: Caller, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    caller.0.require(Scope::Manage)?;
    let mut tx = app.pg.begin().await?;
    if !targets::delete(&mut tx, &caller.0.workspace, &name).await? {
        return Err(Problem::not_found("provisioned gateway"));
    }
    audit_log::record(&mut tx, &caller.0.workspace, caller.0.token.as_str(), "provisioning.delete", &name, &serde_json::json!({})).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Compare a gateway now
///
/// Else every ten minutes: whatever differs over there is set right.
#[utoipa::path(
    post, path = "/api/v1/provisioning/{name}/reconcile", tag = "access", params(("name" = String, Path)),
    responses((status = 202), (status = 404, body = Problem))
)]
pub async fn reconcile(State(app): State<App>, caller: Caller, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    caller.0.require(Scope::Manage)?;
    let mut conn = app.pg.acquire().await?;
    if !targets::reconcile(&mut conn, &caller.0.workspace, &name).await? {
        return Err(Problem::not_found("provisioned gateway"));
    }
    Ok(StatusCode::ACCEPTED)
}
