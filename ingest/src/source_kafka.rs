//! Sources whose topic is in a cluster of their own: where it is and how to sign in there. The password is kept
//! encrypted and never shown.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::Json;
use farebox_core::ids::{SourceId, WorkspaceId};
use farebox_core::kafka::MECHANISMS;
use farebox_core::problem::{FieldError, Problem};
use farebox_core::seal::{Purpose, Vault};
use farebox_core::source::{self, Source};
use farebox_core::{App, audit_log, clock, config};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

/// None: the topic is in Farebox's own cluster.
pub async fn cluster(app: &App, source: &Source) -> anyhow::Result<Option<config::Kafka>> {
    let mut conn = app.pg.acquire().await?;
    let Some(row) = row(&mut conn, &source.id).await? else { return Ok(None) };
    let sasl_password = match row.password_sealed {
        None => String::new(),
        Some(sealed) => {
            let vault = Vault::new(&app.config.billing.encryption_key)?;
            vault.open(&source.workspace, Purpose::SourcePassword, &sealed)?.reveal().to_owned()
        }
    };
    Ok(Some(config::Kafka {
        brokers: row.brokers,
        tls: row.tls,
        ca: row.ca.unwrap_or_default(),
        sasl_mechanism: row.sasl_mechanism.unwrap_or_default(),
        sasl_username: row.sasl_username.unwrap_or_default(),
        sasl_password,
        ..config::Kafka::default()
    }))
}

struct Row {
    brokers: String,
    tls: bool,
    ca: Option<String>,
    sasl_mechanism: Option<String>,
    sasl_username: Option<String>,
    password_sealed: Option<Vec<u8>>,
}

async fn row(conn: &mut PgConnection, source: &SourceId) -> Result<Option<Row>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        "SELECT brokers, tls, ca, sasl_mechanism, sasl_username, password_sealed FROM source_kafka WHERE source_id = $1",
        source.as_str()
    )
    .fetch_optional(conn)
    .await
}

/// When each connection was last changed.
pub async fn versions(conn: &mut PgConnection) -> Result<Vec<(String, DateTime<Utc>)>, sqlx::Error> {
    let rows = sqlx::query!("SELECT source_id, updated_at FROM source_kafka").fetch_all(conn).await?;
    Ok(rows.into_iter().map(|row| (row.source_id, row.updated_at)).collect())
}

#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    pub username: String,
    /// Only taken, never shown.
    #[serde(skip_serializing)]
    #[schema(write_only)]
    pub password: String,
}

/// A cluster of a source's own.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceKafka {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    #[serde(default)]
    pub tls: bool,
    /// PEM of the authorities that sign the brokers' certificates; the system's unless given.
    pub ca: Option<String>,
    pub sasl: Option<Sasl>,
}

impl SourceKafka {
    fn check(&self) -> Result<(), Problem> {
        let mut errors = Vec::new();
        let mut wrong = |pointer: &str, detail: &str| errors.push(FieldError::new(pointer, detail));
        let is_address =
            |broker: &str| broker.trim().rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if self.brokers.len() > 2048 || !self.brokers.split(',').all(is_address) {
            wrong("/brokers", "must be `host:port`, several separated by commas");
        }
        if self.ca.as_deref().is_some_and(|pem| !self.tls || pem.len() > 64 << 10 || !pem.contains("-----BEGIN CERTIFICATE-----")) {
            wrong("/ca", "must be certificates in PEM, with `tls: true`");
        }
        if let Some(sasl) = &self.sasl {
            if !MECHANISMS.contains(&sasl.mechanism.as_str()) {
                wrong("/sasl/mechanism", &format!("must be one of {}", MECHANISMS.join(", ")));
            }
            for (pointer, text) in [("/sasl/username", &sasl.username), ("/sasl/password", &sasl.password)] {
                if text.is_empty() || text.len() > 1024 {
                    wrong(pointer, "must have 1 to 1024 characters");
                }
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
    }
}

async fn source_named(conn: &mut PgConnection, workspace: &WorkspaceId, name: &str) -> Result<Source, Problem> {
    let sources = source::of_workspace(conn, workspace).await.map_err(|e| Problem::internal(&e))?;
    sources.into_iter().find(|s| s.name == name).ok_or_else(|| Problem::not_found("source"))
}

/// A topic belongs to one source of its cluster: see the migration `0351_topics_by_cluster`.
fn topic_taken(error: sqlx::Error, cluster: &str) -> Problem {
    let taken = error.as_database_error().is_some_and(|e| e.constraint() == Some("sources_kafka_topic"));
    if taken {
        let detail = format!("Another source reads the topic of this name in {cluster}. Give one of them another topic first.");
        return Problem::conflict("topic-taken", detail);
    }
    error.into()
}

/// Show a source's own Kafka cluster
#[utoipa::path(
    get, path = "/api/v1/sources/{name}/kafka", tag = "ingest", params(("name" = String, Path)),
    responses((status = 200, body = SourceKafka), (status = 404, body = Problem))
)]
pub async fn show(State(app): State<App>, caller: Caller, Path(name): Path<String>) -> Result<axum::Json<SourceKafka>, Problem> {
    caller.0.require(Scope::Read)?;
    let mut conn = app.pg.acquire().await?;
    let source = source_named(&mut conn, &caller.0.workspace, &name).await?;
    let row = row(&mut conn, &source.id).await?.ok_or_else(|| Problem::not_found("cluster of this source's own"))?;
    let sasl = row.sasl_mechanism.zip(row.sasl_username);
    Ok(axum::Json(SourceKafka {
        brokers: row.brokers,
        tls: row.tls,
        ca: row.ca,
        sasl: sasl.map(|(mechanism, username)| Sasl { mechanism, username, password: String::new() }),
    }))
}

/// Read a source's topic from its own Kafka cluster
///
/// In force within two seconds. Without it the topic is in Farebox's own cluster.
#[utoipa::path(
    put, path = "/api/v1/sources/{name}/kafka", tag = "ingest", params(("name" = String, Path)), request_body = SourceKafka,
    responses(
        (status = 204), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "Another source reads this topic there"), (status = 422, body = Problem)
    )
)]
pub async fn connect(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Json(kafka): Json<SourceKafka>,
) -> Result<StatusCode, Problem> {
    caller.0.require(Scope::Manage)?;
    if !app.config.ingest.source_brokers {
        return Err(Problem::forbidden("Sources may not name brokers here: ingest.source_brokers is off in the configuration."));
    }
    kafka.check()?;
    let workspace = &caller.0.workspace;
    let vault = Vault::new(&app.config.billing.encryption_key).map_err(|e| Problem::internal(&e))?;
    let mut tx = app.pg.begin().await?;
    let source = source_named(&mut tx, workspace, &name).await?;
    let sealed = kafka.sasl.as_ref().map(|sasl| vault.seal(workspace, Purpose::SourcePassword, &sasl.password));
    sqlx::query!(
        "INSERT INTO source_kafka (source_id, brokers, tls, ca, sasl_mechanism, sasl_username, password_sealed, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (source_id) DO UPDATE SET brokers = excluded.brokers, tls = excluded.tls, ca = excluded.ca,
           sasl_mechanism = excluded.sasl_mechanism, sasl_username = excluded.sasl_username, password_sealed = excluded.password_sealed,
           updated_at = excluded.updated_at",
        source.id.as_str(),
        kafka.brokers,
        kafka.tls,
        kafka.ca,
        kafka.sasl.as_ref().map(|s| s.mechanism.as_str()),
        kafka.sasl.as_ref().map(|s| s.username.as_str()),
        sealed,
        clock::now()
    )
    .execute(&mut *tx)
    .await
    .map_err(|e| topic_taken(e, "that cluster"))?;
    let detail = serde_json::to_value(&kafka).map_err(|e| Problem::internal(&e))?;
    audit_log::record(&mut tx, workspace, caller.0.token.as_str(), "source.kafka", source.id.as_str(), &detail).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Read a source's topic from Farebox's own cluster again
#[utoipa::path(
    delete, path = "/api/v1/sources/{name}/kafka", tag = "ingest", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem, description = "Another source reads this topic here"))
)]
pub async fn disconnect(State(app): State<App>, caller: Caller, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    caller.0.require(Scope::Manage)?;
    let workspace = &caller.0.workspace;
    let mut tx = app.pg.begin().await?;
    let source = source_named(&mut tx, workspace, &name).await?;
    let done = sqlx::query!("DELETE FROM source_kafka WHERE source_id = $1", source.id.as_str())
        .execute(&mut *tx)
        .await
        .map_err(|e| topic_taken(e, "Farebox's own cluster"))?;
    if done.rows_affected() == 0 {
        return Err(Problem::not_found("cluster of this source's own"));
    }
    audit_log::record(&mut tx, workspace, caller.0.token.as_str(), "source.kafka", source.id.as_str(), &serde_json::json!({})).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
