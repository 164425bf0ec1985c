//! The audit of the pipeline: by source and hour, produced = stored, and stored = rolled up = queried.
//!
//! The first witness is Kafka itself: the messages of the events topic are read once more, by an assignment of the
//! audit's own, up to the offsets that metering has committed. The second are the rows of `events`. The third the
//! rollups, the fourth what usage answers. An event's place is the source and hour of the copy received first; what
//! corrections did to it since is counted and named, not compared away.

mod hours;
mod stored;
mod witness;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use farebox_core::{App, clock, workspace};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

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
    /// Events among them.
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
    let mut audit = once(app, workspace, period, as_of).await?;
    for _ in 0..TRIES {
        if audit.equal || !audit.moved {
            break;
        }
        audit = once(app, workspace, period, as_of).await?;
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

async fn once(app: &App, workspace: &WorkspaceId, period: Period, as_of: DateTime<Utc>) -> Result<PipelineAudit, MeteringError> {
    let before = touches(app, workspace, period).await?;
    let witness = witness::read(app, workspace, period).await?;
    let stored = stored::places(app, workspace, period).await?;
    let hours = hours::of(app, workspace, period).await?;
    let mut differences = Vec::new();
    let mut places = Vec::new();
    let mut keys: Vec<_> = witness.places.keys().chain(stored.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    for (hour, source) in keys {
        let (seen, here) = (witness.places.get(&(hour, source.clone())), stored.get(&(hour, source.clone())));
        let at = DateTime::from_timestamp(hour, 0).unwrap_or_default();
        let witnessed = witness.from.is_some_and(|from| from <= at);
        let (produced, stored) = (seen.map_or(0, |s| s.events), here.map_or(0, |s| s.events));
        if witnessed && (produced != stored || seen.map_or(0, |s| s.hash) != here.map_or(0, |s| s.hash)) {
            let (lost, foreign) = stored::differ(app, workspace, &witness, at, &source).await?;
            if !lost.is_empty() {
                differences.push(format!("{source}, {at}: {} events of Kafka are not stored: {}", lost.len(), named(&lost)));
            }
            if !foreign.is_empty() {
                differences.push(format!("{source}, {at}: {} stored events are not in Kafka: {}", foreign.len(), named(&foreign)));
            }
        }
        places.push(Place {
            source,
            hour: at,
            messages: witnessed.then(|| seen.map_or(0, |s| s.messages)),
            produced: witnessed.then_some(produced),
            stored,
        });
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

fn named(ids: &[String]) -> String {
    let mut text = ids.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if ids.len() > NAMED {
        text.push_str(", ...");
    }
    text
}

/// Every workspace's last settled hour, once; by whichever instance comes first. `swept` is the hour in which Kafka was
/// asked whose events there are.
pub async fn settled_hours(app: &App, swept: &mut Option<DateTime<Utc>>) -> Result<(), MeteringError> {
    let settled = (clock::now() - SETTLED).timestamp().div_euclid(3600) * 3600;
    let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    let period = Period { start: at(settled - 3600), end: at(settled) };
    let all = workspace::all(&mut *app.pg.acquire().await?).await.map_err(|e| MeteringError::unreadable("the workspaces", e))?;
    // Kafka is read for each workspace: not for those of which it has nothing either.
    let produced = if *swept == Some(period.start) { BTreeSet::new() } else { witness::workspaces(app, period).await? };
    for workspace in all {
        if !produced.contains(&workspace.id) && touches(app, &workspace.id, period).await? == 0 {
            continue;
        }
        let mut transaction = app.pg.begin().await?;
        if !timelines::try_lock(&mut transaction, &format!("audit {}", workspace.id)).await?
            || is_done(&mut transaction, &workspace.id, period).await?
        {
            continue;
        }
        let audit = pipeline(app, &workspace.id, period).await?;
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
            keep(&mut transaction, &workspace.id, &audit).await?;
        }
        transaction.commit().await?;
    }
    *swept = Some(period.start);
    Ok(())
}

async fn is_done(conn: &mut PgConnection, workspace: &WorkspaceId, period: Period) -> Result<bool, MeteringError> {
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM pipeline_audits WHERE workspace_id = $1 AND period_start = $2) AS "done!""#,
        workspace.as_str(),
        period.start
    );
    Ok(found.fetch_one(conn).await?)
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
    sqlx::query!(
        "DELETE FROM pipeline_audits WHERE workspace_id = $1 AND period_start < $2",
        workspace.as_str(),
        audit.as_of - TimeDelta::days(90)
    )
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
