//! What the store has, place by place: every identity once in every minute in which it came.
//!
//! Read in the order of the table's key, so that little is held however many there are. A copy with another time that
//! the repair has removed is left out, here and in what Kafka has. An event that a correction has moved stays at the
//! place it came from.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use clickhouse::query::Query;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use serde::Deserialize;

use super::distinct::{SLICES, slice_of};
use super::witness::{At, Seen, Witness, hash, hour};
use crate::facts::{bound, range};
use crate::repair::IDS;
use crate::store::RECEPTION_BITS;
use crate::{MeteringError, history};

/// What ClickHouse computes of an identity.
const HASH: &str = "reinterpretAsUInt64(substring(SHA256(id), 1, 8))";
/// A question over an hour of 45 million events takes longer than one of a page.
const SECONDS: &str = "1800";
/// Identities compared one by one for the places of an audit that differ.
const MOST_COMPARED: u64 = 400_000;
/// Identities of what is lost that are looked up.
const MOST_NAMED: usize = 10_000;

fn asked(app: &App, workspace: &WorkspaceId, sql: &str) -> Query {
    bound(app, workspace, sql)
        .with_setting("max_execution_time", SECONDS)
        .with_setting("optimize_aggregation_in_order", "1")
        .with_setting("max_bytes_before_external_group_by", "500000000")
}

/// (id, minute, of_source) of every entry; `more` is ANDed. What a backfill brought in was never on the events topic; it was
/// received when its job was made.
async fn entries(app: &App, workspace: &WorkspaceId, period: Period, more: &str) -> Result<String, MeteringError> {
    let receptions = history::receptions(app, workspace).await?;
    let receptions: Vec<_> = receptions.iter().map(|at| at.timestamp_millis().to_string()).collect();
    let brought = if receptions.is_empty() { "false".to_owned() } else { format!("came.3 IN ({})", receptions.join(", ")) };
    Ok(format!(
        "SELECT id, minute, came.1 AS of_source FROM (SELECT id, toStartOfMinute(time) AS minute, \
         argMax(tuple(toString(source), version, toUnixTimestamp64Milli(received_at)), version) AS came FROM events \
         WHERE workspace = {{ws:String}} {} {more} GROUP BY workspace, toStartOfMinute(time), id) WHERE bitAnd(came.2, 1) = 0 AND NOT {brought}",
        range("toStartOfMinute(time)", period)
    ))
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
        "SELECT of_source, toUnixTimestamp(toStartOfHour(minute)) AS hour, count() AS n, sum({HASH}) AS sum FROM ({}) GROUP BY of_source, hour",
        entries(app, workspace, period, "").await?
    );
    let found: Vec<Found> = asked(app, workspace, &sql).fetch_all().await?;
    let mut places: BTreeMap<At, Seen> =
        found.into_iter().map(|row| ((i64::from(row.hour), row.of_source), Seen { messages: 0, events: row.n, hash: row.sum })).collect();
    for (id, minute, source) in moved_in(app, workspace, period).await? {
        let seen = places.entry((hour(minute.into()), source)).or_default();
        *seen = Seen { events: seen.events.saturating_sub(1), hash: seen.hash.wrapping_sub(hash(&id)), ..*seen };
    }
    places.retain(|_, seen| seen.events > 0);
    Ok(places)
}

/// Events that came into the period by a correction: those of their identity that do not carry its lowest revision. (A
/// revision marks what was corrected or erased: few.)
async fn moved_in(app: &App, workspace: &WorkspaceId, period: Period) -> Result<Vec<(String, u32, String)>, MeteringError> {
    let corrected = format!("bitShiftRight(version, {}) > 0", RECEPTION_BITS + 1);
    let inside = range("toStartOfMinute(time)", period);
    let any = format!("SELECT count() FROM events WHERE workspace = {{ws:String}} {inside} AND {corrected}");
    if asked(app, workspace, &any).fetch_one::<u64>().await? == 0 {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT id, toUnixTimestamp(minute) AS at, of_source FROM (\
         SELECT id, minute, came.1 AS of_source, row_number() OVER (PARTITION BY id ORDER BY bitShiftRight(came.2, {shift}), minute) AS nth FROM (\
         SELECT id, toStartOfMinute(time) AS minute, argMax(tuple(toString(source), version), version) AS came FROM events \
         WHERE workspace = {{ws:String}} AND id IN (SELECT id FROM events WHERE workspace = {{ws:String}} {inside} AND {corrected}) \
         GROUP BY id, minute) WHERE bitAnd(came.2, 1) = 0 AND bitShiftRight(came.2, {shift}) > 0) \
         WHERE nth > 1 AND minute >= fromUnixTimestamp({}) AND minute < fromUnixTimestamp({})",
        period.start.timestamp(),
        period.end.timestamp(),
        shift = RECEPTION_BITS + 1,
    );
    Ok(asked(app, workspace, &sql).fetch_all().await?)
}

/// By hash and minute: copies with another time that the repair has removed.
pub(super) async fn removed(app: &App, workspace: &WorkspaceId, period: Period) -> Result<HashSet<(u64, u32)>, MeteringError> {
    let sql = format!(
        "SELECT DISTINCT {HASH} AS hash, toUnixTimestamp(toStartOfMinute(time)) AS minute FROM events \
         WHERE workspace = {{ws:String}} {} AND bitAnd(version, 1) = 1",
        range("toStartOfMinute(time)", period)
    );
    Ok(asked(app, workspace, &sql).fetch_all::<(u64, u32)>().await?.into_iter().collect())
}

/// What differs at one place.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Only Kafka has them.
    pub lost: BTreeSet<String>,
    /// Only the store has them.
    pub foreign: BTreeSet<String>,
    /// There is more that differs than was compared.
    pub more: bool,
}

/// Events at some places of one workspace that only Kafka has, and that only the store has.
pub(super) async fn differ(
    app: &App,
    workspace: &WorkspaceId,
    witness: &Witness,
    places: &BTreeSet<At>,
) -> Result<BTreeMap<At, Difference>, MeteringError> {
    let mut found: BTreeMap<At, Difference> = places.iter().map(|at| (at.clone(), Difference::default())).collect();
    let ours = by_slice(app, workspace, places).await?;
    let mut lost: BTreeMap<At, HashSet<u64>> = BTreeMap::new();
    let mut compared = 0;
    for slice in 0..SLICES {
        let theirs =
            witness.hashes(slice, workspace, places).map_err(|e| MeteringError::unreadable("the events topic", format!("{e:#}")))?;
        let none = HashSet::new();
        for at in places {
            let theirs = theirs.get(at).unwrap_or(&none);
            let mut seen = Seen::default();
            for hash in theirs {
                seen.add(*hash);
            }
            let here = ours.get(&(at.clone(), slice)).copied().unwrap_or_default();
            let Some(difference) = found.get_mut(at).filter(|_| here != seen) else { continue };
            if compared > MOST_COMPARED {
                difference.more = true;
                continue;
            }
            compared += here.events.max(seen.events);
            let here = if here.events == 0 { Vec::new() } else { identities(app, workspace, at, slice).await? };
            let hashes: HashSet<u64> = here.iter().map(|id| hash(id)).collect();
            lost.entry(at.clone()).or_default().extend(theirs.difference(&hashes));
            difference.foreign.extend(here.into_iter().filter(|id| !theirs.contains(&hash(id))));
        }
    }
    let wanted: HashSet<u64> = lost.values().flatten().copied().take(MOST_NAMED).collect();
    let more = lost.values().map(HashSet::len).sum::<usize>() > wanted.len();
    let names: Vec<String> = witness.names(app, wanted).await?.into_iter().collect();
    let there = existing(app, workspace, &names, places).await?;
    let is_there = |id: &str, hour: i64| there.contains(&(id.to_owned(), hour));
    for (at, lost) in lost {
        let Some(difference) = found.get_mut(&at) else { continue };
        difference.lost = names.iter().filter(|id| lost.contains(&hash(id)) && !is_there(id, at.0)).cloned().collect();
        difference.more |= more;
    }
    Ok(found)
}

fn hour_of(at: &At) -> Period {
    let start = DateTime::<Utc>::from_timestamp(at.0, 0).unwrap_or_default();
    Period { start, end: start + TimeDelta::hours(1) }
}

async fn by_slice(app: &App, workspace: &WorkspaceId, places: &BTreeSet<At>) -> Result<BTreeMap<(At, usize), Seen>, MeteringError> {
    let mut found = BTreeMap::new();
    for hour in places.iter().map(|at| at.0).collect::<BTreeSet<_>>() {
        let sql = format!(
            "SELECT of_source, bitShiftRight({HASH}, 56) AS slice, count(), sum({HASH}) FROM ({}) GROUP BY of_source, slice",
            entries(app, workspace, hour_of(&(hour, String::new())), "").await?
        );
        let rows: Vec<(String, u64, u64, u64)> = asked(app, workspace, &sql).fetch_all().await?;
        let slice = |n: u64| usize::try_from(n).unwrap_or_default();
        let seen = |(from, n, events, hash)| (((hour, from), slice(n)), Seen { messages: 0, events, hash });
        found.extend(rows.into_iter().map(seen).filter(|((at, _), _)| places.contains(at)));
    }
    for hour in places.iter().map(|at| at.0).collect::<BTreeSet<_>>() {
        for (id, minute, source) in moved_in(app, workspace, hour_of(&(hour, String::new()))).await? {
            let slice = usize::from(slice_of(hash(&id)));
            if let Some(seen) = found.get_mut(&((super::witness::hour(minute.into()), source), slice)) {
                *seen = Seen { events: seen.events.saturating_sub(1), hash: seen.hash.wrapping_sub(hash(&id)), ..*seen };
            }
        }
    }
    Ok(found)
}

/// Of a place's slice.
async fn identities(app: &App, workspace: &WorkspaceId, at: &At, slice: usize) -> Result<Vec<String>, MeteringError> {
    let of_slice = format!("AND bitShiftRight({HASH}, 56) = {slice}");
    let sql = format!("SELECT id FROM ({}) WHERE of_source = {{of:String}}", entries(app, workspace, hour_of(at), &of_slice).await?);
    let moved: HashSet<String> = moved_in(app, workspace, hour_of(at)).await?.into_iter().map(|(id, ..)| id).collect();
    let found: Vec<String> = asked(app, workspace, &sql).param("of", &at.1).fetch_all().await?;
    Ok(found.into_iter().filter(|id| !moved.contains(id)).collect())
}

/// Those that are stored in an hour after all, such as by a backfill before they came.
async fn existing(
    app: &App,
    workspace: &WorkspaceId,
    ids: &[String],
    places: &BTreeSet<At>,
) -> Result<HashSet<(String, i64)>, MeteringError> {
    let mut found = HashSet::new();
    let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(found) };
    let inside = range("toStartOfMinute(time)", Period { start: hour_of(first).start, end: hour_of(last).end });
    let sql = format!(
        "SELECT DISTINCT id, toInt64(toUnixTimestamp(toStartOfHour(time))) FROM events WHERE workspace = {{ws:String}} {inside} AND id IN {{ids:Array(String)}}"
    );
    for ids in ids.chunks(IDS) {
        found.extend(asked(app, workspace, &sql).param("ids", ids).fetch_all::<(String, i64)>().await?);
    }
    Ok(found)
}
