use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use farebox_core::App;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::Params;
use farebox_core::problem::Problem;
use farebox_core::workspace;
use serde::Deserialize;

use crate::catalog::{self, Applied};

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Options {
    /// Only say what would change.
    #[serde(default)]
    dry_run: bool,
}

/// Applies a catalogue file: all of it or nothing. The same file again changes nothing.
#[utoipa::path(
    post, path = "/api/v1/catalog", tag = "catalogue", params(Options),
    request_body(content = String, content_type = "application/yaml", description = "The catalogue file"),
    responses((status = 200, body = Applied, description = "What was changed, or would be"),
        (status = 409, body = Problem, description = "A published version would change, or subscriptions would overlap"),
        (status = 422, body = Problem, description = "The file is wrong; each error names its line"))
)]
pub(super) async fn apply(
    State(app): State<App>,
    Caller(caller): Caller,
    Params(options): Params<Options>,
    body: Bytes,
) -> Result<axum::Json<Applied>, Problem> {
    caller.require(Scope::Manage)?;
    let text = std::str::from_utf8(&body).map_err(|_| Problem::bad_request("unreadable-body", "The catalogue is not UTF-8 text."))?;
    let parsed = catalog::parse(text).map_err(|errors| catalog::problem(&errors))?;
    let mut conn = app.pg.acquire().await?;
    let own = workspace::by_id(&mut conn, &caller.workspace).await.map_err(|e| Problem::internal(&e))?;
    if own.as_ref().is_none_or(|own| own.name != parsed.workspace) {
        let own = own.map(|own| own.name).unwrap_or_default();
        let detail =
            format!("The file is for `{}`, the token for `{own}`. Use that workspace's token, or correct the file.", parsed.workspace);
        return Err(Problem::conflict("other-workspace", detail));
    }
    let applied = if options.dry_run {
        catalog::diff(&mut conn, &parsed).await?
    } else {
        catalog::apply(&mut conn, &parsed, caller.token.as_str()).await?
    };
    Ok(axum::Json(applied))
}

/// The workspace as the file that would make it.
#[utoipa::path(get, path = "/api/v1/catalog", tag = "catalogue", responses((status = 200, body = String, content_type = "application/yaml")))]
pub(super) async fn export(State(app): State<App>, Caller(caller): Caller) -> Result<impl IntoResponse, Problem> {
    caller.require(Scope::Read)?;
    let text = catalog::export(&mut *app.pg.acquire().await?, &caller.workspace).await?;
    Ok(([(header::CONTENT_TYPE, "application/yaml")], text))
}
