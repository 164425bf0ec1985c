//! Events, meters, apis, sources, and how the pipeline is.

use axum::extract::State;
use axum::response::Json as Answer;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Page, QueryPairs};
use farebox_core::period::Period;
use farebox_core::problem::Problem;
use farebox_core::{App, clock};

use super::{Parameters, UNKNOWN, zone_of};
use crate::apis::{self, Api};
use crate::dimension::Dimension;
use crate::events::{self, Event, EventsQuery};
use crate::filter::Filter;
use crate::pipeline::{self, PipelineStatus};
use crate::sources::{self, Source};

/// Raw events, newest first
///
/// As they were counted, with the consumer and plan they are attributed to now. Without `from` and `to`: the last 24
/// hours.
#[utoipa::path(get, path = "/api/v1/events", tag = "usage", params(
    ("from" = Option<String>, Query, description = "RFC 3339 time, or a date in the workspace's time zone."),
    ("to" = Option<String>, Query, description = "Not included."),
    ("id" = Option<String>, Query, description = "Only the event of this identity."),
    ("consumer" = Option<String>, Query, description = "Only this consumer's."),
    ("filter[dimension]" = Option<String>, Query, description = "As in /api/v1/usage, tests included."),
    ("limit" = Option<u32>, Query, description = "50 unless given, at most 500."),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
), responses((status = 200, body = Page<Event>), (status = 422, body = Problem)))]
pub(super) async fn events(State(app): State<App>, caller: Caller, QueryPairs(pairs): QueryPairs) -> Result<Answer<Page<Event>>, Problem> {
    caller.0.require(Scope::Read)?;
    let workspace = &caller.0.workspace;
    let mut parameters = Parameters(pairs);
    let zone = zone_of(&app, workspace).await?;
    // Clocks of gateways may be a little ahead.
    let end = parameters.instant("to", zone)?.unwrap_or_else(|| clock::now() + TimeDelta::minutes(10));
    let start = parameters.instant("from", zone)?.unwrap_or(end - TimeDelta::hours(24));
    let period = Period::new(start, end).ok_or_else(|| Problem::invalid_field("to", "must be after `from`"))?;
    let mut filters = parameters.filters()?;
    if let Some(consumer) = parameters.one("consumer") {
        filters.push(Filter::is(Dimension::Consumer, if consumer == UNKNOWN { String::new() } else { consumer }));
    }
    let (id, limit) = (parameters.one("id"), parameters.limit(50, 500)?);
    let before = parameters.one("cursor").map(|cursor| position(&cursor)).transpose()?;
    parameters.done()?;
    let asked = EventsQuery { filters, ids: id.map(|id| vec![id]), before, ..EventsQuery::new(workspace, period) };
    page(&app, asked, limit).await.map(Answer)
}

/// A page of events, with where the next one starts.
pub(super) async fn page(app: &App, asked: EventsQuery, limit: usize) -> Result<Page<Event>, Problem> {
    let mut found = events::list(app, &EventsQuery { limit: limit + 1, ..asked }).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next_cursor =
        more.then(|| found.last().map(|e| URL_SAFE_NO_PAD.encode(format!("{} {}", e.time.timestamp_micros(), e.id)))).flatten();
    Ok(Page { data: found, next_cursor })
}

pub(super) fn position(cursor: &str) -> Result<(DateTime<Utc>, String), Problem> {
    let text = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let parts = text.as_deref().and_then(|text| text.split_once(' '));
    let found = parts.and_then(|(at, id)| Some((DateTime::from_timestamp_micros(at.parse().ok()?)?, id.to_owned())));
    found.ok_or_else(|| Problem::invalid_field("cursor", "is not a `next_cursor` that Farebox gave; leave it out for the first page"))
}

/// APIs and their versions
#[utoipa::path(get, path = "/api/v1/apis", tag = "catalogue", responses((status = 200, body = Page<Api>)))]
pub(super) async fn apis(State(app): State<App>, caller: Caller) -> Result<Answer<Page<Api>>, Problem> {
    caller.0.require(Scope::Read)?;
    let data = apis::list(&mut *app.pg.acquire().await?, &caller.0.workspace).await?;
    Ok(Answer(Page { data, next_cursor: None }))
}

/// Gateways and other senders
#[utoipa::path(get, path = "/api/v1/sources", tag = "catalogue", responses((status = 200, body = Page<Source>)))]
pub(super) async fn sources(State(app): State<App>, caller: Caller) -> Result<Answer<Page<Source>>, Problem> {
    caller.0.require(Scope::Read)?;
    let data = sources::list(&mut *app.pg.acquire().await?, &caller.0.workspace).await?;
    Ok(Answer(Page { data, next_cursor: None }))
}

/// How the pipeline is
///
/// What arrived, what is counted, what waits, and how far each source has come.
#[utoipa::path(get, path = "/api/v1/pipeline", tag = "usage", responses((status = 200, body = PipelineStatus)))]
pub(super) async fn pipeline(State(app): State<App>, caller: Caller) -> Result<Answer<PipelineStatus>, Problem> {
    caller.0.require(Scope::Read)?;
    Ok(Answer(pipeline::status(&app, &caller.0.workspace).await?))
}
