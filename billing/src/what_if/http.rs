//! `POST /api/v1/what-if`.

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::Json;
use farebox_core::ids::ConsumerId;
use farebox_core::problem::Problem;
use farebox_core::workspace;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{AskedPlan, Question, WhatIf, csv, months, read, what_if};

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(ask)).with_state(app.clone())
}

/// A published plan by its name, `growth` (the newest version) or `growth@2`; or a draft: an entry of the catalogue's
/// `plans`, as an object or as its YAML.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it only describes what is read digit by digit")]
enum WhatIfCandidate {
    Text(String),
    #[schema(value_type = Object)]
    Draft(serde_json::Value),
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WhatIfQuestion)]
struct Asked {
    /// One to six, of one product.
    #[schema(value_type = Vec<WhatIfCandidate>, min_items = 1, max_items = 6)]
    plans: Vec<Box<RawValue>>,
    /// The first month, such as 2026-08.
    from: String,
    /// The last month, included.
    to: String,
    /// Only these consumers (ids).
    consumers: Option<Vec<ConsumerId>>,
    /// Only who had this plan (name).
    on_plan: Option<String>,
}

/// As it was written: a draft's numbers keep every digit.
fn plan(written: &RawValue) -> AskedPlan {
    serde_json::from_str::<String>(written.get()).map_or_else(|_| AskedPlan::Draft(written.get().to_owned()), |text| AskedPlan::of(&text))
}

/// Plans side by side on real history
///
/// What each consumer's months came to, and would have come to on each plan: published versions and drafts, by the functions
/// that invoices use. JSON, or CSV by `Accept: text/csv`.
#[utoipa::path(
    post, path = "/api/v1/what-if", tag = "plans", request_body = Asked,
    responses((status = 200, body = WhatIf, content_type = "application/json"), (status = 422, body = Problem))
)]
async fn ask(State(app): State<App>, Caller(caller): Caller, headers: HeaderMap, Json(asked): Json<Asked>) -> Result<Response, Problem> {
    caller.require(Scope::Finance)?;
    let mut conn = app.pg.acquire().await?;
    let found = workspace::by_id(&mut conn, &caller.workspace).await.map_err(|e| Problem::internal(&e))?;
    let workspace = found.ok_or_else(|| Problem::not_found("workspace"))?;
    let plans: Vec<_> = asked.plans.iter().map(|written| plan(written)).collect();
    let plans = read(&mut conn, &workspace, &plans).await?;
    drop(conn);
    let months = months(&asked.from, &asked.to, workspace.time_zone)?;
    let question = Question { plans, months, consumers: asked.consumers, on_plan: asked.on_plan };
    let found = what_if(&app, &workspace.id, &question).await?;
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !accept.starts_with("text/csv") {
        return Ok(([(header::VARY, "accept")], axum::Json(found)).into_response());
    }
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8"), (header::VARY, "accept")], csv(&found)?).into_response())
}
