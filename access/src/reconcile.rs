//! The two witnesses side by side: by gateway and hour, how many decisions there were and how many events told of them.
//! A decision's id says when it was taken, so that both are counted in the hour of the decision, exactly.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::{Period, floor_minute};
use farebox_metering::{MeteringError, completeness, decided};
use serde::Serialize;

use crate::ledger;

/// A gateway's hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Hour {
    pub source: String,
    pub hour: DateTime<Utc>,
    /// As the instances counted them.
    pub decisions: u64,
    /// Events of these decisions.
    pub events: u64,
    /// Decisions without an event: calls whose log was lost, or has not arrived yet.
    pub missing: u64,
    /// Of the missing, those that are billed from the decision instead, because somebody chose so.
    pub billed_from_decisions: u64,
    /// Events of decisions that were not counted: an instance was killed within a second of deciding.
    pub uncounted: u64,
    /// Events without a decision: calls that went around the check, or were let pass while nobody answered. All of a
    /// source's that never asks.
    pub undecided: u64,
    /// Events of the hour have surely arrived, as far as sources go on as usual.
    pub complete: bool,
}

/// Hours that overlap the period, oldest first.
pub async fn hours(app: &App, workspace: &WorkspaceId, period: Period) -> Result<Vec<Hour>, MeteringError> {
    let period = Period { start: floor_hour(period.start), end: floor_hour(period.end + TimeDelta::hours(1) - TimeDelta::microseconds(1)) };
    let (decisions, told, completeness) = tokio::try_join!(
        ledger::by_hour(app, workspace, period),
        decided::by_hour(app, workspace, period),
        completeness::of(app, workspace)
    )?;
    let mut hours: BTreeMap<(DateTime<Utc>, String), (u64, u64, u64, u64)> = BTreeMap::new();
    for row in decisions {
        hours.entry((row.hour, row.source)).or_default().0 += row.n;
    }
    for row in told {
        let hour = hours.entry((row.hour, row.source)).or_default();
        hour.1 += row.decided;
        hour.2 += row.undecided;
        hour.3 += row.stand_ins;
    }
    Ok(hours
        .into_iter()
        .map(|((hour, source), (decisions, events, undecided, stand_ins))| Hour {
            source,
            hour,
            decisions,
            events,
            missing: decisions.saturating_sub(events),
            billed_from_decisions: stand_ins,
            uncounted: events.saturating_sub(decisions),
            undecided,
            complete: hour + TimeDelta::hours(1) <= completeness.complete_until,
        })
        .collect())
}

pub(crate) fn floor_hour(at: DateTime<Utc>) -> DateTime<Utc> {
    let at = floor_minute(at);
    at - TimeDelta::minutes(i64::from(at.minute()))
}
