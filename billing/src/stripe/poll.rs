//! A look through `/v1/events` now and then: finds what no webhook delivered, for example where Stripe cannot reach this
//! machine at all.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::WorkspaceId;
use farebox_core::{App, clock};
use tokio_util::sync::CancellationToken;

use super::client::Form;
use super::error::StripeError;
use super::events::{self, Event, KINDS};
use super::settings;
use super::view::List;

const EVERY: TimeDelta = TimeDelta::seconds(30);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Events are listed in the order of their creation, but may become visible a little later.
const OVERLAP: TimeDelta = TimeDelta::minutes(5);

pub async fn run(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match due(&app).await {
            Ok(workspaces) => {
                for workspace in workspaces {
                    if let Err(error) = poll(&app, &workspace).await {
                        tracing::info!(%workspace, "Stripe's events cannot be listed, which is tried again soon: {error}");
                    }
                }
            }
            Err(error) => tracing::warn!("which workspaces have Stripe keys cannot be read: {error}"),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Whose turn it is; taking it, so that of several processes one polls.
async fn due(app: &App) -> Result<Vec<WorkspaceId>, sqlx::Error> {
    let now = clock::now();
    sqlx::query_scalar!(
        r#"UPDATE stripe_settings SET next_poll_at = $2 WHERE workspace_id IN (
               SELECT workspace_id FROM stripe_settings WHERE next_poll_at IS NULL OR next_poll_at <= $1 FOR UPDATE SKIP LOCKED)
           RETURNING workspace_id AS "id: WorkspaceId""#,
        now,
        now + EVERY
    )
    .fetch_all(&app.pg)
    .await
}

/// Keeps what is new since the last poll; how many events that were.
pub async fn poll(app: &App, workspace: &WorkspaceId) -> Result<usize, StripeError> {
    let mut conn = app.pg.acquire().await?;
    let stripe = settings::stripe(app, &mut conn, workspace).await?;
    let row = sqlx::query!("SELECT polled_until, updated_at FROM stripe_settings WHERE workspace_id = $1", workspace.as_str())
        .fetch_one(&mut *conn)
        .await?;
    drop(conn);
    let since = row.polled_until.unwrap_or(row.updated_at) - OVERLAP;
    let (mut newest, mut new, mut after): (Option<DateTime<Utc>>, usize, Option<String>) = (None, 0, None);
    loop {
        let mut query = Form::new().with("limit", "100").with("created[gte]", since.timestamp().to_string());
        for (index, kind) in KINDS.iter().enumerate() {
            query = query.with(format!("types[{index}]"), *kind);
        }
        if let Some(after) = &after {
            query = query.with("starting_after", after.as_str());
        }
        let page: List<Event> = stripe.get("/events", &query).await?;
        let mut tx = app.pg.begin().await?;
        for event in &page.data {
            new += usize::from(events::keep(&mut tx, workspace, event, "poll").await?);
            newest = newest.max(DateTime::from_timestamp(event.created, 0));
        }
        tx.commit().await?;
        after = page.data.last().map(|event| event.id.clone());
        if !page.has_more || after.is_none() {
            break;
        }
    }
    // Only now: a poll that was cut short is done again from the same instant.
    sqlx::query!(
        "UPDATE stripe_settings SET polled_until = GREATEST(polled_until, $2) WHERE workspace_id = $1",
        workspace.as_str(),
        newest
    )
    .execute(&app.pg)
    .await?;
    if new > 0 {
        tracing::debug!(%workspace, new, "events that no webhook had delivered yet");
    }
    Ok(new)
}
