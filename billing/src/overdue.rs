//! Who owes an invoice past its due date: for access, which refuses calls beyond the grace that the provider set.

use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use sqlx::PgConnection;

use crate::BillingError;

/// A consumer's oldest unpaid invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    pub workspace: WorkspaceId,
    pub consumer: ConsumerId,
    pub number: String,
    pub due_at: DateTime<Utc>,
    /// From when calls are refused because a payment failed, whatever the grace.
    pub restricted_from: Option<DateTime<Utc>>,
    /// Where it can be paid.
    pub hosted_url: Option<String>,
}

/// Of all workspaces, by each one's clock. A consumer to whom a pause was granted owes nothing until it ends.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<Overdue>, BillingError> {
    Ok(sqlx::query_as!(
        Overdue,
        r#"SELECT DISTINCT ON (i.consumer_id) i.workspace_id AS "workspace: WorkspaceId", i.consumer_id AS "consumer: ConsumerId",
                  i.number AS "number!", i.due_at AS "due_at!", i.hosted_url,
                  (SELECT min(f.opened_at + make_interval(days => p.restrict_after_days))
                   FROM failed_payments f JOIN dunning_policies p ON p.workspace_id = f.workspace_id JOIN invoices o ON o.id = f.invoice_id
                   WHERE f.workspace_id = i.workspace_id AND f.consumer_id = i.consumer_id AND o.state IN ('issued', 'uncollectible')) AS restricted_from
           FROM invoices i JOIN workspaces w ON w.id = i.workspace_id
           WHERE i.state IN ('issued', 'uncollectible') AND i.number IS NOT NULL AND i.total_minor > 0 AND NOT i.carried
             AND i.due_at < $1::timestamptz + make_interval(secs => w.clock_ahead_s)
             AND NOT EXISTS (SELECT FROM dunning_pauses h WHERE h.workspace_id = i.workspace_id AND h.consumer_id = i.consumer_id
                             AND h.until > $1::timestamptz + make_interval(secs => w.clock_ahead_s))
           ORDER BY i.consumer_id, i.due_at"#,
        clock::now()
    )
    .fetch_all(conn)
    .await?)
}
