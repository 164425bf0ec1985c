//! Who did what, for good: written in the transaction that does it. `GET /api/v1/audit-log` reads it.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::auth::{Caller, Scope};
use crate::http::{Page, Paging, Params};
use crate::ids::WorkspaceId;
use crate::problem::Problem;

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(list)).with_state(app.clone())
}

/// Something that somebody did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Deed {
    pub id: i64,
    pub at: DateTime<Utc>,
    /// A token's id, a person's, or `farebox` for its own jobs.
    pub actor: String,
    /// `key.revoke`
    pub action: String,
    /// What it was done to.
    pub target: String,
    pub detail: serde_json::Value,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Only what this token or person did.
    actor: Option<String>,
    /// Only this action (`key.revoke`), or all of a noun (`key`).
    action: Option<String>,
    /// Only what was done to this.
    target: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    // Not flattened: serde would take numbers for text.
    limit: Option<i64>,
    cursor: Option<String>,
}

/// Who did what
///
/// The newest first. Needs the scope `manage`.
#[utoipa::path(get, path = "/api/v1/audit-log", tag = "audit-log", params(Asked),
    responses((status = 200, body = Page<Deed>), (status = 403, body = Problem), (status = 422, body = Problem)))]
async fn list(State(app): State<App>, caller: Caller, Params(asked): Params<Asked>) -> Result<Json<Page<Deed>>, Problem> {
    caller.0.require(Scope::Manage)?;
    let (limit, after) = Paging { limit: asked.limit, cursor: asked.cursor }.resolve()?;
    let before = if after.is_empty() { Ok(i64::MAX) } else { after.parse() };
    let before = before.map_err(|_| Problem::invalid_field("cursor", "is not a `next_cursor` of this list"))?;
    let rows = sqlx::query_as!(
        Deed,
        "SELECT id, at, actor, action, target, detail FROM audit_log
         WHERE workspace_id = $1 AND id < $2 AND ($3::text IS NULL OR actor = $3) AND ($4::text IS NULL OR action = $4 OR split_part(action, '.', 1) = $4)
           AND ($5::text IS NULL OR target = $5) AND ($6::timestamptz IS NULL OR at >= $6) AND ($7::timestamptz IS NULL OR at < $7)
         ORDER BY id DESC LIMIT $8",
        caller.0.workspace.as_str(),
        before,
        asked.actor,
        asked.action,
        asked.target,
        asked.from,
        asked.to,
        limit + 1
    )
    .fetch_all(&app.pg)
    .await?;
    Ok(Json(Page::from_rows(rows, limit, |deed| deed.id.to_string())))
}

/// `actor`: a token id, a person id, or `farebox` for its own jobs. `action`: `noun.verb`, such as `key.revoke`.
pub async fn record(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    actor: &str,
    action: &str,
    target: &str,
    detail: &serde_json::Value,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO audit_log (workspace_id, at, actor, action, target, detail) VALUES ($1, $2, $3, $4, $5, $6)",
        workspace.as_str(),
        crate::clock::now(),
        actor,
        action,
        target,
        detail
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The same deed on many: a target with its own detail each.
pub async fn record_many(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    actor: &str,
    action: &str,
    targets: &[String],
    details: &[serde_json::Value],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO audit_log (workspace_id, at, actor, action, target, detail)
         SELECT $1, $2, $3, $4, * FROM unnest($5::text[], $6::jsonb[])",
        workspace.as_str(),
        crate::clock::now(),
        actor,
        action,
        targets,
        details
    )
    .execute(conn)
    .await?;
    Ok(())
}
