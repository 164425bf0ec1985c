//! The APIs whose calls are metered, and their versions.

use chrono::NaiveDate;
use farebox_core::clock;
use farebox_core::ids::{ApiId, WorkspaceId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::MeteringError;
use crate::timelines::{self, Change};

/// The product of every api that names no other.
pub const DEFAULT_PRODUCT: &str = "default";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Api {
    pub id: ApiId,
    pub name: String,
    /// A plan belongs to a product; calls to this api are attributed to the subscription of that product.
    pub product: String,
    pub versions: Vec<ApiVersion>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ApiVersion {
    pub name: String,
    /// From this day on consumers should leave it.
    #[serde(default)]
    pub deprecated: Option<NaiveDate>,
    /// On this day it is switched off.
    #[serde(default)]
    pub sunset: Option<NaiveDate>,
}

/// Creates or changes the api of this name; its versions become exactly `versions`.
pub async fn upsert(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    name: &str,
    product: &str,
    versions: &[ApiVersion],
) -> Result<Api, MeteringError> {
    timelines::lock(conn, &format!("api {workspace} {name}")).await?;
    let before = sqlx::query_scalar!("SELECT product FROM apis WHERE workspace_id = $1 AND name = $2", workspace.as_str(), name)
        .fetch_optional(&mut *conn)
        .await?;
    let (fresh, now) = (ApiId::new(), clock::now());
    let id = sqlx::query_scalar!(
        r#"INSERT INTO apis (id, workspace_id, name, product, created_at) VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT (workspace_id, name) DO UPDATE SET product = excluded.product RETURNING id AS "id: ApiId""#,
        fresh.as_str(),
        workspace.as_str(),
        name,
        product,
        now
    )
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM api_versions WHERE api_id = $1", id.as_str()).execute(&mut *conn).await?;
    for version in versions {
        sqlx::query!(
            "INSERT INTO api_versions (api_id, name, deprecated, sunset) VALUES ($1, $2, $3, $4)",
            id.as_str(),
            version.name,
            version.deprecated,
            version.sunset
        )
        .execute(&mut *conn)
        .await?;
    }
    if before.as_deref().unwrap_or(DEFAULT_PRODUCT) != product {
        timelines::write_outbox(conn, workspace, &Change::Api { name: name.to_owned(), product: product.to_owned() }).await?;
    }
    Ok(Api { id, name: name.to_owned(), product: product.to_owned(), versions: versions.to_vec() })
}

pub async fn list(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<Api>, MeteringError> {
    let apis =
        sqlx::query!(r#"SELECT id AS "id: ApiId", name, product FROM apis WHERE workspace_id = $1 ORDER BY name"#, workspace.as_str())
            .fetch_all(&mut *conn)
            .await?;
    let versions = sqlx::query!(
        r#"SELECT v.api_id AS "api_id: ApiId", v.name, v.deprecated, v.sunset
           FROM api_versions v JOIN apis a ON a.id = v.api_id WHERE a.workspace_id = $1 ORDER BY v.name"#,
        workspace.as_str()
    )
    .fetch_all(conn)
    .await?;
    let versions_of = |id: &ApiId| {
        let own = versions.iter().filter(|v| v.api_id == *id);
        own.map(|v| ApiVersion { name: v.name.clone(), deprecated: v.deprecated, sunset: v.sunset }).collect()
    };
    Ok(apis.into_iter().map(|a| Api { versions: versions_of(&a.id), id: a.id, name: a.name, product: a.product }).collect())
}
