//! Who did what, for good: written in the transaction that does it.

use sqlx::PgConnection;

use crate::ids::WorkspaceId;

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
