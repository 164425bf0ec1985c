//! Records of a backfill, read as any others; their source may send what is old.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::event::UsageEvent;
use farebox_core::ids::WorkspaceId;

use crate::admit::{Arrival, Permissions, admit};
use crate::intake::Intake;
use crate::records;

/// Each record's event, or its place and why it is none. None when there is no such format.
pub async fn read(
    app: &App,
    workspace: &WorkspaceId,
    source: &str,
    format: &str,
    received_at: DateTime<Utc>,
    pieces: &[(String, Bytes)],
) -> anyhow::Result<Option<Vec<Result<UsageEvent, (String, String)>>>> {
    let known = Intake::new(app).known(workspace).await?;
    let Some(format) = known.format(format) else { return Ok(None) };
    let mut permissions = Permissions::of(app, workspace).await?;
    permissions.backfill.insert(source.to_owned());
    let mut events = Vec::new();
    for (place, payload) in pieces {
        for record in records::of_message(payload, place, &format, &app.config.ingest) {
            let arrival = Arrival { workspace, source, received_at, fallback_id: &record.fallback_id };
            let event = record.decoded.and_then(|draft| admit(draft, &arrival, &permissions));
            events.push(event.map_err(|rejection| (record.fallback_id.clone(), rejection.detail)));
        }
    }
    Ok(Some(events))
}
