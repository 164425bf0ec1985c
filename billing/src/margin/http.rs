//! `/api/v1/margin` and `/api/v1/costs`.

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Params};
use farebox_core::money::plain;
use farebox_core::period::Period;
use farebox_core::problem::Problem;
use farebox_core::{App, audit_log, workspace};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::costs::{self, Cost};
use super::report::{self, By, Margin};
use crate::calendar;
use crate::exports::csv::harmless;

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(list, put)).routes(routes!(margin)).with_state(app.clone())
}

#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CallCosts)]
struct Costs {
    costs: Vec<Cost>,
}

/// What a call costs, by route.
#[utoipa::path(get, path = "/api/v1/costs", tag = "margin", responses((status = 200, body = Costs)))]
async fn list(State(app): State<App>, Caller(caller): Caller) -> Result<axum::Json<Costs>, Problem> {
    caller.require(Scope::Finance)?;
    Ok(axum::Json(Costs { costs: costs::list(&mut *app.pg.acquire().await?, &caller.workspace).await? }))
}

/// What a call costs, by route: the whole list
///
/// In the workspace's currency. Reports follow it, those of the past too, as far as its rules say from when on they hold.
#[utoipa::path(
    put, path = "/api/v1/costs", tag = "margin", request_body = Costs,
    responses((status = 200, body = Costs), (status = 422, body = Problem))
)]
async fn put(State(app): State<App>, Caller(caller): Caller, Json(new): Json<Costs>) -> Result<axum::Json<Costs>, Problem> {
    caller.require(Scope::Finance)?;
    let mut tx = app.pg.begin().await?;
    if costs::set(&mut tx, &caller.workspace, &new.costs).await? {
        let detail = serde_json::to_value(&new).map_err(|e| Problem::internal(&e))?;
        audit_log::record(&mut tx, &caller.workspace, caller.token.as_str(), "costs.set", caller.workspace.as_str(), &detail).await?;
    }
    let costs = costs::list(&mut tx, &caller.workspace).await?;
    tx.commit().await?;
    Ok(axum::Json(Costs { costs }))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// A month such as 2026-08.
    #[param(example = "2026-01")]
    from: String,
    /// The last month; as `from` unless given.
    to: Option<String>,
    /// `route` (default), `consumer`, or `route,consumer`.
    by: Option<String>,
}

/// What routes and consumers bring, and what their calls cost
///
/// JSON, or CSV by `Accept: text/csv`. The rows add up to what was invoiced and to what all calls cost.
#[utoipa::path(
    get, path = "/api/v1/margin", tag = "margin", params(Asked),
    responses((status = 200, body = Margin, content_type = "application/json"), (status = 422, body = Problem))
)]
async fn margin(
    State(app): State<App>,
    Caller(caller): Caller,
    headers: HeaderMap,
    Params(asked): Params<Asked>,
) -> Result<Response, Problem> {
    caller.require(Scope::Finance)?;
    let by = match asked.by.as_deref() {
        None | Some("route") => By { route: true, consumer: false },
        Some("consumer") => By { route: false, consumer: true },
        Some("route,consumer" | "consumer,route") => By { route: true, consumer: true },
        Some(_) => return Err(Problem::invalid_field("by", "is route, consumer, or route,consumer")),
    };
    let found = workspace::by_id(&mut *app.pg.acquire().await?, &caller.workspace).await.map_err(|e| Problem::internal(&e))?;
    let zone = found.ok_or_else(|| Problem::not_found("workspace"))?.time_zone;
    let month =
        |name: &str, text: &str| calendar::parse(text, zone).map_err(|_| Problem::invalid_field(name, "is a month such as 2026-08"));
    let first = month("from", &asked.from)?;
    let last = month("to", asked.to.as_deref().unwrap_or(&asked.from))?;
    if last.start < first.start || last.end - first.start > chrono::TimeDelta::days(400) {
        return Err(Problem::invalid_field("to", "is `from` or a later month, of at most thirteen in all"));
    }
    let report = report::margin(&app, &caller.workspace, Period { start: first.start, end: last.end }, by).await?;
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !accept.starts_with("text/csv") {
        return Ok(([(header::VARY, "accept")], axum::Json(report)).into_response());
    }
    let csv = csv(&report).map_err(|e| Problem::internal(&e))?;
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8"), (header::VARY, "accept")], csv).into_response())
}

const HEAD: [&str; 9] = ["api", "route", "consumer_id", "consumer", "calls", "revenue", "cost", "margin", "calls_without_cost"];

fn cells(report: &Margin) -> impl Iterator<Item = Vec<String>> {
    report.rows.iter().map(|row| {
        let (id, name) = row.consumer.as_ref().map(|c| (c.id.clone(), c.name.clone())).unwrap_or_default();
        vec![
            harmless(&row.api),
            harmless(&row.route),
            id,
            harmless(&name),
            row.calls.to_string(),
            row.revenue.to_string(),
            plain(&row.cost),
            plain(&row.margin),
            row.calls_without_cost.to_string(),
        ]
    })
}

fn csv(report: &Margin) -> Result<Vec<u8>, ::csv::Error> {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer.write_record(HEAD)?;
    for row in cells(report) {
        writer.write_record(row)?;
    }
    writer.into_inner().map_err(|e| e.into_error().into())
}
