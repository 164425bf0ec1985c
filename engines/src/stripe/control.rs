//! `/_double/...`: what tests and demonstrations ask of the double, and Stripe does not have.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::{Json, Router, routing};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answers::wildcard;
use super::faults::Rule;
use super::server::Double;
use super::webhooks::Mishap;

type Shared = State<Arc<Double>>;

pub fn routes() -> Router<Arc<Double>> {
    Router::new()
        .route("/health", routing::get(async || Json(json!({"status": "ok"}))))
        .route("/faults", routing::get(faults).post(add_fault).delete(clear_faults))
        .route("/webhook-faults", routing::post(add_mishap).delete(clear_mishaps))
        .route("/requests", routing::get(requests))
        .route("/reset", routing::post(reset))
        .route("/clock", routing::get(clock).post(advance))
}

#[derive(Deserialize)]
struct Of {
    account: Option<String>,
}

async fn faults(State(double): Shared) -> Json<Vec<Rule>> {
    Json(double.faults.lock().expect("no holder panics").rules().to_vec())
}

async fn add_fault(State(double): Shared, Json(rule): Json<Rule>) -> StatusCode {
    double.faults.lock().expect("no holder panics").add(rule);
    StatusCode::NO_CONTENT
}

async fn clear_faults(State(double): Shared, Query(of): Query<Of>) -> StatusCode {
    double.faults.lock().expect("no holder panics").clear(of.account.as_deref());
    StatusCode::NO_CONTENT
}

async fn add_mishap(State(double): Shared, Json(rule): Json<Mishap>) -> StatusCode {
    double.context().mishaps.lock().expect("no holder panics").add(rule);
    StatusCode::NO_CONTENT
}

async fn clear_mishaps(State(double): Shared, Query(of): Query<Of>) -> StatusCode {
    double.context().mishaps.lock().expect("no holder panics").clear(of.account.as_deref());
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct Wanted {
    account: Option<String>,
    method: Option<String>,
    /// A path, or the beginning of one followed by `*`.
    path: Option<String>,
}

/// Requests in order of arrival, the last 20,000.
async fn requests(State(double): Shared, Query(wanted): Query<Wanted>) -> Json<Vec<Value>> {
    let fits = |entry: &&Value| {
        wanted.account.as_deref().is_none_or(|account| entry["account"] == account)
            && wanted.method.as_deref().is_none_or(|method| entry["method"] == method)
            && wanted.path.as_deref().is_none_or(|path| wildcard(path, entry["path"].as_str().unwrap_or_default()))
    };
    Json(double.log.lock().expect("no holder panics").iter().filter(fits).cloned().collect())
}

async fn reset(State(double): Shared, Query(of): Query<Of>) -> Result<StatusCode, String> {
    let account = of.account.as_deref();
    double.reset(account).map_err(|error| error.to_string())?;
    double.faults.lock().expect("no holder panics").clear(account);
    double.context().mishaps.lock().expect("no holder panics").clear(account);
    double.log.lock().expect("no holder panics").retain(|entry| account.is_some_and(|account| entry["account"] != account));
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Move {
    #[serde(default)]
    advance_seconds: i64,
    /// Instead of advancing: how far ahead of the machine's clock.
    offset_seconds: Option<i64>,
}

async fn clock(State(double): Shared) -> Json<Value> {
    let (now, offset) = double.clock();
    Json(json!({"now": now, "offset_seconds": offset}))
}

async fn advance(State(double): Shared, Json(by): Json<Move>) -> Json<Value> {
    let (_, offset) = double.clock();
    double.set_offset(by.offset_seconds.unwrap_or(offset + by.advance_seconds));
    clock(State(double)).await
}
