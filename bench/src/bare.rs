//! The yardstick for the collector: read the body, parse every event, write each to Kafka, wait for all brokers,
//! answer. No tokens, no verdicts, no identity, no dead letters.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use farebox_core::event::RequestData;
use futures::future::join_all;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
struct Event {
    specversion: String,
    id: String,
    source: String,
    r#type: String,
    time: chrono::DateTime<chrono::Utc>,
    subject: String,
    data: RequestData,
}

struct Bare {
    producer: FutureProducer,
    topic: String,
}

pub fn router(producer: FutureProducer, topic: String) -> Router {
    Router::new().route("/events", post(take)).layer(DefaultBodyLimit::disable()).with_state(Arc::new(Bare { producer, topic }))
}

async fn take(State(bare): State<Arc<Bare>>, body: Bytes) -> Result<StatusCode, StatusCode> {
    let events: Vec<Event> = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let mut deliveries = Vec::with_capacity(events.len());
    for event in &events {
        let payload = serde_json::to_vec(event).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        let record = FutureRecord::to(&bare.topic).key(&event.id).payload(&payload);
        deliveries.push(bare.producer.send_result(record).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?);
    }
    for delivered in join_all(deliveries).await {
        delivered.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    }
    Ok(StatusCode::ACCEPTED)
}
