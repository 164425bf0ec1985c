//! Where numbers come from: rollup rows of minutes that are clean, and raw events of those that are not, planned from
//! one snapshot within one query. Together exact, and fresh as soon as an event is stored.

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::query::Query;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::{Period, floor_minute};

use crate::attribution::attributed;
use crate::rule::CountingRule;

/// From slim to full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    Billing,
    Routes,
    /// Only the events themselves know.
    Raw,
}

impl Table {
    pub const ROLLUPS: [Self; 2] = [Self::Billing, Self::Routes];

    pub fn name(self) -> &'static str {
        match self {
            Self::Billing => "billing_minute",
            Self::Routes => "routes_minute",
            Self::Raw => "events",
        }
    }

    /// The columns that identify a group of a rollup, `workspace` and `gen` aside.
    pub fn dimensions(self) -> &'static str {
        match self {
            Self::Billing => "consumer, minute, subscription, plan, api, type, status, counted, reason",
            Self::Routes => {
                "consumer, minute, subscription, plan, credential, environment, api, api_version, route, method, type, marker, status, counted, reason"
            }
            Self::Raw => "",
        }
    }

    /// A rollup's measures: column and how it is computed from attributed events.
    pub fn measures(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Billing => &[("events", "count()")],
            Self::Routes => &[
                ("events", "count()"),
                ("latency_us", "sum(latency_us)"),
                ("request_bytes", "sum(request_bytes)"),
                ("response_bytes", "sum(response_bytes)"),
                ("first", "min(time)"),
                ("last", "max(time)"),
            ],
            Self::Raw => &[],
        }
    }
}

/// A column of the union: its name, its expression over a rollup row, and over an attributed event.
pub(crate) type Column<'a> = (&'a str, String, String);

/// A query over facts. `select` is everything around the union, with `{facts}` in its place.
pub(crate) struct Facts<'a> {
    pub table: Table,
    pub period: Period,
    pub columns: Vec<Column<'a>>,
    /// Condition over dimensions, empty for none.
    pub filter: String,
    pub rule: &'a CountingRule,
}

impl Facts<'_> {
    /// `outer` with `{facts}` replaced by the union; parameters still to be bound besides `ws`.
    pub fn query(&self, app: &App, workspace: &WorkspaceId, outer: &str) -> Query {
        bound(app, workspace, &self.sql(outer))
    }

    pub fn sql(&self, outer: &str) -> String {
        let raw = |scope: &str| {
            let columns: Vec<_> = self.columns.iter().map(|(name, _, raw)| format!("{raw} AS {name}")).collect();
            format!(
                "SELECT {} FROM ({}) WHERE {}{}",
                columns.join(", "),
                attributed(self.rule, scope),
                exact(self.period),
                and(&self.filter)
            )
        };
        if self.table == Table::Raw {
            return outer.replace("{facts}", &raw(&range("toStartOfMinute(time)", self.period)));
        }
        let rolled: Vec<_> = self.columns.iter().map(|(name, rolled, _)| format!("{rolled} AS {name}")).collect();
        let rolled = format!(
            "SELECT {} FROM {} WHERE workspace = {{ws:String}} {} AND (minute, gen) IN \
             (SELECT x.1, x.2 FROM (SELECT arrayJoin(tupleElement(clean_and_dirty, 1)) AS x)){}",
            rolled.join(", "),
            self.table.name(),
            range("minute", self.period),
            and(&self.filter)
        );
        let dirty = format!(
            "{} AND toStartOfMinute(time) IN (SELECT arrayJoin(tupleElement(clean_and_dirty, 2)))",
            range("toStartOfMinute(time)", self.period)
        );
        let facts = format!("{rolled} UNION ALL {}", raw(&dirty));
        format!("WITH ({}) AS clean_and_dirty {}", self.plan(), outer.replace("{facts}", &facts))
    }

    /// Which minutes are clean, with their current generation, and which are not (or are cut by the period's ends).
    /// A scalar, so it is evaluated once and both branches see the same snapshot.
    fn plan(&self) -> String {
        let (start, end) = (self.period.start.timestamp(), self.period.end.timestamp());
        // A minute that the period's ends cut is always read from its events.
        let clean = format!(
            "g.done_n >= t.touched_n AND t.minute >= {} AND t.minute <= {}",
            minute_sql(if floor_minute(self.period.start) == self.period.start { start } else { start + 60 }),
            minute_sql((end - 60).max(0))
        );
        format!(
            "SELECT (groupArrayIf((t.minute, g.gen), {clean}), groupArrayIf(t.minute, NOT ({clean}))) FROM \
             (SELECT minute, sum(n) AS touched_n FROM touched WHERE workspace = {{ws:String}} {} GROUP BY minute) AS t LEFT JOIN \
             (SELECT bucket, max(n) AS done_n, argMax(gen, (n, gen)) AS gen FROM rollup_gen WHERE rollup = '{}' AND workspace = {{ws:String}} {} \
             GROUP BY bucket) AS g ON t.minute = g.bucket",
            range("minute", self.period),
            self.table.name(),
            range("bucket", self.period)
        )
    }
}

/// The query with the workspace bound, in the manner all reads here have.
pub(crate) fn bound(app: &App, workspace: &WorkspaceId, sql: &str) -> Query {
    app.clickhouse
        .query_raw(sql)
        .with_setting("max_execution_time", "60")
        .with_setting("max_query_size", "4194304")
        .with_setting("do_not_merge_across_partitions_select_final", "1")
        .param("ws", workspace.as_str())
}

fn and(condition: &str) -> String {
    if condition.is_empty() { String::new() } else { format!(" AND {condition}") }
}

/// Whole minutes that overlap the period.
fn range(column: &str, period: Period) -> String {
    let start = floor_minute(period.start).timestamp();
    let end = floor_minute(period.end + TimeDelta::microseconds(59_999_999)).timestamp();
    format!("AND {column} >= {} AND {column} < {}", minute_sql(start), minute_sql(end))
}

fn exact(period: Period) -> String {
    format!("time >= {} AND time < {}", instant_sql(period.start), instant_sql(period.end))
}

/// A minute as ClickHouse's DateTime, within what it can hold.
pub(crate) fn minute_sql(seconds: i64) -> String {
    format!("toDateTime({}, 'UTC')", seconds.clamp(0, i64::from(u32::MAX)))
}

pub(crate) fn instant_sql(at: DateTime<Utc>) -> String {
    format!("fromUnixTimestamp64Micro({}, 'UTC')", at.timestamp_micros())
}
