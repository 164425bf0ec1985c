//! `/api/v1/settings/intake`: how far events may lie back and ahead, and how long rejected ones are kept.

use axum::extract::State;
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::Json;
use farebox_core::intake_settings::{self, IntakeSettings};
use farebox_core::problem::Problem;
use farebox_core::{App, audit_log};

/// Show what is taken in
#[utoipa::path(get, path = "/api/v1/settings/intake", tag = "ingest", responses((status = 200, body = IntakeSettings)))]
pub async fn show(State(app): State<App>, caller: Caller) -> Result<axum::Json<IntakeSettings>, Problem> {
    caller.0.require(Scope::Read)?;
    let mut conn = app.pg.acquire().await?;
    Ok(axum::Json(intake_settings::of(&mut conn, &caller.0.workspace).await?))
}

/// Change what is taken in
///
/// In force within two seconds, for events received from then on; what is left out goes back to its default. Rejected
/// events that fit the new window can be replayed.
#[utoipa::path(
    put, path = "/api/v1/settings/intake", tag = "ingest", request_body = IntakeSettings,
    responses((status = 200, body = IntakeSettings), (status = 422, body = Problem))
)]
pub async fn change(
    State(app): State<App>,
    caller: Caller,
    Json(settings): Json<IntakeSettings>,
) -> Result<axum::Json<IntakeSettings>, Problem> {
    caller.0.require(Scope::Manage)?;
    let errors = settings.errors();
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let workspace = &caller.0.workspace;
    let mut tx = app.pg.begin().await?;
    intake_settings::set(&mut tx, workspace, &settings).await?;
    let detail = serde_json::to_value(settings).map_err(|e| Problem::internal(&e))?;
    audit_log::record(&mut tx, workspace, caller.0.token.as_str(), "settings.intake", workspace.as_str(), &detail).await?;
    tx.commit().await?;
    Ok(axum::Json(settings))
}
