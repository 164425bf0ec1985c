//! Corrections, and the report of copies that were removed.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json as Answer, Response};
use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page, Paging, Params, QueryPairs};
use farebox_core::period::Period;
use farebox_core::problem::Problem;
use farebox_core::{App, clock};
use serde::Deserialize;

use super::{Parameters, zone_of};
use crate::corrections::{self, Action, Amendment, Choice, Correction, Effect, Request};
use crate::duplicates::{self, Day, Removed};
use crate::filter::Test;

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewCorrection)]
pub(super) struct NewBody {
    action: Action,
    /// Identities, as `/api/v1/events` shows them. Or else `filter`, with `from` and `to`.
    #[serde(default)]
    ids: Option<Vec<String>>,
    /// Dimension -> values or a condition, as in a meter; empty for every event of the period.
    #[serde(default)]
    filter: Option<BTreeMap<String, Test>>,
    #[serde(default)]
    from: Option<DateTime<Utc>>,
    #[serde(default)]
    to: Option<DateTime<Utc>>,
    /// Of an amendment.
    #[serde(default)]
    set: Amendment,
    /// Why; stands in the audit log.
    reason: String,
    /// Only tell what would change, in units and money.
    #[serde(default)]
    dry_run: bool,
    /// From the dry run: refuse when another number of events is chosen by now. Required with a filter.
    #[serde(default)]
    expected_events: Option<u64>,
}

/// Void or amend events
///
/// By id, or by filter after a dry run. All numbers follow: usage, rollups, proofs, previews. Issued invoices stay as they
/// are; what changes in their periods is for the next one.
#[utoipa::path(post, path = "/api/v1/corrections", tag = "usage", request_body = NewBody, responses(
    (status = 200, body = Effect, description = "The dry run."), (status = 201, body = Correction),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn create(State(app): State<App>, caller: Caller, Json(body): Json<NewBody>) -> Result<Response, Problem> {
    caller.0.require(Scope::Manage)?;
    let workspace = &caller.0.workspace;
    let choice = match (body.ids, body.filter, body.from, body.to) {
        (Some(ids), None, None, None) => Choice::Ids(ids),
        (None, Some(filter), Some(from), Some(to)) => {
            let period = Period::new(from, to).ok_or_else(|| Problem::invalid_field("/to", "must be after `from`"))?;
            Choice::Filter { period, filter }
        }
        _ => return Err(Problem::invalid_field("/ids", "give either `ids`, or `filter` with `from` and `to`")),
    };
    if !body.dry_run && matches!(choice, Choice::Filter { .. }) && body.expected_events.is_none() {
        return Err(Problem::invalid_field(
            "/expected_events",
            "is required with a filter: make a dry run first and say how many events it found",
        ));
    }
    let author = caller.0.token.to_string();
    let request = Request { action: body.action, choice, set: body.set, reason: body.reason, author };
    if body.dry_run {
        return Ok(Answer(corrections::preview(&app, workspace, &request).await?).into_response());
    }
    let correction = corrections::apply(&app, workspace, &request, body.expected_events).await?;
    Ok((StatusCode::CREATED, Answer(correction)).into_response())
}

/// Corrections that were made, the newest first
#[utoipa::path(get, path = "/api/v1/corrections", tag = "usage", params(Paging), responses((status = 200, body = Page<Correction>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(paging): Params<Paging>,
) -> Result<Answer<Page<Correction>>, Problem> {
    caller.0.require(Scope::Read)?;
    let (limit, before) = paging.resolve()?;
    let rows = corrections::list(&mut *app.pg.acquire().await?, &caller.0.workspace, limit + 1, &before).await?;
    Ok(Answer(Page::from_rows(rows, limit, |c| c.id.to_string())))
}

/// Copies that were removed
///
/// By source and day of arrival (UTC): what came in, how many events it was, and how many deliveries were copies, with the
/// same time or another. Without `from` and `to`: the last 30 days.
#[utoipa::path(get, path = "/api/v1/duplicates", tag = "usage", params(
    ("from" = Option<String>, Query, description = "A date."), ("to" = Option<String>, Query, description = "A date, not included."),
), responses((status = 200, body = Page<Day>), (status = 422, body = Problem)))]
pub(super) async fn duplicates(
    State(app): State<App>,
    caller: Caller,
    QueryPairs(pairs): QueryPairs,
) -> Result<Answer<Page<Day>>, Problem> {
    caller.0.require(Scope::Read)?;
    let mut parameters = Parameters(pairs);
    let mut date = |name: &str| match parameters.one(name) {
        None => Ok(None),
        Some(text) => text.parse::<NaiveDate>().map(Some).map_err(|_| Problem::invalid_field(name, "must be a date such as 2026-10-01")),
    };
    let to = date("to")?.unwrap_or_else(|| clock::now().date_naive() + Days::new(1));
    let from = date("from")?.unwrap_or(to - Days::new(30));
    parameters.done()?;
    let data = duplicates::report(&app, &caller.0.workspace, from, to).await?;
    Ok(Answer(Page { data, next_cursor: None }))
}

/// Copies with another time, each beside the event that was kept
#[utoipa::path(get, path = "/api/v1/duplicates/events", tag = "usage", params(
    ("from" = Option<String>, Query, description = "Of arrival: an RFC 3339 time, or a date in the workspace's time zone. 30 days ago unless given."),
    ("to" = Option<String>, Query, description = "Not included."),
    ("source" = Option<String>, Query, description = "Only of this source."),
    ("limit" = Option<u32>, Query, description = "50 unless given, at most 500."),
), responses((status = 200, body = Page<Removed>), (status = 422, body = Problem)))]
pub(super) async fn removed(
    State(app): State<App>,
    caller: Caller,
    QueryPairs(pairs): QueryPairs,
) -> Result<Answer<Page<Removed>>, Problem> {
    caller.0.require(Scope::Read)?;
    let workspace = &caller.0.workspace;
    let mut parameters = Parameters(pairs);
    let zone = zone_of(&app, workspace).await?;
    let end = parameters.instant("to", zone)?.unwrap_or_else(|| clock::now() + TimeDelta::minutes(10));
    let start = parameters.instant("from", zone)?.unwrap_or(end - TimeDelta::days(30));
    let period = Period::new(start, end).ok_or_else(|| Problem::invalid_field("to", "must be after `from`"))?;
    let (source, limit) = (parameters.one("source"), parameters.limit(50, 500)?);
    parameters.done()?;
    let data = duplicates::removed(&app, workspace, period, source.as_deref(), limit).await?;
    Ok(Answer(Page { data, next_cursor: None }))
}
