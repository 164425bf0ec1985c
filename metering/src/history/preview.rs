//! What a backfill would bring.

use std::collections::BTreeMap;

use bigdecimal::{BigDecimal, Zero};
use chrono::{DateTime, NaiveDate, Utc};
use clickhouse::Row;
use farebox_core::ids::{JobId, WorkspaceId};
use farebox_core::{App, workspace as workspaces};
use serde::{Deserialize, Serialize};

use super::{get, table};
use crate::attribution::attributed_from;
use crate::corrections::{MeterEffect, MoneyEffect, effect};
use crate::facts::{bound, minute_sql};
use crate::meters::{self, Aggregate};
use crate::{MeteringError, retention, rule};

/// Rows of consumers and days; the others are in the totals.
const MOST_ROWS: usize = 1000;

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = BackfillPreview)]
pub struct Preview {
    /// Collected, each once.
    pub events: u64,
    /// Of them, those that would be new: what a commit must expect.
    pub new: u64,
    /// Of them, those whose identity the workspace has: they change nothing.
    pub already_there: u64,
    /// Of months that have expired: they are refused.
    pub frozen: u64,
    /// Minutes with new events.
    pub minutes: u64,
    pub first: Option<DateTime<Utc>>,
    pub last: Option<DateTime<Utc>>,
    /// New events by consumer and day of the workspace's calendar, those with most first.
    pub days: Vec<ConsumerDay>,
    /// What meters that are made of parts gain, by month and subscription.
    pub meters: Vec<MeterEffect>,
    /// What a subscription's month comes to, before discounts, credits and tax.
    pub money: Vec<MoneyEffect>,
    /// Subscriptions whose price does not follow from meters alone.
    pub unpriced: Vec<String>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = BackfillDay)]
pub struct ConsumerDay {
    /// Empty for nobody's.
    pub consumer: String,
    pub day: NaiveDate,
    pub events: u64,
}

/// Rows of the job's table that would be new.
pub(super) async fn new_sql(app: &App, workspace: &WorkspaceId, id: &JobId) -> Result<String, MeteringError> {
    let table = table(id);
    let closing = retention::limits(app, workspace).await?.closing;
    Ok(format!(
        "{table} FINAL WHERE workspace = {{ws:String}} AND toStartOfMinute(time) >= {} AND id NOT IN \
         (SELECT id FROM events WHERE workspace = {{ws:String}} AND id IN (SELECT id FROM {table}))",
        minute_sql(closing.timestamp())
    ))
}

pub async fn preview(app: &App, workspace: &WorkspaceId, id: &JobId) -> Result<Preview, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        who: String,
        day: u16,
        n: u64,
    }
    let (job, rule, meters, zone) = {
        let mut conn = app.pg.acquire().await?;
        let job = get(&mut conn, workspace, id).await?.ok_or(MeteringError::NotFound("backfill"))?;
        let zone = workspaces::by_id(&mut conn, workspace).await.map_err(|e| MeteringError::unreadable("the workspace", e))?;
        let rule = rule::current(&mut conn, workspace).await?.1;
        (job, rule, meters::list(&mut conn, workspace).await?, zone.map_or(chrono_tz::UTC, |w| w.time_zone))
    };
    if job.state != "open" {
        return Err(super::not("open", &job.state));
    }
    let new = new_sql(app, workspace, id).await?;
    let table = table(id);
    let closing = minute_sql(retention::limits(app, workspace).await?.closing.timestamp());
    let all = format!(
        "SELECT count(), countIf(toStartOfMinute(time) < {closing}), toUnixTimestamp64Micro(min(time)), toUnixTimestamp64Micro(max(time)) \
         FROM {table} FINAL WHERE workspace = {{ws:String}}"
    );
    let (events, frozen, first, last): (u64, u64, i64, i64) = bound(app, workspace, &all).fetch_one().await?;
    let counts = format!("SELECT count(), uniqExact(toStartOfMinute(time)) FROM {new}");
    let (fresh, minutes): (u64, u64) = bound(app, workspace, &counts).fetch_one().await?;
    let attributed = attributed_from(&rule, &new);
    let by_day = format!(
        "SELECT consumer AS who, toUInt16(toDate(minute, '{}')) AS day, count() AS n FROM ({attributed}) GROUP BY who, day ORDER BY n DESC, who, day LIMIT {MOST_ROWS}",
        zone.name()
    );
    let found: Vec<Found> = bound(app, workspace, &by_day).fetch_all().await?;
    let mut sums: BTreeMap<effect::Key, (BigDecimal, BigDecimal)> = BTreeMap::new();
    for meter in meters.iter().filter(|meter| matches!(meter.definition.aggregate, Aggregate::Count | Aggregate::Sum)) {
        for (key, value) in effect::sums(app, workspace, meter, zone.name(), &attributed, &|query| query).await? {
            sums.entry(key).or_insert_with(|| (BigDecimal::zero(), BigDecimal::zero())).1 += value;
        }
    }
    let meters = effect::effects(sums);
    let priced = effect::price(app, workspace, &meters).await?;
    let date = |n: u16| NaiveDate::from_ymd_opt(1970, 1, 1).unwrap_or_default() + chrono::Days::new(u64::from(n));
    let at = |micros| (events > 0).then(|| DateTime::from_timestamp_micros(micros).unwrap_or_default());
    Ok(Preview {
        events,
        new: fresh,
        already_there: events - frozen - fresh,
        frozen,
        minutes,
        first: at(first),
        last: at(last),
        days: found.into_iter().map(|row| ConsumerDay { consumer: row.who, day: date(row.day), events: row.n }).collect(),
        meters,
        money: priced.money,
        unpriced: priced.unpriced,
    })
}
