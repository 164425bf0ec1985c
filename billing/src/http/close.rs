use axum::extract::{Path, State};
use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::audit_log;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::Json;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use farebox_core::problem::Problem;
use farebox_core::workspace;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::calendar;
use crate::close::checklist::{self, Checklist, StepName};
use crate::close::{self as closing, CloseReport, Rehearsal};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Close {
    /// A month of the workspace's calendar, such as 2026-10.
    period: String,
}

/// The month a path names.
async fn month_of(app: &App, ws: &WorkspaceId, text: &str) -> Result<Period, Problem> {
    let workspace = workspace::by_id(&mut *app.pg.acquire().await?, ws).await.map_err(|e| Problem::internal(&e))?;
    let workspace = workspace.ok_or_else(|| Problem::not_found("workspace"))?;
    Ok(calendar::parse(text, workspace.time_zone)?)
}

/// How a month stands, step by step.
#[utoipa::path(
    get, path = "/api/v1/close/{period}", tag = "invoices", params(("period" = String, Path, description = "A month, such as 2026-10")),
    responses((status = 200, body = Checklist), (status = 422, body = Problem))
)]
pub(super) async fn checklist(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(period): Path<String>,
) -> Result<axum::Json<Checklist>, Problem> {
    caller.require(Scope::Finance)?;
    let month = month_of(&app, &caller.workspace, &period).await?;
    Ok(axum::Json(checklist::checklist(&app, &caller.workspace, month).await?))
}

/// Runs a step of the checklist (again).
#[utoipa::path(
    post, path = "/api/v1/close/{period}/steps/{step}", tag = "invoices",
    params(("period" = String, Path), ("step" = StepName, Path)),
    responses((status = 200, body = Checklist), (status = 409, body = Problem))
)]
pub(super) async fn run_step(
    State(app): State<App>,
    Caller(caller): Caller,
    Path((period, step)): Path<(String, StepName)>,
) -> Result<axum::Json<Checklist>, Problem> {
    caller.require(Scope::Finance)?;
    let month = month_of(&app, &caller.workspace, &period).await?;
    let detail = json!({ "step": step });
    let ws = &caller.workspace;
    audit_log::record(&mut *app.pg.acquire().await?, ws, caller.token.as_str(), "close.step", &period, &detail).await?;
    Ok(axum::Json(checklist::run_step(&app, ws, month, step).await?))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HardClose {
    /// Steps that were looked at and are taken as they are: meter_errors, unattributed, compared, late.
    #[serde(default)]
    accept: Vec<StepName>,
}

/// Closes a month for good: what comes late for it is no longer corrected. Refused while anything differs.
#[utoipa::path(
    post, path = "/api/v1/close/{period}/hard", tag = "invoices", params(("period" = String, Path)), request_body = HardClose,
    responses((status = 200, body = Checklist), (status = 409, body = Problem, description = "What is open, and the way out"))
)]
pub(super) async fn hard(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(period): Path<String>,
    Json(wanted): Json<HardClose>,
) -> Result<axum::Json<Checklist>, Problem> {
    caller.require(Scope::Finance)?;
    let month = month_of(&app, &caller.workspace, &period).await?;
    let ws = &caller.workspace;
    let closed = checklist::hard_close(&app, ws, month, &wanted.accept, caller.token.as_str()).await?;
    audit_log::record(&mut *app.pg.acquire().await?, ws, caller.token.as_str(), "close.hard", &period, &json!({ "accept": wanted.accept }))
        .await?;
    Ok(axum::Json(closed))
}

/// Closes every subscription period that ended in the month. Safe to repeat.
#[utoipa::path(
    post, path = "/api/v1/close", tag = "invoices", request_body = Close,
    responses((status = 200, body = CloseReport), (status = 409, body = Problem, description = "The month is not over, or events may still come"))
)]
pub(super) async fn close(
    State(app): State<App>,
    Caller(caller): Caller,
    Json(close): Json<Close>,
) -> Result<axum::Json<CloseReport>, Problem> {
    caller.require(Scope::Finance)?;
    let workspace = workspace::by_id(&mut *app.pg.acquire().await?, &caller.workspace).await.map_err(|e| Problem::internal(&e))?;
    let workspace = workspace.ok_or_else(|| Problem::not_found("workspace"))?;
    let period = calendar::parse(&close.period, workspace.time_zone)?;
    Ok(axum::Json(closing::close_period(&app, &workspace.id, period).await?))
}

/// What closing the month now would issue: counted from raw events and rated, with nothing stored.
#[utoipa::path(
    get, path = "/api/v1/close/{period}/rehearsal", tag = "invoices", params(("period" = String, Path)),
    responses((status = 200, body = Rehearsal), (status = 422, body = Problem))
)]
pub(super) async fn rehearse(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(period): Path<String>,
) -> Result<axum::Json<Rehearsal>, Problem> {
    caller.require(Scope::Finance)?;
    let month = month_of(&app, &caller.workspace, &period).await?;
    Ok(axum::Json(closing::rehearse(&app, &caller.workspace, month).await?))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Advance {
    /// A month is 2678400.
    advance_seconds: i64,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct ClockNow {
    now: DateTime<Utc>,
    /// Invoices that were issued on the way.
    issued: usize,
}

/// Moves a test workspace's clock ahead: trials end, periods close, invoices issue. Never back.
#[utoipa::path(
    post, path = "/api/v1/workspace/clock", tag = "workspace", request_body = Advance,
    responses((status = 200, body = ClockNow), (status = 409, body = Problem, description = "Not in test mode"))
)]
pub(super) async fn advance_clock(
    State(app): State<App>,
    Caller(caller): Caller,
    Json(advance): Json<Advance>,
) -> Result<axum::Json<ClockNow>, Problem> {
    caller.require(Scope::Manage)?;
    // A hundred years, so that no date overflows.
    if !(0..=3_155_760_000).contains(&advance.advance_seconds) {
        return Err(Problem::invalid_field("/advance_seconds", "must be 0 to 3155760000 (a hundred years); a clock never goes back"));
    }
    let mut transaction = app.pg.begin().await?;
    let ws = &caller.workspace;
    if !workspace::advance_clock(&mut transaction, ws, advance.advance_seconds).await? {
        return Err(Problem::conflict(
            "not-in-test-mode",
            "Only a workspace in test mode has a clock of its own. Use one, such as acme/test.",
        ));
    }
    let detail = json!({ "advance_seconds": advance.advance_seconds });
    audit_log::record(&mut transaction, ws, caller.token.as_str(), "clock.advance", ws.as_str(), &detail).await?;
    let workspace = workspace::by_id(&mut transaction, ws).await.map_err(|e| Problem::internal(&e))?;
    transaction.commit().await?;
    let now = workspace.ok_or_else(|| Problem::not_found("workspace"))?.clock.now();
    // What is due by the new time is done before the answer, instead of when the loop next looks.
    let issued = if advance.advance_seconds > 0 { closing::run_due_of(&app, ws).await? } else { 0 };
    Ok(axum::Json(ClockNow { now, issued }))
}
