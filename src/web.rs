//! One address for everything: gateways' routes, the management API, Stripe's webhooks, the pages, and what machines
//! ask (`/healthz`, `/readyz`, `/metrics`, `/api/openapi.json`).

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use farebox_core::problem::{FieldError, Problem};
use farebox_core::readiness::{Answer, Readiness};
use farebox_core::{App, auth};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

use crate::roles::Role;

#[derive(OpenApi)]
#[openapi(
    info(title = "Farebox", description = "API monetization and analytics: every request counted exactly once."),
    components(schemas(Problem, FieldError)),
    modifiers(&TokenSecurity)
)]
struct Api;

struct TokenSecurity;

impl utoipa::Modify for TokenSecurity {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// The routes of `roles`, with those that every process has.
pub fn router(app: &App, roles: &[Role]) -> Router {
    let (gateway, management, openapi) = documented(app, roles);
    let mut router = Router::new()
        .merge(gateway)
        .merge(management.layer(middleware::from_fn_with_state(app.clone(), farebox_core::idempotency::middleware)))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(app.clone()))
        .route("/metrics", get(|| async { farebox_core::telemetry::metrics().render() }))
        .route("/api/openapi.json", get(move || async move { Json(openapi) }));
    if roles.contains(&Role::Portal) {
        router = router.merge(farebox_portal::router(app.clone()));
    }
    // Who calls is found out before anything else is done with the call.
    router
        .layer(middleware::from_fn_with_state(app.clone(), auth::certificate::middleware))
        .layer(middleware::from_fn_with_state(app.clone(), auth::signature::middleware))
        .layer(CatchPanicLayer::custom(|panic: Box<dyn std::any::Any + Send>| {
            let cause = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
            Problem::internal(&cause.unwrap_or_else(|| "a handler panicked".to_owned())).into_response()
        }))
}

/// Routes for gateways, routes of the management API, and the description of both.
fn documented(app: &App, roles: &[Role]) -> (Router, Router, utoipa::openapi::OpenApi) {
    // Tokens, and other secrets, are answered beside the idempotent routes: such answers must not be kept.
    let mut gateway = OpenApiRouter::with_openapi(Api::openapi()).merge(auth::http::router(app));
    let mut management = farebox_core::audit_log::router(app);
    for role in roles {
        match role {
            Role::Ingest => gateway = gateway.merge(farebox_ingest::router(app)),
            Role::Access => gateway = gateway.merge(farebox_access::router(app)),
            Role::Metering => management = management.merge(farebox_metering::router(app)),
            Role::Billing => {
                management = management.merge(farebox_billing::router(app));
                gateway = gateway.merge(farebox_billing::webhooks::router_of_secrets(app));
            }
            Role::Insights => management = management.merge(farebox_insights::router(app)),
            Role::Portal => {}
        }
    }
    let (gateway, mut openapi) = gateway.split_for_parts();
    let (management, rest) = management.split_for_parts();
    openapi.merge(rest);
    (gateway, management, openapi)
}

/// The description of the whole API: what `/api/openapi.json` serves when all roles run.
pub fn openapi(app: &App) -> utoipa::openapi::OpenApi {
    documented(app, &Role::ALL).2
}

/// Ready when all engines answer; says which do not.
async fn readyz(State(app): State<App>) -> Response {
    let found = Readiness::of(&app).await;
    let word = |answer: Answer| if answer.ready { "ready" } else { "does not answer" };
    // What is acknowledged meanwhile is safe in the spool, where there is one.
    let spooling = !found.kafka.ready && farebox_ingest::spool::has_room();
    let ready = (found.kafka.ready || spooling) && found.clickhouse.ready && found.postgres.ready;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let kafka = if spooling { "does not answer; events are kept in the spool" } else { word(found.kafka) };
    let body = serde_json::json!({ "kafka": kafka, "clickhouse": word(found.clickhouse), "postgres": word(found.postgres) });
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
