//! Sources: who sends events and asks for decisions, as registered in the catalogue. `metering` owns the table and
//! writes it; `ingest` and `access` both act on it without knowing each other, so what they read lives here.

use sqlx::PgConnection;

use crate::ids::{SourceId, WorkspaceId};

/// A gateway or other sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub id: SourceId,
    pub workspace: WorkspaceId,
    /// Unique in its workspace; stands in `/v1/decide/{source}` and on its events.
    pub name: String,
    /// How its events are written: `cloudevents`, `apisix`, `envoy`, ...
    pub format: String,
    /// A Kafka topic (its exact name) that it writes to.
    pub kafka_topic: Option<String>,
    /// May send events that are older than the ordinary window.
    pub backfill: bool,
    /// Networks (CIDR) from which it may ask for decisions without a token; none unless given.
    pub networks: Vec<String>,
}

/// The formats that `ingest` reads without a field map, in order. A test there keeps this list equal to its decoders.
pub const FORMATS: [&str; 11] =
    ["apisix", "aws", "cloudevents", "envoy", "envoy_otlp", "kong", "nginx", "traefik", "traefik_otlp", "tyk", "wso2"];

/// Whether it is a network (`10.0.0.0/8`, `fd00::/8`) or a single address.
pub fn is_network(text: &str) -> bool {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    prefix.is_none_or(|prefix| prefix.parse::<u8>().is_ok_and(|prefix| prefix <= longest))
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("source `{name}` cannot be read: {what}")]
    Unreadable { name: String, what: String },
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

struct Row {
    id: String,
    workspace_id: String,
    name: String,
    format: String,
    kafka_topic: Option<String>,
    backfill: bool,
    networks: Vec<String>,
}

impl TryFrom<Row> for Source {
    type Error = SourceError;
    fn try_from(row: Row) -> Result<Self, SourceError> {
        let unreadable = |what: crate::ids::InvalidId| SourceError::Unreadable { name: row.name.clone(), what: what.to_string() };
        Ok(Self {
            id: row.id.parse().map_err(unreadable)?,
            workspace: row.workspace_id.parse().map_err(unreadable)?,
            name: row.name,
            format: row.format,
            kafka_topic: row.kafka_topic,
            backfill: row.backfill,
            networks: row.networks,
        })
    }
}

/// All sources of all workspaces: for the loops that serve every workspace.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<Source>, SourceError> {
    let rows = sqlx::query_as!(Row, "SELECT id, workspace_id, name, format, kafka_topic, backfill, networks FROM sources ORDER BY id")
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(Source::try_from).collect()
}

/// The sources of one workspace.
pub async fn of_workspace(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<Source>, SourceError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, workspace_id, name, format, kafka_topic, backfill, networks FROM sources WHERE workspace_id = $1 ORDER BY name",
        workspace.as_str()
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Source::try_from).collect()
}
