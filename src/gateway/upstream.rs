//! The API behind the demo's gateway: orders, customers and reports, with the odd mistake and failure.

use std::net::SocketAddr;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub fn router() -> Router {
    let version = |version: &'static str| {
        Router::new()
            .route(
                "/orders",
                get(move || async move { Json(orders(version)) })
                    .post(|| async { (StatusCode::CREATED, Json(json!({ "id": "o-1001", "state": "open" }))) }),
            )
            .route("/orders/{id}", get(order))
            .route("/customers/{id}", get(|Path(id): Path<String>| async move { Json(json!({ "id": id, "name": "A customer" })) }))
            .route("/reports/daily", get(report))
    };
    Router::new().nest("/v1", version("v1")).nest("/v2", version("v2"))
}

/// Serves on a free port of the loopback interface until `stop`.
pub async fn serve(stop: CancellationToken) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router()).with_graceful_shutdown(stop.cancelled_owned()).await });
    Ok(address)
}

fn orders(version: &str) -> Value {
    let list: Vec<_> = (0..20).map(|n| json!({ "id": format!("o-{n}"), "state": if n % 3 == 0 { "shipped" } else { "open" } })).collect();
    json!({ "version": version, "orders": list })
}

async fn order(Path(id): Path<String>) -> Response {
    match id.as_str() {
        "missing" => (StatusCode::NOT_FOUND, Json(json!({ "error": "no such order" }))).into_response(),
        "broken" => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": "the order store failed" }))).into_response(),
        _ => Json(json!({ "id": id, "state": "open", "total": "12.50" })).into_response(),
    }
}

async fn report() -> Json<Value> {
    Json(json!({ "day": "2026-01-01", "orders": 1234, "revenue": "9876.50" }))
}
