//! What a Kafka topic holds, from its start to the end it has when it is looked at.

use anyhow::Context;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::ids::{JobId, WorkspaceId};
use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::message::Message;
use rdkafka::metadata::MetadataTopic;
use tokio::sync::mpsc::{Sender, channel};

use super::{Chunk, collect};
use crate::ranges::{self, ASK};
use crate::{MeteringError, faults};

/// Messages collected together.
const MESSAGES: usize = 5000;

/// Reads all of it, then opens the job. Begun anew after a crash: what was collected replaces itself.
pub(super) async fn read(app: &App, workspace: &WorkspaceId, id: &JobId) -> Result<(), MeteringError> {
    let row = sqlx::query!("SELECT source, format, topic, created_at FROM backfills WHERE id = $1", id.as_str()).fetch_one(&app.pg).await?;
    let topic = row.topic.unwrap_or_default();
    let (sender, mut receiver) = channel(2);
    let reading = {
        let (app, topic) = (app.clone(), topic.clone());
        tokio::task::spawn_blocking(move || each(&app, &topic, &sender))
    };
    let (mut accepted, mut rejected) = (0, 0);
    while let Some(pieces) = receiver.recv().await {
        let chunk = Chunk { source: row.source.clone(), format: row.format.clone(), received_at: row.created_at, pieces };
        let (taken, refused) = collect(app, workspace, id, chunk).await?;
        accepted += i64::try_from(taken).unwrap_or(0);
        rejected += i64::try_from(refused.len()).unwrap_or(0);
        progress(app, id, accepted, rejected, "reading").await?;
        faults::point("backfill.read");
    }
    let read = reading.await.map_err(|e| MeteringError::unreadable("the topic", e))?;
    read.map_err(|e| MeteringError::unreadable("the topic", format!("{e:#}")))?;
    progress(app, id, accepted, rejected, "open").await
}

async fn progress(app: &App, id: &JobId, accepted: i64, rejected: i64, state: &str) -> Result<(), MeteringError> {
    let update = sqlx::query!(
        "UPDATE backfills SET accepted = $2, rejected = $3, state = $4 WHERE id = $1 AND state = 'reading'",
        id.as_str(),
        accepted,
        rejected,
        state
    );
    update.execute(&app.pg).await?;
    Ok(())
}

type Pieces = Vec<(String, Bytes)>;

fn each(app: &App, topic: &str, sender: &Sender<Pieces>) -> anyhow::Result<()> {
    let consumer: BaseConsumer<DefaultConsumerContext> = app.kafka.base_consumer("farebox.metering.history", DefaultConsumerContext)?;
    let metadata = consumer.fetch_metadata(Some(topic), ASK)?;
    let mut ranges = Vec::new();
    for partition in metadata.topics().iter().flat_map(MetadataTopic::partitions) {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), ASK)?;
        ranges.push((partition.id(), low, high));
    }
    let mut pieces = Pieces::new();
    ranges::read(&consumer, topic, &ranges, |message| {
        // As ingest names it, so that a record without an id has the same one whichever way it came.
        let at = message.timestamp().to_millis().unwrap_or(0);
        let place = format!("{topic}/{}/{}/{at}", message.partition(), message.offset());
        pieces.push((place, Bytes::copy_from_slice(message.payload().unwrap_or_default())));
        if pieces.len() >= MESSAGES {
            sender.blocking_send(std::mem::take(&mut pieces)).context("nobody collects any more")?;
        }
        Ok(())
    })?;
    if pieces.is_empty() { Ok(()) } else { sender.blocking_send(pieces).context("nobody collects any more") }
}

/// When jobs were made: their events carry it as their time of reception.
pub(crate) async fn receptions(app: &App, workspace: &WorkspaceId) -> Result<Vec<DateTime<Utc>>, MeteringError> {
    Ok(sqlx::query_scalar!("SELECT created_at FROM backfills WHERE workspace_id = $1 AND committed_at IS NOT NULL", workspace.as_str())
        .fetch_all(&app.pg)
        .await?)
}
