//! Dead letters in ClickHouse: copied from their topic, listed, counted.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use farebox_core::ids::{DeadLetterId, WorkspaceId};
use farebox_core::kafka::DEAD_LETTERS;
use farebox_core::{App, intake_settings};
use futures::{FutureExt, StreamExt};
use rdkafka::Message;
use rdkafka::consumer::{CommitMode, Consumer, DefaultConsumerContext, StreamConsumer};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::dead_letter::DeadLetter;

/// Messages written together, at most.
const MESSAGES: usize = 1000;

/// A row of `dead_letters`. Of rows with one id the greatest version stays: one that says it is resolved, else the one
/// received first.
#[derive(Debug, Clone, Row, Serialize, Deserialize)]
pub(crate) struct LetterRow {
    workspace: String,
    pub id: String,
    #[serde(with = "clickhouse::serde::chrono::datetime64::micros")]
    pub received_at: DateTime<Utc>,
    source: String,
    format: String,
    origin: String,
    reason: String,
    detail: String,
    event_source: String,
    event_id: String,
    fallback_id: String,
    body: String,
    truncated: bool,
    resolved: bool,
    version: u64,
    #[serde(with = "clickhouse::serde::chrono::datetime")]
    keep_until: DateTime<Utc>,
}

impl LetterRow {
    fn new(letter: &DeadLetter, keep_days: i32) -> Self {
        // Microseconds since 1970 stay below 2^62 for longer than anyone plans; inverted, the first received is greatest.
        let received = u64::try_from(letter.received_at.timestamp_micros()).unwrap_or(0).min((1 << 62) - 1);
        let version = (u64::from(letter.resolved_at.is_some()) << 62) | ((1 << 62) - 1 - received);
        Self {
            workspace: letter.workspace.to_string(),
            id: letter.id.to_string(),
            received_at: letter.received_at,
            source: letter.source.clone(),
            format: letter.format.clone(),
            origin: letter.origin.clone(),
            reason: letter.reason.clone(),
            detail: letter.detail.clone(),
            event_source: letter.event_source.clone(),
            event_id: letter.event_id.clone(),
            fallback_id: letter.fallback_id.clone(),
            body: letter.body.clone(),
            truncated: letter.truncated,
            resolved: letter.resolved_at.is_some(),
            version,
            keep_until: letter.received_at + TimeDelta::days(keep_days.into()),
        }
    }

    pub(crate) fn into_letter(self) -> Option<DeadLetter> {
        Some(DeadLetter {
            id: self.id.parse().ok()?,
            workspace: self.workspace.parse().ok()?,
            source: self.source,
            format: self.format,
            origin: self.origin,
            received_at: self.received_at,
            reason: self.reason,
            detail: self.detail,
            event_source: self.event_source,
            event_id: self.event_id,
            fallback_id: self.fallback_id,
            body: self.body,
            truncated: self.truncated,
            resolved_at: None,
        })
    }
}

/// Copies the topic to ClickHouse until `stop`; starts over when something fails.
pub async fn run(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = copy(&app, &stop).await {
            tracing::warn!("dead letters wait in their topic and are copied again in a second: {error:#}");
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }
}

async fn copy(app: &App, stop: &CancellationToken) -> anyhow::Result<()> {
    let consumer: StreamConsumer = app.kafka.consumer("farebox.dead-letters", DefaultConsumerContext)?;
    consumer.subscribe(&[&app.kafka.name(DEAD_LETTERS)])?;
    let mut stream = consumer.stream();
    loop {
        let first = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            first = stream.next() => first.context("the stream of a consumer never ends")??,
        };
        let mut letters = vec![parse(first.payload())];
        let mut seen = vec![first];
        while seen.len() < MESSAGES {
            let Some(Some(next)) = stream.next().now_or_never() else { break };
            let next = next?;
            letters.push(parse(next.payload()));
            seen.push(next);
        }
        let keep_days = keep_days(app, letters.iter().flatten().map(|l| &l.workspace)).await?;
        let mut insert = app.clickhouse.insert::<LetterRow>("dead_letters").await?;
        for letter in letters.iter().flatten() {
            insert.write(&LetterRow::new(letter, keep_days[&letter.workspace])).await?;
        }
        insert.end().await?;
        // After the insert: read twice, a letter replaces itself.
        for message in &seen {
            consumer.store_offset_from_message(message)?;
        }
        consumer.commit_consumer_state(CommitMode::Async)?;
    }
}

async fn keep_days(app: &App, workspaces: impl Iterator<Item = &WorkspaceId>) -> anyhow::Result<HashMap<WorkspaceId, i32>> {
    let mut conn = app.pg.acquire().await?;
    let mut days = HashMap::new();
    for workspace in workspaces {
        if !days.contains_key(workspace) {
            days.insert(workspace.clone(), intake_settings::of(&mut conn, workspace).await?.keep_rejected_days);
        }
    }
    Ok(days)
}

fn parse(payload: Option<&[u8]>) -> Option<DeadLetter> {
    match serde_json::from_slice(payload.unwrap_or_default()) {
        Ok(letter) => Some(letter),
        Err(error) => {
            tracing::error!("a message in the dead-letter topic is not one of ours and stays there: {error}");
            None
        }
    }
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub reason: Option<String>,
    pub source: Option<String>,
    /// In the event as it came, its id, source or origin, or the detail; upper and lower case alike.
    pub text: Option<String>,
    /// Received at or after.
    pub since: Option<DateTime<Utc>>,
    /// Received before.
    pub until: Option<DateTime<Utc>>,
    /// Those that a replay has brought in, too.
    pub with_resolved: bool,
    /// Only this one.
    pub id: Option<DeadLetterId>,
}

/// Up to `limit` dead letters, the latest first, those that come after `after` (`received_at` in microseconds and id).
pub async fn list(
    app: &App,
    workspace: &WorkspaceId,
    filter: &Filter,
    limit: u64,
    after: Option<(i64, &str)>,
) -> Result<Vec<DeadLetter>, clickhouse::error::Error> {
    Ok(rows(app, workspace, filter, limit, after).await?.into_iter().filter_map(LetterRow::into_letter).collect())
}

async fn rows(
    app: &App,
    workspace: &WorkspaceId,
    filter: &Filter,
    limit: u64,
    after: Option<(i64, &str)>,
) -> Result<Vec<LetterRow>, clickhouse::error::Error> {
    let (after_us, after_id) = after.unwrap_or((i64::MAX, ""));
    app.clickhouse
        .query(
            "SELECT ?fields FROM dead_letters FINAL
             WHERE workspace = ? AND (reason = ? OR ? = '') AND (source = ? OR ? = '') AND (resolved <= ?) AND (id = ? OR ? = '') AND keep_until > now()
               AND toUnixTimestamp64Micro(received_at) >= ? AND toUnixTimestamp64Micro(received_at) < ?
               AND (? = '' OR arrayExists(t -> positionCaseInsensitive(t, ?) > 0, [tryBase64Decode(body), event_id, event_source, origin, detail]))
               AND (toUnixTimestamp64Micro(received_at), id) < (?, ?)
             ORDER BY received_at DESC, id DESC LIMIT ?",
        )
        .bind(workspace.as_str())
        .bind(filter.reason.as_deref().unwrap_or_default())
        .bind(filter.reason.as_deref().unwrap_or_default())
        .bind(filter.source.as_deref().unwrap_or_default())
        .bind(filter.source.as_deref().unwrap_or_default())
        .bind(u8::from(filter.with_resolved))
        .bind(filter.id.as_ref().map_or("", |id| id.as_str()))
        .bind(filter.id.as_ref().map_or("", |id| id.as_str()))
        .bind(filter.since.map_or(0, |t| t.timestamp_micros()))
        .bind(filter.until.map_or(i64::MAX, |t| t.timestamp_micros()))
        .bind(filter.text.as_deref().unwrap_or_default())
        .bind(filter.text.as_deref().unwrap_or_default())
        .bind(after_us)
        .bind(after_id)
        .bind(limit)
        .fetch_all()
        .await
}

/// One dead letter, and whether a replay has brought it in.
pub async fn get(app: &App, workspace: &WorkspaceId, id: &DeadLetterId) -> Result<Option<(DeadLetter, bool)>, clickhouse::error::Error> {
    let filter = Filter { id: Some(id.clone()), with_resolved: true, ..Filter::default() };
    let row = rows(app, workspace, &filter, 1, None).await?.pop();
    Ok(row.and_then(|row| {
        let resolved = row.resolved;
        Some((row.into_letter()?, resolved))
    }))
}

/// How many dead letters there are of a source, format and reason.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LetterCount {
    pub source: String,
    pub format: String,
    pub reason: String,
    /// All, those included that a replay has brought in.
    pub n: u64,
    /// Those that no replay has brought in.
    pub outstanding: u64,
}

/// Exact: of the dead letters themselves.
pub async fn counts(app: &App, workspace: &WorkspaceId) -> Result<Vec<LetterCount>, clickhouse::error::Error> {
    app.clickhouse
        .query(
            "SELECT source, format, reason, count() AS n, countIf(NOT resolved) AS outstanding FROM dead_letters FINAL
             WHERE workspace = ? AND keep_until > now() GROUP BY source, format, reason ORDER BY source, format, reason",
        )
        .bind(workspace.as_str())
        .fetch_all()
        .await
}
