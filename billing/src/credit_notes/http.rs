use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page, Paging, Params};
use farebox_core::ids::InvoiceLineId;
use farebox_core::money::BigDecimal;
use farebox_core::problem::Problem;
use farebox_core::workspace;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{CreditNote, NewCreditNote, Reason, To};
use crate::documents::{self, Wanted};
use crate::http::optional_decimal;
use crate::invoices;

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(credit))
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(document))
        .routes(routes!(void))
        .with_state(app.clone())
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewCreditNote)]
struct New {
    /// What is taken back; everything that is left of the invoice unless given.
    #[serde(default)]
    lines: Vec<NewLine>,
    #[serde(default)]
    reason: Reason,
    /// For the buyer to read; printed on the document.
    #[serde(default)]
    memo: Option<String>,
    /// Where the money of a paid invoice goes; an open one asks for less instead.
    #[serde(default)]
    to: Option<To>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewCreditNoteLine)]
struct NewLine {
    /// A line of the invoice (id).
    line: InvoiceLineId,
    /// As it was priced: with the tax where it is inclusive, without where it is exclusive. All that is left of the line
    /// unless given.
    #[serde(default, deserialize_with = "optional_decimal::deserialize")]
    #[schema(value_type = Option<String>)]
    amount: Option<BigDecimal>,
}

/// Credits an invoice, in whole or in part. Where Stripe has the invoice, Stripe is told first; while it does not answer
/// the note is `pending`, and Farebox goes on asking.
#[utoipa::path(
    post, path = "/api/v1/invoices/{id}/credit-notes", tag = "credit-notes", params(("id" = String, Path, description = "Id or number")), request_body = New,
    responses((status = 201, body = CreditNote), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
async fn credit(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(new): Json<New>,
) -> Result<(StatusCode, axum::Json<CreditNote>), Problem> {
    caller.require(Scope::Finance)?;
    let id = invoices::named(&mut *app.pg.acquire().await?, &caller.workspace, &id).await?;
    let lines = new.lines.into_iter().map(|line| (line.line, line.amount)).collect();
    let new = NewCreditNote { lines, reason: new.reason, memo: new.memo, to: new.to, ..NewCreditNote::default() };
    let made = super::credit(&app, &caller.workspace, &id, &new, caller.token.as_str()).await?;
    Ok((StatusCode::CREATED, axum::Json(made)))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Of this invoice (id).
    invoice: Option<String>,
    /// Of this consumer (id).
    consumer: Option<String>,
}

/// Credit notes with their lines, newest first.
#[utoipa::path(
    get, path = "/api/v1/credit-notes", tag = "credit-notes", params(Paging, Filter), responses((status = 200, body = Page<CreditNote>))
)]
async fn list(
    State(app): State<App>,
    Caller(caller): Caller,
    Params(paging): Params<Paging>,
    Params(filter): Params<Filter>,
) -> Result<axum::Json<Page<CreditNote>>, Problem> {
    caller.require(Scope::Finance)?;
    let (limit, after) = paging.resolve()?;
    let (invoice, consumer) = (filter.invoice.as_deref(), filter.consumer.as_deref());
    let rows = super::list(&mut *app.pg.acquire().await?, &caller.workspace, invoice, consumer, limit + 1, &after).await?;
    Ok(axum::Json(Page::from_rows(rows, limit, |note| note.id.to_string())))
}

/// One credit note.
#[utoipa::path(
    get, path = "/api/v1/credit-notes/{id}", tag = "credit-notes", params(("id" = String, Path, description = "Id or number")),
    responses((status = 200, body = CreditNote), (status = 404, body = Problem))
)]
async fn get(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<axum::Json<CreditNote>, Problem> {
    caller.require(Scope::Finance)?;
    let mut conn = app.pg.acquire().await?;
    let id = super::named(&mut conn, &caller.workspace, &id).await?;
    let found = super::get(&mut conn, &caller.workspace, &id).await?;
    found.map(axum::Json).ok_or_else(|| Problem::not_found("credit note"))
}

/// Voids a credit note whose invoice is still open: so much more is to be paid again. Where Stripe has the note, it is voided
/// there first; while Stripe does not answer it stays issued with `voiding_since`, and Farebox goes on asking.
#[utoipa::path(
    post, path = "/api/v1/credit-notes/{id}/void", tag = "credit-notes", params(("id" = String, Path, description = "Id or number")),
    responses((status = 200, body = CreditNote), (status = 404, body = Problem), (status = 409, body = Problem))
)]
async fn void(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<axum::Json<CreditNote>, Problem> {
    caller.require(Scope::Finance)?;
    let id = super::named(&mut *app.pg.acquire().await?, &caller.workspace, &id).await?;
    Ok(axum::Json(super::void(&app, &caller.workspace, &id, caller.token.as_str()).await?))
}

/// The credit note as a document: always the same bytes, but for one that was voided, which says so.
#[utoipa::path(
    get, path = "/api/v1/credit-notes/{id}/document", tag = "credit-notes", params(("id" = String, Path, description = "Id or number"), Wanted),
    responses((status = 200, body = Vec<u8>, content_type = "application/pdf"), (status = 404, body = Problem), (status = 409, body = Problem))
)]
async fn document(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Params(wanted): Params<Wanted>,
) -> Result<Response, Problem> {
    caller.require(Scope::Finance)?;
    let mut conn = app.pg.acquire().await?;
    let id = super::named(&mut conn, &caller.workspace, &id).await?;
    let workspace = workspace::by_id(&mut conn, &caller.workspace).await.map_err(|e| Problem::internal(&e))?;
    drop(conn);
    let workspace = workspace.ok_or_else(|| Problem::not_found("workspace"))?;
    let file = documents::of_credit_note(&app, &workspace, &id, wanted.format).await?;
    Ok(file.ok_or_else(|| Problem::not_found("credit note"))?.into_response())
}
