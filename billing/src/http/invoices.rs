use axum::extract::{Path, State};
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Page, Paging, Params};
use farebox_core::problem::Problem;

use crate::audit::{self, AuditReport};
use crate::invoices::{self, Invoice, InvoiceFilter};

/// Invoices with their lines, newest first.
#[utoipa::path(get, path = "/api/v1/invoices", tag = "invoices", params(Paging, InvoiceFilter), responses((status = 200, body = Page<Invoice>)))]
pub(super) async fn list(
    State(app): State<App>,
    Caller(caller): Caller,
    Params(paging): Params<Paging>,
    Params(filter): Params<InvoiceFilter>,
) -> Result<axum::Json<Page<Invoice>>, Problem> {
    caller.require(Scope::Finance)?;
    let (limit, after) = paging.resolve()?;
    let rows = invoices::list(&mut *app.pg.acquire().await?, &caller.workspace, &filter, limit + 1, &after).await?;
    Ok(axum::Json(Page::from_rows(rows, limit, |invoice| invoice.id.to_string())))
}

/// One invoice, with the proof of each line.
#[utoipa::path(
    get, path = "/api/v1/invoices/{id}", tag = "invoices", params(("id" = String, Path, description = "Id or number")),
    responses((status = 200, body = Invoice), (status = 404, body = Problem))
)]
pub(super) async fn get(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<axum::Json<Invoice>, Problem> {
    caller.require(Scope::Finance)?;
    let mut conn = app.pg.acquire().await?;
    let id = invoices::named(&mut conn, &caller.workspace, &id).await?;
    let found = invoices::get(&mut conn, &caller.workspace, &id).await?;
    found.map(axum::Json).ok_or_else(|| Problem::not_found("invoice"))
}

/// Re-derives every line from the raw events, and compares.
#[utoipa::path(
    get, path = "/api/v1/invoices/{id}/audit", tag = "invoices", params(("id" = String, Path, description = "Id or number")),
    responses((status = 200, body = AuditReport), (status = 404, body = Problem))
)]
pub(super) async fn audit(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<AuditReport>, Problem> {
    caller.require(Scope::Finance)?;
    let id = invoices::named(&mut *app.pg.acquire().await?, &caller.workspace, &id).await?;
    Ok(axum::Json(audit::invoice(&app, &caller.workspace, &id).await?))
}
