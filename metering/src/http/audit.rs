//! The pipeline's audit.

use axum::extract::State;
use axum::response::Json as Answer;
use chrono::TimeDelta;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Page, QueryPairs};
use farebox_core::period::Period;
use farebox_core::problem::Problem;
use farebox_core::{App, clock};

use super::{Parameters, zone_of};
use crate::audit::{self, PipelineAudit};

/// Audit the pipeline
///
/// By source and hour: messages of Kafka, events in the store, in the rollups, and in the answers of `/api/v1/usage`; every
/// difference is named. Whole hours; without `from` and `to`: the last 24 that are over.
#[utoipa::path(get, path = "/api/v1/audit/pipeline", tag = "usage", params(
    ("from" = Option<String>, Query, description = "RFC 3339 time, or a date in the workspace's time zone."),
    ("to" = Option<String>, Query, description = "Not included."),
), responses((status = 200, body = PipelineAudit), (status = 422, body = Problem)))]
pub(super) async fn pipeline(
    State(app): State<App>,
    caller: Caller,
    QueryPairs(pairs): QueryPairs,
) -> Result<Answer<PipelineAudit>, Problem> {
    caller.0.require(Scope::Read)?;
    let workspace = &caller.0.workspace;
    let mut parameters = Parameters(pairs);
    let zone = zone_of(&app, workspace).await?;
    let over = clock::now() - TimeDelta::seconds(clock::now().timestamp().rem_euclid(3600) + 1);
    let end = parameters.instant("to", zone)?.unwrap_or(over);
    let start = parameters.instant("from", zone)?.unwrap_or(end - TimeDelta::hours(24));
    let period = Period::new(start, end).ok_or_else(|| Problem::invalid_field("to", "must be after `from`"))?;
    parameters.done()?;
    Ok(Answer(audit::pipeline(&app, workspace, period).await?))
}

/// Hours audited by themselves
///
/// Every hour is audited a quarter of an hour after its end. The latest first.
#[utoipa::path(get, path = "/api/v1/audit/pipeline/hours", tag = "usage", params(
    ("limit" = Option<u32>, Query, description = "24 unless given, at most 500."),
), responses((status = 200, body = Page<PipelineAudit>)))]
pub(super) async fn hours(
    State(app): State<App>,
    caller: Caller,
    QueryPairs(pairs): QueryPairs,
) -> Result<Answer<Page<PipelineAudit>>, Problem> {
    caller.0.require(Scope::Read)?;
    let mut parameters = Parameters(pairs);
    let limit = parameters.limit(24, 500)?;
    parameters.done()?;
    let data = audit::recent(&mut *app.pg.acquire().await?, &caller.0.workspace, i64::try_from(limit).unwrap_or(24)).await?;
    Ok(Answer(Page { data, next_cursor: None }))
}
