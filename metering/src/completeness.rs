//! Up to when usage is complete: the least over sources of what each has surely delivered.

use std::sync::LazyLock;

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::clock;
use farebox_core::ids::WorkspaceId;
use serde::{Deserialize, Serialize};

use crate::together::Together;
use crate::{MeteringError, facts, sources};

/// For a source that is not registered.
const LATENESS_S: i32 = 60;
const IDLE_S: i32 = 900;

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Completeness {
    /// What happened before this is known, as far as sources go on as usual.
    pub complete_until: DateTime<Utc>,
    pub sources: Vec<SourceProgress>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct SourceProgress {
    pub source: String,
    /// Time of its newest event.
    pub newest: DateTime<Utc>,
    /// When Farebox last had an event of it.
    pub received: DateTime<Utc>,
    /// Copies included.
    pub deliveries: u64,
    /// Silent for longer than its idle time, or delivering history: it does not hold the rest back.
    pub holds_back: bool,
}

#[derive(Row, Deserialize)]
struct Seen {
    name: String,
    newest_us: i64,
    received_ms: i64,
    copies: u64,
}

static TOGETHER: LazyLock<Together<(String, WorkspaceId), Completeness>> = LazyLock::new(Together::default);

pub async fn of(app: &App, workspace: &WorkspaceId) -> Result<Completeness, MeteringError> {
    let key = (app.config.clickhouse.database.clone(), workspace.clone());
    TOGETHER.ask(&key, async || now(app, workspace).await).await
}

async fn now(app: &App, workspace: &WorkspaceId) -> Result<Completeness, MeteringError> {
    let now = clock::now();
    let seen = facts::bound(
        app,
        workspace,
        "SELECT toString(source) AS name, toUnixTimestamp64Micro(max(newest)) AS newest_us, toUnixTimestamp64Milli(max(received)) AS received_ms, \
         sum(deliveries) AS copies FROM intake WHERE workspace = {ws:String} GROUP BY source ORDER BY name",
    )
    .fetch_all::<Seen>()
    .await?;
    let registered = sources::list(&mut *app.pg.acquire().await?, workspace).await?;
    let mut complete_until = now;
    let mut progress = Vec::with_capacity(seen.len());
    for row in seen {
        let source = registered.iter().find(|s| s.name == row.name);
        let newest = DateTime::from_timestamp_micros(row.newest_us).unwrap_or_default();
        let received = DateTime::from_timestamp_millis(row.received_ms).unwrap_or_default();
        let idle = TimeDelta::seconds(i64::from(source.map_or(IDLE_S, |s| s.idle_s)));
        let holds_back = now - received <= idle && !source.is_some_and(|s| s.backfill);
        if holds_back {
            let lateness = TimeDelta::seconds(i64::from(source.map_or(LATENESS_S, |s| s.lateness_s)));
            complete_until = complete_until.min(newest - lateness);
        }
        progress.push(SourceProgress { source: row.name, newest, received, deliveries: row.copies, holds_back });
    }
    Ok(Completeness { complete_until, sources: progress })
}
