//! What a gateway asks before a call: is this key valid, is the route in the plan, is there rate left?
//!
//! [`door`] answers `/v1/decide/{source}` and [`grpc`] Envoy's own way: [`ask`] reads the question as each gateway writes
//! it, [`version`] finds what is called, [`decide`] judges it by the [`snapshot`] alone (patterns of [`routes`], limits of
//! [`rate`], [`quota`] and [`anonymous`], the provider's [`policy`]), and [`answer`] says it so that the gateway can pass
//! it on. The snapshot is in memory, kept by [`refresh`] within a moment of PostgreSQL, and quotas' usage by [`usage`]
//! within a moment of metering, so that no call waits for a database and decisions go on when it is away. Each decision
//! has an id that no caller can choose: the gateway logs it, and it becomes the event's id. [`ledger`] counts decisions
//! apart from events, as the second witness, and [`reconcile`] holds
//! both side by side; a [`gap`] between them may be billed. [`keys`] issues and revokes what callers show.
#![forbid(unsafe_code)]

mod anonymous;
mod answer;
mod ask;
mod console;
mod decide;
mod door;
pub mod gap;
mod gate;
mod grpc;
pub mod keys;
pub mod ledger;
pub mod provision;
mod quota;
mod rate;
pub mod reconcile;
mod refresh;
mod routes;
mod snapshot;
mod usage;
mod version;

use axum::Extension;
use axum::middleware::from_fn_with_state;
use axum::routing::any;
use farebox_core::App;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::gate::Gate;

/// What a provider chooses; `billing` keeps it, because it stands in the catalogue.
pub use farebox_billing::decision_policy as policy;

/// How long what other instances let pass may stay unknown here: all of them together overshoot a quota by no more than
/// they let pass in this time.
pub const QUOTA_BOUND: std::time::Duration = usage::BOUND;

pub fn router(app: &App) -> OpenApiRouter {
    // The description has one route; gateways ask with any method and any path after it.
    let (_, description) = OpenApiRouter::<()>::new().routes(routes!(door::ask)).split_for_parts();
    OpenApiRouter::with_openapi(description)
        .route("/v1/decide/{source}", any(door::ask))
        .route("/v1/decide/{source}/{*path}", any(door::ask))
        .route("/v1/decide/{source}/", any(door::ask))
        .layer(Extension(Gate::of(app)))
        .route_service(grpc::PATH, grpc::server(Gate::of(app)))
        .routes(routes!(console::issue, console::list))
        .merge(
            OpenApiRouter::new()
                .routes(routes!(console::revoke))
                .routes(routes!(console::decisions))
                .routes(routes!(console::reconciliation))
                .routes(routes!(gap::show, gap::post))
                .routes(routes!(console::show_policy, console::set_policy))
                .routes(routes!(provision::http::list))
                .routes(routes!(provision::http::put, provision::http::delete))
                .routes(routes!(provision::http::reconcile))
                .layer(from_fn_with_state(app.clone(), farebox_core::idempotency::middleware)),
        )
        .with_state(app.clone())
}

/// Keeps the snapshot fresh and the ledger flowing. After `stop`, returns once the last counts are sent.
pub async fn run(app: App, stop: CancellationToken) -> anyhow::Result<()> {
    let gate = Gate::of(&app);
    let refresh = tokio::spawn(refresh::run(app.clone(), gate.clone(), stop.clone()));
    let usage = tokio::spawn(usage::run(app.clone(), gate.clone(), stop.clone()));
    let others = tokio::spawn(usage::watch_others(app.clone(), gate.clone(), stop.clone()));
    let send = tokio::spawn(ledger::send(app.clone(), gate, stop.clone()));
    let provision = tokio::spawn(provision::run(app.clone(), stop.clone()));
    let store = tokio::spawn(ledger::store(app, stop));
    refresh.await?;
    usage.await?;
    others.await?;
    send.await?;
    provision.await?;
    store.await?;
    Ok(())
}
