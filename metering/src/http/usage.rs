//! `GET /api/v1/usage`: JSON, or CSV by `Accept: text/csv`.

use std::collections::{BTreeMap, HashMap};

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Json, Response};
use bigdecimal::BigDecimal;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::clock;
use farebox_core::http::{Page, QueryPairs};
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::period::{Period, Window, floor_minute};
use farebox_core::problem::Problem;
use serde::Serialize;

use super::listings::{page, position};
use super::{Parameters, UNKNOWN, zone_of};
use crate::consumers;
use crate::dimension::Dimension;
use crate::events::{Event, EventsQuery};
use crate::filter::Filter;
use crate::proof::{self, UsageProof};
use crate::usage::{self, MAX_ROWS, UsageAnswer, UsageQuery};

const DEFAULT_ROWS: usize = 10_000;
const MOST_GROUPS: usize = 8;
const MOST_TOP: usize = 1000;

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Answer {
    data: Vec<Row>,
    /// What was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Period>,
    as_of: DateTime<Utc>,
    /// What happened before this is surely in; later windows may still grow.
    complete_until: DateTime<Utc>,
    next_cursor: Option<String>,
}

#[derive(Serialize, utoipa::ToSchema)]
struct Row {
    window_start: DateTime<Utc>,
    window_end: DateTime<Utc>,
    /// Empty for the groups beyond the top ones.
    group: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    other: bool,
    /// An exact decimal.
    value: String,
    /// Events whose value is no number; see `/api/v1/meters/{name}/errors`.
    #[serde(skip_serializing_if = "is_zero")]
    errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    /// From `previous` to `value`, in percent; none where there was nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde asks
fn is_zero(n: &u64) -> bool {
    *n == 0
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
      status_class, counted, reason, credential, environment, marker, type, source, gateway, country, answered_by, cached, subject, latency_class, size_class, or the JSON pointer of a property."),
    ("week_start" = Option<String>, Query, description = "`monday` (default) or `sunday`, for `window=week`."),
    ("filter[dimension]" = Option<String>, Query, description = "Only events that have this value; repeat it for any of several. Other tests: \
      `filter[route][not]`, `filter[status][gte]` (gt, gte, lt, lte), `filter[route][prefix]`, `filter[/model][exists]=true`."),
    ("top" = Option<u32>, Query, description = "Only so many groups, those with the greatest values over the whole range; the others as one row marked `other`."),
    ("compare" = Option<String>, Query, description = "`previous` (as long, right before; whole months with months, whole days with days), `month` or `year` (earlier by the calendar): \
      adds `previous` and `change`, window by window."),
    ("cumulative" = Option<bool>, Query, description = "Each window with all before it, for meters that count or sum."),
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
    let mut parameters = Parameters(pairs);
    let query = parse(&app, &caller.0.workspace, &mut parameters).await?;
    let offset = match parameters.one("cursor") {
        None => 0,
        Some(text) => text.parse().map_err(|_| Problem::invalid_field("cursor", "is not a `next_cursor` that Farebox gave"))?,
    };
    let query = UsageQuery { limit: parameters.limit(DEFAULT_ROWS, MAX_ROWS)?, offset, ..query };
    parameters.done()?;
    let answer = usage::query(&app, &query).await?;
    let names = names(&app, &query.workspace, &answer).await?;
    let next_cursor = answer.more.then(|| (query.offset + answer.rows.len()).to_string());
    if headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|accept| accept.contains("text/csv")) {
        return csv(&query, &answer, &names);
    }
    let data = answer.rows.into_iter().map(|row| Row {
        window_start: row.window.start,
        window_end: row.window.end,
        change: row.previous.as_ref().and_then(|previous| usage::change(&row.value, previous)).map(|n| n.to_plain_string()),
        previous: row.previous.map(|n| n.to_plain_string()),
        value: row.value.to_plain_string(),
        errors: row.errors,
        other: row.other,
        group: row.group.into_iter().map(|(dimension, value)| (dimension.clone(), named(&dimension, value, &names))).collect(),
    });
    let answer =
        Answer { data: data.collect(), previous: answer.previous, as_of: answer.as_of, complete_until: answer.complete_until, next_cursor };
    Ok(Json(answer).into_response())
}

/// What names one number; read by [`parse`].
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it only describes")]
struct OneNumber {
    /// `calls` (default), `requests`, or a meter of the catalogue.
    meter: Option<String>,
    /// Id or name; `unknown` for nobody's.
    consumer: Option<String>,
    /// Only this subscription.
    subscription: Option<String>,
    /// Only this plan, by name.
    plan: Option<String>,
    /// Only this api, by name.
    api: Option<String>,
    /// RFC 3339 time, or a date in `time_zone`.
    from: Option<String>,
    /// Not included.
    to: Option<String>,
    /// IANA name; the workspace's unless given.
    time_zone: Option<String>,
    /// As in /api/v1/usage.
    #[param(rename = "filter[dimension]")]
    filter: Option<String>,
}

/// The events behind a number
///
/// The same question as `/api/v1/usage`, answered with the raw events that its number is made of, newest first, each
/// with what it adds. A window's events: its start and end as `from` and `to`; a group's: its values as filters.
#[utoipa::path(get, path = "/api/v1/usage/events", tag = "usage", params(
    OneNumber,
    ("limit" = Option<u32>, Query, description = "50 unless given, at most 500."),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
), responses((status = 200, body = Page<Event>), (status = 422, body = Problem)))]
pub(super) async fn behind(State(app): State<App>, caller: Caller, QueryPairs(pairs): QueryPairs) -> Result<Json<Page<Event>>, Problem> {
    caller.0.require(Scope::Read)?;
    let mut parameters = Parameters(pairs);
    let query = parse(&app, &caller.0.workspace, &mut parameters).await?;
    let before = parameters.one("cursor").map(|cursor| position(&cursor)).transpose()?;
    let limit = parameters.limit(50, 500)?;
    parameters.done()?;
    let asked = EventsQuery { filters: query.filters, meter: query.meter, before, ..EventsQuery::new(&query.workspace, query.period) };
    Ok(Json(page(&app, asked, limit).await?))
}

/// The proof of a number
///
/// The same question as `/api/v1/usage` over its whole range, answered from the raw events alone: how many there are, a
/// hash over their ids, and the query to run again. Two who agree on the hash agree on every event. Without `from` and
/// `to`: the last 30 days.
#[utoipa::path(get, path = "/api/v1/usage/proof", tag = "usage", params(OneNumber), responses((status = 200, body = UsageProof), (status = 422, body = Problem)))]
pub(super) async fn proof(State(app): State<App>, caller: Caller, QueryPairs(pairs): QueryPairs) -> Result<Json<UsageProof>, Problem> {
    caller.0.require(Scope::Read)?;
    let mut parameters = Parameters(pairs);
    let query = parse(&app, &caller.0.workspace, &mut parameters).await?;
    parameters.done()?;
    if query.window != Window::None || !query.group_by.is_empty() || query.compare.is_some() || query.cumulative {
        return Err(Problem::invalid_field(
            "window",
            "a proof is of one number: a window's has its start and end as `from` and `to`, a group's its values as filters",
        ));
    }
    Ok(Json(proof::of_usage(&app, &query).await?))
}

fn named(dimension: &str, value: String, names: &HashMap<String, String>) -> Value {
    if dimension != Dimension::Consumer.name() {
        return Value::Plain(value);
    }
    if value.is_empty() {
        return Value::Consumer(Named { id: UNKNOWN.to_owned(), name: "Unknown".to_owned() });
    }
    let name = names.get(&value).cloned().unwrap_or_default();
    Value::Consumer(Named { id: value, name })
}

/// Everything that names a number; the page is still in `parameters`.
async fn parse(app: &App, workspace: &WorkspaceId, parameters: &mut Parameters) -> Result<UsageQuery, Problem> {
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
    let mut filters = parameters.filters()?;
    if let Some(consumer) = parameters.one("consumer") {
        filters.push(Filter::is(Dimension::Consumer, consumer_id(app, workspace, consumer).await?));
    }
    for (name, dimension) in [("subscription", Dimension::Subscription), ("plan", Dimension::Plan), ("api", Dimension::Api)] {
        if let Some(value) = parameters.one(name) {
            filters.push(Filter::is(dimension, value));
        }
    }
    let mut group_by: Vec<Dimension> = Vec::new();
    for name in parameters.many("group_by").iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty()) {
        let dimension: Dimension = name.parse().map_err(|e: crate::MeteringError| Problem::invalid_field("group_by", e.to_string()))?;
        if !group_by.contains(&dimension) {
            group_by.push(dimension);
        }
    }
    if group_by.len() > MOST_GROUPS {
        return Err(Problem::invalid_field("group_by", format!("has at most {MOST_GROUPS} dimensions")));
    }
    let top = match parameters.one("top") {
        None => None,
        Some(_) if group_by.is_empty() => return Err(Problem::invalid_field("top", "chooses among groups; name them with `group_by`")),
        Some(text) => match text.parse::<usize>() {
            Ok(n) if (1..=MOST_TOP).contains(&n) => Some(n),
            _ => return Err(Problem::invalid_field("top", format!("must be 1 to {MOST_TOP}"))),
        },
    };
    let compare = parameters
        .one("compare")
        .map(|text| serde_json::from_value(text.into()).map_err(|_| Problem::invalid_field("compare", "must be previous, month or year")));
    let cumulative = match parameters.one("cumulative").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::invalid_field("cumulative", "must be true or false")),
    };
    Ok(UsageQuery {
        window: window(parameters)?,
        time_zone,
        group_by,
        filters,
        top,
        compare: compare.transpose()?,
        cumulative,
        ..UsageQuery::new(workspace, &parameters.one("meter").unwrap_or_else(|| "calls".to_owned()), period)
    })
}

fn window(parameters: &mut Parameters) -> Result<Window, Problem> {
    let window = match parameters.one("window").as_deref() {
        None | Some("none") => Window::None,
        Some("minute") => Window::Minute,
        Some("hour") => Window::Hour,
        Some("day") => Window::Day,
        Some("week") => Window::Week,
        Some("month") => Window::Month,
        Some(_) => return Err(Problem::invalid_field("window", "must be minute, hour, day, week, month or none")),
    };
    match (window, parameters.one("week_start").as_deref()) {
        (Window::Week, Some("sunday")) => Ok(Window::SundayWeek),
        (window, None | Some("monday" | "sunday")) => Ok(window),
        _ => Err(Problem::invalid_field("week_start", "must be monday or sunday")),
    }
}

async fn consumer_id(app: &App, workspace: &WorkspaceId, text: String) -> Result<String, Problem> {
    if text == UNKNOWN {
        return Ok(String::new());
    }
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
    if query.top.is_some() {
        head.push("other".to_owned());
    }
    head.push("value".to_owned());
    if query.compare.is_some() {
        head.extend(["previous".to_owned(), "change".to_owned()]);
    }
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
        if query.top.is_some() {
            record.push(row.other.to_string());
        }
        record.push(row.value.to_plain_string());
        if query.compare.is_some() {
            let change = row.previous.as_ref().and_then(|previous| usage::change(&row.value, previous));
            record.push(row.previous.as_ref().map_or_else(String::new, BigDecimal::to_plain_string));
            record.push(change.map_or_else(String::new, |n| n.to_plain_string()));
        }
        writer.write_record(&record).map_err(|e| Problem::internal(&e))?;
    }
    let body = writer.into_inner().map_err(|e| Problem::internal(&e))?;
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], body).into_response())
}

/// Spreadsheets run text that starts like a formula; a quote before it keeps it text.
fn inert(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}
