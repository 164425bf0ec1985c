//! Meters: what is measured. `calls` (every event) and `requests` (every request that counts) exist everywhere; others
//! come from the catalogue, and a changed definition is a new version.

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use farebox_core::clock;
use farebox_core::event;
use farebox_core::ids::{MeterId, WorkspaceId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::{MeteringError, timelines};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    Count,
    Sum,
}

/// A definition, as in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub name: String,
    /// Type of the events measured; every type when empty.
    #[serde(default = "request")]
    pub event: String,
    pub aggregate: Aggregate,
    /// What is summed: `latency_us`, `request_bytes`, `response_bytes`, or the JSON pointer of a property.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The sum is divided by this, at most 12 decimals being kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub divide_by: Option<BigDecimal>,
    /// Dimension or JSON pointer -> the values it may have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub filter: BTreeMap<String, Vec<String>>,
    /// Only events that count by the workspace's rule.
    #[serde(default)]
    pub counted: bool,
    /// JSON pointers (or dimensions) by which this meter may be priced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_by: Vec<String>,
}

fn request() -> String {
    event::REQUEST.to_owned()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Meter {
    /// 0 for those that exist everywhere.
    pub version: i32,
    #[serde(flatten)]
    pub definition: Definition,
}

impl Meter {
    /// `calls` and `requests`.
    pub fn builtin(name: &str) -> Option<Self> {
        let (event, counted) = match name {
            "calls" => (String::new(), false),
            "requests" => (request(), true),
            _ => return None,
        };
        let definition = Definition {
            name: name.to_owned(),
            event,
            aggregate: Aggregate::Count,
            value: None,
            unit: None,
            divide_by: None,
            filter: BTreeMap::new(),
            counted,
            group_by: Vec::new(),
        };
        Some(Self { version: 0, definition })
    }
}

/// Creates the meter, or a new version of it when the definition differs from the one in force.
pub async fn upsert(conn: &mut PgConnection, workspace: &WorkspaceId, definition: &Definition) -> Result<Meter, MeteringError> {
    crate::measure::check(definition)?;
    timelines::lock(conn, &format!("meter {workspace} {}", definition.name)).await?;
    let current = get(conn, workspace, &definition.name).await?;
    if let Some(current) = &current
        && current.definition == *definition
    {
        return Ok(current.clone());
    }
    let version = current.map_or(1, |m| m.version + 1);
    let json = serde_json::to_value(definition).map_err(|e| MeteringError::unreadable("the meter", e))?;
    let id = MeterId::new();
    sqlx::query!(
        "INSERT INTO meters (id, workspace_id, name, version, definition, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        id.as_str(),
        workspace.as_str(),
        definition.name,
        version,
        json,
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(Meter { version, definition: definition.clone() })
}

/// The version in force; also of `calls` and `requests`.
pub async fn get(conn: &mut PgConnection, workspace: &WorkspaceId, name: &str) -> Result<Option<Meter>, MeteringError> {
    if let Some(builtin) = Meter::builtin(name) {
        return Ok(Some(builtin));
    }
    // PostgreSQL takes no NUL in a text.
    if name.contains('\0') {
        return Ok(None);
    }
    let row = sqlx::query!(
        "SELECT version, definition FROM meters WHERE workspace_id = $1 AND name = $2 ORDER BY version DESC LIMIT 1",
        workspace.as_str(),
        name
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| read(row.version, row.definition)).transpose()
}

/// The versions in force, `calls` and `requests` first.
pub async fn list(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<Meter>, MeteringError> {
    let rows = sqlx::query!(
        "SELECT DISTINCT ON (name) version, definition FROM meters WHERE workspace_id = $1 ORDER BY name, version DESC",
        workspace.as_str()
    )
    .fetch_all(conn)
    .await?;
    let mut meters: Vec<_> = ["calls", "requests"].into_iter().filter_map(Meter::builtin).collect();
    for row in rows {
        meters.push(read(row.version, row.definition)?);
    }
    Ok(meters)
}

fn read(version: i32, definition: serde_json::Value) -> Result<Meter, MeteringError> {
    let definition = serde_json::from_value(definition).map_err(|e| MeteringError::unreadable("a meter", e))?;
    Ok(Meter { version, definition })
}
