//! `/api/v1/webhooks`.

use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use farebox_core::auth::{Caller, Principal, Scope};
use farebox_core::http::{Json, Page, Params};
use farebox_core::ids::WebhookId;
use farebox_core::problem::Problem;
use farebox_core::seal::Revealed;
use farebox_core::{App, audit_log};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::deliveries::{self, Delivery};
use super::store::{self, Changes, NewWebhook, Webhook};
use super::{Sender, tells_amounts};

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, update, remove))
        .routes(routes!(test))
        .routes(routes!(delivered))
        .routes(routes!(retry))
        .with_state(app.clone())
}

/// Routes whose answers hold a secret: no `Idempotency-Key` is taken there, since the answer would have to be kept.
pub fn router_of_secrets(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(create)).routes(routes!(rotate)).with_state(app.clone())
}

/// A webhook with its secret, shown this once.
#[derive(Serialize, utoipa::ToSchema)]
struct WithSecret {
    #[serde(flatten)]
    webhook: Webhook,
    /// `whsec_...`: checks the header `webhook-signature`, as the Standard Webhooks specification says.
    secret: String,
}

type Once = (StatusCode, [(HeaderName, HeaderValue); 1], axum::Json<WithSecret>);

fn once(status: StatusCode, webhook: Webhook, secret: &Revealed) -> Once {
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (status, no_store, axum::Json(WithSecret { webhook, secret: secret.reveal().to_owned() }))
}

fn id_of(text: &str) -> Result<WebhookId, Problem> {
    text.parse().map_err(|_| Problem::not_found("webhook"))
}

fn sender(app: &App) -> Result<Sender, Problem> {
    Sender::new(&app.config.webhooks).map_err(|e| Problem::internal(&e))
}

/// Amounts are told only to whoever may know them.
fn require(caller: &Principal, events: &[String]) -> Result<(), Problem> {
    caller.require(Scope::Manage)?;
    if events.iter().any(|kind| tells_amounts(kind)) {
        caller.require(Scope::Finance)?;
    }
    Ok(())
}

/// Who is told what happens.
#[utoipa::path(get, path = "/api/v1/webhooks", tag = "webhooks", responses((status = 200, body = Page<Webhook>)))]
async fn list(State(app): State<App>, Caller(caller): Caller) -> Result<axum::Json<Page<Webhook>>, Problem> {
    caller.require(Scope::Read)?;
    let data = store::list(&mut *app.pg.acquire().await?, &caller.workspace).await?;
    Ok(axum::Json(Page { data, next_cursor: None }))
}

/// Tells an address what happens from now on
///
/// The answer has the secret, this once; no `Idempotency-Key` is taken.
/// Each delivery is a POST of JSON with the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`. One that is
/// not answered with 2xx within 15 seconds is sent again with the same id, for three days. `invoice.*`, `alert.*` and `*`
/// tell amounts, and need the scope `finance` too.
#[utoipa::path(
    post, path = "/api/v1/webhooks", tag = "webhooks", request_body = NewWebhook,
    responses((status = 201, body = WithSecret), (status = 409, body = Problem), (status = 422, body = Problem))
)]
async fn create(State(app): State<App>, Caller(caller): Caller, Json(new): Json<NewWebhook>) -> Result<Once, Problem> {
    require(&caller, &new.events)?;
    let mut tx = app.pg.begin().await?;
    let (webhook, secret) = store::create(&mut tx, &app.config, &sender(&app)?, &caller.workspace, &new).await?;
    let detail = json!({ "url": webhook.url, "events": webhook.events });
    audit_log::record(&mut tx, &caller.workspace, caller.token.as_str(), "webhook.create", webhook.id.as_str(), &detail).await?;
    tx.commit().await?;
    Ok(once(StatusCode::CREATED, webhook, &secret))
}

#[utoipa::path(
    get, path = "/api/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 200, body = Webhook), (status = 404, body = Problem))
)]
async fn get(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<axum::Json<Webhook>, Problem> {
    caller.require(Scope::Read)?;
    let found = store::get(&mut *app.pg.acquire().await?, &caller.workspace, &id_of(&id)?).await?;
    found.map(axum::Json).ok_or_else(|| Problem::not_found("webhook"))
}

/// Changes an address, what it is told, or switches it off and on.
#[utoipa::path(
    patch, path = "/api/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)), request_body = Changes,
    responses((status = 200, body = Webhook), (status = 404, body = Problem), (status = 422, body = Problem))
)]
async fn update(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(changes): Json<Changes>,
) -> Result<axum::Json<Webhook>, Problem> {
    caller.require(Scope::Manage)?;
    let id = id_of(&id)?;
    let mut tx = app.pg.begin().await?;
    let before = store::get(&mut tx, &caller.workspace, &id).await?.ok_or_else(|| Problem::not_found("webhook"))?;
    // Another address for amounts is as good as asking for them.
    require(&caller, &before.events)?;
    require(&caller, changes.events.as_deref().unwrap_or_default())?;
    let webhook = store::update(&mut tx, &sender(&app)?, &caller.workspace, &id, &changes).await?;
    let detail = json!({ "url": webhook.url, "events": webhook.events, "enabled": webhook.disabled_at.is_none() });
    audit_log::record(&mut tx, &caller.workspace, caller.token.as_str(), "webhook.update", id.as_str(), &detail).await?;
    tx.commit().await?;
    Ok(axum::Json(webhook))
}

/// Tells an address nothing more; what waits for it is dropped.
#[utoipa::path(
    delete, path = "/api/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem))
)]
async fn remove(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    caller.require(Scope::Manage)?;
    let id = id_of(&id)?;
    let mut tx = app.pg.begin().await?;
    if !store::remove(&mut tx, &caller.workspace, &id).await? {
        return Err(Problem::not_found("webhook"));
    }
    audit_log::record(&mut tx, &caller.workspace, caller.token.as_str(), "webhook.remove", id.as_str(), &json!({})).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Another secret, shown this once. For 24 hours deliveries are signed with both. No `Idempotency-Key` is taken.
#[utoipa::path(
    post, path = "/api/v1/webhooks/{id}/rotate", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 200, body = WithSecret), (status = 404, body = Problem))
)]
async fn rotate(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<Once, Problem> {
    caller.require(Scope::Manage)?;
    let id = id_of(&id)?;
    let mut tx = app.pg.begin().await?;
    let (webhook, secret) = store::rotate(&mut tx, &app.config, &caller.workspace, &id).await?;
    audit_log::record(&mut tx, &caller.workspace, caller.token.as_str(), "webhook.rotate", id.as_str(), &json!({})).await?;
    tx.commit().await?;
    Ok(once(StatusCode::OK, webhook, &secret))
}

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = WebhookTest)]
struct Tested {
    /// Its delivery is in the list.
    event: String,
}

/// Sends a test event.
#[utoipa::path(
    post, path = "/api/v1/webhooks/{id}/test", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 202, body = Tested), (status = 404, body = Problem), (status = 409, body = Problem, description = "It is switched off"))
)]
async fn test(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<(StatusCode, axum::Json<Tested>), Problem> {
    caller.require(Scope::Manage)?;
    let mut tx = app.pg.begin().await?;
    let event = store::test(&mut tx, &caller.workspace, &id_of(&id)?).await?;
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, axum::Json(Tested { event })))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Only those that are `queued`, `delivered` or `failed`.
    state: Option<String>,
    /// How many to return: 1 to 500, 50 unless given.
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What was sent to an address and what waits, newest first.
#[utoipa::path(
    get, path = "/api/v1/webhooks/{id}/deliveries", tag = "webhooks", params(("id" = String, Path), Asked),
    responses((status = 200, body = Page<Delivery>), (status = 404, body = Problem), (status = 422, body = Problem))
)]
async fn delivered(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Params(asked): Params<Asked>,
) -> Result<axum::Json<Page<Delivery>>, Problem> {
    caller.require(Scope::Read)?;
    let id = id_of(&id)?;
    if asked.state.as_deref().is_some_and(|state| !["queued", "delivered", "failed"].contains(&state)) {
        return Err(Problem::invalid_field("state", "is queued, delivered or failed"));
    }
    let (limit, after) = farebox_core::http::Paging { limit: asked.limit, cursor: asked.cursor }.resolve()?;
    let mut conn = app.pg.acquire().await?;
    store::get(&mut conn, &caller.workspace, &id).await?.ok_or_else(|| Problem::not_found("webhook"))?;
    let rows = deliveries::deliveries(&mut conn, &caller.workspace, &id, asked.state.as_deref(), limit + 1, after.parse().ok()).await?;
    Ok(axum::Json(Page::from_rows(rows, limit, |row| row.position.to_string())))
}

/// Sends an event to an address again, under the same id.
#[utoipa::path(
    post, path = "/api/v1/webhooks/{id}/deliveries/{event}/retry", tag = "webhooks", params(("id" = String, Path), ("event" = String, Path)),
    responses((status = 202), (status = 404, body = Problem))
)]
async fn retry(State(app): State<App>, Caller(caller): Caller, Path((id, event)): Path<(String, String)>) -> Result<StatusCode, Problem> {
    caller.require(Scope::Manage)?;
    if !deliveries::retry(&mut *app.pg.acquire().await?, &caller.workspace, &id_of(&id)?, &event).await? {
        return Err(Problem::not_found("delivery"));
    }
    Ok(StatusCode::ACCEPTED)
}
