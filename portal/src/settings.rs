//! What the provider sets for its portal.

use farebox_core::ids::WorkspaceId;
use sqlx::PgConnection;

/// The address that the first steps call.
pub async fn example_url(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Option<String>, sqlx::Error> {
    let row =
        sqlx::query!("SELECT example_url FROM portal_settings WHERE workspace_id = $1", workspace.as_str()).fetch_optional(conn).await?;
    Ok(row.and_then(|row| row.example_url))
}

/// Sets it, or forgets it with `None`.
pub async fn set_example_url(conn: &mut PgConnection, workspace: &WorkspaceId, url: Option<&str>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO portal_settings (workspace_id, example_url) VALUES ($1, $2) ON CONFLICT (workspace_id) DO UPDATE SET example_url = $2",
        workspace.as_str(),
        url
    )
    .execute(conn)
    .await?;
    Ok(())
}
