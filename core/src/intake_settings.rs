//! What a workspace takes in: how far events may lie back and ahead of their reception, and how long rejected ones are
//! kept. The catalogue and the API write it, `ingest` acts on it.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::ids::WorkspaceId;
use crate::problem::FieldError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IntakeSettings {
    /// Older events are rejected, unless their source may backfill. 1 to 3660.
    pub back_days: i32,
    /// Events further ahead are rejected; clocks differ by that much. 0 to 1440.
    pub ahead_minutes: i32,
    /// Rejected events can be seen and replayed for so long. 1 to 3660; for those rejected from then on.
    pub keep_rejected_days: i32,
}

impl Default for IntakeSettings {
    fn default() -> Self {
        Self { back_days: 35, ahead_minutes: 5, keep_rejected_days: 90 }
    }
}

impl IntakeSettings {
    /// What is wrong with it; nothing when it may be kept.
    pub fn errors(&self) -> Vec<FieldError> {
        [
            ("/back_days", self.back_days, 1, 3660),
            ("/ahead_minutes", self.ahead_minutes, 0, 1440),
            ("/keep_rejected_days", self.keep_rejected_days, 1, 3660),
        ]
        .into_iter()
        .filter(|(_, value, least, most)| !(least..=most).contains(&value))
        .map(|(pointer, _, least, most)| FieldError::new(pointer, format!("must lie between {least} and {most}")))
        .collect()
    }
}

/// The defaults where nothing was set.
pub async fn of(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<IntakeSettings, sqlx::Error> {
    let found = sqlx::query_as!(
        IntakeSettings,
        "SELECT back_days, ahead_minutes, keep_rejected_days FROM intake_settings WHERE workspace_id = $1",
        workspace.as_str()
    )
    .fetch_optional(conn)
    .await?;
    Ok(found.unwrap_or_default())
}

pub async fn set(conn: &mut PgConnection, workspace: &WorkspaceId, settings: &IntakeSettings) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO intake_settings (workspace_id, back_days, ahead_minutes, keep_rejected_days) VALUES ($1, $2, $3, $4)
         ON CONFLICT (workspace_id) DO UPDATE
         SET back_days = excluded.back_days, ahead_minutes = excluded.ahead_minutes, keep_rejected_days = excluded.keep_rejected_days",
        workspace.as_str(),
        settings.back_days,
        settings.ahead_minutes,
        settings.keep_rejected_days
    )
    .execute(conn)
    .await?;
    Ok(())
}
