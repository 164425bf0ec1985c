//! The management routes of this room.

mod catalog;
mod close;
mod invoices;
mod plans;
mod subscriptions;

use farebox_core::App;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(catalog::apply, catalog::export))
        .routes(routes!(plans::list))
        .routes(routes!(plans::get))
        .routes(routes!(subscriptions::list, subscriptions::create))
        .routes(routes!(subscriptions::get))
        .routes(routes!(subscriptions::change))
        .routes(routes!(subscriptions::cancel))
        .routes(routes!(subscriptions::preview))
        .routes(routes!(invoices::list))
        .routes(routes!(invoices::get))
        .routes(routes!(invoices::audit))
        .routes(routes!(close::close))
        .routes(routes!(close::advance_clock))
        .with_state(app.clone())
}
