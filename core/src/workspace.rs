//! Workspaces: an environment of a provider, such as `acme/live`. The boundary that no query crosses.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use sqlx::PgConnection;

use crate::clock::WorkspaceClock;
use crate::ids::WorkspaceId;
use crate::money::Currency;

#[derive(Debug, Clone)]
pub struct Workspace {
    pub id: WorkspaceId,
    /// `provider/environment`.
    pub name: String,
    pub display_name: String,
    pub currency: Currency,
    pub time_zone: Tz,
    pub portal_host: Option<String>,
    pub test_mode: bool,
    pub clock: WorkspaceClock,
    /// The seller on invoices, as in the catalogue: name, address, tax_id, invoice_number_prefix.
    pub seller: serde_json::Value,
    /// Tax rates as in the catalogue.
    pub taxes: serde_json::Value,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    #[error("workspace `{name}` has {what} `{value}`, which this version does not know")]
    Unreadable { name: String, what: &'static str, value: String },
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

struct Row {
    id: String,
    name: String,
    display_name: String,
    currency: String,
    time_zone: String,
    portal_host: Option<String>,
    test_mode: bool,
    clock_ahead_s: i64,
    seller: serde_json::Value,
    taxes: serde_json::Value,
    created_at: DateTime<Utc>,
}

impl TryFrom<Row> for Workspace {
    type Error = WorkspaceError;
    fn try_from(row: Row) -> Result<Self, WorkspaceError> {
        let unreadable = |what, value: &str| WorkspaceError::Unreadable { name: row.name.clone(), what, value: value.to_owned() };
        Ok(Self {
            id: row.id.parse().map_err(|_| unreadable("the id", &row.id))?,
            currency: row.currency.parse().map_err(|_| unreadable("the currency", &row.currency))?,
            time_zone: row.time_zone.parse().map_err(|_| unreadable("the time zone", &row.time_zone))?,
            name: row.name,
            display_name: row.display_name,
            portal_host: row.portal_host,
            test_mode: row.test_mode,
            clock: WorkspaceClock::ahead_by_seconds(row.clock_ahead_s),
            seller: row.seller,
            taxes: row.taxes,
            created_at: row.created_at,
        })
    }
}

/// What a new workspace needs; the rest comes with its catalogue.
#[derive(Debug, Clone)]
pub struct NewWorkspace<'a> {
    pub name: &'a str,
    pub display_name: &'a str,
    pub currency: Currency,
    pub time_zone: Tz,
    pub test_mode: bool,
    pub is_default: bool,
}

/// Creates the workspace, or returns the one that already has this name.
pub async fn create(conn: &mut PgConnection, new: NewWorkspace<'_>) -> Result<Workspace, WorkspaceError> {
    let id = WorkspaceId::new();
    sqlx::query!(
        "INSERT INTO workspaces (id, name, display_name, currency, time_zone, test_mode, is_default, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7 AND NOT EXISTS (SELECT FROM workspaces WHERE is_default), $8)
         ON CONFLICT (name) DO NOTHING",
        id.as_str(),
        new.name,
        new.display_name,
        new.currency.code(),
        new.time_zone.name(),
        new.test_mode,
        new.is_default,
        crate::clock::now(),
    )
    .execute(&mut *conn)
    .await?;
    by_name(conn, new.name).await?.ok_or_else(|| sqlx::Error::RowNotFound.into())
}

pub async fn by_name(conn: &mut PgConnection, name: &str) -> Result<Option<Workspace>, WorkspaceError> {
    let row = sqlx::query_as!(Row, "SELECT id, name, display_name, currency, time_zone, portal_host, test_mode, clock_ahead_s, seller, taxes, created_at FROM workspaces WHERE name = $1", name)
        .fetch_optional(conn)
        .await?;
    row.map(Workspace::try_from).transpose()
}

pub async fn by_id(conn: &mut PgConnection, id: &WorkspaceId) -> Result<Option<Workspace>, WorkspaceError> {
    let row = sqlx::query_as!(Row, "SELECT id, name, display_name, currency, time_zone, portal_host, test_mode, clock_ahead_s, seller, taxes, created_at FROM workspaces WHERE id = $1", id.as_str())
        .fetch_optional(conn)
        .await?;
    row.map(Workspace::try_from).transpose()
}

/// The workspace whose portal lives under `host` (without port), else the default one.
pub async fn by_portal_host(conn: &mut PgConnection, host: &str) -> Result<Option<Workspace>, WorkspaceError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, name, display_name, currency, time_zone, portal_host, test_mode, clock_ahead_s, seller, taxes, created_at
         FROM workspaces WHERE portal_host = $1 OR is_default ORDER BY (portal_host = $1) IS TRUE DESC LIMIT 1",
        host
    )
    .fetch_optional(conn)
    .await?;
    row.map(Workspace::try_from).transpose()
}

pub async fn all(conn: &mut PgConnection) -> Result<Vec<Workspace>, WorkspaceError> {
    let rows = sqlx::query_as!(Row, "SELECT id, name, display_name, currency, time_zone, portal_host, test_mode, clock_ahead_s, seller, taxes, created_at FROM workspaces ORDER BY name")
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(Workspace::try_from).collect()
}

/// Currency, zone, seller and taxes, as the catalogue says.
pub async fn update_settings(
    conn: &mut PgConnection,
    id: &WorkspaceId,
    currency: Currency,
    time_zone: Tz,
    seller: &serde_json::Value,
    taxes: &serde_json::Value,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE workspaces SET currency = $2, time_zone = $3, seller = $4, taxes = $5 WHERE id = $1",
        id.as_str(),
        currency.code(),
        time_zone.name(),
        seller,
        taxes
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// How the workspace names itself to developers, and where its portal is found. A host name belongs to one workspace.
pub async fn update_portal(
    conn: &mut PgConnection,
    id: &WorkspaceId,
    display_name: &str,
    portal_host: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE workspaces SET display_name = $2, portal_host = $3 WHERE id = $1", id.as_str(), display_name, portal_host)
        .execute(conn)
        .await?;
    Ok(())
}

/// Moves a test workspace's clock ahead; never back. False when the workspace is not in test mode.
pub async fn advance_clock(conn: &mut PgConnection, id: &WorkspaceId, by_seconds: i64) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE workspaces SET clock_ahead_s = clock_ahead_s + $2::bigint WHERE id = $1 AND test_mode AND $2::bigint >= 0",
        id.as_str(),
        by_seconds
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}
