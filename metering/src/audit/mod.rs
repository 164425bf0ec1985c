//! The audit of the pipeline: by source and hour, produced = stored, and stored = rolled up = queried.
//!
//! The first witness is Kafka itself: the messages of the events topic are read once more, by an assignment of the
//! audit's own, up to the offsets that metering has committed. The second are the rows of `events`. The third the
//! rollups, the fourth what usage answers. An event's place is its source and hour as it came; a copy with another time
//! counts until the repair removes it, and what corrections did to events since is counted and named, not compared away.
//!
//! Each witness is a count and a sum of hashes, made in one reading and little memory, so that an hour of tens of
//! millions of events is audited like any other; identities are looked at only where both differ.

mod distinct;
mod hours;
mod stored;
mod witness;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use farebox_core::{App, clock, workspace};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use self::witness::{Removed, Witness};
use crate::facts::{bound, range};
use crate::{MeteringError, timelines};

/// Hours in one audit.
const MOST_HOURS: i64 = 31 * 24;
/// An audit that differs while events arrive is made again so often.
const TRIES: usize = 3;
/// Ids named for each place that differs.
const NAMED: usize = 20;
/// How long after an hour's end it is audited by itself: late events have come by then, and minutes are rolled up.
const SETTLED: TimeDelta = TimeDelta::minutes(15);
/// Hours that are made up for after nobody audited.
const MOST_SWEPT: TimeDelta = TimeDelta::hours(24);
/// How long audits are kept.
const KEPT: TimeDelta = TimeDelta::days(90);

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PipelineAudit {
    /// Whole hours of event time.
    pub period: Period,
    pub equal: bool,
    /// Everything that is not as it must be, in words.
    pub differences: Vec<String>,
    /// From when Kafka still has the messages; produced is not known before.
    pub witnessed_from: Option<DateTime<Utc>>,
    /// Messages that are produced and not yet stored.
    pub waiting_in_kafka: i64,
    pub places: Vec<Place>,
    pub hours: Vec<Hour>,
    pub as_of: DateTime<Utc>,
    /// Events of the range arrived meanwhile.
    #[serde(skip)]
    moved: bool,
}

/// A source's hour: from Kafka to the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Place {
    pub source: String,
    pub hour: DateTime<Utc>,
    /// Messages in Kafka, copies included; none where Kafka has them no more.
    pub messages: Option<u64>,
    /// Events among them, each once; without copies with another time that were removed.
    pub produced: Option<u64>,
    /// Events in the store, voided ones included.
    pub stored: u64,
}

/// An hour: from the store to what usage answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Hour {
    pub hour: DateTime<Utc>,
    /// Events that stand.
    pub stored: u64,
    /// Voided, or moved away by an amendment.
    pub corrected: u64,
    /// In the common rollups, each of them.
    pub rolled_up: BTreeMap<String, u64>,
    /// In minutes that are not yet recomputed.
    pub not_yet: BTreeMap<String, u64>,
    /// What `/api/v1/usage` answers for `calls`.
    pub queried: u64,
}

/// Audits whole hours of `period`, up to now.
pub async fn pipeline(app: &App, workspace: &WorkspaceId, period: Period) -> Result<PipelineAudit, MeteringError> {
    let as_of = clock::now();
    let floor = |at: DateTime<Utc>| DateTime::from_timestamp(at.timestamp().div_euclid(3600) * 3600, 0).unwrap_or_default();
    let period = Period { start: floor(period.start), end: floor(period.end.min(as_of) + TimeDelta::seconds(3599)) };
    if period.end <= period.start {
        return Err(MeteringError::invalid("to", "must be after `from`, and `from` in the past"));
    }
    if (period.end - period.start).num_hours() > MOST_HOURS {
        return Err(MeteringError::invalid("from", format!("an audit takes at most {MOST_HOURS} hours; choose a shorter range")));
    }
    audited(app, workspace, period, None).await
}

/// By a reading that was begun when the period's minutes had been touched so often, or by one of its own.
async fn audited(
    app: &App,
    workspace: &WorkspaceId,
    period: Period,
    reading: Option<(&Witness, u64)>,
) -> Result<PipelineAudit, MeteringError> {
    let afresh = async || {
        let before = touches(app, workspace, period).await?;
        let removed = Removed::from([(workspace.clone(), stored::removed(app, workspace, period).await?)]);
        let witness = witness::read(app, Some(workspace), period, removed).await?;
        once(app, workspace, period, &witness, before).await
    };
    let mut audit = match reading {
        Some((witness, before)) => once(app, workspace, period, witness, before).await?,
        None => afresh().await?,
    };
    for _ in 0..TRIES {
        if audit.equal || !audit.moved {
            break;
        }
        audit = afresh().await?;
    }
    if !audit.equal && audit.moved {
        audit.differences.push("events of the range arrived while it was audited; audit hours that are over".to_owned());
    }
    Ok(audit)
}

/// Everything that changes a minute's answer touches it.
async fn touches(app: &App, workspace: &WorkspaceId, period: Period) -> Result<u64, MeteringError> {
    let sql = format!("SELECT sum(n) FROM touched WHERE workspace = {{ws:String}} {}", range("minute", period));
    Ok(bound(app, workspace, &sql).fetch_one().await?)
}

async fn once(app: &App, workspace: &WorkspaceId, period: Period, witness: &Witness, before: u64) -> Result<PipelineAudit, MeteringError> {
    let as_of = clock::now();
    let produced = witness.of(workspace);
    let stored = stored::places(app, workspace, period).await?;
    let hours = hours::of(app, workspace, period).await?;
    let (mut places, mut differing) = (Vec::new(), BTreeSet::new());
    for at in produced.keys().chain(stored.keys()).collect::<BTreeSet<_>>() {
        let seen = produced.get(at).copied().unwrap_or_default();
        let here = stored.get(at).copied().unwrap_or_default();
        let hour = DateTime::from_timestamp(at.0, 0).unwrap_or_default();
        let witnessed = witness.from.is_some_and(|from| from <= hour);
        if witnessed && (seen.events, seen.hash) != (here.events, here.hash) {
            differing.insert(at.clone());
        }
        let (messages, events) = (witnessed.then_some(seen.messages), witnessed.then_some(seen.events));
        places.push(Place { source: at.1.clone(), hour, messages, produced: events, stored: here.events });
    }
    let mut differences = Vec::new();
    if !differing.is_empty() {
        for ((hour, source), found) in stored::differ(app, workspace, witness, &differing).await? {
            let at = DateTime::from_timestamp(hour, 0).unwrap_or_default();
            let more = if found.more { "at least " } else { "" };
            for (ids, what) in [(&found.lost, "events of Kafka are not stored"), (&found.foreign, "stored events are not in Kafka")] {
                if !ids.is_empty() {
                    differences.push(format!("{source}, {at}: {more}{} {what}: {}", ids.len(), named(ids)));
                }
            }
        }
    }
    for hour in &hours {
        for (rollup, rolled) in &hour.rolled_up {
            let not_yet = hour.not_yet.get(rollup).copied().unwrap_or(0);
            if rolled + not_yet != hour.stored {
                differences.push(format!(
                    "{}: {} events are stored, {rollup} has {rolled} and {not_yet} are in minutes to be recomputed",
                    hour.hour, hour.stored
                ));
            }
        }
        if hour.queried != hour.stored {
            differences.push(format!("{}: {} events are stored, usage answers {}", hour.hour, hour.stored, hour.queried));
        }
    }
    Ok(PipelineAudit {
        period,
        equal: differences.is_empty(),
        differences,
        witnessed_from: witness.from,
        waiting_in_kafka: witness.waiting,
        places,
        hours,
        as_of,
        moved: touches(app, workspace, period).await? != before,
    })
}

fn named(ids: &BTreeSet<String>) -> String {
    let mut text = ids.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if ids.len() > NAMED {
        text.push_str(", ...");
    }
    text
}

/// Every workspace's hours that have settled since the last time, by whichever instance comes first.
pub async fn settled_hours(app: &App) -> Result<(), MeteringError> {
    let end = DateTime::from_timestamp((clock::now() - SETTLED).timestamp().div_euclid(3600) * 3600, 0).unwrap_or_default();
    let mut claimed = app.pg.begin().await?;
    timelines::lock(&mut claimed, "audit of the pipeline").await?;
    let last = sqlx::query_scalar!("SELECT max(period_end) FROM pipeline_sweeps").fetch_one(&mut *claimed).await?;
    let start = last.map_or(end - TimeDelta::hours(1), |last| last.max(end - MOST_SWEPT));
    if start >= end {
        return Ok(());
    }
    sweep(app, Period { start, end }).await?;
    sqlx::query!("INSERT INTO pipeline_sweeps (period_end, period_start, swept_at) VALUES ($1, $2, $3)", end, start, clock::now())
        .execute(&mut *claimed)
        .await?;
    sqlx::query!("DELETE FROM pipeline_sweeps WHERE period_end < $1", end - KEPT).execute(&mut *claimed).await?;
    Ok(claimed.commit().await?)
}

/// Audits whole hours of every workspace that the store or Kafka has events of. Kafka is read once for all.
pub async fn sweep(app: &App, period: Period) -> Result<(), MeteringError> {
    let all = workspace::all(&mut *app.pg.acquire().await?).await.map_err(|e| MeteringError::unreadable("the workspaces", e))?;
    let sql = format!("SELECT toString(workspace), sum(n) FROM touched WHERE true {} GROUP BY workspace", range("minute", period));
    let before: Vec<(String, u64)> = app.clickhouse.query_raw(&sql).fetch_all().await?;
    let before: HashMap<String, u64> = before.into_iter().collect();
    let mut removed = Removed::new();
    for workspace in all.iter().filter(|workspace| before.contains_key(workspace.id.as_str())) {
        removed.insert(workspace.id.clone(), stored::removed(app, &workspace.id, period).await?);
    }
    let witness = witness::read(app, None, period, removed).await?;
    for workspace in all {
        let touched = before.get(workspace.id.as_str()).copied();
        if touched.is_none() && !witness.places.contains_key(&workspace.id) {
            continue;
        }
        let audit = audited(app, &workspace.id, period, Some((&witness, touched.unwrap_or(0)))).await?;
        metrics::gauge!("farebox_metering_audit_differences", "workspace" => workspace.name.clone())
            .set(u32::try_from(audit.differences.len()).unwrap_or(u32::MAX));
        if !audit.equal {
            tracing::error!(
                workspace = workspace.name,
                "the pipeline does not add up for {}: {}",
                period.start,
                audit.differences.join("; ")
            );
        }
        if !audit.places.is_empty() || !audit.hours.is_empty() {
            keep(&mut *app.pg.acquire().await?, &workspace.id, &audit).await?;
        }
    }
    Ok(())
}

async fn keep(conn: &mut PgConnection, workspace: &WorkspaceId, audit: &PipelineAudit) -> Result<(), MeteringError> {
    let report = serde_json::to_value(audit).map_err(|e| MeteringError::unreadable("an audit", e))?;
    sqlx::query!(
        "INSERT INTO pipeline_audits (workspace_id, period_start, period_end, equal, report, created_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (workspace_id, period_start) DO UPDATE SET equal = excluded.equal, report = excluded.report, created_at = excluded.created_at",
        workspace.as_str(),
        audit.period.start,
        audit.period.end,
        audit.equal,
        report,
        audit.as_of
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM pipeline_audits WHERE workspace_id = $1 AND period_start < $2", workspace.as_str(), audit.as_of - KEPT)
        .execute(conn)
        .await?;
    Ok(())
}

/// Hours that were audited by themselves, the latest first.
pub async fn recent(conn: &mut PgConnection, workspace: &WorkspaceId, limit: i64) -> Result<Vec<PipelineAudit>, MeteringError> {
    let rows = sqlx::query_scalar!(
        "SELECT report FROM pipeline_audits WHERE workspace_id = $1 ORDER BY period_start DESC LIMIT $2",
        workspace.as_str(),
        limit
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|json| serde_json::from_value(json).map_err(|e| MeteringError::unreadable("an audit", e))).collect()
}
