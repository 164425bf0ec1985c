//! Sends until acknowledged. A batch that was not acknowledged is sent again as it is: its ids make that harmless.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::instance::Instance;

/// How long an outage of the collector is sat out.
const PATIENCE: Duration = Duration::from_mins(3);

pub async fn create_consumer(instance: &Instance, subject: &str) -> anyhow::Result<String> {
    let body = json!({ "name": subject, "email": format!("{subject}@simulate.example"), "subjects": [subject] });
    let answer = instance.json(instance.request(Method::POST, "/api/v1/consumers").json(&body)).await?;
    Ok(answer["id"].as_str().context("the new consumer has no id")?.to_owned())
}

pub async fn batch(instance: &Instance, events: &[Value]) -> anyhow::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let body = serde_json::to_vec(events)?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let request = instance.ingest("/v1/events").header(header::CONTENT_TYPE, "application/cloudevents-batch+json").body(body.clone());
        let failure = match request.send().await {
            Ok(response) if response.status() == StatusCode::ACCEPTED => return Ok(()),
            Ok(response) if response.status().is_server_error() || response.status() == StatusCode::TOO_MANY_REQUESTS => {
                format!("it answers {}", response.status())
            }
            Ok(response) => {
                bail!("the collector refuses the batch with {}: {}", response.status(), response.text().await.unwrap_or_default())
            }
            Err(error) => format!("{error:#}"),
        };
        if tokio::time::Instant::now() >= deadline {
            bail!("the collector did not take events for {} seconds: {failure}", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
