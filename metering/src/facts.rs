//! Where numbers come from: rollup rows of minutes that are clean, and raw events of those that are not, by one
//! [`plan`]. Together exact, and fresh as soon as an event is stored.

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::query::Query;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::{Period, floor_minute};

use crate::attribution::attributed;
use crate::rule::CountingRule;
use crate::{MeteringError, plan};

/// With more dirty minutes than this, everything is read from events.
const MOST_DIRTY: usize = 5000;

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
    /// `outer` with `{facts}` replaced by the union; parameters still to be bound besides `ws` and the plan's.
    pub async fn query(&self, app: &App, workspace: &WorkspaceId, outer: &str) -> Result<Query, MeteringError> {
        if self.table == Table::Raw {
            return Ok(bound(app, workspace, &self.raw_sql(outer)));
        }
        let plan = plan::plan(app, workspace, self.table, self.period).await?;
        if plan.dirty.len() > MOST_DIRTY {
            return Ok(bound(app, workspace, &self.raw_sql(outer)));
        }
        let mut branches = Vec::new();
        if !plan.starts.is_empty() {
            branches.push(self.rolled());
        }
        if branches.is_empty() || !plan.dirty.is_empty() {
            let minutes: Vec<_> = plan.dirty.iter().map(u32::to_string).collect();
            let minutes = if minutes.is_empty() { "0".to_owned() } else { minutes.join(", ") };
            branches.push(self.raw(&format!("AND toStartOfMinute(time) IN ({minutes})")));
        }
        let query = bound(app, workspace, &outer.replace("{facts}", &branches.join(" UNION ALL ")));
        if plan.starts.is_empty() {
            return Ok(query);
        }
        Ok(query.param("plan_starts", plan.starts).param("plan_gens", plan.gens))
    }

    /// From events alone, whatever the table.
    pub fn raw_sql(&self, outer: &str) -> String {
        outer.replace("{facts}", &self.raw(""))
    }

    fn raw(&self, scope: &str) -> String {
        let columns: Vec<_> = self.columns.iter().map(|(name, _, raw)| format!("{raw} AS {name}")).collect();
        let scope = format!("{} {scope}", range("toStartOfMinute(time)", self.period));
        format!("SELECT {} FROM ({}) WHERE {}{}", columns.join(", "), attributed(self.rule, &scope), exact(self.period), and(&self.filter))
    }

    fn rolled(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(|(name, rolled, _)| format!("{rolled} AS {name}")).collect();
        format!(
            "SELECT {} FROM {} WHERE workspace = {{ws:String}} {} AND gen = transform(roundDown(toUnixTimestamp(minute), {{plan_starts:Array(UInt32)}}), \
             {{plan_starts:Array(UInt32)}}, {{plan_gens:Array(UInt64)}}, toUInt64(0)){}",
            columns.join(", "),
            self.table.name(),
            range("minute", plan::whole_and_cut(self.period).0),
            and(&self.filter)
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
