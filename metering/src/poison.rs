//! A message on the events topic that is no storable event: told, kept as a dead letter, and never in the way of the
//! messages behind it.

use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use farebox_core::ids::{DeadLetterId, WorkspaceId};
use farebox_core::kafka::DEAD_LETTERS;
use farebox_core::{App, clock};
use futures::future::try_join_all;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::FutureRecord;
use sha2::{Digest, Sha256};

/// Longer bodies are cut: Kafka takes messages up to 1 MB.
const MAX_BYTES: usize = 512 << 10;
const SOURCE: &str = "metering";

pub(crate) struct Poison {
    workspace: String,
    origin: String,
    received_at: DateTime<Utc>,
    reason: &'static str,
    detail: String,
    body: Vec<u8>,
}

impl Poison {
    pub fn new(message: &BorrowedMessage<'_>, reason: &'static str, detail: String) -> Self {
        let key = String::from_utf8_lossy(message.key().unwrap_or_default());
        let workspace = key.split('/').next().unwrap_or_default();
        Self {
            // Messages are keyed `<workspace>/<identity>`; a foreign one belongs to nobody.
            workspace: workspace.parse::<WorkspaceId>().map_or_else(|_| format!("{}{:032}", WorkspaceId::PREFIX, 0), String::from),
            origin: format!("kafka/{}/{}/{}", message.topic(), message.partition(), message.offset()),
            received_at: clock::now(),
            reason,
            detail,
            body: message.payload().unwrap_or_default().to_vec(),
        }
    }
}

/// Sent at once: whoever fills the topic with what is no event must not hold up the events of others.
const AT_ONCE: usize = 1000;

/// Produces the dead letters; returns when the brokers acknowledged all. Sent again they are the same dead letters, by their
/// ids.
pub(crate) async fn send_all(app: &App, poisons: &[&Poison]) -> anyhow::Result<()> {
    for some in poisons.chunks(AT_ONCE) {
        let mut sent = Vec::with_capacity(some.len());
        for poison in some {
            sent.push(send(app, poison));
        }
        try_join_all(sent).await?;
    }
    if let [first, ..] = poisons {
        let (origin, reason) = (&first.origin, first.reason);
        tracing::warn!(origin, reason, "{} messages could not be stored and became dead letters, this first", poisons.len());
    }
    Ok(())
}

async fn send(app: &App, poison: &Poison) -> anyhow::Result<()> {
    let digest = Sha256::new()
        .chain_update(&poison.workspace)
        .chain_update([0])
        .chain_update(SOURCE)
        .chain_update([0])
        .chain_update(&poison.origin)
        .finalize();
    let id = format!("{}{}", DeadLetterId::PREFIX, hex::encode(&digest[..16]));
    let letter = serde_json::json!({
        "id": id, "workspace": poison.workspace, "source": SOURCE, "format": "cloudevents", "origin": poison.origin,
        "received_at": poison.received_at, "reason": poison.reason, "detail": poison.detail,
        "event_source": "", "event_id": "", "fallback_id": "",
        "body": STANDARD.encode(&poison.body[..poison.body.len().min(MAX_BYTES)]), "truncated": poison.body.len() > MAX_BYTES,
    })
    .to_string();
    let topic = app.kafka.name(DEAD_LETTERS);
    let record = FutureRecord::to(&topic).key(&id).payload(&letter);
    let sent = app.kafka.producer.send(record, Duration::from_secs(5)).await;
    sent.map_err(|(error, _)| error).context("Kafka did not take a dead letter")?;
    metrics::counter!("farebox_metering_poison_total", "reason" => poison.reason).increment(1);
    Ok(())
}
