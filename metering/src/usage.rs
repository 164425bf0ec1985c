//! Usage: a meter over windows, by dimensions. From rollups and the raw tail, exact and fresh.

use std::collections::BTreeMap;

use bigdecimal::{BigDecimal, RoundingMode};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use clickhouse::Row;
use farebox_core::App;
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, SubscriptionId, WorkspaceId};
use farebox_core::money::MAX_DECIMALS;
use farebox_core::period::{self, Period, Window};
use serde::Deserialize;

use crate::dimension::Dimension;
use crate::facts::{Facts, Table};
use crate::meters::{self, Aggregate, Definition, Meter};
use crate::{MeteringError, completeness, rule};

/// Rows in one answer, at most.
pub const MAX_ROWS: usize = 100_000;
/// Windows in one answer, at most: a month by minute.
pub const MAX_WINDOWS: usize = 50_000;

#[derive(Debug, Clone)]
pub struct UsageQuery {
    pub workspace: WorkspaceId,
    /// `calls`, `requests` or a meter of the catalogue.
    pub meter: String,
    pub period: Period,
    pub window: Window,
    /// Days and longer follow its calendar.
    pub time_zone: Tz,
    pub group_by: Vec<Dimension>,
    /// Each dimension has one of the values; several of one dimension are all required.
    pub filters: Vec<(Dimension, Vec<String>)>,
    pub limit: usize,
    /// Rows to skip, for the next page.
    pub offset: usize,
}

impl UsageQuery {
    /// The meter over the whole period, as one number.
    pub fn new(workspace: &WorkspaceId, meter: &str, period: Period) -> Self {
        Self {
            workspace: workspace.clone(),
            meter: meter.to_owned(),
            period,
            window: Window::None,
            time_zone: Tz::UTC,
            group_by: Vec::new(),
            filters: Vec::new(),
            limit: MAX_ROWS,
            offset: 0,
        }
    }

    #[must_use]
    pub fn windows(mut self, window: Window, time_zone: Tz) -> Self {
        (self.window, self.time_zone) = (window, time_zone);
        self
    }

    #[must_use]
    pub fn by(mut self, dimension: Dimension) -> Self {
        self.group_by.push(dimension);
        self
    }

    #[must_use]
    pub fn only(mut self, dimension: Dimension, value: impl Into<String>) -> Self {
        self.filters.push((dimension, vec![value.into()]));
        self
    }

    #[must_use]
    pub fn of_consumer(self, consumer: &ConsumerId) -> Self {
        self.only(Dimension::Consumer, consumer.as_str())
    }

    #[must_use]
    pub fn of_subscription(self, subscription: &SubscriptionId) -> Self {
        self.only(Dimension::Subscription, subscription.as_str())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct UsageRow {
    /// The calendar's own window, also where the period cuts it.
    pub window: Period,
    /// Dimension -> value, in the names of [`Dimension`].
    pub group: BTreeMap<String, String>,
    pub value: BigDecimal,
}

#[derive(Debug, Clone)]
pub struct UsageAnswer {
    /// Sorted by window, then group. Windows and groups without usage are left out; without windows and groups there
    /// is always one row.
    pub rows: Vec<UsageRow>,
    /// There are further rows: ask again with `offset` moved on.
    pub more: bool,
    pub as_of: DateTime<Utc>,
    pub complete_until: DateTime<Utc>,
}

#[derive(Row, Deserialize)]
struct Found {
    w: u32,
    dims: Vec<String>,
    value: String,
}

pub async fn query(app: &App, query: &UsageQuery) -> Result<UsageAnswer, MeteringError> {
    let as_of = clock::now();
    let (meter, rule) = {
        let mut conn = app.pg.acquire().await?;
        let meter = meters::get(&mut conn, &query.workspace, &query.meter).await?;
        (meter.ok_or_else(|| unknown_meter(&query.meter))?, rule::current(&mut conn, &query.workspace).await?.1)
    };
    if query.period.is_empty() {
        return Err(MeteringError::invalid("to", "must be after `from`"));
    }
    let windows = Windows::of(query)?;
    let selection = Selection::new(&meter.definition, &query.filters, &query.group_by)?;
    let dims: Vec<_> = (0..query.group_by.len()).map(|n| format!("d{n}")).collect();
    let dims = if dims.is_empty() { "emptyArrayString()".to_owned() } else { format!("[{}]", dims.join(", ")) };
    let mut columns = vec![("minute", "minute".to_owned(), "minute".to_owned()), selection.amount.clone()];
    let names: Vec<_> = (0..query.group_by.len()).map(|n| (format!("d{n}"), format!("g{n}"))).collect();
    for (dimension, (name, parameter)) in query.group_by.iter().zip(&names) {
        columns.push((name, dimension.sql(parameter), dimension.sql(parameter)));
    }
    // Without windows and groups an aggregation has one row, also of nothing.
    let grouping = if query.window == Window::None && query.group_by.is_empty() { "" } else { "GROUP BY w, dims" };
    let outer = format!(
        "SELECT {} AS w, {dims} AS dims, toString(sum(amount)) AS value FROM ({{facts}}) {grouping} ORDER BY w, dims LIMIT {} OFFSET {}",
        windows.sql(),
        query.limit.min(MAX_ROWS) + 1,
        query.offset
    );
    let facts = Facts { table: selection.table, period: query.period, columns, filter: selection.filter.clone(), rule: &rule };
    let mut bound = selection.bind(facts.query(app, &query.workspace, &outer).await?);
    for (dimension, (_, parameter)) in query.group_by.iter().zip(&names) {
        if let Dimension::Property(pointer) = dimension {
            bound = bound.param(parameter, pointer);
        }
    }
    if let Windows::Edges(edges) = &windows {
        bound = bound.param("edges", edges.iter().map(|w| seconds(w.start)).collect::<Vec<u32>>());
    }
    let (found, completeness) = tokio::join!(bound.fetch_all::<Found>(), completeness::of(app, &query.workspace));
    let mut found = found?;
    let more = found.len() > query.limit.min(MAX_ROWS);
    found.truncate(query.limit.min(MAX_ROWS));
    let mut rows = Vec::with_capacity(found.len());
    for row in found {
        rows.push(UsageRow {
            window: windows.whole(row.w, query.period),
            group: query.group_by.iter().map(|d| d.name().to_owned()).zip(row.dims).collect(),
            value: scaled(&meter, &row.value)?,
        });
    }
    Ok(UsageAnswer { rows, more, as_of, complete_until: completeness?.complete_until })
}

/// The exact value of a meter for a subscription in a period: what rating takes.
pub async fn total(
    app: &App,
    workspace: &WorkspaceId,
    meter: &str,
    subscription: &SubscriptionId,
    period: Period,
) -> Result<BigDecimal, MeteringError> {
    if period.is_empty() {
        return Ok(BigDecimal::from(0));
    }
    let answer = query(app, &UsageQuery::new(workspace, meter, period).of_subscription(subscription)).await?;
    Ok(answer.rows.into_iter().map(|row| row.value).next().unwrap_or_default())
}

pub(crate) fn unknown_meter(name: &str) -> MeteringError {
    let shown: String = name.chars().take(64).collect();
    MeteringError::invalid("meter", format!("there is no meter `{shown}`; see GET /api/v1/meters"))
}

/// The unscaled sum as the meter's quantity.
pub(crate) fn scaled(meter: &Meter, sum: &str) -> Result<BigDecimal, MeteringError> {
    let sum: BigDecimal = sum.parse().map_err(|e| MeteringError::unreadable("a sum", e))?;
    Ok(match &meter.definition.divide_by {
        Some(by) => (sum / by).with_scale_round(MAX_DECIMALS, RoundingMode::HalfEven).normalized(),
        None => sum.normalized(),
    })
}

fn seconds(at: DateTime<Utc>) -> u32 {
    u32::try_from(at.timestamp().max(0)).unwrap_or(u32::MAX)
}

/// How a minute finds its window.
enum Windows {
    One,
    Minutes,
    Edges(Vec<Period>),
}

impl Windows {
    fn of(query: &UsageQuery) -> Result<Self, MeteringError> {
        let too_many = || {
            MeteringError::invalid(
                "window",
                format!("would give more than {MAX_WINDOWS} windows; choose a wider window or a shorter range"),
            )
        };
        match query.window {
            Window::None => Ok(Self::One),
            Window::Minute => {
                let minutes = (query.period.end - query.period.start).num_minutes();
                if minutes > i64::try_from(MAX_WINDOWS).unwrap_or(i64::MAX) { Err(too_many()) } else { Ok(Self::Minutes) }
            }
            width => period::windows(query.period, width, query.time_zone, MAX_WINDOWS).map(Self::Edges).ok_or_else(too_many),
        }
    }

    fn sql(&self) -> &'static str {
        match self {
            Self::One => "toUInt32(0)",
            Self::Minutes => "toUnixTimestamp(minute)",
            Self::Edges(_) => "roundDown(toUnixTimestamp(minute), {edges:Array(UInt32)})",
        }
    }

    fn whole(&self, start: u32, period: Period) -> Period {
        match self {
            Self::One => period,
            Self::Minutes => {
                let start = DateTime::from_timestamp(i64::from(start), 0).unwrap_or_default();
                Period { start, end: start + chrono::TimeDelta::minutes(1) }
            }
            Self::Edges(edges) => edges[..edges.partition_point(|w| seconds(w.start) <= start)].last().copied().unwrap_or(period),
        }
    }
}

/// Which events a meter and filters choose, from which table, and what is summed.
pub(crate) struct Selection {
    pub table: Table,
    pub filter: String,
    pub amount: (&'static str, String, String),
    parameters: Vec<(String, Parameter)>,
}

enum Parameter {
    Text(String),
    Texts(Vec<String>),
}

impl Selection {
    pub fn new(meter: &Definition, filters: &[(Dimension, Vec<String>)], group_by: &[Dimension]) -> Result<Self, MeteringError> {
        let mut all = filters.to_vec();
        if !meter.event.is_empty() {
            all.push((Dimension::Type, vec![meter.event.clone()]));
        }
        if meter.counted {
            all.push((Dimension::Counted, vec!["true".to_owned()]));
        }
        for (name, values) in &meter.filter {
            all.push((name.parse()?, values.clone()));
        }
        let mut parameters = Vec::new();
        let mut conditions = Vec::new();
        for (n, (dimension, values)) in all.iter().enumerate() {
            conditions.push(format!("has({{f{n}:Array(String)}}, {})", dimension.sql(&format!("p{n}"))));
            parameters.push((format!("f{n}"), Parameter::Texts(values.clone())));
            if let Dimension::Property(pointer) = dimension {
                parameters.push((format!("p{n}"), Parameter::Text(pointer.clone())));
            }
        }
        let (amount, of_amount) = match (meter.aggregate, meter.value.as_deref()) {
            (Aggregate::Count, _) | (Aggregate::Sum, None) => {
                (("amount", "toUInt128(events)".to_owned(), "toUInt128(1)".to_owned()), Table::Billing)
            }
            (Aggregate::Sum, Some(field @ ("latency_us" | "request_bytes" | "response_bytes"))) => {
                (("amount", format!("toUInt128({field})"), format!("toUInt128({field})")), Table::Routes)
            }
            (Aggregate::Sum, Some(pointer)) => {
                parameters.push(("value".to_owned(), Parameter::Text(pointer.to_owned())));
                (("amount", String::new(), exact_decimal("properties[{value:String}]")), Table::Raw)
            }
        };
        let table = all.iter().map(|(d, _)| d).chain(group_by).map(Dimension::table).chain([of_amount]).max().unwrap_or(Table::Billing);
        Ok(Self { table, filter: conditions.join(" AND "), amount, parameters })
    }

    /// What is bound, by name.
    pub fn parameters(&self) -> BTreeMap<String, serde_json::Value> {
        let value = |parameter: &Parameter| match parameter {
            Parameter::Text(text) => text.as_str().into(),
            Parameter::Texts(texts) => texts.clone().into(),
        };
        self.parameters.iter().map(|(name, parameter)| (name.clone(), value(parameter))).collect()
    }

    pub fn bind(&self, mut query: clickhouse::query::Query) -> clickhouse::query::Query {
        for (name, value) in &self.parameters {
            query = match value {
                Parameter::Text(text) => query.param(name, text),
                Parameter::Texts(texts) => query.param(name, texts),
            };
        }
        query
    }
}

/// A decimal of at most 12 places, exactly; 0 for anything else (which `toDecimal…OrZero` alone would cut off).
fn exact_decimal(value: &str) -> String {
    format!("if(match({value}, '^-?[0-9]{{1,26}}([.][0-9]{{1,12}})?$'), toDecimal256OrZero({value}, 12), toDecimal256(0, 12))")
}
