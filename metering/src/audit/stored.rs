//! What the store has, place by place.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use serde::Deserialize;

use super::witness::{At, Seen, Witness, hash};
use crate::facts::{bound, range};
use crate::repair::IDS;
use crate::{MeteringError, history};

/// Each event once, at the place of the copy received first. A correction's row carries the reception of what it
/// corrects; where one moved an event, what it left behind marks the place.
fn firsts(period: Period) -> String {
    let inside = range("toStartOfMinute(time)", period);
    format!(
        "SELECT id, argMin(tuple(toString(source), toUnixTimestamp(toStartOfHour(time))), \
         tuple(received_at, bitAnd(version, 1), is_deleted = 0, bitNot(version))) AS place FROM events \
         WHERE workspace = {{ws:String}} AND id IN (SELECT id FROM events WHERE workspace = {{ws:String}} {inside}) GROUP BY id"
    )
}

pub(super) async fn places(app: &App, workspace: &WorkspaceId, period: Period) -> Result<BTreeMap<At, Seen>, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        of_source: String,
        hour: u32,
        n: u64,
        sum: u64,
    }
    let sql = format!(
        "SELECT place.1 AS of_source, place.2 AS hour, count() AS n, sum(reinterpretAsUInt64(substring(SHA256(id), 1, 8))) AS sum \
         FROM ({}) WHERE hour >= {} AND hour < {} GROUP BY of_source, hour",
        firsts(period),
        period.start.timestamp(),
        period.end.timestamp()
    );
    let found: Vec<Found> = bound(app, workspace, &sql).fetch_all().await?;
    let read = found.into_iter().map(|row| ((i64::from(row.hour), row.of_source), Seen { messages: 0, events: row.n, hash: row.sum }));
    Ok(read.collect())
}

/// What a backfill brought in was never on the events topic; it was received when its job was made.
async fn without_backfills(app: &App, workspace: &WorkspaceId, ids: Vec<String>) -> Result<Vec<String>, MeteringError> {
    let receptions = history::receptions(app, workspace).await?;
    if ids.is_empty() || receptions.is_empty() {
        return Ok(ids);
    }
    let receptions: Vec<_> = receptions.iter().map(|at| at.timestamp_millis().to_string()).collect();
    let sql = format!(
        "SELECT DISTINCT id FROM events WHERE workspace = {{ws:String}} AND id IN {{ids:Array(String)}} AND toUnixTimestamp64Milli(received_at) IN ({})",
        receptions.join(", ")
    );
    let mut brought = HashSet::new();
    for part in ids.chunks(IDS) {
        brought.extend(bound(app, workspace, &sql).param("ids", part).fetch_all::<String>().await?);
    }
    Ok(ids.into_iter().filter(|id| !brought.contains(id)).collect())
}

/// Events of one place that only Kafka has, and that only the store has.
pub(super) async fn differ(
    app: &App,
    workspace: &WorkspaceId,
    witness: &Witness,
    hour: DateTime<Utc>,
    source: &str,
) -> Result<(Vec<String>, Vec<String>), MeteringError> {
    let period = Period { start: hour, end: hour + TimeDelta::hours(1) };
    let sql = format!("SELECT id FROM ({}) WHERE place.1 = {{source:String}} AND place.2 = {}", firsts(period), hour.timestamp());
    let here: Vec<String> = bound(app, workspace, &sql).param("source", source).fetch_all().await?;
    let theirs: HashSet<u64> = witness.hashes(hour.timestamp(), source).into_iter().collect();
    let ours: HashSet<u64> = here.iter().map(|id| hash(id)).collect();
    let lost: Vec<u64> = theirs.difference(&ours).copied().collect();
    let lost = if lost.is_empty() { Vec::new() } else { witness.names(app, lost).await? };
    let foreign = here.into_iter().filter(|id| !theirs.contains(&hash(id))).collect();
    Ok((lost, without_backfills(app, workspace, foreign).await?))
}
