use axum::extract::State;
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Page, Params};
use farebox_core::problem::Problem;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::disputes::{self, Dispute};
use super::refunds::{self, Refund};

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(refunds)).routes(routes!(disputes)).with_state(app.clone())
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Of this invoice (id).
    invoice: Option<String>,
}

/// Payments that went back through Stripe, newest first.
#[utoipa::path(get, path = "/api/v1/refunds", tag = "invoices", params(Filter), responses((status = 200, body = Page<Refund>)))]
async fn refunds(
    State(app): State<App>,
    Caller(caller): Caller,
    Params(filter): Params<Filter>,
) -> Result<axum::Json<Page<Refund>>, Problem> {
    caller.require(Scope::Finance)?;
    let data = refunds::list(&mut *app.pg.acquire().await?, &caller.workspace, filter.invoice.as_deref()).await?;
    Ok(axum::Json(Page { data, next_cursor: None }))
}

/// Payments that cardholders dispute, newest first.
#[utoipa::path(get, path = "/api/v1/disputes", tag = "invoices", params(Filter), responses((status = 200, body = Page<Dispute>)))]
async fn disputes(
    State(app): State<App>,
    Caller(caller): Caller,
    Params(filter): Params<Filter>,
) -> Result<axum::Json<Page<Dispute>>, Problem> {
    caller.require(Scope::Finance)?;
    let data = disputes::list(&mut *app.pg.acquire().await?, &caller.workspace, filter.invoice.as_deref()).await?;
    Ok(axum::Json(Page { data, next_cursor: None }))
}
