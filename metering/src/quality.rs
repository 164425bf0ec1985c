//! How well calls were answered: errors and quantiles of latency by version of an API, and by consumer within each. From
//! events, since no rollup keeps single latencies; so the period is bounded.

use chrono::TimeDelta;
use clickhouse::Row;
use farebox_core::App;
use farebox_core::event::REQUEST;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use serde::Deserialize;

use crate::facts::{Column, Facts, Table};
use crate::{MeteringError, plan, rule};

/// The longest period of one question.
pub const LONGEST: TimeDelta = TimeDelta::days(35);

/// Which calls.
#[derive(Debug, Clone)]
pub struct Of<'a> {
    pub api: &'a str,
    pub versions: &'a [String],
    pub period: Period,
    /// How many consumers of each version, those with most calls first.
    pub consumers: usize,
}

/// A quantile is the value at position floor(p * n) of the n sorted latencies, counted from 0: exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quality {
    pub version: String,
    /// None: all of them together. Empty: calls of nobody known.
    pub consumer: Option<String>,
    pub calls: u64,
    /// Ended in 4xx, and in 5xx.
    pub client_errors: u64,
    pub server_errors: u64,
    /// Of the version: different consumers.
    pub consumers: u64,
    pub p50_us: u64,
    pub p95_us: u64,
    pub p99_us: u64,
}

#[derive(Row, Deserialize)]
struct Found {
    version: String,
    who: String,
    whole: u8,
    calls: u64,
    client_errors: u64,
    server_errors: u64,
    different: u64,
    quantiles: Vec<u64>,
}

/// Each version as a whole, then its consumers. Versions without calls are left out.
pub async fn by_version(app: &App, workspace: &WorkspaceId, of: &Of<'_>) -> Result<Vec<Quality>, MeteringError> {
    if of.period.is_empty() || of.versions.is_empty() {
        return Ok(Vec::new());
    }
    if of.period.end - of.period.start > LONGEST {
        return Err(MeteringError::invalid("from", format!("is at most {} days before `to`", LONGEST.num_days())));
    }
    let rule = rule::current(&mut *app.pg.acquire().await?, workspace).await?.1;
    let facts = Facts {
        table: Table::Raw,
        period: of.period,
        whole: &plan::never,
        columns: vec![
            Column::of_event("version", "toString(api_version)"),
            Column::of_event("who", "toString(consumer)"),
            Column::of_event("status", "status"),
            Column::of_event("latency", "toUInt64(latency_us)"),
        ],
        rolled: String::new(),
        raw: format!("type = '{REQUEST}' AND toString(api) = {{api:String}} AND has({{versions:Array(String)}}, toString(api_version))"),
        scope: String::new(),
        rule: &rule,
        may_be_partial: false,
    };
    let outer = format!(
        "SELECT version, who, toUInt8(grouping(who)) AS whole, count() AS calls, countIf(intDiv(status, 100) = 4) AS client_errors, \
         countIf(intDiv(status, 100) = 5) AS server_errors, uniqExactIf(who, who != '') AS different, \
         quantilesExact(0.5, 0.95, 0.99)(latency) AS quantiles FROM ({{facts}}) \
         GROUP BY GROUPING SETS ((version), (version, who)) ORDER BY version, whole DESC, calls DESC, who LIMIT {} BY version",
        of.consumers + 1
    );
    let query = facts.query(app, workspace, &outer).await?.param("api", of.api).param("versions", of.versions);
    let found = query.fetch_all::<Found>().await?;
    let quality = found.into_iter().map(|row| {
        let quantile = |n: usize| row.quantiles.get(n).copied().unwrap_or(0);
        Quality {
            consumer: (row.whole == 0).then(|| row.who.clone()),
            calls: row.calls,
            client_errors: row.client_errors,
            server_errors: row.server_errors,
            consumers: row.different,
            p50_us: quantile(0),
            p95_us: quantile(1),
            p99_us: quantile(2),
            version: row.version,
        }
    });
    Ok(quality.collect())
}
