//! Usage: a meter over windows, by dimensions. From rollups and the raw tail, exact and fresh.

mod compare;
mod windows;

use std::collections::{BTreeMap, HashMap};

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use clickhouse::Row;
use farebox_core::App;
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, SubscriptionId, WorkspaceId};
use farebox_core::period::{Period, Window};
use serde::Deserialize;

pub use compare::{Compare, change};

use crate::dimension::Dimension;
use crate::facts::{Column, Facts};
use crate::filter::Filter;
use crate::meters::{self, Meter};
use crate::plan::{self, Whole};
use crate::rule::CountingRule;
use crate::selection::Selection;
use crate::{MeteringError, completeness, rule};
use windows::Windows;

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
    /// All must hold.
    pub filters: Vec<Filter>,
    /// Only the groups with the greatest values over the whole period; the others together as one.
    pub top: Option<usize>,
    pub compare: Option<Compare>,
    /// Each window with all before it.
    pub cumulative: bool,
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
            top: None,
            compare: None,
            cumulative: false,
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
    pub fn only(self, dimension: Dimension, value: impl Into<String>) -> Self {
        self.filter(Filter::is(dimension, value))
    }

    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filters.push(filter);
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
    /// Dimension -> value, in the names of [`Dimension`]; empty for the groups that are summed as `other`.
    pub group: BTreeMap<String, String>,
    /// All groups beyond the top ones.
    pub other: bool,
    pub value: BigDecimal,
    /// Events whose value is no number: they are in no value, and listed by `meter_errors`.
    pub errors: u64,
    /// The value of the time compared with, where one is.
    pub previous: Option<BigDecimal>,
}

#[derive(Debug, Clone)]
pub struct UsageAnswer {
    /// Sorted by window, then group. Windows and groups without usage are left out, as is what has no value (the average
    /// of nothing); a count or sum without windows and groups always has one row.
    pub rows: Vec<UsageRow>,
    /// What was compared with.
    pub previous: Option<Period>,
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
    n: u64,
    failed: u64,
}

/// A row, its window by number.
#[derive(Debug, Clone)]
struct Counted {
    window: usize,
    group: Vec<String>,
    other: bool,
    value: BigDecimal,
    errors: u64,
    previous: Option<BigDecimal>,
}

impl Counted {
    fn key(&self) -> (usize, bool, Vec<String>) {
        (self.window, self.other, self.group.clone())
    }
}

pub async fn query(app: &App, query: &UsageQuery) -> Result<UsageAnswer, MeteringError> {
    let as_of = clock::now();
    if query.period.is_empty() {
        return Err(MeteringError::invalid("to", "must be after `from`"));
    }
    let windows = Windows::of(query.period, query.window, query.time_zone)?;
    let (meter, rule) = {
        let mut conn = app.pg.acquire().await?;
        let meter = meters::get(&mut conn, &query.workspace, &query.meter).await?;
        (meter.ok_or_else(|| unknown_meter(&query.meter))?, rule::current(&mut conn, &query.workspace).await?.1)
    };
    let question = Question::new(app, query, &meter, &rule)?;
    let (answered, completeness) = tokio::join!(question.answer(&windows, as_of), completeness::of(app, &query.workspace));
    let (counted, previous, more) = answered?;
    let row = |row: Counted| UsageRow {
        window: windows.whole(row.window),
        group: query.group_by.iter().map(|d| d.name().to_owned()).zip(row.group).collect(),
        other: row.other,
        value: row.value,
        errors: row.errors,
        previous: row.previous,
    };
    let rows = counted.into_iter().map(row).collect();
    Ok(UsageAnswer { rows, previous, more, as_of, complete_until: completeness?.complete_until })
}

/// A question with everything looked up that it needs.
struct Question<'a> {
    app: &'a App,
    asked: &'a UsageQuery,
    meter: &'a Meter,
    rule: &'a CountingRule,
    selection: Selection,
    columns: Vec<Column>,
}

impl<'a> Question<'a> {
    fn new(app: &'a App, asked: &'a UsageQuery, meter: &'a Meter, rule: &'a CountingRule) -> Result<Self, MeteringError> {
        let mut selection = Selection::new(meter, &asked.filters, &asked.group_by)?;
        if asked.cumulative && !selection.measure.is_additive() {
            return Err(MeteringError::invalid(
                "cumulative",
                format!("needs a meter that counts or sums; `{}` is the {} of its events", asked.meter, meter.definition.aggregate.name()),
            ));
        }
        let mut columns = vec![Column::new("minute", "minute", "minute")];
        columns.extend(selection.measure.columns.iter().cloned());
        for (n, dimension) in asked.group_by.iter().enumerate() {
            let (rolled, raw) = selection.dimension(dimension, &format!("g{n}"));
            columns.push(Column::new(format!("d{n}"), rolled, raw));
        }
        Ok(Self { app, asked, meter, rule, selection, columns })
    }

    /// The rows of the page asked for, what they are compared with, and whether there are more.
    async fn answer(&self, windows: &Windows, as_of: DateTime<Utc>) -> Result<(Vec<Counted>, Option<Period>, bool), MeteringError> {
        let asked = self.asked;
        let top = match asked.top {
            Some(n) if !asked.group_by.is_empty() => Some(self.top(n).await?),
            _ => None,
        };
        let limit = asked.limit.min(MAX_ROWS);
        if asked.compare.is_none() && !asked.cumulative {
            let mut rows = self.rows(asked.period, windows, top.as_deref(), limit + 1, asked.offset).await?;
            let more = rows.len() > limit;
            rows.truncate(limit);
            return Ok((self.counted(rows, windows)?, None, more));
        }
        let mut rows = self.whole(asked.period, windows, top.as_deref()).await?;
        let mut previous = None;
        if let Some(compare) = asked.compare {
            let earlier = compare.earlier(asked.period, asked.time_zone).filter(|period| period.start >= DateTime::UNIX_EPOCH);
            let earlier = earlier.ok_or_else(|| MeteringError::invalid("compare", "goes back before 1970"))?;
            let then = Windows::of(earlier, asked.window, asked.time_zone)?;
            let number_of = windows.count_until(asked.period.end);
            let then = self.whole(earlier, &then, top.as_deref()).await?;
            rows = compare::beside(rows, then, number_of, self.selection.measure.is_additive());
            previous = Some(earlier);
        }
        if asked.cumulative {
            rows = compare::running(rows, windows, as_of)?;
        }
        let more = rows.len() > asked.offset.saturating_add(limit);
        Ok((rows.into_iter().skip(asked.offset).take(limit).collect(), previous, more))
    }

    async fn whole(&self, period: Period, windows: &Windows, top: Option<&[String]>) -> Result<Vec<Counted>, MeteringError> {
        let rows = self.rows(period, windows, top, MAX_ROWS + 1, 0).await?;
        if rows.len() > MAX_ROWS {
            return Err(MeteringError::invalid(
                "group_by",
                format!(
                    "gives more than {MAX_ROWS} rows, which cannot be compared or added up; ask for `top` groups, wider windows or a shorter range"
                ),
            ));
        }
        self.counted(rows, windows)
    }

    /// The groups with the greatest values over the whole period.
    async fn top(&self, n: usize) -> Result<Vec<String>, MeteringError> {
        let outer = format!(
            "SELECT toString({}) AS key FROM ({{facts}}) GROUP BY key ORDER BY {} DESC, key LIMIT {n}",
            self.dims(),
            self.selection.measure.rank
        );
        Ok(self.facts(self.asked.period, &plan::any, &outer).await?.fetch_all::<String>().await?)
    }

    async fn rows(
        &self,
        period: Period,
        windows: &Windows,
        top: Option<&[String]>,
        limit: usize,
        offset: usize,
    ) -> Result<Vec<Found>, MeteringError> {
        let dims = match top {
            Some(_) => format!("if(has({{top:Array(String)}}, toString({0})), {0}, emptyArrayString())", self.dims()),
            None => self.dims(),
        };
        // Without windows and groups an aggregation has one row, also of nothing.
        let grouping = if self.asked.window == Window::None && self.asked.group_by.is_empty() { "" } else { "GROUP BY w, dims" };
        let outer = format!(
            "SELECT {} AS w, {dims} AS dims, {} FROM ({{facts}}) {grouping} ORDER BY w, empty(dims), dims LIMIT {limit} OFFSET {offset}",
            windows.sql(),
            self.selection.measure.value
        );
        let mut query = windows.bind(self.facts(period, &|start, end| windows.hold(start, end), &outer).await?);
        if let Some(top) = top {
            query = query.param("top", top);
        }
        Ok(query.fetch_all().await?)
    }

    fn dims(&self) -> String {
        let dims: Vec<_> = (0..self.asked.group_by.len()).map(|n| format!("d{n}")).collect();
        if dims.is_empty() { "emptyArrayString()".to_owned() } else { format!("[{}]", dims.join(", ")) }
    }

    async fn facts(&self, period: Period, whole: &Whole<'_>, outer: &str) -> Result<clickhouse::query::Query, MeteringError> {
        let facts = Facts {
            table: self.selection.table.clone(),
            period,
            whole,
            columns: self.columns.clone(),
            rolled: self.selection.rolled.clone(),
            raw: self.selection.raw.clone(),
            scope: String::new(),
            rule: self.rule,
            may_be_partial: false,
        };
        Ok(self.selection.parameters.bind(facts.query(self.app, &self.asked.workspace, outer).await?))
    }

    fn counted(&self, found: Vec<Found>, windows: &Windows) -> Result<Vec<Counted>, MeteringError> {
        let mut rows = Vec::with_capacity(found.len());
        for row in found {
            let Some(value) = self.selection.measure.quantity(&self.meter.definition, &row.value, row.n)? else { continue };
            let other = row.dims.is_empty() && !self.asked.group_by.is_empty();
            rows.push(Counted { window: windows.number(row.w), group: row.dims, other, value, errors: row.failed, previous: None });
        }
        Ok(rows)
    }
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

/// The same for every subscription that has a value, in one question (and one more for every [`MAX_ROWS`] of them).
pub async fn totals(app: &App, workspace: &WorkspaceId, meter: &str, period: Period) -> Result<HashMap<String, BigDecimal>, MeteringError> {
    let mut found = HashMap::new();
    let mut asked = UsageQuery::new(workspace, meter, period).by(Dimension::Subscription);
    loop {
        let answer = query(app, &asked).await?;
        asked.offset += answer.rows.len();
        let of = |mut row: UsageRow| Some((row.group.remove(Dimension::Subscription.name())?, row.value));
        found.extend(answer.rows.into_iter().filter_map(of));
        if !answer.more {
            return Ok(found);
        }
    }
}

pub(crate) fn unknown_meter(name: &str) -> MeteringError {
    let shown: String = name.chars().take(64).collect();
    MeteringError::invalid("meter", format!("there is no meter `{shown}`; see GET /api/v1/meters"))
}
