//! Dead letters back through the decoders, after a fix or a new permission. What is accepted now is written with the id
//! it had, so a second replay, or one that is interrupted, counts nothing twice.

use std::collections::BTreeMap;

use farebox_core::ids::WorkspaceId;
use farebox_core::{App, clock};
use serde::{Deserialize, Serialize};

use crate::admit::{Arrival, Permissions, admit};
use crate::dead_letter::DeadLetter;
use crate::dead_letters::{self, Filter};
use crate::intake::{Intake, Unavailable};
use crate::tally;

const PAGE: u64 = 500;

/// What became of the dead letters that were read.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Report {
    pub read: u64,
    /// Accepted now.
    pub accepted: u64,
    /// Rejected again, by reason: they stay.
    pub rejected: BTreeMap<String, u64>,
    /// Longer than is kept, or of a format that this version does not know.
    pub unreadable: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    ClickHouse(#[from] clickhouse::error::Error),
    #[error(transparent)]
    Kafka(#[from] Unavailable),
    #[error("permissions cannot be looked up: {0:#}")]
    Permissions(anyhow::Error),
}

impl From<ReplayError> for farebox_core::problem::Problem {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::ClickHouse(e) => e.into(),
            ReplayError::Kafka(e) => e.into(),
            e @ ReplayError::Permissions(_) => Self::internal(&e),
        }
    }
}

/// Replays the outstanding dead letters that `filter` names.
pub async fn replay(app: &App, workspace: &WorkspaceId, filter: &Filter) -> Result<Report, ReplayError> {
    let intake = Intake::new(app);
    let permissions = Permissions::of(app, workspace).await.map_err(ReplayError::Permissions)?;
    let formats = intake.known(workspace).await?;
    let filter = Filter { with_resolved: false, ..filter.clone() };
    let mut report = Report::default();
    let mut after: Option<(i64, String)> = None;
    loop {
        let page = dead_letters::list(app, workspace, &filter, PAGE, after.as_ref().map(|(us, id)| (*us, id.as_str()))).await?;
        let Some(last) = page.last() else { return Ok(report) };
        after = Some((last.received_at.timestamp_micros(), last.id.to_string()));
        let (mut events, mut resolved) = (Vec::new(), Vec::new());
        for letter in page {
            report.read += 1;
            let Some((format, bytes)) = formats.format(&letter.format).zip(letter.bytes()) else {
                report.unreadable += 1;
                continue;
            };
            // Judged by the time it was received: a fix that took a month does not make it too old.
            let arrival = Arrival { workspace, source: &letter.source, received_at: letter.received_at, fallback_id: &letter.fallback_id };
            match format.decode(&bytes).and_then(|draft| admit(draft, &arrival, &permissions)) {
                Ok(event) => {
                    tally::add(workspace, &letter.source, &format, "replayed", 1);
                    events.push(event);
                    resolved.push(DeadLetter { resolved_at: Some(clock::now()), ..letter });
                }
                Err(rejection) => *report.rejected.entry(rejection.reason.as_str().to_owned()).or_default() += 1,
            }
        }
        report.accepted += u64::try_from(events.len()).unwrap_or(u64::MAX);
        // First the events, then that they are in: interrupted in between, they are replayed again, harmlessly.
        intake.write(&events, &[]).await?;
        intake.write(&[], &resolved).await?;
    }
}
