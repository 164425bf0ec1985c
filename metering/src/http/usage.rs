//! `GET /api/v1/usage`: JSON, or CSV by `Accept: text/csv`.

use std::collections::{BTreeMap, HashMap};

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Json, Response};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::clock;
use farebox_core::http::QueryPairs;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::period::{Period, Window, floor_minute};
use farebox_core::problem::Problem;
use serde::Serialize;

use super::{Parameters, zone_of};
use crate::consumers;
use crate::dimension::Dimension;
use crate::usage::{self, MAX_ROWS, UsageAnswer, UsageQuery};

const DEFAULT_ROWS: usize = 10_000;

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Answer {
    data: Vec<Row>,
    as_of: DateTime<Utc>,
    /// What happened before this is surely in; later windows may still grow.
    complete_until: DateTime<Utc>,
    next_cursor: Option<String>,
}

#[derive(Serialize, utoipa::ToSchema)]
struct Row {
    window_start: DateTime<Utc>,
    window_end: DateTime<Utc>,
    group: BTreeMap<String, Value>,
    /// An exact decimal.
    value: String,
}

#[derive(Serialize, utoipa::ToSchema)]
#[serde(untagged)]
enum Value {
    Plain(String),
    Consumer(Named),
}

#[derive(Serialize, utoipa::ToSchema)]
struct Named {
    id: String,
    name: String,
}

/// Usage of a meter, by window and dimension
///
/// Exact, and fresh as soon as an event is stored. Without `from` and `to`: the last 30 days.
#[utoipa::path(get, path = "/api/v1/usage", tag = "usage", params(
    ("meter" = Option<String>, Query, description = "`calls` (default: every event), `requests` (what counts), or a meter of the catalogue."),
    ("consumer" = Option<String>, Query, description = "Only this consumer: its id or name."),
    ("subscription" = Option<String>, Query, description = "Only this subscription."),
    ("plan" = Option<String>, Query, description = "Only this plan, by name."),
    ("api" = Option<String>, Query, description = "Only this api, by name."),
    ("from" = Option<String>, Query, description = "RFC 3339 time, or a date in `time_zone`."),
    ("to" = Option<String>, Query, description = "Not included."),
    ("window" = Option<String>, Query, description = "`minute`, `hour`, `day`, `week`, `month` or `none` (default)."),
    ("time_zone" = Option<String>, Query, description = "IANA name; the workspace's unless given."),
    ("group_by" = Option<Vec<String>>, Query, description = "Repeatable: consumer, subscription, plan, api, api_version, route, method, status, \
      status_class, counted, reason, credential, environment, marker, type, source, gateway, country, answered_by, cached, subject, or the JSON pointer of a property."),
    ("filter[dimension]" = Option<String>, Query, description = "Only events that have this value; repeat it for any of several."),
    ("limit" = Option<u32>, Query, description = "Rows: 10000 unless given, at most 100000."),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
), responses((status = 200, body = Answer, content_type = "application/json"), (status = 422, body = Problem)))]
pub(super) async fn usage(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    QueryPairs(pairs): QueryPairs,
) -> Result<Response, Problem> {
    caller.0.require(Scope::Read)?;
    let query = parse(&app, &caller.0.workspace, pairs).await?;
    let answer = usage::query(&app, &query).await?;
    let names = names(&app, &query.workspace, &answer).await?;
    let next_cursor = answer.more.then(|| (query.offset + answer.rows.len()).to_string());
    if headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|accept| accept.contains("text/csv")) {
        return csv(&query, &answer, &names);
    }
    let data = answer.rows.into_iter().map(|row| Row {
        window_start: row.window.start,
        window_end: row.window.end,
        value: row.value.to_plain_string(),
        group: row.group.into_iter().map(|(dimension, value)| (dimension.clone(), named(&dimension, value, &names))).collect(),
    });
    Ok(Json(Answer { data: data.collect(), as_of: answer.as_of, complete_until: answer.complete_until, next_cursor }).into_response())
}

fn named(dimension: &str, value: String, names: &HashMap<String, String>) -> Value {
    if dimension != Dimension::Consumer.name() {
        return Value::Plain(value);
    }
    let name = names.get(&value).cloned().unwrap_or_default();
    Value::Consumer(Named { id: value, name })
}

async fn parse(app: &App, workspace: &WorkspaceId, pairs: Vec<(String, String)>) -> Result<UsageQuery, Problem> {
    let mut parameters = Parameters(pairs);
    let time_zone: Tz = match parameters.one("time_zone") {
        Some(name) => name.parse().map_err(|_| Problem::invalid_field("time_zone", "must be an IANA time zone such as Europe/Berlin"))?,
        None => zone_of(app, workspace).await?,
    };
    let end = match parameters.instant("to", time_zone)? {
        Some(to) => to,
        None => floor_minute(clock::now()) + TimeDelta::minutes(1),
    };
    let start = parameters.instant("from", time_zone)?.unwrap_or(end - TimeDelta::days(30));
    let period = Period::new(start, end).ok_or_else(|| Problem::invalid_field("to", "must be after `from`"))?;
    let window = match parameters.one("window") {
        None => Window::None,
        Some(text) => serde_json::from_value(text.into())
            .map_err(|_| Problem::invalid_field("window", "must be minute, hour, day, week, month or none"))?,
    };
    let mut filters = parameters.filters()?;
    if let Some(consumer) = parameters.one("consumer") {
        filters.push((Dimension::Consumer, vec![consumer_id(app, workspace, consumer).await?]));
    }
    for (name, dimension) in [("subscription", Dimension::Subscription), ("plan", Dimension::Plan), ("api", Dimension::Api)] {
        if let Some(value) = parameters.one(name) {
            filters.push((dimension, vec![value]));
        }
    }
    let mut group_by: Vec<Dimension> = Vec::new();
    for name in parameters.many("group_by").iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty()) {
        let dimension: Dimension = name.parse().map_err(|e: crate::MeteringError| Problem::invalid_field("group_by", e.to_string()))?;
        if !group_by.contains(&dimension) {
            group_by.push(dimension);
        }
    }
    let offset = match parameters.one("cursor") {
        None => 0,
        Some(text) => text.parse().map_err(|_| Problem::invalid_field("cursor", "is not a `next_cursor` that Farebox gave"))?,
    };
    let query = UsageQuery {
        workspace: workspace.clone(),
        meter: parameters.one("meter").unwrap_or_else(|| "calls".to_owned()),
        period,
        window,
        time_zone,
        group_by,
        filters,
        limit: parameters.limit(DEFAULT_ROWS, MAX_ROWS)?,
        offset,
    };
    parameters.done()?;
    Ok(query)
}

async fn consumer_id(app: &App, workspace: &WorkspaceId, text: String) -> Result<String, Problem> {
    if text.parse::<ConsumerId>().is_ok() {
        return Ok(text);
    }
    let found = consumers::find_by_name(&mut *app.pg.acquire().await?, workspace, &text).await?;
    Ok(found.ok_or_else(|| Problem::invalid_field("consumer", "there is no consumer of this id or name"))?.id.into())
}

async fn names(app: &App, workspace: &WorkspaceId, answer: &UsageAnswer) -> Result<HashMap<String, String>, Problem> {
    let mut ids: Vec<_> =
        answer.rows.iter().filter_map(|row| row.group.get(Dimension::Consumer.name())).filter(|id| !id.is_empty()).cloned().collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found = consumers::by_ids(&mut *app.pg.acquire().await?, workspace, &ids).await?;
    Ok(found.into_iter().map(|c| (c.id.into(), c.name)).collect())
}

fn csv(query: &UsageQuery, answer: &UsageAnswer, names: &HashMap<String, String>) -> Result<Response, Problem> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut head = vec!["window_start".to_owned(), "window_end".to_owned()];
    for dimension in &query.group_by {
        head.push(dimension.to_string());
        if *dimension == Dimension::Consumer {
            head.push("consumer_name".to_owned());
        }
    }
    head.push("value".to_owned());
    writer.write_record(&head).map_err(|e| Problem::internal(&e))?;
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    for row in &answer.rows {
        let mut record = vec![time(row.window.start), time(row.window.end)];
        for dimension in &query.group_by {
            let value = row.group.get(dimension.name()).map(String::as_str).unwrap_or_default();
            record.push(inert(value));
            if *dimension == Dimension::Consumer {
                record.push(inert(names.get(value).map(String::as_str).unwrap_or_default()));
            }
        }
        record.push(row.value.to_plain_string());
        writer.write_record(&record).map_err(|e| Problem::internal(&e))?;
    }
    let body = writer.into_inner().map_err(|e| Problem::internal(&e))?;
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], body).into_response())
}

/// Spreadsheets run text that starts like a formula; a quote before it keeps it text.
fn inert(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}
