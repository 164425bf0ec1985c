//! Takes a backfill's events over, minute by minute. Dying anywhere repeats some minutes, whose events replace
//! themselves.

use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::ids::{JobId, WorkspaceId};
use farebox_core::period::Period;
use farebox_core::{App, clock};
use serde::Deserialize;

use super::{drop_table, table, topic};
use crate::facts::{bound, minute_sql};
use crate::repair::{self, COLUMNS};
use crate::timelines::{self, Held};
use crate::{MeteringError, faults, retention};

/// Minutes and rows taken over at a time.
const MINUTES: usize = 2000;
const ROWS: u64 = 500_000;

#[derive(Row, Deserialize)]
struct Minute {
    minute: u32,
    events: u64,
}

/// Goes on with every job that is under way and in nobody's hands.
pub async fn step(app: &App) -> Result<(), MeteringError> {
    let open = sqlx::query!(
        r#"SELECT id AS "id: JobId", workspace_id AS "workspace: WorkspaceId", state FROM backfills
           WHERE state IN ('reading', 'committing') ORDER BY created_at"#
    )
    .fetch_all(&app.pg)
    .await?;
    for row in open {
        let mut claimed = app.pg.begin().await?;
        if !timelines::try_lock(&mut claimed, &format!("backfill {}", row.id)).await? {
            continue;
        }
        if row.state == "reading" {
            topic::read(app, &row.workspace, &row.id).await?;
        } else {
            take_over(app, &row.workspace, &row.id).await?;
        }
        claimed.commit().await?;
    }
    Ok(())
}

/// How many minutes a commit takes over.
pub(super) async fn minutes(app: &App, workspace: &WorkspaceId, id: &JobId) -> Result<u64, MeteringError> {
    let closing = minute_sql(retention::limits(app, workspace).await?.closing.timestamp());
    let sql = format!(
        "SELECT uniqExact(toStartOfMinute(time)) FROM {} WHERE workspace = {{ws:String}} AND toStartOfMinute(time) >= {closing}",
        table(id)
    );
    Ok(bound(app, workspace, &sql).fetch_one().await?)
}

async fn take_over(app: &App, workspace: &WorkspaceId, id: &JobId) -> Result<(), MeteringError> {
    let row =
        sqlx::query!("SELECT state, position, source, created_at FROM backfills WHERE id = $1", id.as_str()).fetch_one(&app.pg).await?;
    if row.state != "committing" {
        return Ok(());
    }
    let table = table(id);
    let from = row.position.max(retention::limits(app, workspace).await?.closing);
    let sql = format!(
        "SELECT toUnixTimestamp(toStartOfMinute(time)) AS minute, count() AS events FROM {table} FINAL WHERE workspace = {{ws:String}} \
         AND toStartOfMinute(time) >= {} GROUP BY minute ORDER BY minute",
        minute_sql(from.timestamp())
    );
    let minutes: Vec<Minute> = bound(app, workspace, &sql).fetch_all().await?;
    let mut rest = minutes.as_slice();
    while !rest.is_empty() {
        let mut rows = 0;
        let taken = rest.iter().take(MINUTES).take_while(|m| {
            rows += m.events;
            rows <= ROWS || rows == m.events
        });
        let (part, later) = rest.split_at(taken.count());
        let list: Vec<_> = part.iter().map(|m| m.minute.to_string()).collect();
        let held = Held::new(app, workspace, part.iter().map(|m| m.minute).collect()).await?;
        let insert = format!(
            "INSERT INTO events ({COLUMNS}, version, is_deleted) SELECT {COLUMNS}, version, is_deleted FROM {table} FINAL \
             WHERE workspace = {{ws:String}} AND toStartOfMinute(time) IN ({})",
            list.join(", ")
        );
        bound(app, workspace, &insert)
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "0")
            .with_setting("optimize_on_insert", "0")
            .execute()
            .await?;
        faults::point("backfill.inserted");
        held.touch(app, workspace).await?;
        faults::point("backfill.touched");
        let until = part.last().map_or(0, |m| m.minute) + 60;
        sqlx::query!(
            "UPDATE backfills SET position = $2, minutes_done = minutes_done + $3 WHERE id = $1",
            id.as_str(),
            at(until),
            i32::try_from(part.len()).unwrap_or(i32::MAX)
        )
        .execute(&app.pg)
        .await?;
        faults::point("backfill.part");
        rest = later;
    }
    // Copies that came with another time, now or before.
    let ever =
        format!("SELECT toUnixTimestamp(min(toStartOfMinute(time))), toUnixTimestamp(max(toStartOfMinute(time))), count() FROM {table}");
    let (first, last, n): (u32, u32, u64) = app.clickhouse.query_raw(&ever).fetch_one().await?;
    if n > 0 {
        repair::repair(app, workspace, Period { start: at(first), end: at(last + 60) }).await?;
        faults::point("backfill.repaired");
    }
    sqlx::query!("UPDATE backfills SET state = 'done', minutes_done = minutes, done_at = $2 WHERE id = $1", id.as_str(), clock::now())
        .execute(&app.pg)
        .await?;
    drop_table(app, id).await?;
    tracing::info!(backfill = %id, %workspace, "a backfill is done");
    Ok(())
}

fn at(seconds: u32) -> DateTime<Utc> {
    DateTime::from_timestamp(i64::from(seconds), 0).unwrap_or_default()
}
