//! Keeps quotas' counters near the truth: what other instances let pass, from the ledger each second by one question;
//! and metered usage, by one question for all subscriptions with a quota on the same meter and window.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::{Period, Window, floor_minute, window_of};
use farebox_core::{App, clock};
use farebox_metering::usage::{self, UsageQuery};
use farebox_metering::{Dimension, MeteringError, completeness};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::gate::Gate;
use crate::ledger;
use crate::quota::{Adds, Counter, Known, REMEMBERED, units};
use crate::snapshot::Snapshot;

/// How often, unless the questions take long: they may use half of the time.
const EVERY: Duration = Duration::from_secs(1);
/// What other instances let pass is known here after at most so long, plus the way through Kafka: counts leave an
/// instance every [`ledger::SEND_EVERY`], and are read each [`EVERY`].
pub const BOUND: Duration = EVERY.saturating_add(ledger::SEND_EVERY);
/// Minutes that are never taken as settled, whatever metering says: an event is some seconds behind its decision.
const UNSETTLED: TimeDelta = TimeDelta::minutes(2);

/// Gauge: when quotas' usage was read last, in seconds since 1970.
pub const USAGE_AS_OF: &str = "farebox_access_usage_timestamp_seconds";

pub async fn run(app: App, gate: Arc<Gate>, stop: CancellationToken) {
    let mut failing = false;
    loop {
        let started = tokio::time::Instant::now();
        match Box::pin(refresh(&app, &gate)).await {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("quotas know the usage again");
                }
            }
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(
                    "quotas are decided by the usage that was known last and by what passes here, because usage cannot be read: {error}"
                );
            }
            Err(_) => {}
        }
        let pause = EVERY.max(started.elapsed());
        tokio::select! {
            () = stop.cancelled() => return,
            // A new counter knows nothing yet: read at once.
            () = gate.new_counters.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn refresh(app: &App, gate: &Gate) -> Result<(), MeteringError> {
    let snapshot = gate.snapshot.load_full();
    let Some(snapshot) = snapshot else { return Ok(()) };
    let mut groups: HashMap<(&WorkspaceId, &str, Window), Vec<&Arc<Counter>>> = HashMap::new();
    for counter in &snapshot.counters {
        groups.entry((&counter.key.workspace, &counter.key.meter, counter.window)).or_default().push(counter);
    }
    let mut complete: HashMap<&WorkspaceId, DateTime<Utc>> = HashMap::new();
    for ((workspace, meter, window), counters) in groups {
        if !complete.contains_key(workspace) {
            complete.insert(workspace, completeness::of(app, workspace).await?.complete_until);
        }
        Box::pin(group(app, &snapshot, workspace, meter, window, complete[workspace], &counters)).await?;
    }
    #[allow(clippy::cast_precision_loss)] // seconds since 1970 are far below 2^52
    metrics::gauge!(USAGE_AS_OF).set(clock::now().timestamp() as f64);
    Ok(())
}

/// The counters of one workspace, meter and window.
async fn group(
    app: &App,
    snapshot: &Snapshot,
    workspace: &WorkspaceId,
    meter: &str,
    window: Window,
    complete_until: DateTime<Utc>,
    counters: &[&Arc<Counter>],
) -> Result<(), MeteringError> {
    let as_of = clock::now();
    let now = snapshot.now_in(workspace);
    let Some(window) = window_of(now, window, snapshot.zone_of(workspace)) else { return Ok(()) };
    let since = floor_minute(complete_until.min(now - UNSETTLED)).max(window.start);
    let tail = Period { start: since, end: window.end };
    let (settled, recent) = tokio::try_join!(
        by_subscription(app, workspace, meter, Period { start: window.start, end: since }),
        by_subscription(app, workspace, meter, tail),
    )?;
    for counter in counters {
        let metered = |usage: &HashMap<String, i128>| usage.get(counter.key.subscription.as_str()).copied().unwrap_or(0);
        counter.learn(Known { window, settled: metered(&settled), since, recent: metered(&recent), as_of });
    }
    Ok(())
}

async fn by_subscription(app: &App, workspace: &WorkspaceId, meter: &str, period: Period) -> Result<HashMap<String, i128>, MeteringError> {
    if period.is_empty() {
        return Ok(HashMap::new());
    }
    let answer = usage::query(app, &UsageQuery::new(workspace, meter, period).by(Dimension::Subscription)).await?;
    if answer.more {
        tracing::error!(%workspace, meter, "more than {} subscriptions have usage: the quotas of some are decided too low", usage::MAX_ROWS);
    }
    Ok(answer.rows.into_iter().map(|mut row| (row.group.remove("subscription").unwrap_or_default(), units(&row.value))).collect())
}

/// What other instances let pass, until `stop`.
pub async fn watch_others(app: App, gate: Arc<Gate>, stop: CancellationToken) {
    let mut failing = false;
    loop {
        let started = tokio::time::Instant::now();
        match others(&app, &gate).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!("what other instances let pass is not known to quotas, because the ledger cannot be read: {error}");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY.max(started.elapsed())) => {}
        }
    }
}

#[derive(Row, Deserialize)]
struct Passed {
    subscription: String,
    feature: String,
    at: u32,
    calls: u64,
}

async fn others(app: &App, gate: &Gate) -> Result<(), clickhouse::error::Error> {
    let Some(snapshot) = gate.snapshot.load_full() else { return Ok(()) };
    let workspaces: BTreeSet<&WorkspaceId> = snapshot.counters.iter().map(|counter| &counter.key.workspace).collect();
    for workspace in workspaces {
        let since = floor_minute(snapshot.now_in(workspace) - REMEMBERED);
        // Batches of this instance are told by their id.
        let rows: Vec<Passed> = app
            .clickhouse
            .query(
                "SELECT subscription, toString(feature) AS feature, toUnixTimestamp(minute) AS at, sum(d.n) AS calls FROM decisions AS d FINAL
                 WHERE workspace = ? AND minute >= fromUnixTimestamp(?) AND subscription != ''
                 AND outcome IN ('allowed', 'allowed_stale') AND NOT startsWith(batch, ?) GROUP BY subscription, feature, at",
            )
            .bind(workspace.as_str())
            .bind(since.timestamp())
            .bind(&gate.instance)
            .fetch_all()
            .await?;
        let mut by_subscription: HashMap<&str, Vec<&Passed>> = HashMap::new();
        for row in &rows {
            by_subscription.entry(&row.subscription).or_default().push(row);
        }
        for counter in snapshot.counters.iter().filter(|counter| counter.key.workspace == *workspace) {
            let of_feature = |row: &&&Passed| match counter.adds {
                Adds::EveryCall => true,
                Adds::OwnCalls => counter.key.feature.as_deref() == Some(row.feature.as_str()),
                Adds::Nothing => false,
            };
            let own = by_subscription.get(counter.key.subscription.as_str()).map(Vec::as_slice).unwrap_or_default();
            let at = |row: &&Passed| Some((DateTime::from_timestamp(i64::from(row.at), 0)?, row.calls));
            counter.others.store(Some(Arc::new(own.iter().filter(of_feature).filter_map(at).collect())));
        }
    }
    Ok(())
}
