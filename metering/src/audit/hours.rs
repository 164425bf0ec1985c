//! From the store to what usage answers, hour by hour.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::{Period, Window};
use serde::Deserialize;

use super::Hour;
use crate::MeteringError;
use crate::facts::{Table, bound, range};
use crate::usage::{self, UsageQuery};

#[derive(Row, Deserialize)]
struct Count {
    hour: u32,
    n: u64,
    more: u64,
}

pub(super) async fn of(app: &App, workspace: &WorkspaceId, period: Period) -> Result<Vec<Hour>, MeteringError> {
    let mut hours: BTreeMap<u32, Hour> = BTreeMap::new();
    let blank = |hour: u32| Hour {
        hour: DateTime::<Utc>::from_timestamp(i64::from(hour), 0).unwrap_or_default(),
        stored: 0,
        corrected: 0,
        rolled_up: Table::COMMON.iter().map(|t| (t.rollup(), 0)).collect(),
        not_yet: BTreeMap::new(),
        queried: 0,
    };
    let inside = range("toStartOfMinute(time)", period);
    let stored = format!(
        "SELECT toUnixTimestamp(toStartOfHour(time)) AS hour, countIf(is_deleted = 0) AS n, countIf(is_deleted = 1) AS more FROM \
         (SELECT time, is_deleted, version FROM events WHERE workspace = {{ws:String}} {inside} \
         ORDER BY toStartOfMinute(time), id, version DESC LIMIT 1 BY toStartOfMinute(time), id) WHERE bitAnd(version, 1) = 0 GROUP BY hour"
    );
    for row in bound(app, workspace, &stored).fetch_all::<Count>().await? {
        let hour = hours.entry(row.hour).or_insert_with(|| blank(row.hour));
        (hour.stored, hour.corrected) = (row.n, row.more);
    }
    for table in Table::COMMON {
        // Current generations of clean minutes; and the events of those that are not clean.
        let state = format!(
            "SELECT t.minute AS at, g.last_gen AS last_gen, t.touched_n > g.done_n AS is_dirty FROM \
             (SELECT minute, sum(n) AS touched_n FROM touched WHERE workspace = {{ws:String}} {} GROUP BY minute) AS t LEFT JOIN \
             (SELECT bucket, max(n) AS done_n, argMax(gen, (n, gen)) AS last_gen FROM rollup_gen WHERE rollup = '{}' AND workspace = {{ws:String}} {} \
             GROUP BY bucket) AS g ON t.minute = g.bucket",
            range("minute", period),
            table.rollup(),
            range("bucket", period),
        );
        let rolled = format!(
            "SELECT hour, sum(n) AS n, sum(more) AS more FROM (\
             SELECT toUnixTimestamp(toStartOfHour(minute)) AS hour, sum(events) AS n, toUInt64(0) AS more FROM {} WHERE workspace = {{ws:String}} {} \
             AND (minute, gen) IN (SELECT at, last_gen FROM ({state}) WHERE NOT is_dirty) GROUP BY hour \
             UNION ALL SELECT toUnixTimestamp(toStartOfHour(time)) AS hour, toUInt64(0) AS n, count() AS more FROM events FINAL \
             WHERE workspace = {{ws:String}} {inside} AND toStartOfMinute(time) IN (SELECT at FROM ({state}) WHERE is_dirty) GROUP BY hour) GROUP BY hour",
            table.name(),
            range("minute", period),
        );
        for row in bound(app, workspace, &rolled).fetch_all::<Count>().await? {
            let hour = hours.entry(row.hour).or_insert_with(|| blank(row.hour));
            hour.rolled_up.insert(table.rollup(), row.n);
            hour.not_yet.insert(table.rollup(), row.more);
        }
    }
    let asked = UsageQuery::new(workspace, "calls", period).windows(Window::Hour, chrono_tz::UTC);
    for row in usage::query(app, &asked).await?.rows {
        let at = u32::try_from(row.window.start.timestamp()).unwrap_or(0);
        hours.entry(at).or_insert_with(|| blank(at)).queried = row.value.to_plain_string().parse().unwrap_or(u64::MAX);
    }
    Ok(hours.into_values().collect())
}
