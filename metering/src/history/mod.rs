//! History brought in as a job: a file, chunk by chunk, or what a Kafka topic holds. Events are collected beside the
//! store and previewed; a commit then takes them over minute by minute, through the same touches and recomputation as
//! ever. Every step may be repeated: chunks are numbered, and an event's identity and version stay the same.

mod commit;
mod preview;
mod topic;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use farebox_core::event::UsageEvent;
use farebox_core::ids::{JobId, WorkspaceId};
use farebox_core::{App, audit_log, clickhouse, clock};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

pub use commit::step;
pub use preview::{Preview, preview};
pub(crate) use topic::receptions;

use crate::block::{self, Block, storable};
use crate::{MeteringError, sources};

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Backfill)]
pub struct Job {
    pub id: JobId,
    pub source: String,
    pub format: String,
    pub topic: Option<String>,
    /// `reading` a topic; `open` for chunks, the preview and the commit; `committing`; `done`; `cancelled`.
    pub state: String,
    pub author: String,
    /// The number that the next chunk of a file has.
    pub next_chunk: i32,
    /// Events collected, copies included; and records that are none.
    pub accepted: i64,
    pub rejected: i64,
    /// What the preview said when it was committed: events that were new, and those that were there.
    pub new: Option<i64>,
    pub already_there: Option<i64>,
    /// Minutes to be taken over, and those that are.
    pub minutes: i32,
    pub minutes_done: i32,
    pub created_at: DateTime<Utc>,
    pub committed_at: Option<DateTime<Utc>>,
    pub done_at: Option<DateTime<Utc>>,
}

/// What is to be brought in.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewBackfill)]
pub struct New {
    /// Whose events they are; need not be registered.
    pub source: String,
    /// `cloudevents`, a gateway's, or a mapped one.
    #[serde(default = "cloudevents")]
    pub format: String,
    /// What a file is known by, such as a hash over it: records without an id get one from it and their place.
    #[serde(default)]
    pub file: Option<String>,
    /// The topic of a source of this workspace, read once from its start to its present end: for what was too old when it
    /// came.
    #[serde(default)]
    pub topic: Option<String>,
}

fn cloudevents() -> String {
    "cloudevents".to_owned()
}

/// A record that is no event.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = BackfillRefused)]
pub struct Refused {
    /// Chunk or offset, and the record's number in it, from 0.
    pub place: String,
    pub detail: String,
}

/// What became of a chunk.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = BackfillChunk)]
pub struct Taken {
    pub accepted: usize,
    pub rejected: Vec<Refused>,
    pub next_chunk: i32,
}

/// What a reader is given: records that stand together, and where.
pub struct Chunk {
    pub source: String,
    pub format: String,
    pub received_at: DateTime<Utc>,
    pub pieces: Vec<(String, Bytes)>,
}

pub type Read = Vec<Result<UsageEvent, Refused>>;

/// How ingest reads records of its formats; the inner error is the caller's to mend.
pub type Reader = Arc<dyn Fn(App, WorkspaceId, Chunk) -> BoxFuture<'static, anyhow::Result<Result<Read, String>>> + Send + Sync>;

static READER: OnceLock<Reader> = OnceLock::new();

/// Given once, when the process starts.
pub fn read_with(reader: Reader) {
    let _ = READER.set(reader);
}

async fn read(app: &App, workspace: &WorkspaceId, chunk: Chunk) -> Result<Read, MeteringError> {
    let reader = READER.get().ok_or_else(|| MeteringError::unreadable("records", "this process reads no formats"))?;
    let read = reader(app.clone(), workspace.clone(), chunk).await;
    let read = read.map_err(|e| MeteringError::unreadable("records", format!("{e:#}")))?;
    read.map_err(|detail| MeteringError::invalid("/format", detail))
}

/// The table that collects a job's events: of an id's closed alphabet.
fn table(id: &JobId) -> String {
    format!("backfill_{id}")
}

pub async fn create(app: &App, workspace: &WorkspaceId, new: New, author: &str) -> Result<Job, MeteringError> {
    if new.source.trim().is_empty() || new.source.len() > 256 {
        return Err(MeteringError::invalid("/source", "names whose events they are, in 1 to 256 bytes"));
    }
    if new.file.is_some() == new.topic.is_some() {
        return Err(MeteringError::invalid("/file", "give either `file` or `topic`"));
    }
    if let Some(topic) = &new.topic
        && !sources::list(&mut *app.pg.acquire().await?, workspace).await?.iter().any(|s| s.kafka_topic.as_ref() == Some(topic))
    {
        // Any other may hold another workspace's events.
        let detail = "is the topic of no source of this workspace; give it to one in the catalogue (`kafka_topic`)";
        return Err(MeteringError::invalid("/topic", detail));
    }
    // A format that is not known is refused now.
    let probe = Chunk { source: new.source.clone(), format: new.format.clone(), received_at: clock::now(), pieces: Vec::new() };
    read(app, workspace, probe).await?;
    let state = if new.topic.is_some() { "reading" } else { "open" };
    let id = JobId::new();
    for statement in clickhouse::like_events(&app.config.clickhouse, &table(&id)) {
        app.clickhouse.query_raw(&statement).execute().await?;
    }
    let mut transaction = app.pg.begin().await?;
    sqlx::query!(
        "INSERT INTO backfills (id, workspace_id, source, format, file, topic, state, author, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        id.as_str(),
        workspace.as_str(),
        new.source,
        new.format,
        new.file,
        new.topic,
        state,
        author,
        clock::now()
    )
    .execute(&mut *transaction)
    .await?;
    let detail = serde_json::json!({ "source": new.source, "topic": new.topic });
    audit_log::record(&mut transaction, workspace, author, "backfill.created", id.as_str(), &detail).await?;
    let job = get(&mut transaction, workspace, &id).await?.ok_or(MeteringError::NotFound("backfill"))?;
    transaction.commit().await?;
    Ok(job)
}

pub async fn get(conn: &mut PgConnection, workspace: &WorkspaceId, id: &JobId) -> Result<Option<Job>, MeteringError> {
    Ok(sqlx::query_as!(
        Job,
        r#"SELECT id AS "id: JobId", source, format, topic, state, author, next_chunk, accepted, rejected, new_events AS new,
                  known_events AS already_there, minutes, minutes_done, created_at, committed_at, done_at FROM backfills WHERE workspace_id = $1 AND id = $2"#,
        workspace.as_str(),
        id.as_str()
    )
    .fetch_optional(conn)
    .await?)
}

/// Up to `limit`, the newest first, those before `before` (an id; empty for the first page).
pub async fn list(conn: &mut PgConnection, workspace: &WorkspaceId, limit: i64, before: &str) -> Result<Vec<Job>, MeteringError> {
    Ok(sqlx::query_as!(
        Job,
        r#"SELECT id AS "id: JobId", source, format, topic, state, author, next_chunk, accepted, rejected, new_events AS new,
                  known_events AS already_there, minutes, minutes_done, created_at, committed_at, done_at FROM backfills WHERE workspace_id = $1 AND ($3 = '' OR id < $3) ORDER BY id DESC LIMIT $2"#,
        workspace.as_str(),
        limit,
        before
    )
    .fetch_all(conn)
    .await?)
}

/// Collects a chunk of a file. One that was taken before is passed over; none may be left out.
pub async fn take(app: &App, workspace: &WorkspaceId, id: &JobId, number: i32, body: Bytes) -> Result<Taken, MeteringError> {
    let mut transaction = app.pg.begin().await?;
    let row = sqlx::query!(
        "SELECT source, format, file, state, next_chunk, created_at FROM backfills WHERE workspace_id = $1 AND id = $2 FOR UPDATE",
        workspace.as_str(),
        id.as_str()
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or(MeteringError::NotFound("backfill"))?;
    let file = row.file.filter(|_| row.state == "open").ok_or_else(|| not("open for chunks of a file", &row.state))?;
    if number < row.next_chunk {
        return Ok(Taken { accepted: 0, rejected: Vec::new(), next_chunk: row.next_chunk });
    }
    if number > row.next_chunk {
        let detail = format!("Chunk {} comes next, not {number}.", row.next_chunk);
        return Err(MeteringError::Conflict { slug: "chunk-missing", detail });
    }
    let pieces = vec![(format!("{file}/{number}"), body)];
    let chunk = Chunk { source: row.source, format: row.format, received_at: row.created_at, pieces };
    let (accepted, rejected) = collect(app, workspace, id, chunk).await?;
    sqlx::query!(
        "UPDATE backfills SET next_chunk = $2, accepted = accepted + $3, rejected = rejected + $4 WHERE id = $1",
        id.as_str(),
        number + 1,
        i64::try_from(accepted).unwrap_or(i64::MAX),
        i64::try_from(rejected.len()).unwrap_or(i64::MAX)
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Taken { accepted, rejected, next_chunk: number + 1 })
}

/// Into the job's table, where copies replace each other.
async fn collect(app: &App, workspace: &WorkspaceId, id: &JobId, chunk: Chunk) -> Result<(usize, Vec<Refused>), MeteringError> {
    let (mut block, mut refused) = (Block::default(), Vec::new());
    for read in read(app, workspace, chunk).await? {
        match read {
            Ok(event) => match storable(&event) {
                Ok(()) => _ = block.push(&event),
                Err(reason) => refused.push(Refused { place: event.id, detail: reason.to_owned() }),
            },
            Err(one) => refused.push(one),
        }
    }
    block::insert(&app.clickhouse, &table(id), &[&block]).await?;
    Ok((block.rows(), refused))
}

fn not(what: &str, state: &str) -> MeteringError {
    MeteringError::Conflict { slug: "backfill-state", detail: format!("The backfill is not {what}: it is `{state}`.") }
}

/// Takes over what was previewed: exactly so many new events.
pub async fn commit(app: &App, workspace: &WorkspaceId, id: &JobId, expected: u64, author: &str) -> Result<Job, MeteringError> {
    let seen = preview(app, workspace, id).await?;
    if seen.new != expected {
        let detail = format!("{} events would be new, not {expected}. Look at the preview again, then commit it.", seen.new);
        return Err(MeteringError::Conflict { slug: "choice-changed", detail });
    }
    let minutes = commit::minutes(app, workspace, id).await?;
    let mut transaction = app.pg.begin().await?;
    let done = sqlx::query!(
        "UPDATE backfills SET state = 'committing', committed_at = $3, minutes = $4, new_events = $5, known_events = $6
         WHERE workspace_id = $1 AND id = $2 AND state = 'open'",
        workspace.as_str(),
        id.as_str(),
        clock::now(),
        i32::try_from(minutes).unwrap_or(i32::MAX),
        i64::try_from(seen.new).unwrap_or(i64::MAX),
        i64::try_from(seen.already_there).unwrap_or(i64::MAX)
    )
    .execute(&mut *transaction)
    .await?;
    let job = get(&mut transaction, workspace, id).await?.ok_or(MeteringError::NotFound("backfill"))?;
    if done.rows_affected() == 1 {
        let detail = serde_json::json!({ "new": seen.new, "already_there": seen.already_there });
        audit_log::record(&mut transaction, workspace, author, "backfill.committed", id.as_str(), &detail).await?;
    } else if job.state == "cancelled" {
        return Err(not("open", &job.state));
    }
    transaction.commit().await?;
    Ok(job)
}

/// Forgets what was collected; not once it is committed.
pub async fn cancel(app: &App, workspace: &WorkspaceId, id: &JobId, author: &str) -> Result<Job, MeteringError> {
    let mut transaction = app.pg.begin().await?;
    let done = sqlx::query!(
        "UPDATE backfills SET state = 'cancelled', done_at = $3 WHERE workspace_id = $1 AND id = $2 AND state IN ('reading', 'open')",
        workspace.as_str(),
        id.as_str(),
        clock::now()
    )
    .execute(&mut *transaction)
    .await?;
    let job = get(&mut transaction, workspace, id).await?.ok_or(MeteringError::NotFound("backfill"))?;
    if job.state != "cancelled" {
        return Err(not("open", &job.state));
    }
    if done.rows_affected() == 1 {
        audit_log::record(&mut transaction, workspace, author, "backfill.cancelled", id.as_str(), &serde_json::json!({})).await?;
    }
    transaction.commit().await?;
    drop_table(app, id).await?;
    Ok(job)
}

async fn drop_table(app: &App, id: &JobId) -> Result<(), MeteringError> {
    for statement in clickhouse::dropped(&app.config.clickhouse, &table(id)) {
        app.clickhouse.query_raw(&statement).execute().await?;
    }
    Ok(())
}
