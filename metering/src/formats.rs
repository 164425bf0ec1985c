//! Log formats of an operator's own. What they mean is [`farebox_core::field_map`]'s; `ingest` reads records by them.

use farebox_core::field_map::{FieldMap, FieldMapError, of_workspace};
use farebox_core::ids::WorkspaceId;
use sqlx::PgConnection;

use crate::MeteringError;

/// Creates or changes the format of this name. Returns what it was before.
pub async fn upsert(conn: &mut PgConnection, workspace: &WorkspaceId, map: &FieldMap) -> Result<Option<FieldMap>, MeteringError> {
    let before = list(conn, workspace).await?.into_iter().find(|before| before.name == map.name);
    let definition = serde_json::to_value(map).expect("texts and lists always serialise");
    sqlx::query!(
        "INSERT INTO formats (workspace_id, name, definition) VALUES ($1, $2, $3)
         ON CONFLICT (workspace_id, name) DO UPDATE SET definition = excluded.definition",
        workspace.as_str(),
        map.name,
        definition
    )
    .execute(conn)
    .await?;
    Ok(before)
}

pub async fn list(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<FieldMap>, MeteringError> {
    of_workspace(conn, workspace).await.map_err(|error| match error {
        FieldMapError::Database(error) => error.into(),
        unreadable @ FieldMapError::Unreadable { .. } => MeteringError::unreadable("a format", unreadable),
    })
}
