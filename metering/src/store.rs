//! Writes events to ClickHouse, and touches their minutes: one function for both, because events without a touch would
//! leave rollups silently wrong.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::ids::WorkspaceId;
use serde::Serialize;

use crate::block::{self, Block, Seen};

#[derive(Row, Serialize)]
struct Touched {
    workspace: String,
    /// Seconds since 1970.
    minute: u32,
    n: u64,
}

#[derive(Row, Serialize)]
struct Intake {
    workspace: String,
    source: String,
    /// Days since 1970.
    day: u16,
    deliveries: u64,
    #[serde(with = "clickhouse::serde::chrono::datetime64::micros")]
    newest: DateTime<Utc>,
    #[serde(with = "clickhouse::serde::chrono::datetime64::millis")]
    received: DateTime<Utc>,
}

/// Of an event that stands in for a lost log: below what any gateway tells, so that the true log replaces it whenever it
/// comes, and above what is deleted.
pub(crate) const OF_STAND_IN: u64 = 2;

/// Bits of the reception time in a version: microseconds until 2112.
pub(crate) const RECEPTION_BITS: u32 = 52;
pub(crate) const RECEPTION_MASK: u64 = (1 << RECEPTION_BITS) - 1;

/// Decides between copies of one identity, the highest winning. From the highest bits down: the revision (0 for what a
/// gateway sends, one more for each correction by id), the inverted time of reception, so that the first received wins
/// and a late retry never undoes a correction, and a bit that marks what the repair of duplicates removed.
pub fn version(revision: u16, received_at: DateTime<Utc>) -> u64 {
    (u64::from(revision).min(MOST_REVISIONS) << (RECEPTION_BITS + 1)) | (stamp(received_at) << 1)
}

/// Revisions that a version can tell apart.
pub(crate) const MOST_REVISIONS: u64 = 2047;

/// An instant in a version: the later, the lower.
pub(crate) fn stamp(at: DateTime<Utc>) -> u64 {
    RECEPTION_MASK - u64::try_from(at.timestamp_micros()).unwrap_or(0).min(RECEPTION_MASK)
}

/// Rows of a minute, by workspace and minute.
type Minutes<'a> = BTreeMap<(&'a str, u32), u64>;
/// By workspace, source and day of reception.
type Sources<'a> = BTreeMap<(&'a str, &'a str, i64), Seen>;

/// Stores the rows and touches their minutes; returns the minutes. May be repeated with the same rows: copies replace
/// each other, and a touch too many only costs a recomputation.
pub async fn store(client: &clickhouse::Client, blocks: &[&Block]) -> Result<Vec<(WorkspaceId, u32)>, clickhouse::error::Error> {
    let (mut minutes, mut intake) = (Minutes::new(), Sources::new());
    for block in blocks {
        for (workspace, minute, rows) in block.minutes() {
            *minutes.entry((workspace, minute)).or_default() += rows;
        }
        for (workspace, source, day, seen) in block.sources() {
            intake.entry((workspace, source, day)).and_modify(|before| *before = before.and(seen)).or_insert(seen);
        }
    }
    if minutes.is_empty() {
        return Ok(Vec::new());
    }
    block::insert(client, "events", blocks).await?;

    tokio::try_join!(insert_touches(client, &minutes), insert_intake(client, &intake))?;
    Ok(minutes.into_keys().filter_map(|(workspace, minute)| Some((workspace.parse().ok()?, minute))).collect())
}

/// By workspace and minute.
async fn insert_touches(client: &clickhouse::Client, minutes: &Minutes<'_>) -> Result<(), clickhouse::error::Error> {
    let mut touch = client.insert::<Touched>("touched").await?.with_setting("async_insert", "0").with_setting("insert_deduplicate", "0");
    for ((workspace, minute), n) in minutes {
        touch.write(&Touched { workspace: (*workspace).to_owned(), minute: *minute, n: *n }).await?;
    }
    touch.end().await
}

/// By workspace, source and day of reception.
async fn insert_intake(client: &clickhouse::Client, intake: &Sources<'_>) -> Result<(), clickhouse::error::Error> {
    let mut ledger = client.insert::<Intake>("intake").await?.with_setting("async_insert", "0").with_setting("insert_deduplicate", "0");
    for ((workspace, source, day), seen) in intake {
        let row = Intake {
            workspace: (*workspace).to_owned(),
            source: (*source).to_owned(),
            day: u16::try_from(*day).unwrap_or(0),
            deliveries: seen.rows,
            newest: seen.newest,
            received: seen.received,
        };
        ledger.write(&row).await?;
    }
    ledger.end().await
}

/// Touches minutes whose events or attribution have changed.
pub(crate) async fn touch(client: &clickhouse::Client, workspace: &WorkspaceId, minutes: &[u32]) -> Result<(), clickhouse::error::Error> {
    let mut touch = client.insert::<Touched>("touched").await?.with_setting("async_insert", "0").with_setting("insert_deduplicate", "0");
    for minute in minutes {
        touch.write(&Touched { workspace: workspace.to_string(), minute: *minute, n: 1 }).await?;
    }
    touch.end().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_correction_beats_any_copy_and_of_copies_the_first_received_wins(
            at in 1_600_000_000_000_000_i64..4_000_000_000_000_000, later in 1_i64..1_000_000_000, revision in 0_u16..2046,
        ) {
            let first = DateTime::from_timestamp_micros(at).expect("in range");
            let second = first + TimeDelta::microseconds(later);
            prop_assert!(version(revision, first) > version(revision, second) + 1);
            prop_assert!(version(revision + 1, second) > version(revision, first) + 1);
            prop_assert_eq!(version(revision, first) & 1, 0);
        }
    }
}
