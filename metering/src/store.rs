//! Writes events to ClickHouse, and touches their minutes: one function for both, because events without a touch would
//! leave rollups silently wrong.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::decision::STAND_IN;
use farebox_core::event::UsageEvent;
use farebox_core::ids::WorkspaceId;
use serde::Serialize;

/// A row of `events`.
#[derive(Debug, Clone, PartialEq, Row, Serialize)]
pub struct EventRow {
    pub workspace: String,
    pub id: String,
    #[serde(with = "clickhouse::serde::chrono::datetime64::micros")]
    pub time: DateTime<Utc>,
    #[serde(with = "clickhouse::serde::chrono::datetime64::millis")]
    pub received_at: DateTime<Utc>,
    pub source: String,
    pub r#type: String,
    pub subject: String,
    pub credential: String,
    pub gateway: String,
    pub country: String,
    pub answered_by: String,
    pub api: String,
    pub api_version: String,
    pub route: String,
    pub method: String,
    pub environment: String,
    pub marker: String,
    pub status: u16,
    pub latency_us: u32,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub cached: bool,
    pub properties: Vec<(String, String)>,
    pub version: u64,
    pub is_deleted: u8,
}

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
const OF_STAND_IN: u64 = 2;

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

impl EventRow {
    /// Why an event cannot be stored is a reason of the closed list of dead letters.
    pub fn from_event(event: UsageEvent) -> Result<Self, &'static str> {
        // ClickHouse's minutes end in 2106, and nothing was metered before 2000.
        if !(946_684_800..=4_102_444_800).contains(&event.time.timestamp()) {
            return Err("time-out-of-range");
        }
        if event.id.is_empty() {
            return Err("id-missing");
        }
        let data = event.data;
        let version = if data.marker == STAND_IN { OF_STAND_IN } else { version(0, event.received_at) };
        Ok(Self {
            workspace: event.workspace.into(),
            id: event.id,
            time: event.time,
            received_at: event.received_at,
            source: event.source,
            r#type: event.kind,
            subject: event.subject,
            credential: data.credential,
            gateway: data.gateway,
            country: data.client_country,
            answered_by: data.answered_by.as_str().to_owned(),
            api: data.api,
            api_version: data.api_version,
            route: data.route,
            method: data.method,
            environment: data.environment,
            marker: data.marker,
            status: data.status,
            latency_us: data.latency_us,
            request_bytes: data.request_bytes,
            response_bytes: data.response_bytes,
            cached: data.cached,
            properties: data.properties.into_iter().collect(),
            version,
            is_deleted: 0,
        })
    }

    fn minute(&self) -> u32 {
        let seconds = self.time.timestamp();
        u32::try_from(seconds - seconds.rem_euclid(60)).unwrap_or(0)
    }
}

/// Rows of a minute.
type Minutes<'a> = BTreeMap<(&'a str, u32), u64>;
/// Rows of a source received on a day, the newest event's time, and when the last was received.
type Sources<'a> = BTreeMap<(&'a str, &'a str, i64), (u64, DateTime<Utc>, DateTime<Utc>)>;

/// Stores the rows and touches their minutes; returns the minutes. May be repeated with the same rows: copies replace
/// each other, and a touch too many only costs a recomputation.
pub async fn store(client: &clickhouse::Client, rows: &[&EventRow]) -> Result<Vec<(WorkspaceId, u32)>, clickhouse::error::Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let (mut minutes, mut intake) = (Minutes::new(), Sources::new());
    for row in rows {
        *minutes.entry((&row.workspace, row.minute())).or_default() += 1;
        let day = row.received_at.timestamp().div_euclid(86_400);
        let seen = intake.entry((&row.workspace, &row.source, day)).or_insert((0, row.time, row.received_at));
        *seen = (seen.0 + 1, seen.1.max(row.time), seen.2.max(row.received_at));
    }
    insert_rows(client, "events", rows).await?;

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
    for ((workspace, source, day), (deliveries, newest, received)) in intake {
        let row = Intake {
            workspace: (*workspace).to_owned(),
            source: (*source).to_owned(),
            day: u16::try_from(*day).unwrap_or(0),
            deliveries: *deliveries,
            newest: *newest,
            received: *received,
        };
        ledger.write(&row).await?;
    }
    ledger.end().await
}

/// Into a table of the shape of `events`, without a touch.
pub(crate) async fn insert_rows(client: &clickhouse::Client, table: &str, rows: &[&EventRow]) -> Result<(), clickhouse::error::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut insert = client
        .insert::<EventRow>(table)
        .await?
        .with_setting("optimize_on_insert", "0")
        .with_setting("async_insert", "0")
        // Whole batches may come again and must not be taken for copies of blocks: rows are told apart by identity.
        .with_setting("insert_deduplicate", "0");
    for row in rows {
        insert.write(*row).await?;
    }
    insert.end().await
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
