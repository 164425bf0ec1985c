//! Moves the subscriptions of a plan to another version of it, all at once.

use farebox_core::ids::{PlanVersionId, SubscriptionId, WorkspaceId};
use serde::Serialize;
use sqlx::PgConnection;

use super::change::{When, lock, move_to, workspace_of};
use crate::{BillingError, plans};

#[derive(Debug, Clone)]
pub struct Migration<'a> {
    pub plan: &'a str,
    /// All other versions unless given.
    pub from_version: Option<i32>,
    /// The newest unless given.
    pub to_version: Option<i32>,
    pub when: When,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Migrated {
    pub plan: String,
    pub to_version: i32,
    /// Moved, or to be moved.
    pub subscriptions: Vec<SubscriptionId>,
    /// What stays where it is, and why.
    pub refused: Vec<NotMigrated>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct NotMigrated {
    pub subscription: SubscriptionId,
    pub detail: String,
}

/// Each subscription in force is moved by itself: one that cannot be moved is named and does not hold up the others.
pub async fn migrate(conn: &mut PgConnection, ws: &WorkspaceId, migration: &Migration<'_>) -> Result<Migrated, BillingError> {
    let workspace = workspace_of(conn, ws).await?;
    let now = workspace.clock.now();
    let to = plans::find(conn, ws, migration.plan, migration.to_version).await?.ok_or(BillingError::NotFound("plan version"))?;
    let rows = sqlx::query!(
        r#"SELECT f.subscription_id AS "id: SubscriptionId", f.plan_version_id AS "version: PlanVersionId"
           FROM subscription_phases f JOIN plan_versions v ON v.id = f.plan_version_id
           WHERE f.workspace_id = $1 AND v.plan_id = $2 AND v.id <> $3 AND ($4::int IS NULL OR v.version = $4)
             AND f.from_at <= $5 AND (f.to_at IS NULL OR f.to_at > $5)
           ORDER BY f.subscription_id"#,
        ws.as_str(),
        to.id.as_str(),
        to.version_id.as_str(),
        migration.from_version,
        now
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut done = Migrated { plan: to.name.clone(), to_version: to.version, subscriptions: Vec::new(), refused: Vec::new() };
    for row in rows {
        let subscription = lock(conn, ws, &row.id).await?;
        let at = match migration.when {
            When::Now => now,
            When::PeriodEnd => {
                let own = plans::of(conn, ws, subscription.phases.iter().map(|phase| &phase.plan_version)).await?;
                subscription.period_at(&own, workspace.time_zone, now, None)?.end
            }
        };
        if subscription.ended_at.is_some_and(|end| end <= at) {
            done.refused.push(NotMigrated { subscription: row.id, detail: "It ends before the change would take effect.".to_owned() });
            continue;
        }
        match move_to(conn, ws, &subscription, &to, at).await {
            Ok(_) => done.subscriptions.push(row.id),
            Err(BillingError::Conflict { detail, .. }) => done.refused.push(NotMigrated { subscription: row.id, detail }),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
