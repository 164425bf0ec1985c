//! What a gateway asks before a call: is this key valid, entitled, within its rate?
#![forbid(unsafe_code)]

pub mod keys;

use farebox_core::App;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new().with_state(app.clone())
}

pub async fn run(_app: App, stop: CancellationToken) -> anyhow::Result<()> {
    stop.cancelled().await;
    Ok(())
}
