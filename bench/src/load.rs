//! The load: bodies made beforehand, and connections that each send the next body when the last was answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use reqwest::header::CONTENT_TYPE;
use serde_json::json;

/// Bodies of `batch` events each, enough that nothing learns them by heart.
pub fn bodies(batch: usize) -> Vec<Bytes> {
    let count = (2000 / batch).max(8);
    let now = farebox_core::clock::now();
    let body = |n: usize| {
        let events: Vec<_> = (0..batch).map(|i| event(n * batch + i, now)).collect();
        Bytes::from(serde_json::Value::Array(events).to_string())
    };
    (0..count).map(body).collect()
}

fn event(n: usize, time: DateTime<Utc>) -> serde_json::Value {
    let id = uuid::Uuid::now_v7();
    json!({
        "specversion": "1.0", "id": id, "source": "bench", "type": "farebox.request.v1", "time": time, "subject": format!("customer-{}", n % 500),
        "data": {
            "api": "orders", "api_version": "v2", "route": format!("GET /orders/{{id}}/{}", n % 20), "method": "GET", "status": 200,
            "latency_us": 1200 + n % 900, "request_bytes": 512, "response_bytes": 2048 + n % 4096, "answered_by": "upstream",
            "environment": "production", "gateway": "bench", "client_country": "DE"
        }
    })
}

/// Events a second that were acknowledged within `time`, over so many connections.
pub async fn run(url: &str, token: &str, bodies: &[Bytes], batch: usize, connections: usize, time: Duration) -> anyhow::Result<f64> {
    let client = reqwest::Client::builder().pool_max_idle_per_host(connections).build()?;
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut senders = Vec::new();
    for _ in 0..connections {
        let (client, next, bodies, url, token) = (client.clone(), next.clone(), bodies.to_vec(), url.to_owned(), token.to_owned());
        senders.push(tokio::spawn(async move {
            let mut acknowledged = 0_usize;
            while start.elapsed() < time {
                let body = bodies[next.fetch_add(1, Ordering::Relaxed) % bodies.len()].clone();
                let request = client.post(&url).header(CONTENT_TYPE, "application/cloudevents-batch+json").bearer_auth(&token).body(body);
                let response = request.send().await?;
                ensure!(response.status().as_u16() == 202, "{} instead of 202: {}", response.status(), response.text().await?);
                // The connection is free again once the answer is read.
                response.bytes().await?;
                acknowledged += batch;
            }
            anyhow::Ok(acknowledged)
        }));
    }
    let mut acknowledged = 0;
    for sender in senders {
        acknowledged += sender.await??;
    }
    Ok(crate::report::rate(acknowledged, start.elapsed()))
}
