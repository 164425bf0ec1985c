use axum::extract::{Path, State};
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::Page;
use farebox_core::problem::Problem;

use crate::plans::{self, Plan};

/// The newest version of each plan on offer.
#[utoipa::path(get, path = "/api/v1/plans", tag = "plans", responses((status = 200, body = Page<Plan>)))]
pub(super) async fn list(State(app): State<App>, Caller(caller): Caller) -> Result<axum::Json<Page<Plan>>, Problem> {
    caller.require(Scope::Read)?;
    let data = plans::list_published(&mut *app.pg.acquire().await?, &caller.workspace).await?;
    Ok(axum::Json(Page { data, next_cursor: None }))
}

/// A plan by its id or name, newest version.
#[utoipa::path(
    get, path = "/api/v1/plans/{id}", tag = "plans", params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = Plan), (status = 404, body = Problem))
)]
pub(super) async fn get(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<axum::Json<Plan>, Problem> {
    caller.require(Scope::Read)?;
    let plan = plans::get(&mut *app.pg.acquire().await?, &caller.workspace, &id).await?;
    plan.map(axum::Json).ok_or_else(|| Problem::not_found("plan"))
}
