//! Sources: gateways and other senders of events.

use farebox_core::clock;
use farebox_core::ids::{SourceId, WorkspaceId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::MeteringError;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Source {
    pub id: SourceId,
    pub workspace: WorkspaceId,
    pub name: String,
    /// The gateway's payload format, such as `apisix`.
    pub format: String,
    /// Read by ingest when given.
    pub kafka_topic: Option<String>,
    /// Delivers history: never holds `complete_until` back.
    pub backfill: bool,
    /// How late its events usually are, in seconds.
    pub lateness_s: i32,
    /// Silent for so many seconds, it no longer holds `complete_until` back.
    pub idle_s: i32,
    /// From where (CIDR) it may ask for decisions without a token.
    pub networks: Vec<String>,
}

/// Creates or changes the source of this name.
pub async fn upsert(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    name: &str,
    format: &str,
    kafka_topic: Option<&str>,
    backfill: bool,
) -> Result<Source, MeteringError> {
    let (id, now) = (SourceId::new(), clock::now());
    sqlx::query_as!(
        Source,
        r#"INSERT INTO sources (id, workspace_id, name, format, kafka_topic, backfill, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
           ON CONFLICT (workspace_id, name) DO UPDATE SET format = excluded.format, kafka_topic = excluded.kafka_topic, backfill = excluded.backfill
           RETURNING id AS "id: SourceId", workspace_id AS "workspace: WorkspaceId", name, format, kafka_topic, backfill, lateness_s, idle_s, networks"#,
        id.as_str(),
        workspace.as_str(),
        name,
        format,
        kafka_topic,
        backfill,
        now
    )
    .fetch_one(conn)
    .await
    .map_err(|e| {
        MeteringError::on_constraint(e, "sources_kafka_topic", "topic-taken", || {
            format!(
                "The Kafka topic `{}` belongs to another source of its cluster. Give each source its own topic; where it is in another \
                 cluster, name that first (`PUT /api/v1/sources/{name}/kafka`) and the topic afterwards.",
                kafka_topic.unwrap_or_default()
            )
        })
    })
}

/// From which networks (CIDR, such as `10.0.0.0/8`) the source may ask for decisions without a token. False when there
/// is no such source.
pub async fn set_networks(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    name: &str,
    networks: &[String],
) -> Result<bool, MeteringError> {
    let done = sqlx::query!("UPDATE sources SET networks = $3 WHERE workspace_id = $1 AND name = $2", workspace.as_str(), name, networks)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("SELECT pg_notify('farebox_access', '')").execute(conn).await?;
    Ok(done.rows_affected() == 1)
}

pub async fn by_name(conn: &mut PgConnection, workspace: &WorkspaceId, name: &str) -> Result<Option<Source>, MeteringError> {
    Ok(sqlx::query_as!(
        Source,
        r#"SELECT id AS "id: SourceId", workspace_id AS "workspace: WorkspaceId", name, format, kafka_topic, backfill, lateness_s, idle_s, networks
           FROM sources WHERE workspace_id = $1 AND name = $2"#,
        workspace.as_str(),
        name
    )
    .fetch_optional(conn)
    .await?)
}

pub async fn list(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<Source>, MeteringError> {
    Ok(sqlx::query_as!(
        Source,
        r#"SELECT id AS "id: SourceId", workspace_id AS "workspace: WorkspaceId", name, format, kafka_topic, backfill, lateness_s, idle_s, networks
           FROM sources WHERE workspace_id = $1 ORDER BY name"#,
        workspace.as_str()
    )
    .fetch_all(conn)
    .await?)
}

/// Of all workspaces: those whose gateway writes to Kafka itself.
pub async fn all_with_topic(conn: &mut PgConnection) -> Result<Vec<Source>, MeteringError> {
    Ok(sqlx::query_as!(
        Source,
        r#"SELECT id AS "id: SourceId", workspace_id AS "workspace: WorkspaceId", name, format, kafka_topic, backfill, lateness_s, idle_s, networks
           FROM sources WHERE kafka_topic IS NOT NULL ORDER BY kafka_topic"#
    )
    .fetch_all(conn)
    .await?)
}
