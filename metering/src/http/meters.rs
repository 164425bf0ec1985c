//! `/api/v1/meters`: definitions, how far a backfill is, and values that are none.

use axum::extract::{Path, State};
use axum::response::Json as Answer;
use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Page, QueryPairs};
use farebox_core::period::Period;
use farebox_core::problem::Problem;
use farebox_core::{App, clock};
use serde::Serialize;

use super::listings::{page, position};
use super::{Parameters, zone_of};
use crate::backfill::{self, Progress};
use crate::events::{Event, EventsQuery};
use crate::meters::{self, Meter};

/// A meter, and how far its history is rolled up.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct MeterState {
    /// All versions, the newest first.
    versions: Vec<MeterVersion>,
    progress: Progress,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct MeterVersion {
    #[serde(flatten)]
    meter: Meter,
    in_force_since: DateTime<Utc>,
}

/// Meters in force
#[utoipa::path(get, path = "/api/v1/meters", tag = "catalogue", responses((status = 200, body = Page<Meter>)))]
pub(super) async fn list(State(app): State<App>, caller: Caller) -> Result<Answer<Page<Meter>>, Problem> {
    caller.0.require(Scope::Read)?;
    let data = meters::list(&mut *app.pg.acquire().await?, &caller.0.workspace).await?;
    Ok(Answer(Page { data, next_cursor: None }))
}

/// One meter
///
/// Its versions, and how much of history is rolled up under the version in force. Answers are exact meanwhile: what is
/// not yet rolled up is read from events.
#[utoipa::path(get, path = "/api/v1/meters/{name}", tag = "catalogue", responses((status = 200, body = MeterState), (status = 404, body = Problem)))]
pub(super) async fn progress(State(app): State<App>, caller: Caller, Path(name): Path<String>) -> Result<Answer<MeterState>, Problem> {
    caller.0.require(Scope::Read)?;
    let workspace = &caller.0.workspace;
    let (meter, versions) = {
        let mut conn = app.pg.acquire().await?;
        let meter = meters::get(&mut conn, workspace, &name).await?.ok_or_else(|| Problem::not_found("meter"))?;
        (meter, meters::versions(&mut conn, workspace, &name).await?)
    };
    let progress = backfill::progress(&app, workspace, &meter).await?;
    let versions = versions.into_iter().map(|(meter, in_force_since)| MeterVersion { meter, in_force_since }).collect();
    Ok(Answer(MeterState { versions, progress }))
}

/// Values that are none
///
/// Events that a meter measures and whose value is missing or no decimal of at most 26 digits and 12 decimals: they are
/// in no sum. Newest first; without `from` and `to`: the last 30 days.
#[utoipa::path(get, path = "/api/v1/meters/{name}/errors", tag = "catalogue", params(
    ("from" = Option<String>, Query, description = "RFC 3339 time, or a date in the workspace's time zone."),
    ("to" = Option<String>, Query, description = "Not included."),
    ("limit" = Option<u32>, Query, description = "50 unless given, at most 500."),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
), responses((status = 200, body = Page<Event>), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn errors(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    QueryPairs(pairs): QueryPairs,
) -> Result<Answer<Page<Event>>, Problem> {
    caller.0.require(Scope::Read)?;
    let workspace = &caller.0.workspace;
    let mut parameters = Parameters(pairs);
    let zone = zone_of(&app, workspace).await?;
    let end = parameters.instant("to", zone)?.unwrap_or_else(|| clock::now() + TimeDelta::minutes(10));
    let start = parameters.instant("from", zone)?.unwrap_or(end - TimeDelta::days(30));
    let period = Period::new(start, end).ok_or_else(|| Problem::invalid_field("to", "must be after `from`"))?;
    let before = parameters.one("cursor").map(|cursor| position(&cursor)).transpose()?;
    let limit = parameters.limit(50, 500)?;
    parameters.done()?;
    if meters::get(&mut *app.pg.acquire().await?, workspace, &name).await?.is_none() {
        return Err(Problem::not_found("meter"));
    }
    let asked = EventsQuery { meter: name, only_errors: true, before, ..EventsQuery::new(workspace, period) };
    Ok(Answer(page(&app, asked, limit).await?))
}
