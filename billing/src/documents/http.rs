use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::Params;
use farebox_core::problem::Problem;
use farebox_core::{App, workspace};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::store::{self, File, Medium};
use crate::invoices;

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(get)).with_state(app.clone())
}

/// In which medium.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// pdf (default), html, json, or ubl (UBL 2.1 by EN 16931).
    #[serde(default)]
    pub format: Medium,
}

/// The invoice as a document. For an issued invoice always the same bytes.
#[utoipa::path(
    get, path = "/api/v1/invoices/{id}/document", tag = "invoices", params(("id" = String, Path, description = "Id or number"), Wanted),
    responses((status = 200, body = Vec<u8>, content_type = "application/pdf"), (status = 404, body = Problem))
)]
async fn get(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Params(wanted): Params<Wanted>,
) -> Result<Response, Problem> {
    caller.require(Scope::Finance)?;
    let mut conn = app.pg.acquire().await?;
    let id = invoices::named(&mut conn, &caller.workspace, &id).await?;
    let workspace = workspace::by_id(&mut conn, &caller.workspace).await.map_err(|e| Problem::internal(&e))?;
    drop(conn);
    let workspace = workspace.ok_or_else(|| Problem::not_found("workspace"))?;
    let file = store::get(&app, &workspace, &id, wanted.format).await?.ok_or_else(|| Problem::not_found("invoice"))?;
    Ok(file.into_response())
}

impl IntoResponse for File {
    fn into_response(self) -> Response {
        let disposition = format!("inline; filename=\"{}\"", self.name);
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static(self.medium.media_type())),
            (header::CONTENT_DISPOSITION, HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("inline"))),
            (header::CACHE_CONTROL, HeaderValue::from_static("private, no-store")),
            // A name in it may be anything: nothing is run, nothing is fetched.
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; sandbox")),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        ];
        (headers, self.bytes).into_response()
    }
}
