//! Erasure of a consumer's personal data, without changing a total.
//!
//! What names the person in events is replaced: subjects and keys by random pseudonyms that are linked to the same
//! (now nameless) consumer for the same time, so that attribution, unique counts and every sum stay; and properties that
//! no meter reads are dropped. The rows as they were are deleted, and the new ones are of a higher revision, so that a
//! copy which comes again changes nothing. Each step may be repeated; an erasure that died is finished by any instance.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::clickhouse::altered;
use farebox_core::ids::{ConsumerId, ErasureId, WorkspaceId};
use farebox_core::period::Period;
use farebox_core::{App, audit_log, clock};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::dimension::Dimension;
use crate::facts::{bound, minute_sql};
use crate::links::{self, Kind};
use crate::repair::COLUMNS;
use crate::store::{MOST_REVISIONS, RECEPTION_BITS};
use crate::timelines::{self, BEGINNING, Held};
use crate::{MeteringError, meters, repair};

/// One that is still open after so long has died, and is taken up again.
const TAKEN_UP_AFTER: Duration = Duration::from_secs(60);
/// Minutes replaced at a time.
const MINUTES: usize = 5000;

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Erasure {
    pub id: ErasureId,
    pub consumer_id: ConsumerId,
    pub author: String,
    /// How much was replaced, by kind.
    #[schema(value_type = Object)]
    pub report: serde_json::Value,
    pub created_at: DateTime<Utc>,
    /// None while it is under way.
    pub done_at: Option<DateTime<Utc>>,
}

/// A subject or key for the time it was the consumer's.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Alias {
    kind: Kind,
    key: String,
    pseudonym: String,
    environment: String,
    from: DateTime<Utc>,
    to: Option<DateTime<Utc>>,
}

/// What named a consumer, each with the pseudonym in its place.
pub type Words = Vec<(String, String)>;

/// What other rooms erase, given the consumer and its words. Says how much it was, for the report.
pub type Eraser = Arc<dyn Fn(App, WorkspaceId, ConsumerId, Words) -> BoxFuture<'static, anyhow::Result<(&'static str, u64)>> + Send + Sync>;

static OTHERS: OnceLock<Vec<Eraser>> = OnceLock::new();

/// Given once, when the process starts.
pub fn also_in(others: Vec<Eraser>) {
    let _ = OTHERS.set(others);
}

/// Erases what names the consumer. Its usage and invoices stay: an issued invoice keeps the buyer it was sealed with, as
/// the law asks.
pub async fn erase(app: &App, workspace: &WorkspaceId, consumer: &ConsumerId, author: &str) -> Result<Erasure, MeteringError> {
    let mut transaction = app.pg.begin().await?;
    timelines::lock(&mut transaction, &format!("erasure {workspace} {consumer}")).await?;
    let known = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM consumers WHERE workspace_id = $1 AND id = $2) AS "known!""#,
        workspace.as_str(),
        consumer.as_str()
    );
    if !known.fetch_one(&mut *transaction).await? {
        return Err(MeteringError::NotFound("consumer"));
    }
    let erasure = Erasure {
        id: ErasureId::new(),
        consumer_id: consumer.clone(),
        author: author.to_owned(),
        report: serde_json::json!({}),
        created_at: clock::now(),
        done_at: None,
    };
    let keys = keys_of(&mut transaction, workspace, consumer).await?;
    let json = serde_json::to_value(&keys).map_err(|e| MeteringError::unreadable("an erasure", e))?;
    sqlx::query!(
        "INSERT INTO erasures (id, workspace_id, consumer_id, author, keys, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        erasure.id.as_str(),
        workspace.as_str(),
        consumer.as_str(),
        author,
        json,
        erasure.created_at
    )
    .execute(&mut *transaction)
    .await?;
    let detail = serde_json::json!({ "erasure": erasure.id });
    audit_log::record(&mut transaction, workspace, author, "consumer.erased", consumer.as_str(), &detail).await?;
    transaction.commit().await?;
    run(app, workspace, erasure, keys).await
}

/// Erasures that died half-way are finished.
pub async fn take_up(app: &App) -> Result<(), MeteringError> {
    let open = sqlx::query!(
        r#"SELECT id AS "id: ErasureId", workspace_id AS "workspace: WorkspaceId", consumer_id AS "consumer: ConsumerId", author, keys, created_at
           FROM erasures WHERE done_at IS NULL AND created_at < $1 ORDER BY created_at LIMIT 10"#,
        clock::now() - TAKEN_UP_AFTER
    )
    .fetch_all(&app.pg)
    .await?;
    for row in open {
        let keys = serde_json::from_value(row.keys).map_err(|e| MeteringError::unreadable("an erasure", e))?;
        let (id, created_at) = (row.id, row.created_at);
        let erasure =
            Erasure { id, consumer_id: row.consumer, author: row.author, report: serde_json::json!({}), created_at, done_at: None };
        let done = run(app, &row.workspace, erasure, keys).await?;
        tracing::info!(erasure = %done.id, "an erasure that had been interrupted was finished");
    }
    Ok(())
}

/// Of a consumer, the newest first.
pub async fn list(app: &App, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<Vec<Erasure>, MeteringError> {
    Ok(sqlx::query_as!(
        Erasure,
        r#"SELECT id AS "id: ErasureId", consumer_id AS "consumer_id: ConsumerId", author, report, created_at, done_at FROM erasures
           WHERE workspace_id = $1 AND consumer_id = $2 ORDER BY id DESC"#,
        workspace.as_str(),
        consumer.as_str()
    )
    .fetch_all(&app.pg)
    .await?)
}

/// Its own id is a subject, too, and names nobody.
async fn keys_of(conn: &mut sqlx::PgConnection, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<Vec<Alias>, MeteringError> {
    let rows = sqlx::query!(
        "SELECT kind, key, valid_from, valid_to, environment FROM links WHERE workspace_id = $1 AND consumer_id = $2 AND key <> $2
         AND key NOT LIKE 'erased\\_%' ORDER BY kind, key, valid_from",
        workspace.as_str(),
        consumer.as_str()
    )
    .fetch_all(conn)
    .await?;
    let mut keys: Vec<Alias> = Vec::with_capacity(rows.len());
    for row in rows {
        let kind = if row.kind == Kind::Credential.as_str() { Kind::Credential } else { Kind::Subject };
        let same = keys.last().filter(|last| last.kind == kind && last.key == row.key).map(|last| last.pseudonym.clone());
        keys.push(Alias {
            kind,
            pseudonym: same.unwrap_or_else(|| format!("erased_{}", uuid::Uuid::new_v4().simple())),
            key: row.key,
            environment: row.environment,
            from: row.valid_from,
            to: row.valid_to,
        });
    }
    Ok(keys)
}

async fn run(app: &App, workspace: &WorkspaceId, erasure: Erasure, keys: Vec<Alias>) -> Result<Erasure, MeteringError> {
    let mut claimed = app.pg.begin().await?;
    timelines::lock(&mut claimed, &format!("erasure of {}", erasure.id)).await?;
    let done = sqlx::query_scalar!("SELECT done_at FROM erasures WHERE id = $1", erasure.id.as_str()).fetch_one(&mut *claimed).await?;
    if done.is_some() {
        return Ok(Erasure { done_at: done, ..erasure });
    }
    // Whose the pseudonyms are is known before any event carries one.
    for key in &keys {
        let mut conn = app.pg.acquire().await?;
        links::assign(&mut conn, workspace, key.kind, &key.pseudonym, &erasure.consumer_id, &key.environment, key.from, key.to).await?;
    }
    timelines::sync(app).await?;
    let mut events = 0;
    if !keys.is_empty() {
        // A copy that is to be buried must not outlive the one it is a copy of by the revision it gets here.
        repair::repair(app, workspace, Period { start: BEGINNING, end: clock::now() + chrono::TimeDelta::days(1) }).await?;
        events = replace(app, workspace, &erasure.consumer_id, &keys).await?;
    }
    let mut conn = app.pg.acquire().await?;
    for key in &keys {
        links::remove(&mut conn, workspace, key.kind, &key.key, &erasure.consumer_id).await?;
    }
    forget_person(&mut conn, workspace, &erasure.consumer_id).await?;
    drop(conn);
    timelines::sync(app).await?;
    purge_links(app, workspace, &keys).await?;
    let mut report = serde_json::json!({ "events": events, "keys": keys.len() });
    let words: BTreeSet<_> = keys.iter().map(|key| (key.key.clone(), key.pseudonym.clone())).collect();
    let words: Words = words.into_iter().collect();
    for eraser in OTHERS.get().into_iter().flatten() {
        let erased = eraser(app.clone(), workspace.clone(), erasure.consumer_id.clone(), words.clone()).await;
        let (what, n) = erased.map_err(|e| MeteringError::unreadable("what another room erases", format!("{e:#}")))?;
        report[what] = n.into();
    }
    let done_at = clock::now();
    sqlx::query!("UPDATE erasures SET keys = '[]', report = $2, done_at = $3 WHERE id = $1", erasure.id.as_str(), report, done_at)
        .execute(&mut *claimed)
        .await?;
    claimed.commit().await?;
    Ok(Erasure { report, done_at: Some(done_at), ..erasure })
}

async fn forget_person(conn: &mut sqlx::PgConnection, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<(), MeteringError> {
    let now = clock::now();
    sqlx::query!(
        "UPDATE consumers SET name = 'erased ' || right(id, 12), email = NULL,
         address = CASE WHEN country IS NULL THEN '{}'::jsonb ELSE jsonb_build_object('country', country) END WHERE workspace_id = $1 AND id = $2",
        workspace.as_str(),
        consumer.as_str()
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "UPDATE credentials SET name = '', hint = '', revoked_at = coalesce(revoked_at, $3) WHERE workspace_id = $1 AND consumer_id = $2",
        workspace.as_str(),
        consumer.as_str(),
        now
    )
    .execute(&mut *conn)
    .await?;
    Ok(sqlx::query!("SELECT pg_notify($1, '')", crate::credentials::CHANNEL).execute(conn).await.map(drop)?)
}

/// A text as ClickHouse takes it in statements that have no parameters.
fn text_sql(text: &str) -> String {
    format!("unhex('{}')", hex::encode(text))
}

impl Alias {
    fn column(&self) -> &'static str {
        self.kind.as_str()
    }

    /// Rows that carry it in the time it was the consumer's; `minute` is a row's.
    fn condition(&self, minute: &str) -> String {
        let to = self.to.map_or(i64::from(u32::MAX), |to| to.timestamp());
        format!(
            "({} = {} AND {minute} >= {} AND {minute} < {})",
            self.column(),
            text_sql(&self.key),
            minute_sql(self.from.timestamp()),
            minute_sql(to)
        )
    }
}

/// A column with each key's pseudonym in its place.
fn replaced(keys: &[Alias], kind: Kind, minute: &str) -> String {
    let parts: Vec<_> =
        keys.iter().filter(|key| key.kind == kind).map(|key| format!("{}, {}", key.condition(minute), text_sql(&key.pseudonym))).collect();
    let column = kind.as_str();
    if parts.is_empty() { column.to_owned() } else { format!("multiIf({}, {column})", parts.join(", ")) }
}

/// Replaces the rows of events, then what rollups keep of keys. Returns the number of events.
async fn replace(app: &App, workspace: &WorkspaceId, consumer: &ConsumerId, keys: &[Alias]) -> Result<u64, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Minute {
        minute: u32,
        events: u64,
    }
    let whose: Vec<_> = keys.iter().map(|key| key.condition("toStartOfMinute(time)")).collect();
    let whose = whose.join(" OR ");
    let pointers = pointers(app, workspace).await?;
    let pointers: Vec<_> = pointers.iter().map(|pointer| text_sql(pointer)).collect();
    let pointers = if pointers.is_empty() { "emptyArrayString()".to_owned() } else { format!("[{}]", pointers.join(", ")) };
    let sql = format!(
        "SELECT toUnixTimestamp(toStartOfMinute(time)) AS minute, uniqExact(id) AS events FROM events WHERE workspace = {{ws:String}} AND ({whose}) \
         GROUP BY minute ORDER BY minute"
    );
    let minutes: Vec<Minute> = bound(app, workspace, &sql).fetch_all().await?;
    let columns: Vec<_> = COLUMNS
        .split(", ")
        .map(str::trim)
        .map(|name| match name {
            "subject" => replaced(keys, Kind::Subject, "toStartOfMinute(time)"),
            "credential" => replaced(keys, Kind::Credential, "toStartOfMinute(time)"),
            "properties" => format!("mapFilter((k, v) -> has({pointers}, toString(k)), properties)"),
            other => other.to_owned(),
        })
        .collect();
    // What the repair has buried keeps its revision: it must not come before the one that stands.
    let (shift, low) = (RECEPTION_BITS + 1, (1_u64 << (RECEPTION_BITS + 1)) - 1);
    let version = format!(
        "if(bitAnd(version, 1) = 1, version, bitOr(bitShiftLeft(toUInt64(least(bitShiftRight(version, {shift}) + 1, {MOST_REVISIONS})), {shift}), \
         bitAnd(version, toUInt64({low}))))"
    );
    for part in minutes.chunks(MINUTES) {
        let list: Vec<_> = part.iter().map(|m| m.minute.to_string()).collect();
        let held = Held::new(app, workspace, part.iter().map(|m| m.minute).collect()).await?;
        let insert = format!(
            "INSERT INTO events ({COLUMNS}, version, is_deleted) SELECT {}, {version}, is_deleted FROM (SELECT * FROM events \
             WHERE workspace = {{ws:String}} AND toStartOfMinute(time) IN ({list}) AND id IN (SELECT id FROM events \
             WHERE workspace = {{ws:String}} AND toStartOfMinute(time) IN ({list}) AND ({whose})) \
             ORDER BY toStartOfMinute(time), id, version DESC LIMIT 1 BY toStartOfMinute(time), id) WHERE {whose}",
            columns.join(", "),
            list = list.join(", "),
        );
        bound(app, workspace, &insert)
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "0")
            .with_setting("optimize_on_insert", "0")
            .execute()
            .await?;
        held.touch(app, workspace).await?;
    }
    let delete = |what: String| async move { app.clickhouse.query_raw(&what).with_setting("max_query_size", "4194304").execute().await };
    if !minutes.is_empty() {
        let events = altered(&app.config.clickhouse, "events");
        delete(format!("ALTER TABLE {events} DELETE WHERE workspace = '{workspace}' AND ({whose}) SETTINGS mutations_sync = 2")).await?;
    }
    // Rollups of frozen minutes are never computed again; superseded rows wait to be deleted.
    let credentials: Vec<_> = keys.iter().filter(|key| key.kind == Kind::Credential).map(|key| key.condition("minute")).collect();
    if !credentials.is_empty() {
        let credential = replaced(keys, Kind::Credential, "minute");
        for table in ["routes_minute", "routes_hour", "routes_day", "activity_day"] {
            let table = altered(&app.config.clickhouse, table);
            let update = format!(
                "ALTER TABLE {table} UPDATE credential = {credential} WHERE workspace = '{workspace}' AND ({}) SETTINGS mutations_sync = 2",
                credentials.join(" OR ")
            );
            delete(update).await?;
        }
    }
    let (old, new): (Vec<_>, Vec<_>) = keys.iter().map(|key| (text_sql(&key.key), text_sql(&key.pseudonym))).unzip();
    for table in ["meter_minute", "meter_hour", "meter_day"] {
        let table = altered(&app.config.clickhouse, table);
        let update = format!(
            "ALTER TABLE {table} UPDATE dims = arrayMap(x -> toLowCardinality(transform(toString(x), [{old}], [{new}], toString(x))), dims) \
             WHERE workspace = '{workspace}' AND consumer = '{consumer}' \
             AND hasAny(arrayMap(x -> toString(x), dims), [{old}]) SETTINGS mutations_sync = 2",
            old = old.join(", "),
            new = new.join(", ")
        );
        delete(update).await?;
    }
    Ok(minutes.iter().map(|m| m.events).sum())
}

/// Of properties that any version of a meter reads.
async fn pointers(app: &App, workspace: &WorkspaceId) -> Result<BTreeSet<String>, MeteringError> {
    let mut conn = app.pg.acquire().await?;
    let mut read = BTreeSet::new();
    for meter in meters::list(&mut conn, workspace).await? {
        for (version, _) in meters::versions(&mut conn, workspace, &meter.definition.name).await? {
            let definition = version.definition;
            let names = definition.value.iter().chain(&definition.group_by).chain(definition.filter.keys());
            for name in names {
                if let Ok(Dimension::Property(pointer)) = name.parse() {
                    read.insert(pointer);
                }
            }
        }
    }
    Ok(read)
}

/// A replaced row of a link would keep its key until its parts merge.
async fn purge_links(app: &App, workspace: &WorkspaceId, keys: &[Alias]) -> Result<(), MeteringError> {
    for key in keys {
        let delete = format!(
            "ALTER TABLE {} DELETE WHERE workspace = '{workspace}' AND kind = '{}' AND key = {} AND valid_from = {} SETTINGS mutations_sync = 2",
            altered(&app.config.clickhouse, "link"),
            key.column(),
            text_sql(&key.key),
            minute_sql(key.from.timestamp())
        );
        app.clickhouse.query_raw(&delete).execute().await?;
    }
    Ok(())
}
