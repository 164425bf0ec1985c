//! The newest calls of a consumer, one by one, and when each of its keys was last used: for the person who is looking.

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::event::REQUEST;
use farebox_core::ids::{ConsumerId, CredentialId, WorkspaceId};
use farebox_core::period::Period;
use serde::Deserialize;

use crate::facts::{Column, Facts, Table};
use crate::{MeteringError, plan, rule};

/// One request as it was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub id: String,
    pub at: DateTime<Utc>,
    pub api: String,
    pub method: String,
    /// Empty when no route fits.
    pub route: String,
    pub status: u16,
    pub latency_us: u32,
    /// Id of the key; empty without one.
    pub credential: String,
    /// `upstream`, `gateway`, `cache`, or empty where the format cannot tell.
    pub answered_by: String,
    /// Why it does not count; empty when it does.
    pub reason: String,
}

#[derive(Row, Deserialize)]
struct Found {
    id: String,
    at: i64,
    api: String,
    method: String,
    route: String,
    status: u16,
    latency_us: u32,
    credential: String,
    answered_by: String,
    reason: String,
}

/// Up to `limit` calls of the consumer within the period, the newest first. Looks a little way back first, and further
/// only when there are not enough.
pub async fn calls(
    app: &App,
    workspace: &WorkspaceId,
    consumer: &ConsumerId,
    period: Period,
    limit: usize,
) -> Result<Vec<Call>, MeteringError> {
    let rule = rule::current(&mut *app.pg.acquire().await?, workspace).await?.1;
    let column = Column::of_event;
    let columns = vec![
        column("id", "id"),
        column("at", "toUnixTimestamp64Micro(time)"),
        column("api", "toString(api)"),
        column("method", "toString(method)"),
        column("route", "toString(route)"),
        column("status", "status"),
        column("latency_us", "latency_us"),
        column("credential", "credential"),
        column("answered_by", "toString(answered_by)"),
        column("reason", "reason"),
    ];
    let filter = format!("consumer = {{consumer:String}} AND type = '{REQUEST}'");
    let mut found: Vec<Found> = Vec::new();
    for back in [TimeDelta::minutes(15), TimeDelta::hours(24), TimeDelta::days(400)] {
        let start = period.start.max(period.end - back);
        let facts = Facts {
            table: Table::Raw,
            period: Period { start, end: period.end },
            whole: &plan::never,
            columns: columns.clone(),
            rolled: String::new(),
            raw: filter.clone(),
            scope: String::new(),
            rule: &rule,
            may_be_partial: true,
        };
        let outer = format!(
            "SELECT id, at, api, method, route, status, latency_us, credential, answered_by, reason FROM ({{facts}}) ORDER BY at DESC, id LIMIT {limit}"
        );
        found = facts.query(app, workspace, &outer).await?.param("consumer", consumer.as_str()).fetch_all().await?;
        if found.len() >= limit || start == period.start {
            break;
        }
    }
    let call = |row: Found| Call {
        id: row.id,
        at: DateTime::from_timestamp_micros(row.at).unwrap_or_default(),
        api: row.api,
        method: row.method,
        route: row.route,
        status: row.status,
        latency_us: row.latency_us,
        credential: row.credential,
        answered_by: row.answered_by,
        reason: row.reason,
    };
    Ok(found.into_iter().map(call).collect())
}

/// The last call with each key of the consumer, and with none (`None`), within the period.
pub async fn last_used(
    app: &App,
    workspace: &WorkspaceId,
    consumer: &ConsumerId,
    period: Period,
) -> Result<Vec<(Option<CredentialId>, DateTime<Utc>)>, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Last {
        credential: String,
        at: i64,
    }
    let rule = rule::current(&mut *app.pg.acquire().await?, workspace).await?.1;
    let columns = vec![Column::new("credential", "credential", "credential"), Column::new("last_at", "last", "time")];
    let own = "consumer = {consumer:String}".to_owned();
    let facts = Facts {
        table: Table::Routes,
        period,
        whole: &plan::any,
        columns,
        rolled: own.clone(),
        raw: own,
        scope: String::new(),
        rule: &rule,
        may_be_partial: true,
    };
    let outer = "SELECT credential, toUnixTimestamp64Micro(max(last_at)) AS at FROM ({facts}) GROUP BY credential";
    let found: Vec<Last> = facts.query(app, workspace, outer).await?.param("consumer", consumer.as_str()).fetch_all().await?;
    Ok(found.into_iter().map(|row| (row.credential.parse().ok(), DateTime::from_timestamp_micros(row.at).unwrap_or_default())).collect())
}
