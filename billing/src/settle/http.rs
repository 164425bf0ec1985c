use axum::extract::{Path, State};
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::Json;
use farebox_core::problem::Problem;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Payment, Settlement, settle};
use crate::invoices::{self, Invoice};

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(pay)).routes(routes!(void)).routes(routes!(give_up)).with_state(app.clone())
}

async fn run(app: &App, caller: &Caller, id: &str, how: Settlement) -> Result<axum::Json<Invoice>, Problem> {
    caller.0.require(Scope::Finance)?;
    let id = invoices::named(&mut *app.pg.acquire().await?, &caller.0.workspace, id).await?;
    Ok(axum::Json(settle(app, &caller.0.workspace, &id, &how, caller.0.token.as_str()).await?))
}

/// Records that an invoice was paid otherwise than through Stripe: the whole of it. Where Stripe has it, Stripe is told and
/// stops collecting.
#[utoipa::path(
    post, path = "/api/v1/invoices/{id}/payment", tag = "invoices", params(("id" = String, Path, description = "Id or number")), request_body = Payment,
    responses((status = 200, body = Invoice), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
async fn pay(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Json(payment): Json<Payment>,
) -> Result<axum::Json<Invoice>, Problem> {
    run(&app, &caller, &id, Settlement::Paid(payment)).await
}

/// Takes an invoice back: it stands, and nothing is owed.
#[utoipa::path(
    post, path = "/api/v1/invoices/{id}/void", tag = "invoices", params(("id" = String, Path, description = "Id or number")),
    responses((status = 200, body = Invoice), (status = 404, body = Problem), (status = 409, body = Problem))
)]
async fn void(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<axum::Json<Invoice>, Problem> {
    run(&app, &caller, &id, Settlement::Void).await
}

/// Gives an invoice up: it is a loss, and may still be paid one day.
#[utoipa::path(
    post, path = "/api/v1/invoices/{id}/uncollectible", tag = "invoices", params(("id" = String, Path, description = "Id or number")),
    responses((status = 200, body = Invoice), (status = 404, body = Problem), (status = 409, body = Problem))
)]
async fn give_up(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<axum::Json<Invoice>, Problem> {
    run(&app, &caller, &id, Settlement::Uncollectible).await
}
