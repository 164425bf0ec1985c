//! Stripe's settings for programs, and the way in for Stripe's webhooks.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, parse_json};
use farebox_core::ids::WorkspaceId;
use farebox_core::problem::Problem;
use farebox_core::{App, clock};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::endpoint::register_webhook;
use super::events::{self, Event};
use super::{push, settings, signature};
use crate::invoices;

/// Stripe's events are some kilobytes; the largest hold an invoice with ten lines.
const MAX_EVENT: usize = 1 << 20;

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(get_settings, put_settings))
        .routes(routes!(retry_push))
        .routes(routes!(receive))
        .layer(DefaultBodyLimit::max(MAX_EVENT))
        .with_state(app.clone())
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSettings {
    /// `sk_test_...`, `sk_live_...`, or a restricted key `rk_...` that may write customers, invoices, checkout sessions
    /// and webhook endpoints.
    secret_key: String,
    /// `whsec_...`, when the webhook endpoint was made by hand. Without it Farebox registers one.
    webhook_secret: Option<String>,
    /// With a test key, in a workspace in test mode: new customers live by Stripe's test clocks, which are advanced with the
    /// workspace's.
    #[serde(default)]
    test_clocks: bool,
}

/// Whether Stripe is set up, and what waits for it.
#[utoipa::path(get, path = "/api/v1/stripe", tag = "billing", responses((status = 200, body = settings::Status), (status = 403, body = Problem)))]
async fn get_settings(State(app): State<App>, Caller(caller): Caller) -> Result<axum::Json<settings::Status>, Problem> {
    may(&caller)?;
    Ok(axum::Json(settings::status(&mut *app.pg.acquire().await?, &caller.workspace).await?))
}

/// Sets the Stripe keys. They are tried first, then stored encrypted, and never given out again.
#[utoipa::path(
    put, path = "/api/v1/stripe", tag = "billing", request_body = NewSettings,
    responses((status = 200, body = settings::Status), (status = 403, body = Problem), (status = 422, body = Problem))
)]
async fn put_settings(
    State(app): State<App>,
    Caller(caller): Caller,
    Json(new): Json<NewSettings>,
) -> Result<axum::Json<settings::Status>, Problem> {
    may(&caller)?;
    let webhook_secret = new.webhook_secret.as_deref().map(str::trim).filter(|secret| !secret.is_empty());
    if webhook_secret.is_some_and(|secret| !secret.starts_with("whsec_") || secret.len() > 255) {
        return Err(Problem::invalid_field("/webhook_secret", "a webhook signing secret begins with whsec_"));
    }
    let secret_key = new.secret_key.trim();
    settings::probe(&app, &caller.workspace, secret_key).await?;
    let mut tx = app.pg.begin().await?;
    settings::set(&mut tx, &app.config.billing, &caller.workspace, secret_key, webhook_secret, caller.token.as_str()).await?;
    settings::set_test_clocks(&mut tx, &caller.workspace, new.test_clocks).await?;
    tx.commit().await?;
    // A convenience: without it events are found by polling, so its failure does not undo the keys.
    if webhook_secret.is_none()
        && let Err(error) = register_webhook(&app, &caller.workspace).await
    {
        tracing::warn!(workspace = %caller.workspace, "no webhook endpoint could be registered at Stripe; its events are polled: {error}");
    }
    Ok(axum::Json(settings::status(&mut *app.pg.acquire().await?, &caller.workspace).await?))
}

/// Sends an invoice to Stripe that was blocked on its way, after its cause was removed.
#[utoipa::path(
    post, path = "/api/v1/stripe/invoices/{id}/retry", tag = "billing", params(("id" = String, Path, description = "The invoice's id or number")),
    responses((status = 202, description = "it is on its way again"), (status = 404, body = Problem), (status = 409, body = Problem))
)]
async fn retry_push(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    may(&caller)?;
    let mut tx = app.pg.begin().await?;
    let id = invoices::named(&mut tx, &caller.workspace, &id).await?;
    if invoices::get(&mut tx, &caller.workspace, &id).await?.is_none() {
        return Err(Problem::not_found("invoice"));
    }
    let retried = push::retry(&mut tx, &caller.workspace, &id).await?;
    tx.commit().await?;
    if retried {
        Ok(StatusCode::ACCEPTED)
    } else {
        Err(Problem::conflict("not-blocked", "This invoice is not blocked on its way to Stripe."))
    }
}

/// Stripe's webhooks: signed, kept, and answered at once; applied afterwards.
#[utoipa::path(
    post, path = "/stripe/webhooks/{workspace}", tag = "stripe", params(("workspace" = String, Path, description = "the workspace's id")),
    request_body(content = String, content_type = "application/json"),
    responses((status = 200, description = "kept, or known"), (status = 400, body = Problem), (status = 404, body = Problem))
)]
async fn receive(State(app): State<App>, Path(workspace): Path<String>, headers: HeaderMap, body: Bytes) -> Result<StatusCode, Problem> {
    let workspace: WorkspaceId = workspace.parse().map_err(|_| Problem::not_found("webhook"))?;
    let mut conn = app.pg.acquire().await?;
    let secrets = settings::webhook_secrets(&app, &mut conn, &workspace).await?;
    if secrets.is_empty() {
        return Err(Problem::not_found("webhook"));
    }
    let header = headers.get("stripe-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    signature::verify(header, &body, &secrets, clock::now().timestamp()).map_err(|error| {
        metrics::counter!("farebox_stripe_events_total", "outcome" => "refused").increment(1);
        Problem::bad_request("bad-signature", format!("This is not accepted as an event of Stripe's: {error}."))
    })?;
    let event: Event = parse_json(&body)?;
    events::keep(&mut conn, &workspace, &event, "webhook").await?;
    Ok(StatusCode::OK)
}

/// Whoever may change the workspace or its money.
fn may(caller: &farebox_core::auth::Principal) -> Result<(), Problem> {
    if caller.scopes.contains(&Scope::Finance) { Ok(()) } else { caller.require(Scope::Manage) }
}
