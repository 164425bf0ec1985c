//! Raw events, one by one, as they were counted.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use serde::{Deserialize, Serialize};

use crate::dimension::Dimension;
use crate::facts::{Facts, Table};
use crate::meters::Meter;
use crate::usage::Selection;
use crate::{MeteringError, rule};

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

/// Up to `limit` events of the period, newest first, those before `before` (time and id of the last one had).
pub async fn list(
    app: &App,
    workspace: &WorkspaceId,
    period: Period,
    filters: &[(Dimension, Vec<String>)],
    id: Option<&str>,
    before: Option<(DateTime<Utc>, &str)>,
    limit: usize,
) -> Result<Vec<Event>, MeteringError> {
    if period.is_empty() {
        return Ok(Vec::new());
    }
    let rule = rule::current(&mut *app.pg.acquire().await?, workspace).await?.1;
    let calls = Meter::builtin("calls").ok_or_else(|| MeteringError::NotFound("meter"))?;
    let selection = Selection::new(&calls.definition, filters, &[])?;
    let words = WORDS.map(|w| format!("toString({w})")).join(", ");
    let column = |name, raw: &str| (name, String::new(), raw.to_owned());
    let columns = vec![
        column("id", "id"),
        column("at", "toUnixTimestamp64Micro(time)"),
        column("received", "toUnixTimestamp64Milli(received_at)"),
        column("words", &format!("[{words}]")),
        column("status", "status"),
        column("latency_us", "latency_us"),
        column("request_bytes", "request_bytes"),
        column("response_bytes", "response_bytes"),
        column("counted", "counted"),
        column("properties", "CAST(properties, 'Map(String, String)')"),
    ];
    let mut conditions = vec![selection.filter.clone()];
    conditions.retain(|c| !c.is_empty());
    if id.is_some() {
        conditions.push("id = {id:String}".to_owned());
    }
    if before.is_some() {
        conditions.push("(toUnixTimestamp64Micro(time), id) < ({before_at:Int64}, {before_id:String})".to_owned());
    }
    let facts = Facts { table: Table::Raw, period, columns, filter: conditions.join(" AND "), rule: &rule };
    let outer = format!(
        "SELECT id, at, received, words, status, latency_us, request_bytes, response_bytes, counted, properties FROM ({{facts}}) ORDER BY at DESC, id DESC LIMIT {limit}"
    );
    let mut query = selection.bind(facts.query(app, workspace, &outer).await?);
    if let Some(id) = id {
        query = query.param("id", id);
    }
    if let Some((at, id)) = before {
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
        }
    }
}
