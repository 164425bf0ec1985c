//! Two versions of an API side by side, as in a canary: share of calls, errors, latencies, and by consumer on both.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::{Period, start_of_day};
use farebox_core::workspace;
use farebox_metering::quality::{self, Of, Quality};
use serde::Serialize;

use super::setting::Moment;
use super::table::{Table, Tabular};
use super::traffic::{self, Named};
use crate::error::KpiError;
use crate::ratio::Ratio;

const VERSION: u32 = 1;
const DEFAULT_DAYS: i64 = 7;
/// Consumers of each version, at most.
const MOST: usize = 500;

#[derive(Debug, Clone)]
pub struct ComparedParams {
    pub api: String,
    pub base: String,
    pub canary: String,
    /// Seven days before `to` unless given; at most 35.
    pub from: Option<Moment>,
    /// Now unless given.
    pub to: Option<Moment>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct ComparedAnswer {
    pub definition: &'static str,
    pub version: u32,
    pub formula: String,
    pub time_zone: String,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub api: String,
    pub base: Compared,
    pub canary: Compared,
    /// Those that called the canary, the one with most calls to it first; beside it how the base answered them.
    pub consumers: Vec<ComparedConsumer>,
}

#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
pub struct Compared {
    pub version: String,
    pub calls: u64,
    /// Of the calls to both.
    pub share: Option<Ratio>,
    pub client_errors: u64,
    pub server_errors: u64,
    /// Both of its calls.
    pub error_rate: Option<Ratio>,
    pub server_error_rate: Option<Ratio>,
    /// Distinct ones that called it.
    pub consumers: u64,
    /// Microseconds; none without calls.
    pub p50_us: Option<u64>,
    pub p95_us: Option<u64>,
    pub p99_us: Option<u64>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct ComparedConsumer {
    pub consumer: Named,
    pub base: Compared,
    pub canary: Compared,
}

pub async fn compared(app: &App, id: &WorkspaceId, params: &ComparedParams) -> Result<ComparedAnswer, KpiError> {
    let workspace = workspace::by_id(&mut *app.pg.acquire().await?, id).await?.ok_or_else(|| KpiError::NoWorkspace(id.clone()))?;
    let instant = |moment| match moment {
        Moment::Date(date) => start_of_day(date, workspace.time_zone),
        Moment::Instant(at) => at,
    };
    let to = params.to.map_or_else(|| workspace.clock.now(), instant);
    let from = params.from.map_or(to - TimeDelta::days(DEFAULT_DAYS), instant);
    if from >= to || to - from > quality::LONGEST {
        return Err(KpiError::field("from", format!("must be before `to`, by at most {} days", quality::LONGEST.num_days())));
    }
    if params.base == params.canary {
        return Err(KpiError::field("canary", "must be another version than `base`"));
    }
    let versions = [params.base.clone(), params.canary.clone()];
    let of = Of { api: &params.api, versions: &versions, period: Period { start: from, end: to }, consumers: MOST };
    let found = quality::by_version(app, id, &of).await?;
    let mut by_consumer: BTreeMap<&str, (Option<&Quality>, Option<&Quality>)> = BTreeMap::new();
    let (mut base, mut canary) = (None, None);
    for row in &found {
        let (whole, is_base) = (row.consumer.as_deref(), row.version == params.base);
        match whole {
            None if is_base => base = Some(row),
            None => canary = Some(row),
            Some("") => {}
            Some(consumer) => {
                let pair = by_consumer.entry(consumer).or_default();
                *(if is_base { &mut pair.0 } else { &mut pair.1 }) = Some(row);
            }
        }
    }
    let mut pairs: Vec<_> = by_consumer.into_iter().filter(|(_, (_, canary))| canary.is_some()).collect();
    pairs.sort_by_key(|(id, (_, canary))| (std::cmp::Reverse(canary.map_or(0, |row| row.calls)), *id));
    let ids: Vec<_> = pairs.iter().map(|(id, _)| (*id).to_owned()).collect();
    let named = traffic::consumers_by_id(app, id, &ids).await?;
    let both = |base: Option<&Quality>, canary: Option<&Quality>| {
        let all = base.map_or(0, |row| row.calls) + canary.map_or(0, |row| row.calls);
        (side(&params.base, base, all), side(&params.canary, canary, all))
    };
    let consumers = pairs.into_iter().filter_map(|(id, (base, canary))| {
        let consumer = named.get(id)?;
        let (base, canary) = both(base, canary);
        Some(ComparedConsumer { consumer: Named { id: consumer.id.clone(), name: consumer.name.clone() }, base, canary })
    });
    let consumers = consumers.collect();
    let (base, canary) = both(base, canary);
    Ok(ComparedAnswer {
        definition: "versions_compared",
        version: VERSION,
        formula: "Calls: every request to the api in that version, as the gateway named it; error rate = (4xx + 5xx) / calls; pN: the latency at \
                  position floor(N / 100 * calls) of all, sorted, counted from 0, exact."
            .to_owned(),
        time_zone: workspace.time_zone.name().to_owned(),
        from,
        to,
        api: params.api.clone(),
        base,
        canary,
        consumers,
    })
}

fn side(version: &str, row: Option<&Quality>, all: u64) -> Compared {
    let Some(row) = row else {
        return Compared { version: version.to_owned(), share: Ratio::of(0, all), ..Compared::default() };
    };
    Compared {
        version: version.to_owned(),
        calls: row.calls,
        share: Ratio::of(row.calls, all),
        client_errors: row.client_errors,
        server_errors: row.server_errors,
        error_rate: Ratio::of(row.client_errors + row.server_errors, row.calls),
        server_error_rate: Ratio::of(row.server_errors, row.calls),
        consumers: row.consumers,
        p50_us: Some(row.p50_us),
        p95_us: Some(row.p95_us),
        p99_us: Some(row.p99_us),
    }
}

impl Tabular for ComparedAnswer {
    fn table(&self) -> Table {
        let row = |consumer: &str, name: &str, side: &Compared| {
            let latency = |us: Option<u64>| us.map(|us| us.to_string()).unwrap_or_default();
            vec![
                consumer.to_owned(),
                name.to_owned(),
                side.version.clone(),
                side.calls.to_string(),
                side.client_errors.to_string(),
                side.server_errors.to_string(),
                latency(side.p50_us),
                latency(side.p95_us),
                latency(side.p99_us),
            ]
        };
        let mut rows = vec![row("", "", &self.base), row("", "", &self.canary)];
        for pair in &self.consumers {
            let (id, name) = (pair.consumer.id.as_str(), pair.consumer.name.as_str());
            rows.extend([row(id, name, &pair.base), row(id, name, &pair.canary)]);
        }
        Table { header: vec!["consumer", "name", "version", "calls", "client_errors", "server_errors", "p50_us", "p95_us", "p99_us"], rows }
    }
}
