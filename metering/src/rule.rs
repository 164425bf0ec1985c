//! The counting rule of a workspace: which events are billable. Versioned; a change re-evaluates every minute.

use farebox_core::clock;
use farebox_core::ids::WorkspaceId;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::MeteringError;
use crate::timelines::{self, Change};

/// An event counts when it has a consumer and none of these applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CountingRule {
    /// Refused, whoever answered: by default 401, 402, 403.
    pub refused: Vec<u16>,
    /// 404 without a route is refused.
    pub unrouted_refused: bool,
    /// Refused only when the gateway itself answered: by default 429.
    pub refused_by_gateway: Vec<u16>,
    /// Whether calls that ended in 5xx count.
    pub count_server_errors: bool,
    /// Calls with these markers do not count: by default mirror, health_check, retry.
    pub markers: Vec<String>,
}

impl Default for CountingRule {
    fn default() -> Self {
        Self {
            refused: vec![401, 402, 403],
            unrouted_refused: true,
            refused_by_gateway: vec![429],
            count_server_errors: false,
            markers: ["mirror", "health_check", "retry"].map(str::to_owned).to_vec(),
        }
    }
}

/// The rule in force and its version (0: the default one).
pub async fn current(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<(i32, CountingRule), MeteringError> {
    let row =
        sqlx::query!("SELECT version, rule FROM counting_rules WHERE workspace_id = $1 ORDER BY version DESC LIMIT 1", workspace.as_str())
            .fetch_optional(conn)
            .await?;
    let Some(row) = row else { return Ok((0, CountingRule::default())) };
    let rule = serde_json::from_value(row.rule).map_err(|e| MeteringError::unreadable("the counting rule", e))?;
    Ok((row.version, rule))
}

/// Puts a rule in force and returns its version.
pub async fn set(conn: &mut PgConnection, workspace: &WorkspaceId, rule: &CountingRule) -> Result<i32, MeteringError> {
    timelines::lock(conn, &format!("rule {workspace}")).await?;
    let (version, before) = current(conn, workspace).await?;
    rule.check()?;
    if before == *rule {
        return Ok(version);
    }
    let json = serde_json::to_value(rule).map_err(|e| MeteringError::unreadable("the counting rule", e))?;
    sqlx::query!(
        "INSERT INTO counting_rules (workspace_id, version, rule, created_at) VALUES ($1, $2, $3, $4)",
        workspace.as_str(),
        version + 1,
        json,
        clock::now()
    )
    .execute(&mut *conn)
    .await?;
    timelines::write_outbox(conn, workspace, &Change::Rule).await?;
    Ok(version + 1)
}

impl CountingRule {
    pub(crate) fn check(&self) -> Result<(), MeteringError> {
        if self.markers.iter().any(|m| m.is_empty() || !m.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')) {
            return Err(MeteringError::invalid("/markers", "a marker has letters, digits, `_` and `-`"));
        }
        if self.markers.len() + self.refused.len() + self.refused_by_gateway.len() > 200 {
            return Err(MeteringError::invalid("/markers", "a rule has at most 200 statuses and markers"));
        }
        Ok(())
    }

    /// ClickHouse: why an event with these columns does not count, or '' when it does. Only numbers and checked
    /// markers are written into it.
    pub(crate) fn reason_sql(&self) -> String {
        self.reason_of("consumer")
    }

    /// As [`Self::reason_sql`], were this expression the consumer.
    pub(crate) fn reason_of(&self, consumer: &str) -> String {
        let numbers =
            |list: &[u16]| if list.is_empty() { "NULL".to_owned() } else { list.iter().map(u16::to_string).collect::<Vec<_>>().join(", ") };
        let markers = self.markers.iter().map(|m| format!("'{m}'")).collect::<Vec<_>>();
        let markers = if markers.is_empty() { "NULL".to_owned() } else { markers.join(", ") };
        format!(
            "multiIf({consumer} = '', 'unattributed', marker IN ({markers}), 'marked', \
             status IN ({}) OR ({} AND status = 404 AND route = '') OR (answered_by = 'gateway' AND status IN ({})), 'refused', \
             {} AND status >= 500, 'server_error', '')",
            numbers(&self.refused),
            self.unrouted_refused,
            numbers(&self.refused_by_gateway),
            !self.count_server_errors,
        )
    }
}
