//! A consumer's people, when its personal data is erased.

use farebox_core::ids::{ConsumerId, WorkspaceId};
use sqlx::PgConnection;

/// Names and addresses are forgotten and nobody signs in any more; what they did stays theirs by id. Returns how many
/// people they were.
pub async fn erase(conn: &mut PgConnection, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<u64, sqlx::Error> {
    let mut transaction = sqlx::Connection::begin(conn).await?;
    let (workspace, consumer) = (workspace.as_str(), consumer.as_str());
    sqlx::query!(
        "DELETE FROM sessions USING people WHERE sessions.person_id = people.id AND people.workspace_id = $1 AND people.consumer_id = $2",
        workspace,
        consumer
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "DELETE FROM login_links USING people WHERE login_links.person_id = people.id AND people.workspace_id = $1 AND people.consumer_id = $2",
        workspace,
        consumer
    )
    .execute(&mut *transaction)
    .await?;
    let erased = sqlx::query!(
        "UPDATE people SET email = lower(id) || '@erased.invalid', name = 'Erased', password_hash = NULL, disabled_at = coalesce(disabled_at, now())
         WHERE workspace_id = $1 AND consumer_id = $2",
        workspace,
        consumer
    )
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    transaction.commit().await?;
    Ok(erased)
}
