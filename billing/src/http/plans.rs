use axum::extract::{Path, State};
use farebox_core::App;
use farebox_core::audit_log;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page};
use farebox_core::ids::ConsumerId;
use farebox_core::problem::Problem;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::catalog;
use crate::plans::{self, Plan};
use crate::rating::PlanDefinition;
use crate::subscriptions::{self, Migrated, Migration, When};
use crate::what_if::{self, Candidate, Question, Simulation};

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

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Migrate {
    /// All other versions unless given.
    from_version: Option<i32>,
    /// The newest unless given.
    to_version: Option<i32>,
    #[serde(default = "period_end")]
    when: When,
    /// Only say what would be moved.
    #[serde(default)]
    dry_run: bool,
}

fn period_end() -> When {
    When::PeriodEnd
}

/// Moves the plan's subscriptions to another version of it, each at its period's end unless told otherwise.
#[utoipa::path(
    post, path = "/api/v1/plans/{id}/migrate", tag = "plans", params(("id" = String, Path, description = "Id or name")),
    request_body = Migrate, responses((status = 200, body = Migrated), (status = 404, body = Problem))
)]
pub(super) async fn migrate(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(wanted): Json<Migrate>,
) -> Result<axum::Json<Migrated>, Problem> {
    caller.require(Scope::Manage)?;
    let mut transaction = app.pg.begin().await?;
    let ws = &caller.workspace;
    let plan = plans::get(&mut transaction, ws, &id).await?.ok_or_else(|| Problem::not_found("plan"))?;
    let migration = Migration { plan: &plan.name, from_version: wanted.from_version, to_version: wanted.to_version, when: wanted.when };
    let done = subscriptions::migrate(&mut transaction, ws, &migration).await?;
    if wanted.dry_run {
        transaction.rollback().await?;
    } else {
        let detail = serde_json::to_value(&done).map_err(|e| Problem::internal(&e))?;
        audit_log::record(&mut transaction, ws, caller.token.as_str(), "plan.migrate", &id, &detail).await?;
        transaction.commit().await?;
    }
    Ok(axum::Json(done))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Simulate {
    /// The newest unless given.
    version: Option<i32>,
    /// A draft instead: an entry of the catalogue's `plans`; its name and product are the plan's.
    #[schema(value_type = Option<Object>)]
    draft: Option<Box<RawValue>>,
    /// The first and the last month, such as 2026-08.
    from: String,
    to: String,
    /// Only these consumers (ids).
    consumers: Option<Vec<ConsumerId>>,
    /// Only who had this plan (name).
    on_plan: Option<String>,
}

/// What a plan would have come to on real history: difference by consumer, winners, losers, totals.
#[utoipa::path(
    post, path = "/api/v1/plans/{id}/simulate", tag = "plans", params(("id" = String, Path, description = "Id or name")),
    request_body = Simulate, responses((status = 200, body = Simulation), (status = 404, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn simulate(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(asked): Json<Simulate>,
) -> Result<axum::Json<Simulation>, Problem> {
    caller.require(Scope::Finance)?;
    let mut conn = app.pg.acquire().await?;
    let ws = &caller.workspace;
    let workspace = farebox_core::workspace::by_id(&mut conn, ws).await.map_err(|e| Problem::internal(&e))?;
    let workspace = workspace.ok_or_else(|| Problem::not_found("workspace"))?;
    let newest = plans::get(&mut conn, ws, &id).await?.ok_or_else(|| Problem::not_found("plan"))?;
    let plan = plans::find(&mut conn, ws, &newest.name, asked.version).await?.ok_or_else(|| Problem::not_found("plan version"))?;
    drop(conn);
    let candidate = match &asked.draft {
        None => Candidate::published(plan.definition),
        Some(draft) => {
            let read = catalog::parse_plan(draft.get(), workspace.currency);
            let (draft, _) = read.map_err(|errors| catalog::field_problem("/draft", &errors))?;
            let PlanDefinition { name, product, version, .. } = plan.definition;
            Candidate::draft(PlanDefinition { name, product, version: version + 1, ..draft })
        }
    };
    let months = what_if::months(&asked.from, &asked.to, workspace.time_zone)?;
    let question = Question { plans: vec![candidate], months, consumers: asked.consumers, on_plan: asked.on_plan };
    Ok(axum::Json(what_if::simulate(&app, ws, &question).await?))
}
