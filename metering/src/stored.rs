//! How many events are stored, each once: counted from the rows themselves, as a witness beside the rollups. Days that
//! were not touched since they were counted are not counted again; events that expired are told by their months' proofs.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use serde::Deserialize;

use crate::facts::{bound, minute_sql};
use crate::{MeteringError, plan, retention};

/// Seconds.
const DAY: u32 = 86_400;

/// A day as ClickHouse numbers it, in UTC -> how often it was touched when it was counted, and its events.
type Days = HashMap<u16, (u64, u64)>;

static KNOWN: LazyLock<Mutex<HashMap<(String, WorkspaceId), Days>>> = LazyLock::new(Mutex::default);

#[derive(Row, Deserialize)]
struct Day {
    day: u16,
    n: u64,
}

/// Before `until`, a whole minute.
pub async fn before(app: &App, workspace: &WorkspaceId, until: DateTime<Utc>) -> Result<u64, MeteringError> {
    let retention = retention::get(&mut *app.pg.acquire().await?, workspace).await?;
    let expired: i64 = retention.frozen.iter().map(|month| month.events).sum();
    let (from, until) = (plan::seconds(retention.frozen_until), plan::seconds(until));
    let within = |minute: &str| format!("{minute} >= {} AND {minute} < {}", minute_sql(from.into()), minute_sql(until.into()));
    // A touch follows its rows: whoever sees it sees them.
    let sql = format!(
        "SELECT toUInt16(toDate(minute, 'UTC')) AS day, sum(n) AS n FROM touched WHERE workspace = {{ws:String}} AND {} GROUP BY day",
        within("minute")
    );
    let touched = bound(app, workspace, &sql).fetch_all::<Day>().await?;
    let key = (app.config.clickhouse.database.clone(), workspace.clone());
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned().unwrap_or_default();
    // The first and the last day may be asked for in part.
    let whole = |day: u16| u32::from(day) * DAY >= from && (u32::from(day) + 1) * DAY <= until;
    let (mut days, mut anew) = (Days::new(), Vec::new());
    for Day { day, n } in touched {
        match known.get(&day).filter(|(touched, _)| *touched == n && whole(day)) {
            Some(counted) => drop(days.insert(day, *counted)),
            None => anew.push((day, n)),
        }
    }
    if let (Some(first), Some(last)) = (anew.iter().map(|(day, _)| day).min(), anew.iter().map(|(day, _)| day).max()) {
        let list: Vec<_> = anew.iter().map(|(day, _)| day.to_string()).collect();
        let sql = format!(
            "SELECT toUInt16(toDate(time, 'UTC')) AS day, count() AS n FROM events FINAL WHERE workspace = {{ws:String}} AND {} \
             AND toStartOfMinute(time) >= {} AND toStartOfMinute(time) < {} AND toUInt16(toDate(time, 'UTC')) IN ({}) GROUP BY day",
            within("toStartOfMinute(time)"),
            minute_sql((u32::from(*first) * DAY).into()),
            minute_sql(((u32::from(*last) + 1) * DAY).into()),
            list.join(", ")
        );
        let counted = bound(app, workspace, &sql).fetch_all::<Day>().await?;
        let counted: HashMap<u16, u64> = counted.into_iter().map(|row| (row.day, row.n)).collect();
        days.extend(anew.into_iter().map(|(day, touched)| (day, (touched, counted.get(&day).copied().unwrap_or(0)))));
    }
    let sum: u64 = days.values().map(|(_, events)| events).sum();
    days.retain(|day, _| whole(*day));
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(key, days);
    Ok(u64::try_from(expired).unwrap_or(0) + sum)
}
