//! Meters: what is measured. `calls` (every event) and `requests` (every request that counts) exist everywhere; others
//! come from the catalogue, and a changed definition is a new version.

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::event;
use farebox_core::ids::{MeterId, WorkspaceId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

pub use crate::measure::check;

use crate::dimension::Dimension;
use crate::filter::Test;
use crate::measure::own_filters;
use crate::{MeteringError, timelines};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    Count,
    Sum,
    Avg,
    Min,
    Max,
    /// Different values, exactly.
    UniqueCount,
    /// The value of the latest event, by time, then id.
    Latest,
    /// The value at position floor(p/100 * n) of the n sorted values, counted from 0: exact, never interpolated.
    Percentile,
}

impl Aggregate {
    pub const ALL: [Self; 8] = [Self::Count, Self::Sum, Self::Avg, Self::Min, Self::Max, Self::UniqueCount, Self::Latest, Self::Percentile];

    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
            Self::UniqueCount => "unique_count",
            Self::Latest => "latest",
            Self::Percentile => "percentile",
        }
    }
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
    /// What is aggregated: `latency_us`, `request_bytes`, `response_bytes`, `status`, or the JSON pointer of a property.
    /// For `unique_count` any dimension, such as `subject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// For `percentile`: which one, above 0 and below 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub percentile: Option<BigDecimal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The value is divided by this, at most 12 decimals being kept (half to even).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub divide_by: Option<BigDecimal>,
    /// Dimension or JSON pointer -> the values it may have, or a condition on them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub filter: BTreeMap<String, Test>,
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

impl Definition {
    /// Whether the workspace's counting rule decides what is in it.
    pub fn follows_rule(&self) -> Result<bool, MeteringError> {
        Ok(own_filters(self)?.iter().any(|filter| matches!(filter.dimension, Dimension::Counted | Dimension::Reason)))
    }
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
            percentile: None,
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
    check(definition)?;
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

/// Of all workspaces: the versions in force.
pub(crate) async fn all(conn: &mut PgConnection) -> Result<Vec<(WorkspaceId, Meter)>, MeteringError> {
    let rows = sqlx::query!(
        r#"SELECT DISTINCT ON (workspace_id, name) workspace_id AS "workspace: WorkspaceId", version, definition FROM meters
           ORDER BY workspace_id, name, version DESC"#
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|row| Ok((row.workspace, read(row.version, row.definition)?))).collect()
}

/// Every version a meter has had, the newest first, with when it came into force.
pub async fn versions(conn: &mut PgConnection, workspace: &WorkspaceId, name: &str) -> Result<Vec<(Meter, DateTime<Utc>)>, MeteringError> {
    let rows = sqlx::query!(
        "SELECT version, definition, created_at FROM meters WHERE workspace_id = $1 AND name = $2 ORDER BY version DESC",
        workspace.as_str(),
        name
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|row| Ok((read(row.version, row.definition)?, row.created_at))).collect()
}

fn read(version: i32, definition: serde_json::Value) -> Result<Meter, MeteringError> {
    let definition = serde_json::from_value(definition).map_err(|e| MeteringError::unreadable("a meter", e))?;
    Ok(Meter { version, definition })
}
