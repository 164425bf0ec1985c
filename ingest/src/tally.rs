//! How many records had which verdict, by source and format: in Prometheus at once, and each second to ClickHouse's
//! `verdicts`, for the console. These counts are for people: a process that is killed loses those of its last second.
//! What is exact are the events and the dead letters themselves.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use clickhouse::Row;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use farebox_core::{App, clock};
use serde::{Deserialize, Serialize};

use crate::formats::Format;

/// Counter: verdicts, with labels `source`, `format` and `verdict` (`accepted`, `duplicate_in_batch`, or a reason).
pub const VERDICTS_TOTAL: &str = "farebox_ingest_verdicts_total";

/// Keys kept at once; beyond it sources are counted together as `other`, because a sender chooses their names.
const MAX_KEYS: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    workspace: WorkspaceId,
    source: String,
    format: String,
    verdict: &'static str,
}

/// One for the process: the HTTP routes and the Kafka loop add, the flush loop takes.
static PENDING: LazyLock<Mutex<HashMap<Key, u64>>> = LazyLock::new(Mutex::default);

fn pending() -> MutexGuard<'static, HashMap<Key, u64>> {
    // A map of counters is whole after any panic.
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn add(workspace: &WorkspaceId, source: &str, format: &Format, verdict: &'static str, n: usize) {
    if n == 0 {
        return;
    }
    let n = n as u64;
    let mut pending = pending();
    let mut key = Key { workspace: workspace.clone(), source: source.to_owned(), format: format.as_str().to_owned(), verdict };
    if pending.len() >= MAX_KEYS && !pending.contains_key(&key) {
        "other".clone_into(&mut key.source);
    }
    metrics::counter!(VERDICTS_TOTAL, "source" => key.source.clone(), "format" => key.format.clone(), "verdict" => verdict).increment(n);
    *pending.entry(key).or_default() += n;
}

#[derive(Row, Serialize, Deserialize)]
struct VerdictRow {
    workspace: String,
    #[serde(with = "clickhouse::serde::chrono::datetime")]
    minute: DateTime<Utc>,
    source: String,
    format: String,
    verdict: String,
    n: u64,
}

/// Writes what was counted since the last time. What cannot be written is kept for the next.
pub async fn flush(app: &App) -> Result<(), clickhouse::error::Error> {
    let taken = std::mem::take(&mut *pending());
    if taken.is_empty() {
        return Ok(());
    }
    let written = write(app, &taken).await;
    if written.is_err() {
        let mut pending = pending();
        for (key, n) in taken {
            *pending.entry(key).or_default() += n;
        }
    }
    written
}

async fn write(app: &App, counts: &HashMap<Key, u64>) -> Result<(), clickhouse::error::Error> {
    let now = clock::now();
    let minute = now.duration_trunc(TimeDelta::minutes(1)).unwrap_or(now);
    let mut insert = app.clickhouse.insert::<VerdictRow>("verdicts").await?;
    for (key, n) in counts {
        insert
            .write(&VerdictRow {
                workspace: key.workspace.to_string(),
                minute,
                source: key.source.clone(),
                format: key.format.clone(),
                verdict: key.verdict.to_owned(),
                n: *n,
            })
            .await?;
    }
    insert.end().await
}

/// How many records of a source and format had a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VerdictCount {
    pub source: String,
    pub format: String,
    /// `accepted`, `duplicate_in_batch`, or the reason of a rejection.
    pub verdict: String,
    pub n: u64,
}

/// By when the verdict was given.
pub async fn counts(app: &App, workspace: &WorkspaceId, period: Period) -> Result<Vec<VerdictCount>, clickhouse::error::Error> {
    app.clickhouse
        .query(
            "SELECT source, format, verdict, sum(v.n) AS n FROM verdicts AS v
             WHERE workspace = ? AND minute >= fromUnixTimestamp(?) AND minute < fromUnixTimestamp(?)
             GROUP BY source, format, verdict ORDER BY source, format, verdict",
        )
        .bind(workspace.as_str())
        .bind(period.start.timestamp())
        .bind(period.end.timestamp())
        .fetch_all()
        .await
}
