//! What was sent to an address, and what waits: for whoever looks why a message did not come.

use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, WebhookId, WorkspaceId};
use serde::Serialize;
use sqlx::PgConnection;

use crate::BillingError;

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = WebhookDelivery)]
pub struct Delivery {
    /// The event's id, as in the header `webhook-id`.
    pub event: String,
    pub r#type: String,
    /// The id of what it is about.
    pub subject: String,
    pub consumer: Option<ConsumerId>,
    pub at: DateTime<Utc>,
    /// queued, delivered or failed.
    pub state: String,
    pub attempts: i32,
    /// When it is sent again.
    pub next_at: Option<DateTime<Utc>>,
    /// The last attempt: when, the answer's status, how long it took, and why it did not do.
    pub tried_at: Option<DateTime<Utc>>,
    pub status: Option<i32>,
    pub took_ms: Option<i32>,
    pub error: Option<String>,
    /// What the list is sorted by.
    #[serde(skip)]
    pub position: i64,
}

/// Newest first; those before `before`. Up to `limit`.
pub async fn deliveries(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    webhook: &WebhookId,
    state: Option<&str>,
    limit: i64,
    before: Option<i64>,
) -> Result<Vec<Delivery>, BillingError> {
    Ok(sqlx::query_as!(
        Delivery,
        r#"SELECT e.id AS event, e.type, e.subject, e.consumer_id AS "consumer: ConsumerId", e.at, d.state, d.attempts,
                  CASE WHEN d.state = 'queued' AND d.attempts > 0 THEN d.next_at END AS next_at, d.tried_at, d.status, d.took_ms, d.error,
                  d.id AS position
           FROM webhook_deliveries d JOIN webhook_events e ON e.id = d.event_id
           WHERE d.workspace_id = $1 AND d.webhook_id = $2 AND ($3::text IS NULL OR d.state = $3) AND ($4::bigint IS NULL OR d.id < $4)
           ORDER BY d.id DESC LIMIT $5"#,
        ws.as_str(),
        webhook.as_str(),
        state,
        before,
        limit
    )
    .fetch_all(conn)
    .await?)
}

/// Sends it again now, whatever became of it: under the same id. False when there is no such delivery.
pub async fn retry(conn: &mut PgConnection, ws: &WorkspaceId, webhook: &WebhookId, event: &str) -> Result<bool, BillingError> {
    let done = sqlx::query!(
        "UPDATE webhook_deliveries SET state = 'queued', attempts = 0, next_at = $4, error = NULL
         WHERE workspace_id = $1 AND webhook_id = $2 AND event_id = $3",
        ws.as_str(),
        webhook.as_str(),
        event,
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}
