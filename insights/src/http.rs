//! `GET /api/v1/kpis/{name}`: JSON, or CSV by `Accept: text/csv`.

use axum::extract::{FromRequestParts, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::QueryPairs;
use farebox_core::ids::WorkspaceId;
use farebox_core::problem::Problem;
use serde::Serialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::KpiError;
use crate::kpis::{
    self, ComparedAnswer, ConversionAnswer, FunnelAnswer, LifecycleAnswer, RetentionAnswer, RevenueAnswer, StickinessAnswer, Tabular,
    UsageAnswer, VersionsAnswer,
};
use crate::params;
use crate::query::Query;

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(activation))
        .routes(routes!(retention))
        .routes(routes!(conversion))
        .routes(routes!(funnel))
        .routes(routes!(lifecycle))
        .routes(routes!(revenue))
        .routes(routes!(stickiness))
        .routes(routes!(usage))
        .routes(routes!(versions))
        .routes(routes!(compared))
        .route("/api/v1/kpis/{name}", axum::routing::get(unknown))
        .with_state(app.clone())
}

/// Parameters of every KPI. Read by [`Query`], so that every wrong one is named at once; written here for the
/// reference.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents what `Query::common` reads")]
struct CommonParameters {
    /// The first interval is the one that holds this date or RFC 3339 time. 30 days, 12 weeks or 12 months in all
    /// unless given.
    #[param(example = "2026-06-01")]
    from: Option<String>,
    /// The range ends here, grown to a whole interval; with the running interval unless given.
    to: Option<String>,
    /// `day`, `week` or `month`.
    interval: Option<String>,
    /// IANA name; the workspace's unless given.
    time_zone: Option<String>,
    /// `monday` (default) or `sunday`.
    week_start: Option<String>,
    /// `consumer` (default) or `credential`.
    unit: Option<String>,
    #[param(rename = "filter[api]")]
    filter_api: Option<String>,
    #[param(rename = "filter[version]")]
    filter_version: Option<String>,
    #[param(rename = "filter[route]")]
    filter_route: Option<String>,
}

/// Who reached their first qualifying call in time
///
/// By sign-up cohort: how many consumers made their first qualifying call within seven days, and how long it took.
#[utoipa::path(get, path = "/api/v1/kpis/activation", tag = "kpis", params(
    CommonParameters,
    ("start" = Option<String>, Query, description = "`signup` (default) or `key`: what time is counted from."),
    ("window" = Option<String>, Query, description = "`7d` unless given; also hours (`36h`) and weeks (`2w`)."),
), responses((status = 200, body = ConversionAnswer, content_type = "application/json"), (status = 422, body = Problem)))]
async fn activation(State(app): State<App>, asked: Asked) -> Result<Response, Problem> {
    asked.answer(&app, Scope::Read, params::activation, kpis::activation).await
}

/// Who came back
///
/// Of those who started in an interval, how many were active in later ones.
#[utoipa::path(get, path = "/api/v1/kpis/retention", tag = "kpis", params(
    CommonParameters,
    ("mode" = Option<String>, Query, description = "`n_day` (default), `unbounded` or `bracket`."),
    ("brackets" = Option<String>, Query, description = "With `bracket`: ranges of intervals after the start, such as `0-2,3-6`."),
    ("cohort" = Option<String>, Query, description = "`recurring` (default) or `first_time`."),
    ("start" = Option<String>, Query, description = "Action that starts; `call` unless given."),
    ("return" = Option<String>, Query, description = "Action that counts as coming back; `call` unless given."),
    ("periods" = Option<u32>, Query, description = "At most so many columns, column 0 included."),
    ("min_count" = Option<u32>, Query, description = "So many times make an interval count; 1 unless given."),
    ("mean" = Option<String>, Query, description = "`weighted` by cohort size (default) or `simple`."),
), responses((status = 200, body = RetentionAnswer, content_type = "application/json"), (status = 422, body = Problem)))]
async fn retention(State(app): State<App>, asked: Asked) -> Result<Response, Problem> {
    asked.answer(&app, Scope::Read, params::retention, kpis::retention).await
}

/// Who became a customer
///
/// By cohort of the start action: how many reached the goal within the window. Free to paid unless told otherwise.
#[utoipa::path(get, path = "/api/v1/kpis/conversion", tag = "kpis", params(
    CommonParameters,
    ("start" = Option<String>, Query, description = "Action that starts; `signup` unless given."),
    ("goal" = Option<String>, Query, description = "Action to reach; `paid` unless given."),
    ("window" = Option<String>, Query, description = "`60d` unless given."),
), responses((status = 200, body = ConversionAnswer, content_type = "application/json"), (status = 422, body = Problem)))]
async fn conversion(State(app): State<App>, asked: Asked) -> Result<Response, Problem> {
    asked.answer(&app, Scope::Read, params::conversion, kpis::conversion).await
}

/// How far they come
///
/// Ordered steps within a window from the first.
#[utoipa::path(get, path = "/api/v1/kpis/funnel", tag = "kpis", params(
    CommonParameters,
    ("steps" = Option<String>, Query, description = "Actions in order; `signup,key,call,paid` unless given."),
    ("window" = Option<String>, Query, description = "From the first step, its end included; `60d` unless given."),
), responses((status = 200, body = FunnelAnswer, content_type = "application/json"), (status = 422, body = Problem)))]
async fn funnel(State(app): State<App>, asked: Asked) -> Result<Response, Problem> {
    asked.answer(&app, Scope::Read, params::funnel, kpis::funnel).await
}

/// Who is new, back, or gone
#[utoipa::path(get, path = "/api/v1/kpis/lifecycle", tag = "kpis", params(CommonParameters),
    responses((status = 200, body = LifecycleAnswer, content_type = "application/json"), (status = 422, body = Problem)))]
async fn lifecycle(State(app): State<App>, asked: Asked) -> Result<Response, Problem> {
    asked.answer(&app, Scope::Read, params::lifecycle, kpis::lifecycle).await
}

/// How often they come
#[utoipa::path(get, path = "/api/v1/kpis/stickiness", tag = "kpis", params(CommonParameters),
    responses((status = 200, body = StickinessAnswer, content_type = "application/json"), (status = 422, body = Problem)))]
async fn stickiness(State(app): State<App>, asked: Asked) -> Result<Response, Problem> {
    asked.answer(&app, Scope::Read, params::stickiness, kpis::stickiness).await
}

/// How much is called, by whom
///
/// Calls, errors and active consumers by interval with growth, and the consumers that call most.
#[utoipa::path(get, path = "/api/v1/kpis/usage", tag = "kpis", params(
    CommonParameters,
    ("top" = Option<u32>, Query, description = "How many of the consumers that call most; 10 unless given."),
), responses((status = 200, body = UsageAnswer, content_type = "application/json"), (status = 422, body = Problem)))]
async fn usage(State(app): State<App>, asked: Asked) -> Result<Response, Problem> {
    asked.answer(&app, Scope::Read, params::usage, kpis::usage).await
}

/// Which versions are called, and who is still on a deprecated one
#[utoipa::path(get, path = "/api/v1/kpis/versions", tag = "kpis", params(CommonParameters),
    responses((status = 200, body = VersionsAnswer, content_type = "application/json"), (status = 422, body = Problem)))]
async fn versions(State(app): State<App>, asked: Asked) -> Result<Response, Problem> {
    asked.answer(&app, Scope::Read, params::versions, kpis::versions).await
}

/// Two versions side by side
///
/// As in a canary: share of calls, errors and exact latency quantiles of two versions of an API, and by consumer that called
/// the canary.
#[utoipa::path(get, path = "/api/v1/kpis/versions/compare", tag = "kpis", params(
    ("api" = String, Query, description = "The api's name."),
    ("base" = String, Query, description = "The version to compare with, such as `v1`."),
    ("canary" = String, Query, description = "The version that is compared, such as `v2`."),
    ("from" = Option<String>, Query, description = "A date or time; seven days before `to` unless given, 35 at most."),
    ("to" = Option<String>, Query, description = "Now unless given."),
), responses((status = 200, body = ComparedAnswer, content_type = "application/json"), (status = 422, body = Problem)))]
async fn compared(State(app): State<App>, asked: Asked) -> Result<Response, Problem> {
    asked.answer(&app, Scope::Read, params::compared, kpis::compared).await
}

/// What recurs each month, and how it moves
///
/// MRR by movement, ARR, churn and retention of revenue, and usage revenue beside it. Needs the scope `finance`. `unit` and `filter[...]` are not taken.
#[utoipa::path(get, path = "/api/v1/kpis/revenue", tag = "kpis", params(
    CommonParameters,
    ("currency" = Option<String>, Query, description = "ISO 4217 code; the workspace's unless given."),
), responses((status = 200, body = RevenueAnswer, content_type = "application/json"), (status = 422, body = Problem)))]
async fn revenue(State(app): State<App>, asked: Asked) -> Result<Response, Problem> {
    asked.answer(&app, Scope::Finance, params::revenue, kpis::revenue).await
}

async fn unknown(caller: Caller, Path(name): Path<String>) -> Problem {
    if let Err(problem) = caller.0.require(Scope::Read) {
        return problem;
    }
    let name: String = name.chars().take(64).collect();
    let known = "activation, retention, conversion, funnel, lifecycle, stickiness, usage, versions, revenue";
    Problem::new(StatusCode::NOT_FOUND, "not-found", "Not found", format!("There is no KPI `{name}`. There are {known}."))
}

/// A question for a KPI: who asks, with which parameters, and in which form they want the answer.
#[derive(FromRequestParts)]
#[from_request(state(App))]
struct Asked {
    caller: Caller,
    headers: HeaderMap,
    parameters: QueryPairs,
}

impl Asked {
    async fn answer<P, A: Serialize + Tabular>(
        self,
        app: &App,
        scope: Scope,
        read: fn(Query) -> Result<P, KpiError>,
        compute: impl AsyncFnOnce(&App, &WorkspaceId, &P) -> Result<A, KpiError>,
    ) -> Result<Response, Problem> {
        self.caller.0.require(scope)?;
        let params = read(Query::new(self.parameters.0))?;
        let answer = compute(app, &self.caller.0.workspace, &params).await?;
        if !wants_csv(&self.headers) {
            return Ok(([(header::VARY, "accept")], axum::Json(answer)).into_response());
        }
        let csv = to_csv(&answer).map_err(|error| Problem::internal(&error))?;
        Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8"), (header::VARY, "accept")], csv).into_response())
    }
}

/// `text/csv` stands in the Accept header, and not after `application/json`.
fn wants_csv(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let csv = accept.find("text/csv");
    csv.is_some_and(|csv| accept.find("application/json").is_none_or(|json| csv < json))
}

fn to_csv(answer: &impl Tabular) -> Result<Vec<u8>, csv::Error> {
    let table = answer.table();
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&table.header)?;
    for row in &table.rows {
        writer.write_record(row)?;
    }
    writer.into_inner().map_err(|e| e.into_error().into())
}
