//! Copies of one event that came with another time lie in other minutes, where they do not replace each other. The
//! repair keeps the one with the highest revision, then the first received, and buries the rest; their minutes are
//! touched. Run over the last two days every few minutes, and over everything before an invoice is final.

use chrono::TimeDelta;
use clickhouse::Row;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use farebox_core::{App, clock, workspace};
use serde::Deserialize;

use crate::MeteringError;
use crate::facts::{bound, minute_sql};
use crate::timelines::Held;

/// Minutes repaired at a time.
const MINUTES: usize = 5000;
/// Identities bound to one query.
pub(crate) const IDS: usize = 1000;
pub(crate) const COLUMNS: &str = "workspace, id, time, received_at, source, type, subject, credential, gateway, country, answered_by, api, api_version, \
     route, method, environment, marker, status, latency_us, request_bytes, response_bytes, cached, properties";

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    pub removed: u64,
}

#[derive(Row, Deserialize)]
struct Affected {
    minute: u32,
    copies: u64,
}

/// Of each event of `period` only one copy is left, wherever in time its other copies lie. Safe to repeat.
pub async fn repair(app: &App, workspace: &WorkspaceId, period: Period) -> Result<Repaired, MeteringError> {
    // Only ids that the period has, but copies of any time: the one received first may lie before or after it.
    let range = format!(
        "toStartOfMinute(time) >= {} AND toStartOfMinute(time) < {}",
        minute_sql(period.start.timestamp()),
        minute_sql(period.end.timestamp() + 59)
    );
    buried(app, workspace, &format!("AND id IN (SELECT id FROM events WHERE workspace = {{ws:String}} AND {range})")).await
}

/// Over what was received in the last two days, in every workspace.
pub(crate) async fn recent(app: &App) -> Result<(), MeteringError> {
    let since = (clock::now() - TimeDelta::days(2)).timestamp_millis();
    for workspace in workspace::all(&mut *app.pg.acquire().await?).await.map_err(|e| MeteringError::unreadable("the workspaces", e))? {
        let only = format!(
            "AND id IN (SELECT id FROM events WHERE workspace = {{ws:String}} AND received_at >= fromUnixTimestamp64Milli({since}, 'UTC'))"
        );
        let repaired = buried(app, &workspace.id, &only).await?;
        if repaired.removed > 0 {
            tracing::info!(workspace = workspace.name, removed = repaired.removed, "copies of events with another time were removed");
        }
    }
    Ok(())
}

/// Of these events, wherever their copies lie.
pub(crate) async fn of_ids(app: &App, workspace: &WorkspaceId, ids: &[String]) -> Result<Repaired, MeteringError> {
    let mut repaired = Repaired::default();
    for ids in ids.chunks(IDS) {
        let bound = |query: clickhouse::query::Query| query.param("ids", ids);
        repaired.removed += bury(app, workspace, "AND id IN {ids:Array(String)}", &bound).await?.removed;
    }
    Ok(repaired)
}

async fn buried(app: &App, workspace: &WorkspaceId, only: &str) -> Result<Repaired, MeteringError> {
    bury(app, workspace, only, &|query| query).await
}

async fn bury(
    app: &App,
    workspace: &WorkspaceId,
    only: &str,
    bind: &(dyn Fn(clickhouse::query::Query) -> clickhouse::query::Query + Sync),
) -> Result<Repaired, MeteringError> {
    // Buried copies take part (no FINAL): otherwise a copy with a new time of a voided id would count again.
    let copies = format!(
        "SELECT *, row_number() OVER (PARTITION BY id ORDER BY intDiv(version, 2) DESC, time ASC) AS copy_rank FROM \
         (SELECT * FROM events WHERE workspace = {{ws:String}} AND sipHash64(id) IN (\
         SELECT sipHash64(id) FROM events WHERE workspace = {{ws:String}} {only} GROUP BY sipHash64(id) \
         HAVING min(toStartOfMinute(time)) < max(toStartOfMinute(time))) \
         ORDER BY toStartOfMinute(time), id, version DESC LIMIT 1 BY toStartOfMinute(time), id)"
    );
    let live = format!("FROM ({copies}) WHERE copy_rank > 1 AND is_deleted = 0");
    let mut repaired = Repaired::default();
    loop {
        let sql = format!(
            "SELECT toUnixTimestamp(toStartOfMinute(time)) AS minute, count() AS copies {live} GROUP BY minute ORDER BY minute LIMIT {MINUTES}"
        );
        let affected: Vec<Affected> = bind(bound(app, workspace, &sql)).fetch_all().await?;
        if affected.is_empty() {
            return Ok(repaired);
        }
        let minutes: Vec<u32> = affected.iter().map(|a| a.minute).collect();
        let held = Held::new(app, workspace, minutes.clone()).await?;
        let list: Vec<_> = minutes.iter().map(u32::to_string).collect();
        let bury = format!(
            "INSERT INTO events ({COLUMNS}, version, is_deleted) SELECT {COLUMNS}, bitOr(version, 1), 1 {live} \
             AND toUnixTimestamp(toStartOfMinute(time)) IN ({})",
            list.join(", ")
        );
        bind(bound(app, workspace, &bury))
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "0")
            .with_setting("optimize_on_insert", "0")
            .execute()
            .await?;
        held.touch(app, workspace).await?;
        let removed = affected.iter().map(|a| a.copies).sum::<u64>();
        metrics::counter!("farebox_metering_copies_buried_total").increment(removed);
        repaired.removed += removed;
    }
}
