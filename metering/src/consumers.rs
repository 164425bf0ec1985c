//! Consumers: who calls the APIs, signs up, subscribes and pays.

use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::MeteringError;
use crate::links::{self, Kind};
use crate::timelines::BEGINNING;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Consumer {
    pub id: ConsumerId,
    /// Unique in the workspace.
    pub name: String,
    pub email: Option<String>,
    pub signed_up_at: DateTime<Utc>,
    /// ISO 3166-1 alpha-2.
    pub country: Option<String>,
    #[schema(value_type = Object)]
    pub address: serde_json::Value,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, Clone)]
pub struct NewConsumer {
    pub name: String,
    pub email: Option<String>,
    pub signed_up_at: DateTime<Utc>,
    /// ISO 3166-1 alpha-2; `address.country` when not given.
    pub country: Option<String>,
    /// An object: line1, city, postal_code, country, ... An empty one when not known.
    pub address: serde_json::Value,
    /// Keys by which gateways know this consumer, linked from the beginning of time.
    pub subjects: Vec<String>,
}

/// Creates the consumer and links its subjects, one of which is always its own id (what a gateway logs that passes
/// `X-Farebox-Consumer` on).
pub async fn create(conn: &mut PgConnection, workspace: &WorkspaceId, new: NewConsumer) -> Result<Consumer, MeteringError> {
    if new.name.trim().is_empty() {
        return Err(MeteringError::invalid("/name", "must not be empty"));
    }
    let consumer = Consumer {
        id: ConsumerId::new(),
        country: country_of(new.country, &new.address)?,
        name: new.name,
        email: new.email,
        signed_up_at: new.signed_up_at,
        address: new.address,
        created_at: clock::now(),
    };
    sqlx::query!(
        "INSERT INTO consumers (id, workspace_id, name, email, signed_up_at, country, address, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        consumer.id.as_str(),
        workspace.as_str(),
        consumer.name,
        consumer.email,
        consumer.signed_up_at,
        consumer.country,
        consumer.address,
        consumer.created_at
    )
    .execute(&mut *conn)
    .await
    .map_err(|e| MeteringError::on_constraint(e, "consumers_name", "name-taken", || format!("There is already a consumer named `{}`. Choose another name.", consumer.name)))?;
    links::assign(conn, workspace, Kind::Subject, consumer.id.as_str(), &consumer.id, "", BEGINNING, None).await?;
    for subject in &new.subjects {
        links::link_subject(conn, workspace, subject, &consumer.id, BEGINNING, None).await?;
    }
    Ok(consumer)
}

/// Changes what is known about a consumer; links stay. None when there is no such consumer.
pub async fn update(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    id: &ConsumerId,
    new: NewConsumer,
) -> Result<Option<Consumer>, MeteringError> {
    let country = country_of(new.country, &new.address)?;
    let done = sqlx::query!(
        "UPDATE consumers SET name = $3, email = $4, signed_up_at = $5, country = $6, address = $7 WHERE workspace_id = $1 AND id = $2",
        workspace.as_str(),
        id.as_str(),
        new.name,
        new.email,
        new.signed_up_at,
        country,
        new.address
    )
    .execute(&mut *conn)
    .await
    .map_err(|e| {
        MeteringError::on_constraint(e, "consumers_name", "name-taken", || {
            format!("There is already a consumer named `{}`. Choose another name.", new.name)
        })
    })?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    for subject in &new.subjects {
        links::link_subject(conn, workspace, subject, id, BEGINNING, None).await?;
    }
    get(conn, workspace, id).await
}

fn country_of(country: Option<String>, address: &serde_json::Value) -> Result<Option<String>, MeteringError> {
    let country = country.or_else(|| address.get("country").and_then(|c| c.as_str()).map(str::to_owned));
    match country {
        Some(code) if code.len() != 2 || !code.bytes().all(|b| b.is_ascii_uppercase()) => {
            Err(MeteringError::invalid("/country", "must be two capital letters (ISO 3166-1), such as DE"))
        }
        other => Ok(other),
    }
}

pub async fn get(conn: &mut PgConnection, workspace: &WorkspaceId, id: &ConsumerId) -> Result<Option<Consumer>, MeteringError> {
    Ok(sqlx::query_as!(
        Consumer,
        r#"SELECT id AS "id: ConsumerId", name, email, signed_up_at, country, address, created_at FROM consumers WHERE workspace_id = $1 AND id = $2"#,
        workspace.as_str(),
        id.as_str()
    )
    .fetch_optional(conn)
    .await?)
}

pub async fn find_by_name(conn: &mut PgConnection, workspace: &WorkspaceId, name: &str) -> Result<Option<Consumer>, MeteringError> {
    Ok(sqlx::query_as!(
        Consumer,
        r#"SELECT id AS "id: ConsumerId", name, email, signed_up_at, country, address, created_at FROM consumers WHERE workspace_id = $1 AND name = $2"#,
        workspace.as_str(),
        name
    )
    .fetch_optional(conn)
    .await?)
}

/// Whatever its case; the oldest when several consumers share the address.
pub async fn find_by_email(conn: &mut PgConnection, workspace: &WorkspaceId, email: &str) -> Result<Option<Consumer>, MeteringError> {
    Ok(sqlx::query_as!(
        Consumer,
        r#"SELECT id AS "id: ConsumerId", name, email, signed_up_at, country, address, created_at
           FROM consumers WHERE workspace_id = $1 AND lower(email) = lower($2) ORDER BY id LIMIT 1"#,
        workspace.as_str(),
        email
    )
    .fetch_optional(conn)
    .await?)
}

/// Sorted by id, those after `after` (empty for the first page).
pub async fn list(conn: &mut PgConnection, workspace: &WorkspaceId, limit: i64, after: &str) -> Result<Vec<Consumer>, MeteringError> {
    Ok(sqlx::query_as!(
        Consumer,
        r#"SELECT id AS "id: ConsumerId", name, email, signed_up_at, country, address, created_at
           FROM consumers WHERE workspace_id = $1 AND id > $2 ORDER BY id LIMIT $3"#,
        workspace.as_str(),
        after,
        limit
    )
    .fetch_all(conn)
    .await?)
}

/// All of them: for KPIs and for names beside ids.
pub async fn all(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<Consumer>, MeteringError> {
    list(conn, workspace, i64::MAX, "").await
}

/// Those of `ids` that exist: for names beside ids.
pub async fn by_ids(conn: &mut PgConnection, workspace: &WorkspaceId, ids: &[String]) -> Result<Vec<Consumer>, MeteringError> {
    Ok(sqlx::query_as!(
        Consumer,
        r#"SELECT id AS "id: ConsumerId", name, email, signed_up_at, country, address, created_at FROM consumers WHERE workspace_id = $1 AND id = ANY($2)"#,
        workspace.as_str(),
        ids
    )
    .fetch_all(conn)
    .await?)
}
