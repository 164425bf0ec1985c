//! What each subscription in force allows: for access, which keeps it in memory.

use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, PlanVersionId, SubscriptionId, WorkspaceId};
use sqlx::PgConnection;

use crate::BillingError;
use crate::rating::PlanDefinition;
use crate::rating::plan::Entitlement;

/// [from, to): what a consumer may do with a product's apis. Access tells the workspace's time itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entitled {
    pub workspace: WorkspaceId,
    pub consumer: ConsumerId,
    pub product: String,
    pub subscription: SubscriptionId,
    pub plan: String,
    pub plan_version: PlanVersionId,
    pub from: DateTime<Utc>,
    pub to: Option<DateTime<Utc>>,
    /// None at all means everything of the product, without limits.
    pub entitlements: Vec<Entitlement>,
}

/// Of all workspaces: those in force or to come, by each workspace's clock.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<Entitled>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT f.workspace_id AS "workspace: WorkspaceId", s.consumer_id AS "consumer: ConsumerId", s.product, s.id AS "subscription: SubscriptionId",
                  p.name, v.id AS "plan_version: PlanVersionId", v.definition, f.from_at, f.to_at
           FROM subscription_phases f JOIN subscriptions s ON s.id = f.subscription_id JOIN workspaces w ON w.id = f.workspace_id
           JOIN plan_versions v ON v.id = f.plan_version_id JOIN plans p ON p.id = v.plan_id
           WHERE f.to_at IS NULL OR f.to_at > $1::timestamptz + make_interval(secs => w.clock_ahead_s)
           ORDER BY s.id, f.from_at"#,
        clock::now()
    )
    .fetch_all(conn)
    .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let definition: PlanDefinition = serde_json::from_value(row.definition)
            .map_err(|e| BillingError::unreadable("a plan version", format!("{}: {e}", row.plan_version)))?;
        found.push(Entitled {
            workspace: row.workspace,
            consumer: row.consumer,
            product: row.product,
            subscription: row.subscription,
            plan: row.name,
            plan_version: row.plan_version,
            from: row.from_at,
            to: row.to_at,
            entitlements: definition.entitlements,
        });
    }
    Ok(found)
}
