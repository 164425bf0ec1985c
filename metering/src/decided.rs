//! How many events tell of a gateway's decision and how many do not, by source and hour: what `access` compares its own
//! count of decisions with.

use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use serde::Deserialize;

use crate::{MeteringError, facts};

/// Requests of a source in an hour, each counted once.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct Told {
    pub source: String,
    #[serde(with = "clickhouse::serde::chrono::datetime")]
    pub hour: DateTime<Utc>,
    /// With a decision; the hour is that of the decision, which its id tells (UUID version 7: milliseconds since 1970 in
    /// the first 48 bits).
    pub decided: u64,
    /// Made from a decision whose log is lost; not among `decided`.
    pub stand_ins: u64,
    /// Without one; the hour is the event's own.
    pub undecided: u64,
}

/// Of the ids that `ids` selects (ClickHouse; `source`, `consumer`, `api` and `id` without `dec:`), those that no event tells
/// of: neither counted nor voided. `period`: when they were decided.
pub fn untold(ids: &str, period: Period) -> String {
    format!(
        "SELECT * FROM ({ids}) WHERE concat('dec:', id) NOT IN (SELECT id FROM events WHERE workspace = {{ws:String}} AND startsWith(id, 'dec:')
         AND time >= fromUnixTimestamp({}) - INTERVAL 1 HOUR AND time < fromUnixTimestamp({}) + INTERVAL 1 HOUR)",
        period.start.timestamp(),
        period.end.timestamp()
    )
}

/// Mirrored traffic is left out. `period` in whole hours. An event is looked for up to an hour around it: so far a long
/// call's start and its decision may lie apart, and clocks differ.
pub async fn by_hour(app: &App, workspace: &WorkspaceId, period: Period) -> Result<Vec<Told>, MeteringError> {
    let sql = "
        SELECT source, toStartOfHour(at) AS hour, countIf(by_decision AND NOT is_stand_in) AS decided, countIf(is_stand_in) AS stand_ins, countIf(NOT by_decision) AS undecided
        FROM (
            SELECT toString(source) AS source, startsWith(id, 'dec:') AS by_decision, marker = 'from_decision' AS is_stand_in,
                if(match(id, '^dec:[0-9a-f]{32}$'),
                    toDateTime(intDiv(reinterpretAsUInt64(reverse(unhex(substring(id, 5, 12)))), 1000), 'UTC'), toDateTime(time, 'UTC')) AS at
            FROM events FINAL
            WHERE workspace = {ws:String} AND type = 'farebox.request.v1' AND marker != 'mirror'
                AND time >= fromUnixTimestamp({from:Int64}) - INTERVAL 1 HOUR AND time < fromUnixTimestamp({to:Int64}) + INTERVAL 1 HOUR
        )
        WHERE at >= fromUnixTimestamp({from:Int64}) AND at < fromUnixTimestamp({to:Int64})
        GROUP BY source, hour ORDER BY hour, source";
    let bound = facts::bound(app, workspace, sql).param("from", period.start.timestamp()).param("to", period.end.timestamp());
    Ok(bound.fetch_all().await?)
}
