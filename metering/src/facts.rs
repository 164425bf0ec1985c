//! Where numbers come from: rollup rows of days, hours and minutes that are clean, and raw events of minutes that are
//! not, by one [`plan`]. Together exact, and fresh as soon as an event is stored.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::query::Query;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::{Period, floor_minute};

use crate::attribution::attributed_for;
use crate::dimension::Dimension;
use crate::filter::Parameters;
use crate::measure::{Measure, own_filters};
use crate::meters::Meter;
use crate::plan::{self, Runs};
use crate::rule::CountingRule;
use crate::tiers::Tier;
use crate::{MeteringError, activity, retention};

/// More dirty minutes than this are named as spans, where that is shorter.
const MOST_LISTED: usize = 5000;
const MOST_SPANS: usize = 1000;

/// What a question needs to know of events, from slim to full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Needs {
    Billing,
    Routes,
    /// Only the events themselves know.
    Raw,
}

/// Where rows come from.
#[derive(Debug, Clone)]
pub(crate) enum Table {
    Billing,
    Routes,
    /// Calls that qualify, by day; hours and minutes are those of `Routes`.
    Activity,
    /// The rollup of a meter's own.
    Meter(Arc<MeterTable>),
    Raw,
}

/// A meter that no common rollup can answer has its own, one for each version.
#[derive(Debug)]
pub(crate) struct MeterTable {
    /// `meter@version`, of a closed alphabet.
    pub name: String,
    /// Which attributed events, and what is computed of them.
    conditions: String,
    dims: String,
    measures: Vec<(&'static str, String)>,
    parameters: Parameters,
}

impl MeterTable {
    pub fn new(meter: &Meter) -> Result<Self, MeteringError> {
        let mut parameters = Parameters::default();
        let measure = Measure::new(&meter.definition, &mut parameters)?;
        let conditions = parameters.conditions(&own_filters(&meter.definition)?, "o");
        let mut dims = Vec::new();
        for (n, name) in meter.definition.group_by.iter().enumerate() {
            dims.push(parameters.dimension(&name.parse()?, &format!("k{n}")));
        }
        let dims = if dims.is_empty() { "emptyArrayString()".to_owned() } else { format!("[{}]", dims.join(", ")) };
        let measures = [("events", "count()".to_owned())].into_iter().chain(measure.kept).collect();
        Ok(Self { name: format!("{}@{}", meter.definition.name, meter.version), conditions, dims, measures, parameters })
    }

    /// Whether a meter needs one at all.
    pub fn is_needed(meter: &Meter) -> Result<bool, MeteringError> {
        let measure = Measure::new(&meter.definition, &mut Parameters::default())?;
        Ok(measure.needs == Needs::Raw || own_filters(&meter.definition)?.iter().any(|f| f.dimension.needs() == Needs::Raw))
    }

    /// Whether a rollup that keeps these dimensions knows this one.
    pub fn has(kept: &[Dimension], dimension: &Dimension) -> bool {
        matches!(dimension, Dimension::Consumer | Dimension::Subscription | Dimension::Plan) || kept.contains(dimension)
    }
}

impl Table {
    pub const COMMON: [Self; 2] = [Self::Billing, Self::Routes];

    /// Its minutes' name in `rollup_gen`.
    pub fn rollup(&self) -> String {
        self.rollup_of(Tier::Minute)
    }

    /// A tier's name in `rollup_gen`.
    pub fn rollup_of(&self, tier: Tier) -> String {
        match (self, tier) {
            (Self::Meter(table), Tier::Minute) => format!("{METER}{}", table.name),
            (Self::Meter(table), tier) => format!("{METER}{}{}", table.name, tier.suffix()),
            (other, Tier::Minute) => other.name_of(tier).to_owned(),
            (other, tier) => format!("{}{}", other.name_of(tier), tier.suffix()),
        }
    }

    /// The table that holds its minutes.
    pub fn name(&self) -> &'static str {
        self.name_of(Tier::Minute)
    }

    /// The table that holds a tier.
    pub fn name_of(&self, tier: Tier) -> &'static str {
        match (self, tier) {
            (Self::Billing, Tier::Minute) => "billing_minute",
            (Self::Billing, Tier::Hour) => "billing_hour",
            (Self::Billing, Tier::Day(_)) => "billing_day",
            (Self::Routes | Self::Activity, Tier::Minute) => "routes_minute",
            (Self::Routes | Self::Activity, Tier::Hour) => "routes_hour",
            (Self::Routes, Tier::Day(_)) => "routes_day",
            (Self::Activity, Tier::Day(_)) => "activity_day",
            (Self::Meter(_), Tier::Minute) => "meter_minute",
            (Self::Meter(_), Tier::Hour) => "meter_hour",
            (Self::Meter(_), Tier::Day(_)) => "meter_day",
            (Self::Raw, _) => "events",
        }
    }

    /// `INSERT INTO <a tier> ...` of the buckets of `bucket` (seconds since 1970, of a row of `from`, the finer tier),
    /// restricted by `only`.
    pub fn fill_tier(&self, tier: Tier, from: Tier, bucket: &str, only: &str, generation: u64) -> String {
        let measures: Vec<_> = match self {
            Self::Meter(table) => table.measures.iter().map(|(name, _)| *name).collect(),
            Self::Activity => vec!["events", "first", "last"],
            other => other.measures().iter().map(|(name, _)| *name).collect(),
        };
        let (columns, only) = match self {
            Self::Meter(table) => (format!("meter, {METER_DIMENSIONS}"), format!("meter = '{}' AND {only}", table.name)),
            Self::Activity => ("consumer, minute, credential".to_owned(), format!("{} AND {only}", activity::QUALIFIES)),
            other => (other.dimensions().to_owned(), only.to_owned()),
        };
        let dimensions: Vec<_> = columns.split(", ").map(|name| if name == "minute" { "of_bucket" } else { name }).collect();
        let dimensions = dimensions.join(", ");
        let merged: Vec<_> = measures.iter().map(|name| merged(name)).collect();
        format!(
            "INSERT INTO {} (rollup, workspace, {columns}, {}, gen) SELECT '{}', {{ws:String}}, {dimensions}, {}, toUInt64({generation}) FROM \
             (SELECT *, toDateTime({bucket}, 'UTC') AS of_bucket FROM {} WHERE workspace = {{ws:String}} AND {only}) GROUP BY {dimensions}",
            self.name_of(tier),
            measures.join(", "),
            self.rollup_of(tier),
            merged.join(", "),
            self.source().name_of(from),
        )
    }

    /// Whose finer tiers this one is filled from.
    pub fn source(&self) -> &Self {
        if matches!(self, Self::Activity) { &Self::Routes } else { self }
    }

    /// `INSERT INTO <rollup> ...` from attributed events, as one generation; with what it binds.
    pub fn fill(&self, attributed: &str, generation: u64) -> (String, Parameters) {
        let (dimensions, from, measures, parameters) = match self {
            Self::Meter(table) => (
                format!("'{}' AS meter, {METER_DIMENSIONS}", table.name),
                format!("(SELECT *, {} AS dims FROM ({attributed}) WHERE {})", table.dims, table.conditions),
                table.measures.clone(),
                table.parameters.clone(),
            ),
            other => {
                let measures = other.measures().iter().map(|(name, sql)| (*name, (*sql).to_owned())).collect();
                (other.dimensions().to_owned(), format!("({attributed})"), measures, Parameters::default())
            }
        };
        let columns = match self {
            Self::Meter(_) => format!("meter, {METER_DIMENSIONS}"),
            other => other.dimensions().to_owned(),
        };
        let (names, sqls): (Vec<_>, Vec<_>) = measures.into_iter().unzip();
        let sql = format!(
            "INSERT INTO {} (workspace, {columns}, {}, gen) SELECT {{ws:String}}, {dimensions}, {}, toUInt64({generation}) FROM {from} GROUP BY {columns}",
            self.name(),
            names.join(", "),
            sqls.join(", "),
        );
        (sql, parameters)
    }

    /// The columns that identify a group, `workspace` and `gen` aside.
    fn dimensions(&self) -> &'static str {
        match self {
            Self::Billing => "consumer, minute, subscription, plan, api, type, status, counted, reason",
            Self::Routes => {
                "consumer, minute, subscription, plan, credential, environment, api, api_version, route, method, type, marker, status, counted, reason"
            }
            Self::Meter(_) => METER_DIMENSIONS,
            Self::Activity | Self::Raw => "",
        }
    }

    /// A common rollup's measures: column and how it is computed from attributed events.
    fn measures(&self) -> &'static [(&'static str, &'static str)] {
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
            Self::Activity | Self::Meter(_) | Self::Raw => &[],
        }
    }
}

/// A measure of several rows as one.
fn merged(name: &str) -> String {
    let function = match name {
        "first" | "least" => "min",
        "last" | "most" => "max",
        "uniques" => "uniqExactMergeState",
        "newest" => "argMaxMergeState",
        "spread" => "quantileExactMergeState",
        _ => "sum",
    };
    format!("{function}({name})")
}

/// Before a meter's name in `rollup_gen`.
pub(crate) const METER: &str = "meter/";
const METER_DIMENSIONS: &str = "consumer, minute, subscription, plan, dims";

/// A column of the union: its name, its expression over a rollup row, and over an attributed event.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub name: String,
    pub rolled: String,
    pub raw: String,
}

impl Column {
    pub fn new(name: impl Into<String>, rolled: impl Into<String>, raw: impl Into<String>) -> Self {
        Self { name: name.into(), rolled: rolled.into(), raw: raw.into() }
    }

    /// Known by events alone.
    pub fn of_event(name: &str, raw: &str) -> Self {
        Self::new(name, "", raw)
    }
}

/// A query over facts. `select` is everything around the union, with `{facts}` in its place.
pub(crate) struct Facts<'a> {
    pub table: Table,
    pub period: Period,
    pub columns: Vec<Column>,
    /// Whether the question takes everything in [start, end), in seconds since 1970, together: such a stretch may be
    /// answered by one bucket.
    pub whole: &'a plan::Whole<'a>,
    /// Condition on rows of the rollup; empty for none.
    pub rolled: String,
    /// Condition on attributed events; empty for none.
    pub raw: String,
    /// ANDed to the choice of raw events, as in [`attributed_for`]; empty for none.
    pub scope: String,
    pub rule: &'a CountingRule,
    /// A list of what there is: events that have expired may be missing.
    pub may_be_partial: bool,
}

impl Facts<'_> {
    /// `outer` with `{facts}` replaced by the union; parameters still to be bound besides `ws` and the plan's.
    pub async fn query(&self, app: &App, workspace: &WorkspaceId, outer: &str) -> Result<Query, MeteringError> {
        if matches!(self.table, Table::Raw) {
            let frozen = retention::limits(app, workspace).await?.frozen;
            if self.period.start < frozen && !self.may_be_partial {
                return Err(retention::expired(frozen));
            }
            return Ok(bound(app, workspace, &self.raw_sql(outer)));
        }
        let (plan, zone) = plan::plan(app, workspace, &self.table, self.period, self.whole).await?;
        let mut branches = Vec::new();
        for (tier, runs) in [(Tier::Day(zone), &plan.days), (Tier::Hour, &plan.hours), (Tier::Minute, &plan.minutes)] {
            if !runs.is_empty() {
                branches.push(self.rolled_sql(tier, runs));
            }
        }
        if branches.is_empty() || !plan.dirty.is_empty() {
            branches.push(self.events_sql(&dirty_sql(&plan)));
        }
        Ok(bound(app, workspace, &outer.replace("{facts}", &branches.join(" UNION ALL "))))
    }

    /// From events alone, whatever the table.
    pub fn raw_sql(&self, outer: &str) -> String {
        outer.replace("{facts}", &self.events_sql(""))
    }

    fn events_sql(&self, scope: &str) -> String {
        let columns: Vec<_> = self.columns.iter().map(|c| format!("{} AS {}", c.raw, c.name)).collect();
        let scope = format!("{} {} {scope}", range("toStartOfMinute(time)", self.period), self.scope);
        let (columns, condition) = (columns.join(", "), format!("{}{}", exact(self.period), and(&self.raw)));
        let attributed = attributed_for(&format!("{columns} {condition}"), self.rule, &scope);
        format!("SELECT {columns} FROM ({attributed}) WHERE {condition}")
    }

    fn rolled_sql(&self, tier: Tier, runs: &Runs) -> String {
        let columns: Vec<_> = self.columns.iter().map(|c| format!("{} AS {}", c.rolled, c.name)).collect();
        // Of the calls by day only those that qualify are there.
        let condition = if matches!((&self.table, tier), (Table::Activity, Tier::Day(_))) { "" } else { &self.rolled };
        format!(
            "SELECT {} FROM {} WHERE workspace = {{ws:String}} {} AND {}{}",
            columns.join(", "),
            self.table.name_of(tier),
            range("minute", plan::whole_and_cut(self.period).0),
            runs.sql("minute"),
            and(condition)
        )
    }
}

/// Which events are read: those of dirty minutes.
fn dirty_sql(plan: &plan::Plan) -> String {
    if plan.dirty.len() > MOST_LISTED && plan.spans.len() <= MOST_SPANS {
        let spans: Vec<_> = plan
            .spans
            .iter()
            .map(|(first, last)| {
                let (first, last) = (minute_sql(i64::from(*first)), minute_sql(i64::from(*last)));
                format!("(toStartOfMinute(time) >= {first} AND toStartOfMinute(time) <= {last})")
            })
            .collect();
        return format!("AND ({})", spans.join(" OR "));
    }
    let minutes: Vec<_> = plan.dirty.iter().map(u32::to_string).collect();
    let minutes = if minutes.is_empty() { "0".to_owned() } else { minutes.join(", ") };
    format!("AND toStartOfMinute(time) IN ({minutes})")
}

/// The query with the workspace bound, in the manner all reads here have.
pub(crate) fn bound(app: &App, workspace: &WorkspaceId, sql: &str) -> Query {
    app.clickhouse
        .query_raw(sql)
        .with_setting("max_execution_time", "60")
        // A question that would need more is refused, not answered at the cost of all others.
        .with_setting("max_memory_usage", "4000000000")
        .with_setting("max_query_size", "4194304")
        .with_setting("do_not_merge_across_partitions_select_final", "1")
        .param("ws", workspace.as_str())
}

fn and(condition: &str) -> String {
    if condition.is_empty() { String::new() } else { format!(" AND {condition}") }
}

/// Whole minutes that overlap the period.
pub(crate) fn range(column: &str, period: Period) -> String {
    let start = floor_minute(period.start).timestamp();
    let end = floor_minute(period.end + TimeDelta::microseconds(59_999_999)).timestamp();
    format!("AND {column} >= {} AND {column} < {}", minute_sql(start), minute_sql(end))
}

pub(crate) fn exact(period: Period) -> String {
    format!("time >= {} AND time < {}", instant_sql(period.start), instant_sql(period.end))
}

/// A minute as ClickHouse's DateTime, within what it can hold.
pub(crate) fn minute_sql(seconds: i64) -> String {
    format!("toDateTime({}, 'UTC')", seconds.clamp(0, i64::from(u32::MAX)))
}

pub(crate) fn instant_sql(at: DateTime<Utc>) -> String {
    format!("fromUnixTimestamp64Micro({}, 'UTC')", at.timestamp_micros())
}
