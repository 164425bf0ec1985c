use axum::extract::State;
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::problem::Problem;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Summary, reconcile, summary};

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(last, compare)).with_state(app.clone())
}

/// How the last comparison of every invoice with Stripe went. One runs every day.
#[utoipa::path(
    get, path = "/api/v1/stripe/reconciliation", tag = "billing",
    responses((status = 200, body = Summary), (status = 404, body = Problem, description = "There was none yet"))
)]
async fn last(State(app): State<App>, Caller(caller): Caller) -> Result<axum::Json<Summary>, Problem> {
    caller.require(Scope::Finance)?;
    summary(&app.pg, &caller.workspace).await?.map(axum::Json).ok_or_else(|| Problem::not_found("reconciliation"))
}

/// Compares every invoice with Stripe now.
#[utoipa::path(
    post, path = "/api/v1/stripe/reconciliation", tag = "billing",
    responses((status = 200, body = Summary), (status = 409, body = Problem, description = "One is running, or Stripe is not set up"))
)]
async fn compare(State(app): State<App>, Caller(caller): Caller) -> Result<axum::Json<Summary>, Problem> {
    caller.require(Scope::Finance)?;
    if !reconcile(&app, &caller.workspace).await? {
        return Err(Problem::conflict("reconciliation-running", "A comparison is running. Ask for its result in a moment."));
    }
    summary(&app.pg, &caller.workspace).await?.map(axum::Json).ok_or_else(|| Problem::not_found("reconciliation"))
}
