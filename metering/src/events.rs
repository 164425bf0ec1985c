//! Raw events, one by one, as they were counted.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use serde::{Deserialize, Serialize};

use crate::facts::{Column, Facts, Table};
use crate::filter::Filter;
use crate::meters::{self, Meter};
use crate::selection::Selection;
use crate::usage::unknown_meter;
use crate::{MeteringError, plan, rule};

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Event {
    /// Its identity in the workspace.
    pub id: String,
    pub time: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub subject: String,
    pub credential: String,
    /// As attributed now; empty when nobody's.
    pub consumer: String,
    pub subscription: String,
    pub plan: String,
    pub api: String,
    pub api_version: String,
    pub route: String,
    pub method: String,
    pub status: u16,
    pub latency_us: u32,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub environment: String,
    pub answered_by: String,
    pub gateway: String,
    pub country: String,
    pub counted: bool,
    /// Why it does not count; empty when it does.
    pub reason: String,
    pub properties: BTreeMap<String, String>,
    /// What the meter asked about measures of it, before `divide_by`: 1 for a count; as it came where it is no number.
    pub amount: String,
    /// Whether that is a value at all: one that is none is counted as a meter error, never as 0.
    pub valid: bool,
}

/// Which events.
#[derive(Debug, Clone)]
pub struct EventsQuery {
    pub workspace: WorkspaceId,
    pub period: Period,
    /// All must hold.
    pub filters: Vec<Filter>,
    /// Only those behind this meter's number; `calls` are all.
    pub meter: String,
    /// Only those whose value is none.
    pub only_errors: bool,
    /// Only these identities.
    pub ids: Option<Vec<String>>,
    /// Those before: time and id of the last one had.
    pub before: Option<(DateTime<Utc>, String)>,
    pub limit: usize,
}

impl EventsQuery {
    pub fn new(workspace: &WorkspaceId, period: Period) -> Self {
        Self {
            workspace: workspace.clone(),
            period,
            filters: Vec::new(),
            meter: "calls".to_owned(),
            only_errors: false,
            ids: None,
            before: None,
            limit: 50,
        }
    }
}

#[derive(Row, Deserialize)]
struct Found {
    id: String,
    at: i64,
    received: i64,
    words: Vec<String>,
    status: u16,
    latency_us: u32,
    request_bytes: u64,
    response_bytes: u64,
    counted: bool,
    properties: Vec<(String, String)>,
    seen: String,
    valid: bool,
}

/// In the order of `words`.
const WORDS: [&str; 16] = [
    "source",
    "type",
    "subject",
    "credential",
    "consumer",
    "subscription",
    "plan",
    "api",
    "api_version",
    "route",
    "method",
    "environment",
    "answered_by",
    "gateway",
    "country",
    "reason",
];

/// Events, the newest first.
pub async fn list(app: &App, asked: &EventsQuery) -> Result<Vec<Event>, MeteringError> {
    list_of_minutes(app, asked, None).await
}

/// As [`list`], of these minutes only, which must hold the period.
pub(crate) async fn list_of_minutes(app: &App, asked: &EventsQuery, minutes: Option<&BTreeSet<u32>>) -> Result<Vec<Event>, MeteringError> {
    if asked.period.is_empty() {
        return Ok(Vec::new());
    }
    let (meter, rule): (Meter, _) = {
        let mut conn = app.pg.acquire().await?;
        let meter = meters::get(&mut conn, &asked.workspace, &asked.meter).await?;
        (meter.ok_or_else(|| unknown_meter(&asked.meter))?, rule::current(&mut conn, &asked.workspace).await?.1)
    };
    let selection = Selection::new(&meter, &asked.filters, &[])?;
    let words = WORDS.map(|w| format!("toString({w})")).join(", ");
    let columns = vec![
        Column::of_event("id", "id"),
        Column::of_event("at", "toUnixTimestamp64Micro(time)"),
        Column::of_event("received", "toUnixTimestamp64Milli(received_at)"),
        Column::of_event("words", &format!("[{words}]")),
        Column::of_event("status", "status"),
        Column::of_event("latency_us", "latency_us"),
        Column::of_event("request_bytes", "request_bytes"),
        Column::of_event("response_bytes", "response_bytes"),
        Column::of_event("counted", "counted"),
        Column::of_event("properties", "CAST(properties, 'Map(String, String)')"),
        Column::of_event("seen", &selection.measure.seen),
        Column::of_event("valid", &format!("toBool({})", selection.measure.valid)),
    ];
    let mut raw = selection.raw.clone();
    let mut scope = String::new();
    if asked.ids.is_some() {
        scope.push_str("AND id IN {ids:Array(String)} ");
    }
    if let Some(minutes) = minutes {
        let minutes: Vec<_> = minutes.iter().map(u32::to_string).collect();
        scope.push_str(&format!("AND toStartOfMinute(time) IN ({})", minutes.join(", ")));
    }
    if asked.only_errors {
        raw.push_str(&format!(" AND NOT ({})", selection.measure.valid));
    }
    if asked.before.is_some() {
        raw.push_str(" AND (toUnixTimestamp64Micro(time), id) < ({before_at:Int64}, {before_id:String})");
    }
    let facts = Facts {
        table: Table::Raw,
        period: asked.period,
        whole: &plan::never,
        columns,
        rolled: String::new(),
        raw,
        scope,
        rule: &rule,
        may_be_partial: true,
    };
    let outer = format!(
        "SELECT id, at, received, words, status, latency_us, request_bytes, response_bytes, counted, properties, seen, valid FROM ({{facts}}) \
         ORDER BY at DESC, id DESC LIMIT {}",
        asked.limit
    );
    let mut query = selection.parameters.bind(facts.query(app, &asked.workspace, &outer).await?);
    if let Some(ids) = &asked.ids {
        query = query.param("ids", ids);
    }
    if let Some((at, id)) = &asked.before {
        query = query.param("before_at", at.timestamp_micros()).param("before_id", id);
    }
    let found: Vec<Found> = query.fetch_all().await?;
    Ok(found.into_iter().map(Event::from).collect())
}

impl From<Found> for Event {
    fn from(row: Found) -> Self {
        let mut words = row.words.into_iter();
        let mut word = || words.next().unwrap_or_default();
        Self {
            id: row.id,
            time: DateTime::from_timestamp_micros(row.at).unwrap_or_default(),
            received_at: DateTime::from_timestamp_millis(row.received).unwrap_or_default(),
            source: word(),
            kind: word(),
            subject: word(),
            credential: word(),
            consumer: word(),
            subscription: word(),
            plan: word(),
            api: word(),
            api_version: word(),
            route: word(),
            method: word(),
            environment: word(),
            answered_by: word(),
            gateway: word(),
            country: word(),
            reason: word(),
            status: row.status,
            latency_us: row.latency_us,
            request_bytes: row.request_bytes,
            response_bytes: row.response_bytes,
            counted: row.counted,
            properties: row.properties.into_iter().collect(),
            amount: row.seen,
            valid: row.valid,
        }
    }
}
