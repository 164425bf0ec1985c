//! `/api/v1/keys`, `/api/v1/decisions` and `/api/v1/decision-policy`.

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Params, Stretch};
use farebox_core::ids::{ConsumerId, CredentialId};
use farebox_core::problem::Problem;
use farebox_core::{App, audit_log, clock, workspace};
use farebox_metering::credentials;
use serde::{Deserialize, Serialize};

use crate::keys::{self, Credential};
use crate::ledger::{self, DecisionCount};
use crate::policy::{self, Policy};
use crate::reconcile::{self, Hour};

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    pub consumer: ConsumerId,
    /// What it is for, such as `production server`.
    pub name: String,
    /// Without end unless given.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key that was just issued.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Issued {
    #[serde(flatten)]
    pub credential: Credential,
    /// Shown this once.
    pub key: String,
}

/// Issue a key
///
/// The answer has the key itself, this once: only a hash is kept. So no `Idempotency-Key` is taken, whose answer would
/// have to be kept; after a lost answer, revoke the key that nobody has and issue another.
#[utoipa::path(
    post, path = "/api/v1/keys", tag = "access", request_body = NewKey,
    responses((status = 201, body = Issued), (status = 404, body = Problem), (status = 422, body = Problem))
)]
pub async fn issue(State(app): State<App>, caller: Caller, Json(new): Json<NewKey>) -> Result<Response, Problem> {
    caller.0.require(Scope::Manage)?;
    let mut tx = app.pg.begin().await?;
    let workspace = workspace::by_id(&mut tx, &caller.0.workspace).await.map_err(|e| Problem::internal(&e))?;
    let workspace = workspace.ok_or_else(|| Problem::not_found("workspace"))?;
    let (credential, secret) = keys::issue_until(&mut tx, &app.config, &workspace, &new.consumer, &new.name, new.expires_at).await?;
    let detail = serde_json::json!({ "consumer": new.consumer, "name": credential.name, "hint": credential.hint });
    audit_log::record(&mut tx, &workspace.id, caller.0.token.as_str(), "key.issue", credential.id.as_str(), &detail).await?;
    tx.commit().await?;
    let issued = Issued { credential, key: secret.reveal().to_owned() };
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::CREATED, no_store, axum::Json(issued)).into_response())
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfConsumer {
    pub consumer: ConsumerId,
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct Keys {
    pub data: Vec<Credential>,
    pub next_cursor: Option<String>,
}

/// List a consumer's keys
///
/// Newest first, revoked ones included; never the keys themselves.
#[utoipa::path(get, path = "/api/v1/keys", tag = "access", params(OfConsumer), responses((status = 200, body = Keys)))]
pub async fn list(State(app): State<App>, caller: Caller, Params(of): Params<OfConsumer>) -> Result<axum::Json<Keys>, Problem> {
    caller.0.require(Scope::Read)?;
    let mut conn = app.pg.acquire().await?;
    let data = keys::list(&mut conn, &caller.0.workspace, &of.consumer).await?;
    Ok(axum::Json(Keys { data, next_cursor: None }))
}

/// Revoke a key
///
/// Calls with it are refused within a second.
#[utoipa::path(
    delete, path = "/api/v1/keys/{id}", tag = "access", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem))
)]
pub async fn revoke(State(app): State<App>, caller: Caller, Path(id): Path<CredentialId>) -> Result<StatusCode, Problem> {
    caller.0.require(Scope::Manage)?;
    let mut tx = app.pg.begin().await?;
    if !credentials::revoke(&mut tx, &caller.0.workspace, &id, clock::now()).await? {
        return Err(Problem::not_found("key"));
    }
    let detail = serde_json::json!({});
    audit_log::record(&mut tx, &caller.0.workspace, caller.0.token.as_str(), "key.revoke", id.as_str(), &detail).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Decisions {
    pub data: Vec<DecisionCount>,
}

/// Count decisions
///
/// By source, hour and outcome: the second witness beside the events.
#[utoipa::path(get, path = "/api/v1/decisions", tag = "access", params(Stretch), responses((status = 200, body = Decisions)))]
pub async fn decisions(State(app): State<App>, caller: Caller, Params(stretch): Params<Stretch>) -> Result<axum::Json<Decisions>, Problem> {
    caller.0.require(Scope::Read)?;
    Ok(axum::Json(Decisions { data: ledger::counts(&app, &caller.0.workspace, stretch.period()?).await? }))
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Reconciliation {
    /// Hours of gateways with decisions or events, oldest first.
    pub data: Vec<Hour>,
    /// Sums over all of them.
    pub decisions: u64,
    pub events: u64,
    pub missing: u64,
    pub undecided: u64,
}

/// Compare decisions with events
///
/// By source and hour: calls that were decided but never told of, and calls that were told of but never decided. Hours
/// are whole; at most 31 days at once.
#[utoipa::path(
    get, path = "/api/v1/decisions/reconciliation", tag = "access", params(Stretch),
    responses((status = 200, body = Reconciliation), (status = 422, body = Problem))
)]
pub async fn reconciliation(
    State(app): State<App>,
    caller: Caller,
    Params(stretch): Params<Stretch>,
) -> Result<axum::Json<Reconciliation>, Problem> {
    caller.0.require(Scope::Read)?;
    let period = stretch.period()?;
    if period.end - period.start > TimeDelta::days(31) {
        return Err(Problem::invalid_field("from", "must not be more than 31 days before `to`"));
    }
    let data = reconcile::hours(&app, &caller.0.workspace, period).await?;
    let sum = |of: fn(&Hour) -> u64| data.iter().map(of).sum();
    Ok(axum::Json(Reconciliation {
        decisions: sum(|h| h.decisions),
        events: sum(|h| h.events),
        missing: sum(|h| h.missing),
        undecided: sum(|h| h.undecided),
        data,
    }))
}

/// Show the decision policy
///
/// What is chosen about decisions; the defaults where nothing is.
#[utoipa::path(get, path = "/api/v1/decision-policy", tag = "access", responses((status = 200, body = Policy)))]
pub async fn show_policy(State(app): State<App>, caller: Caller) -> Result<axum::Json<Policy>, Problem> {
    caller.0.require(Scope::Read)?;
    let mut conn = app.pg.acquire().await?;
    Ok(axum::Json(policy::get(&mut conn, &caller.0.workspace).await?))
}

/// Set the decision policy
///
/// The whole document; what is left out is as by default. In force everywhere within a second.
#[utoipa::path(
    put, path = "/api/v1/decision-policy", tag = "access", request_body = Policy,
    responses((status = 200, body = Policy), (status = 422, body = Problem))
)]
pub async fn set_policy(State(app): State<App>, caller: Caller, Json(policy): Json<Policy>) -> Result<axum::Json<Policy>, Problem> {
    caller.0.require(Scope::Manage)?;
    let errors = policy.check();
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let mut tx = app.pg.begin().await?;
    policy::set(&mut tx, &caller.0.workspace, &policy).await?;
    let detail = serde_json::to_value(&policy).unwrap_or_default();
    audit_log::record(&mut tx, &caller.0.workspace, caller.0.token.as_str(), "decisions.policy", "decision-policy", &detail).await?;
    tx.commit().await?;
    Ok(axum::Json(policy))
}
