//! Plans and their published versions. A version never changes: what a subscription pins stays what was agreed.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, PlanId, PlanVersionId, WorkspaceId};
use serde::Serialize;
use sqlx::PgConnection;

use crate::BillingError;
use crate::rating::PlanDefinition;

/// A published version of a plan.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Plan {
    pub id: PlanId,
    pub version_id: PlanVersionId,
    pub name: String,
    pub product: String,
    pub version: i32,
    /// Whether it can never cost anything.
    pub free: bool,
    /// No longer offered; those who have it keep it.
    pub retired: bool,
    /// The only consumer who may have it: a contract.
    pub consumer: Option<ConsumerId>,
    pub published_at: DateTime<Utc>,
    /// Prices, terms and entitlements, as in the catalogue.
    #[schema(value_type = Object)]
    pub definition: PlanDefinition,
}

struct Row {
    plan_id: PlanId,
    id: PlanVersionId,
    name: String,
    product: String,
    version: i32,
    definition: serde_json::Value,
    published_at: DateTime<Utc>,
    retired: bool,
    consumer: Option<ConsumerId>,
}

impl TryFrom<Row> for Plan {
    type Error = BillingError;
    fn try_from(row: Row) -> Result<Self, BillingError> {
        let definition: PlanDefinition =
            serde_json::from_value(row.definition).map_err(|e| BillingError::unreadable("a plan version", format!("{}: {e}", row.id)))?;
        Ok(Self {
            id: row.plan_id,
            version_id: row.id,
            name: row.name,
            product: row.product,
            version: row.version,
            free: definition.is_free(),
            retired: row.retired,
            consumer: row.consumer,
            published_at: row.published_at,
            definition,
        })
    }
}

/// The newest version of each plan that is still offered, by name.
pub async fn list_published(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<Plan>, BillingError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT DISTINCT ON (p.name) p.id AS "plan_id: PlanId", v.id AS "id: PlanVersionId", p.name, p.product, v.version, v.definition, v.published_at,
                  p.archived_at IS NOT NULL AS "retired!", p.consumer_id AS "consumer: ConsumerId"
           FROM plans p JOIN plan_versions v ON v.plan_id = p.id
           WHERE p.workspace_id = $1 AND p.archived_at IS NULL AND p.consumer_id IS NULL ORDER BY p.name, v.version DESC"#,
        workspace.as_str()
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Plan::try_from).collect()
}

/// Every version of every plan, also of those no longer offered.
pub async fn all_versions(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<Plan>, BillingError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT p.id AS "plan_id: PlanId", v.id AS "id: PlanVersionId", p.name, p.product, v.version, v.definition, v.published_at,
                  p.archived_at IS NOT NULL AS "retired!", p.consumer_id AS "consumer: ConsumerId"
           FROM plans p JOIN plan_versions v ON v.plan_id = p.id WHERE p.workspace_id = $1 ORDER BY p.name, v.version"#,
        workspace.as_str()
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Plan::try_from).collect()
}

/// A plan by its name: the given version, else the newest.
pub async fn find(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    name: &str,
    version: Option<i32>,
) -> Result<Option<Plan>, BillingError> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT p.id AS "plan_id: PlanId", v.id AS "id: PlanVersionId", p.name, p.product, v.version, v.definition, v.published_at,
                  p.archived_at IS NOT NULL AS "retired!", p.consumer_id AS "consumer: ConsumerId"
           FROM plans p JOIN plan_versions v ON v.plan_id = p.id
           WHERE p.workspace_id = $1 AND p.name = $2 AND ($3::int IS NULL OR v.version = $3) ORDER BY v.version DESC LIMIT 1"#,
        workspace.as_str(),
        name,
        version
    )
    .fetch_optional(conn)
    .await?;
    row.map(Plan::try_from).transpose()
}

/// The newest version of the plan with this id or name.
pub async fn get(conn: &mut PgConnection, workspace: &WorkspaceId, id_or_name: &str) -> Result<Option<Plan>, BillingError> {
    let name = sqlx::query_scalar!("SELECT name FROM plans WHERE workspace_id = $1 AND id = $2", workspace.as_str(), id_or_name)
        .fetch_optional(&mut *conn)
        .await?;
    find(conn, workspace, name.as_deref().unwrap_or(id_or_name), None).await
}

pub async fn by_version(conn: &mut PgConnection, workspace: &WorkspaceId, id: &PlanVersionId) -> Result<Option<Plan>, BillingError> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT p.id AS "plan_id: PlanId", v.id AS "id: PlanVersionId", p.name, p.product, v.version, v.definition, v.published_at,
                  p.archived_at IS NOT NULL AS "retired!", p.consumer_id AS "consumer: ConsumerId"
           FROM plans p JOIN plan_versions v ON v.plan_id = p.id WHERE v.workspace_id = $1 AND v.id = $2"#,
        workspace.as_str(),
        id.as_str()
    )
    .fetch_optional(conn)
    .await?;
    row.map(Plan::try_from).transpose()
}

/// Definitions by version, each once.
pub async fn of<'a>(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    versions: impl Iterator<Item = &'a PlanVersionId>,
) -> Result<BTreeMap<PlanVersionId, PlanDefinition>, BillingError> {
    let ids: Vec<_> = versions.map(|id| id.as_str().to_owned()).collect();
    let rows = sqlx::query!(
        r#"SELECT id AS "id: PlanVersionId", definition FROM plan_versions WHERE workspace_id = $1 AND id = ANY($2)"#,
        workspace.as_str(),
        &ids
    )
    .fetch_all(conn)
    .await?;
    let read = |row: serde_json::Value, id: &PlanVersionId| {
        serde_json::from_value(row).map_err(|e| BillingError::unreadable("a plan version", format!("{id}: {e}")))
    };
    rows.into_iter().map(|row| Ok((row.id.clone(), read(row.definition, &row.id)?))).collect()
}

/// Takes a plan off the offer, or puts it back. True when that changed something.
pub async fn set_retired(conn: &mut PgConnection, workspace: &WorkspaceId, name: &str, retired: bool) -> Result<bool, BillingError> {
    let done = sqlx::query!(
        "UPDATE plans SET archived_at = CASE WHEN $3 THEN $4::timestamptz END
         WHERE workspace_id = $1 AND name = $2 AND (archived_at IS NOT NULL) <> $3",
        workspace.as_str(),
        name,
        retired,
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What publishing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    New,
    Unchanged,
}

/// Publishes a version. The same content again changes nothing; other content under a published version is refused.
pub async fn publish(conn: &mut PgConnection, workspace: &WorkspaceId, definition: &PlanDefinition) -> Result<Published, BillingError> {
    publish_for(conn, workspace, definition, None).await
}

/// As [`publish`], as a contract that only `consumer` may have.
pub async fn publish_for(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    definition: &PlanDefinition,
    consumer: Option<&ConsumerId>,
) -> Result<Published, BillingError> {
    // Two publishers of one plan follow each other.
    let lock = format!("plan {workspace} {}", definition.name);
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", lock).execute(&mut *conn).await?;
    let all = all_versions(conn, workspace).await?;
    let versions: Vec<_> = all.iter().filter(|plan| plan.name == definition.name).collect();
    if let Some(same) = versions.iter().find(|plan| plan.version == definition.version) {
        if same.definition == *definition {
            return Ok(Published::Unchanged);
        }
        let next = versions.iter().map(|plan| plan.version).max().unwrap_or(0) + 1;
        return Err(BillingError::conflict(
            "published-version",
            format!(
                "Version {} of plan `{}` is published and never changes. Publish the change as version {next}.",
                definition.version, definition.name
            ),
        ));
    }
    if let Some(newest) = versions.iter().max_by_key(|plan| plan.version) {
        if newest.version > definition.version {
            return Err(BillingError::conflict(
                "published-version",
                format!(
                    "Plan `{}` is already at version {}. Publish the next one as version {}.",
                    definition.name,
                    newest.version,
                    newest.version + 1
                ),
            ));
        }
        if newest.consumer.as_ref() != consumer {
            return Err(BillingError::conflict(
                "plan-name-taken",
                format!("There is another plan named `{}`, offered to others. Choose another name.", definition.name),
            ));
        }
        if newest.product != definition.product {
            return Err(BillingError::conflict(
                "plan-product",
                format!(
                    "Plan `{}` belongs to the product `{}`. Offer another product under another plan.",
                    definition.name, newest.product
                ),
            ));
        }
    }
    let (fresh_plan, fresh_version) = (PlanId::new(), PlanVersionId::new());
    let plan_id = sqlx::query_scalar!(
        "INSERT INTO plans (id, workspace_id, name, product, created_at, consumer_id) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (workspace_id, name) DO UPDATE SET archived_at = NULL RETURNING id",
        fresh_plan.as_str(),
        workspace.as_str(),
        definition.name,
        definition.product,
        clock::now(),
        consumer.map(ConsumerId::as_str)
    )
    .fetch_one(&mut *conn)
    .await?;
    let json = serde_json::to_value(definition).map_err(|e| BillingError::unreadable("a plan", e))?;
    sqlx::query!(
        "INSERT INTO plan_versions (id, workspace_id, plan_id, version, definition, published_at) VALUES ($1, $2, $3, $4, $5, $6)",
        fresh_version.as_str(),
        workspace.as_str(),
        plan_id,
        definition.version,
        json,
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(Published::New)
}
