use axum::extract::{Path, State};
use axum::response::Response;
use farebox_core::auth::{Caller, Scope as Right};
use farebox_core::http::{Json, Params as Query};
use farebox_core::problem::Problem;
use farebox_core::{App, audit_log, workspace};
use serde::Serialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::codes::{self, Codes};
use super::scope::Params;
use super::{ALL, Format, Manifest, Report, stream};

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get)).routes(routes!(get_codes, put_codes)).with_state(app.clone())
}

#[derive(Serialize, utoipa::ToSchema)]
struct Offered {
    name: &'static str,
    about: &'static str,
    formats: Vec<Format>,
}

/// What can be exported.
#[utoipa::path(get, path = "/api/v1/exports", tag = "exports", responses((status = 200, body = Vec<Offered>)))]
async fn list(Caller(caller): Caller) -> Result<axum::Json<Vec<Offered>>, Problem> {
    caller.require(Right::Finance)?;
    let offered = ALL.map(|report| Offered { name: report.name, about: report.about, formats: report.formats().to_vec() });
    Ok(axum::Json(offered.into()))
}

/// A report as a file, streamed. What its columns add up to is in the header `X-Farebox-Manifest`.
#[utoipa::path(
    get, path = "/api/v1/exports/{report}", tag = "exports", params(("report" = String, Path, description = "invoices, lines, ..."), Params),
    responses(
        (status = 200, body = Vec<u8>, content_type = "text/csv", headers(("x-farebox-manifest" = Manifest, description = "as JSON"))),
        (status = 404, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem)
    )
)]
async fn get(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(report): Path<String>,
    Query(params): Query<Params>,
) -> Result<Response, Problem> {
    caller.require(Right::Finance)?;
    let Some(report) = Report::find(&report) else {
        let names = ALL.map(|report| report.name).join(", ");
        return Err(Problem::invalid_field("report", format!("must be one of {names}")));
    };
    let mut conn = app.pg.acquire().await?;
    let workspace = workspace::by_id(&mut conn, &caller.workspace).await.map_err(|e| Problem::internal(&e))?;
    let workspace = workspace.ok_or_else(|| Problem::not_found("workspace"))?;
    let (id, target) = (workspace.id.clone(), report.name);
    let response = stream::respond(&app, workspace, report, &params).await?;
    let detail = json!({ "from": params.from, "to": params.to, "format": params.format });
    audit_log::record(&mut conn, &id, caller.token.as_str(), "export.read", target, &detail).await?;
    Ok(response)
}

fn system(name: &str) -> Result<&'static str, Problem> {
    ALL.into_iter()
        .filter_map(Report::system)
        .find(|system| *system == name)
        .ok_or_else(|| Problem::invalid_field("system", "must be xero, quickbooks or netsuite"))
}

/// What an accounting system calls our accounts, taxes and items.
#[utoipa::path(
    get, path = "/api/v1/accounting-codes/{system}", tag = "exports", params(("system" = String, Path, description = "xero, quickbooks or netsuite")),
    responses((status = 200, body = Codes), (status = 422, body = Problem))
)]
async fn get_codes(State(app): State<App>, Caller(caller): Caller, Path(name): Path<String>) -> Result<axum::Json<Codes>, Problem> {
    caller.require(Right::Finance)?;
    Ok(axum::Json(codes::codes(&mut *app.pg.acquire().await?, &caller.workspace, system(&name)?).await?))
}

/// Sets what an accounting system calls them. Holds for exports from then on.
#[utoipa::path(
    put, path = "/api/v1/accounting-codes/{system}", tag = "exports", params(("system" = String, Path, description = "xero, quickbooks or netsuite")),
    request_body = Codes, responses((status = 200, body = Codes), (status = 422, body = Problem))
)]
async fn put_codes(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(name): Path<String>,
    Json(new): Json<Codes>,
) -> Result<axum::Json<Codes>, Problem> {
    caller.require(Right::Finance)?;
    let system = system(&name)?;
    let mut tx = app.pg.begin().await?;
    codes::set_codes(&mut tx, &caller.workspace, system, &new).await?;
    let detail = serde_json::to_value(&new).map_err(|e| Problem::internal(&e))?;
    audit_log::record(&mut tx, &caller.workspace, caller.token.as_str(), "accounting_codes.set", system, &detail).await?;
    tx.commit().await?;
    Ok(axum::Json(new))
}
