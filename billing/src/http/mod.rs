//! The management routes of this room.

mod catalog;
mod close;
mod invoices;
mod plans;
mod subscriptions;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use farebox_core::App;
use farebox_core::problem::Problem;
use serde::de::DeserializeOwned;
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

/// Query parameters; what is wrong with them is a problem like every other.
struct Params<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(params)| Self(params)).map_err(|e| Problem::bad_request("invalid-query", e.body_text()))
    }
}
