//! The management routes of this room.

mod catalog;
mod close;
mod coupons;
mod credits;
mod invoices;
mod plans;
mod settings;
mod subscriptions;

use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::problem::Problem;
use sqlx::PgConnection;
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
        .routes(routes!(subscriptions::pause))
        .routes(routes!(subscriptions::resume))
        .routes(routes!(subscriptions::quantity))
        .routes(routes!(subscriptions::add))
        .routes(routes!(subscriptions::remove))
        .routes(routes!(subscriptions::preview))
        .routes(routes!(coupons::list, coupons::create))
        .routes(routes!(coupons::archive))
        .routes(routes!(coupons::redeem))
        .routes(routes!(coupons::remove))
        .routes(routes!(credits::list, credits::grant))
        .routes(routes!(credits::entries))
        .routes(routes!(credits::void))
        .routes(routes!(settings::get, settings::put))
        .routes(routes!(settings::get_consumer, settings::put_consumer))
        .routes(routes!(settings::contract))
        .routes(routes!(plans::migrate))
        .routes(routes!(plans::simulate))
        .routes(routes!(invoices::list))
        .routes(routes!(invoices::get))
        .routes(routes!(invoices::audit))
        .routes(routes!(close::close))
        .routes(routes!(close::checklist))
        .routes(routes!(close::rehearse))
        .routes(routes!(close::run_step))
        .routes(routes!(close::hard))
        .routes(routes!(close::advance_clock))
        .with_state(app.clone())
}

/// The workspace's own time.
async fn now(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<DateTime<Utc>, Problem> {
    let workspace = farebox_core::workspace::by_id(conn, ws).await.map_err(|e| Problem::internal(&e))?;
    Ok(workspace.ok_or_else(|| Problem::not_found("workspace"))?.clock.now())
}

/// A decimal string, or nothing.
pub(crate) mod optional_decimal {
    use farebox_core::money::{BigDecimal, decimal};
    use serde::{Deserialize, Deserializer, de};

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BigDecimal>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| decimal(&text).map_err(de::Error::custom)).transpose()
    }
}
