//! What a gateway asks before a call: is this key valid, is the route in the plan, is there rate left?
//!
//! [`door`] answers `/v1/decide/{source}`: [`ask`] reads the question as each gateway writes it, [`decide`] judges it by
//! the [`snapshot`] alone (patterns of [`routes`], limits of [`rate`]), and [`answer`] says it so that the gateway can
//! pass it on. The snapshot is in memory, kept by [`refresh`] within a moment of PostgreSQL, so that no call waits for
//! a database and decisions go on when it is away. Each decision has an id that no caller can choose: the gateway logs
//! it, and it becomes the event's id. [`ledger`] counts decisions apart from events, as the second witness. [`keys`]
//! issues and revokes what callers show.
#![forbid(unsafe_code)]

mod answer;
mod ask;
mod console;
mod decide;
mod door;
mod gate;
pub mod keys;
pub mod ledger;
mod rate;
mod refresh;
mod routes;
mod snapshot;

use axum::Extension;
use axum::middleware::from_fn_with_state;
use axum::routing::any;
use farebox_core::App;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::gate::Gate;

pub fn router(app: &App) -> OpenApiRouter {
    // The description has one route; gateways ask with any method and any path after it.
    let (_, description) = OpenApiRouter::<()>::new().routes(routes!(door::ask)).split_for_parts();
    OpenApiRouter::with_openapi(description)
        .route("/v1/decide/{source}", any(door::ask))
        .route("/v1/decide/{source}/{*path}", any(door::ask))
        .route("/v1/decide/{source}/", any(door::ask))
        .layer(Extension(Gate::of(app)))
        .routes(routes!(console::issue, console::list))
        .merge(
            OpenApiRouter::new()
                .routes(routes!(console::revoke))
                .routes(routes!(console::decisions))
                .layer(from_fn_with_state(app.clone(), farebox_core::idempotency::middleware)),
        )
        .with_state(app.clone())
}

/// Keeps the snapshot fresh and the ledger flowing. After `stop`, returns once the last counts are sent.
pub async fn run(app: App, stop: CancellationToken) -> anyhow::Result<()> {
    let gate = Gate::of(&app);
    let refresh = tokio::spawn(refresh::run(app.clone(), gate.clone(), stop.clone()));
    let send = tokio::spawn(ledger::send(app.clone(), gate, stop.clone()));
    let store = tokio::spawn(ledger::store(app, stop));
    refresh.await?;
    send.await?;
    store.await?;
    Ok(())
}
