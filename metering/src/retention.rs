//! How long a workspace keeps raw events. Rollups outlive them.
//!
//! Months (UTC) expire whole, in two steps. First the month is *closing*: every instance refuses events of it, which
//! become dead letters. When all instances know, copies are buried, everything is rolled up, a proof of the month is
//! kept, and its events are deleted: it is *frozen*. A frozen minute's rollups are current whatever touches it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, Months, NaiveDate, TimeDelta, Utc};
use clickhouse::Row;
use farebox_core::clickhouse::altered;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use farebox_core::{App, audit_log, clock};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::attribution::attributed;
use crate::facts::{bound, exact, minute_sql, range};
use crate::{MeteringError, recompute, repair, rule, tiers, timelines};

/// Two months and a day: invoices of the month before can still be audited from their events.
pub const LEAST_DAYS: i32 = 62;
/// How long what is known of limits is trusted.
const KNOWN_FOR: Duration = Duration::from_secs(5);
/// How long after its announcement every instance refuses a month's events: well above [`KNOWN_FOR`].
pub const ANNOUNCED: TimeDelta = TimeDelta::seconds(60);

/// The reason of dead letters.
pub(crate) const REASON: &str = "period-frozen";

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Retention {
    /// Days that raw events are kept, at least: whole months expire. None: for ever.
    pub keep_days: Option<i32>,
    /// Events before it are not taken any more.
    pub closing_until: DateTime<Utc>,
    /// Events before it are deleted. Their rollups stay and do not change; corrections there are adjustments on invoices.
    pub frozen_until: DateTime<Utc>,
    /// The newest first.
    pub frozen: Vec<FrozenMonth>,
}

/// What is left to prove a month's numbers by.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct FrozenMonth {
    /// Its start, in UTC.
    pub month: DateTime<Utc>,
    /// Each once.
    pub events: i64,
    /// Sum of SipHash-128 over (workspace, id), modulo 2^128, in hexadecimal.
    pub hash: String,
    /// The same by subscription: of invoice lines over the whole month, what their proofs sum up to.
    #[schema(value_type = Object)]
    pub proof: serde_json::Value,
    pub frozen_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub closing: DateTime<Utc>,
    pub frozen: DateTime<Utc>,
}

const NONE: Limits = Limits { closing: DateTime::UNIX_EPOCH, frozen: DateTime::UNIX_EPOCH };

/// Of the workspaces that have any.
pub(crate) type AllLimits = Arc<HashMap<WorkspaceId, Limits>>;

static KNOWN: LazyLock<Mutex<HashMap<String, (Instant, AllLimits)>>> = LazyLock::new(Mutex::default);

/// Fails rather than answer with what may have changed: an event taken into a frozen month would be lost.
pub(crate) async fn all_limits(app: &App) -> Result<AllLimits, MeteringError> {
    let key = &app.config.clickhouse.database;
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, limits)) = known().get(key)
        && at.elapsed() < KNOWN_FOR
    {
        return Ok(limits.clone());
    }
    let asked = Instant::now();
    let rows = sqlx::query!(r#"SELECT workspace_id AS "workspace: WorkspaceId", closing_until, frozen_until FROM event_retention"#)
        .fetch_all(&app.pg)
        .await?;
    let limits: AllLimits =
        Arc::new(rows.into_iter().map(|row| (row.workspace, Limits { closing: row.closing_until, frozen: row.frozen_until })).collect());
    known().insert(key.clone(), (asked, limits.clone()));
    Ok(limits)
}

pub(crate) async fn limits(app: &App, workspace: &WorkspaceId) -> Result<Limits, MeteringError> {
    Ok(all_limits(app).await?.get(workspace).copied().unwrap_or(NONE))
}

fn forget(app: &App) {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).remove(&app.config.clickhouse.database);
}

pub async fn get(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Retention, MeteringError> {
    let row =
        sqlx::query!("SELECT keep_days, closing_until, frozen_until FROM event_retention WHERE workspace_id = $1", workspace.as_str())
            .fetch_optional(&mut *conn)
            .await?;
    let frozen = sqlx::query_as!(
        FrozenMonth,
        "SELECT month_start AS month, events, hash, proof, frozen_at FROM frozen_months WHERE workspace_id = $1 ORDER BY month_start DESC",
        workspace.as_str()
    )
    .fetch_all(conn)
    .await?;
    let (keep_days, closing_until, frozen_until) =
        row.map_or((None, NONE.closing, NONE.frozen), |row| (row.keep_days, row.closing_until, row.frozen_until));
    Ok(Retention { keep_days, closing_until, frozen_until, frozen })
}

/// A shorter time is for the next months to expire; what is frozen stays so.
pub async fn set(conn: &mut PgConnection, workspace: &WorkspaceId, keep_days: Option<i32>, author: &str) -> Result<(), MeteringError> {
    if keep_days.is_some_and(|days| !(LEAST_DAYS..=36_500).contains(&days)) {
        return Err(MeteringError::invalid(
            "/keep_days",
            format!("must be {LEAST_DAYS} to 36500, or null: invoices of the month before are audited from their events"),
        ));
    }
    sqlx::query!(
        "INSERT INTO event_retention (workspace_id, keep_days) VALUES ($1, $2) ON CONFLICT (workspace_id) DO UPDATE SET keep_days = excluded.keep_days",
        workspace.as_str(),
        keep_days
    )
    .execute(&mut *conn)
    .await?;
    let detail = serde_json::json!({ "keep_days": keep_days });
    Ok(audit_log::record(conn, workspace, author, "retention.set", workspace.as_str(), &detail).await?)
}

/// Announces what is to expire and freezes what was announced long enough ago. Safe to repeat, by any instance.
pub async fn step(app: &App, announced: TimeDelta) -> Result<(), MeteringError> {
    let all = sqlx::query!(
        r#"SELECT workspace_id AS "workspace: WorkspaceId", keep_days AS "keep_days!", closing_until, closing_since, frozen_until
           FROM event_retention WHERE keep_days IS NOT NULL"#
    )
    .fetch_all(&app.pg)
    .await?;
    for row in all {
        let now = clock::now();
        let target = month_of(now - TimeDelta::days(row.keep_days.into()));
        if target > row.closing_until {
            sqlx::query!(
                "UPDATE event_retention SET closing_until = $2, closing_since = $3 WHERE workspace_id = $1 AND closing_until < $2",
                row.workspace.as_str(),
                target,
                now
            )
            .execute(&app.pg)
            .await?;
            forget(app);
        }
        let (until, since) = if target > row.closing_until { (target, now) } else { (row.closing_until, row.closing_since.unwrap_or(now)) };
        if until > row.frozen_until && now - since >= announced {
            freeze(app, &row.workspace, Period { start: row.frozen_until, end: until }).await?;
        }
    }
    Ok(())
}

/// The start of the month in UTC.
fn month_of(at: DateTime<Utc>) -> DateTime<Utc> {
    let first = at.date_naive().with_day(1).unwrap_or(NaiveDate::MIN);
    first.and_time(chrono::NaiveTime::MIN).and_utc()
}

async fn freeze(app: &App, workspace: &WorkspaceId, period: Period) -> Result<(), MeteringError> {
    let mut claimed = app.pg.begin().await?;
    if !timelines::try_lock(&mut claimed, &format!("freeze {workspace}")).await? {
        return Ok(());
    }
    timelines::sync(app).await?;
    repair::repair(app, workspace, period).await?;
    recompute::workspace(app, workspace).await?;
    tiers::workspace(app, workspace).await?;
    let left = recompute::dirty_before(app, workspace, period.end).await?;
    if left > 0 {
        tracing::info!(%workspace, minutes = left, "events stay for now: not all of their minutes are rolled up");
        return Ok(());
    }
    let Some(first) = first_event(app, workspace, period).await? else { return finish(app, workspace, period.end).await };
    let mut month = month_of(first);
    while month < period.end {
        let next = month.checked_add_months(Months::new(1)).unwrap_or(period.end);
        keep_proof(app, workspace, Period { start: month, end: next }).await?;
        month = next;
    }
    let delete = format!(
        "ALTER TABLE {} DELETE WHERE workspace = '{workspace}' AND toStartOfMinute(time) < {} SETTINGS mutations_sync = 2",
        altered(&app.config.clickhouse, "events"),
        minute_sql(period.end.timestamp())
    );
    app.clickhouse.query_raw(&delete).execute().await?;
    finish(app, workspace, period.end).await?;
    tracing::info!(%workspace, until = %period.end, "raw events have expired; their rollups stay");
    claimed.commit().await?;
    Ok(())
}

async fn finish(app: &App, workspace: &WorkspaceId, until: DateTime<Utc>) -> Result<(), MeteringError> {
    sqlx::query!("UPDATE event_retention SET frozen_until = $2 WHERE workspace_id = $1 AND frozen_until < $2", workspace.as_str(), until)
        .execute(&app.pg)
        .await?;
    forget(app);
    Ok(())
}

async fn first_event(app: &App, workspace: &WorkspaceId, period: Period) -> Result<Option<DateTime<Utc>>, MeteringError> {
    let sql = format!(
        "SELECT toUnixTimestamp(min(toStartOfMinute(time))), count() FROM events WHERE workspace = {{ws:String}} {}",
        range("toStartOfMinute(time)", period)
    );
    let (first, n): (u32, u64) = bound(app, workspace, &sql).fetch_one().await?;
    Ok((n > 0).then(|| DateTime::from_timestamp(i64::from(first), 0).unwrap_or_default()))
}

/// Kept before anything is deleted; one that a crash left behind is replaced by the same.
async fn keep_proof(app: &App, workspace: &WorkspaceId, month: Period) -> Result<(), MeteringError> {
    #[derive(Row, Deserialize, Serialize)]
    struct Part {
        subscription: String,
        events: u64,
        counted: u64,
        hash: String,
    }
    let rule = rule::current(&mut *app.pg.acquire().await?, workspace).await?.1;
    let hash = "lower(leftPad(hex(sum(reinterpretAsUInt128(sipHash128({ws:String}, id)))), 32, '0'))";
    let attributed = attributed(&rule, &range("toStartOfMinute(time)", month));
    let parts = format!(
        "SELECT subscription, count() AS events, countIf(counted) AS counted, {hash} AS hash FROM ({attributed}) WHERE {} GROUP BY subscription ORDER BY subscription",
        exact(month)
    );
    let parts: Vec<Part> = bound(app, workspace, &parts).fetch_all().await?;
    let whole = format!(
        "SELECT count() AS events, {hash} AS hash FROM events FINAL WHERE workspace = {{ws:String}} {}",
        range("toStartOfMinute(time)", month)
    );
    let (events, hash): (u64, String) = bound(app, workspace, &whole).fetch_one().await?;
    let versions = timelines::versions(app, workspace).await?;
    let proof = serde_json::json!({ "subscriptions": parts, "versions": versions });
    sqlx::query!(
        "INSERT INTO frozen_months (workspace_id, month_start, events, hash, proof, frozen_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (workspace_id, month_start) DO NOTHING",
        workspace.as_str(),
        month.start,
        i64::try_from(events).unwrap_or(i64::MAX),
        hash,
        proof,
        clock::now()
    )
    .execute(&app.pg)
    .await?;
    Ok(())
}

/// What a question is told that needs events which have expired.
pub(crate) fn expired(frozen: DateTime<Utc>) -> MeteringError {
    MeteringError::invalid(
        "from",
        format!(
            "raw events are kept since {}, and this question needs them; start there, in whole minutes before it, or ask by consumer, \
             subscription, plan, api, version, route, method, status or credential, which rollups keep",
            frozen.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        ),
    )
}
