//! This room's background loops.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use farebox_core::App;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::hints::Hints;
use crate::recompute::{self, Search, Settling};
use crate::{MeteringError, audit, consumer, corrections, erasure, history, repair, retention, tiers, timelines};

/// How often timeline changes are looked for.
const SYNC_EVERY: Duration = Duration::from_millis(200);
/// How often all dirty minutes are searched for, whoever touched them.
const SEARCH_EVERY: Duration = Duration::from_secs(15);
/// More minutes than this are left to the next search, so that a question stays short.
const MOST_WAITING: usize = 4000;
const REPAIR_EVERY: Duration = Duration::from_secs(300);
const TAKE_UP_EVERY: Duration = Duration::from_secs(20);
/// How often it is looked whether an hour is to be audited.
const AUDIT_EVERY: Duration = Duration::from_secs(300);
/// How often hours and days are looked for that can be filled.
const FILL_EVERY: Duration = Duration::from_secs(20);
/// How often a backfill is looked for that is under way.
const BACKFILL_EVERY: Duration = Duration::from_secs(2);
const EXPIRE_EVERY: Duration = Duration::from_secs(600);
const TIDY_EVERY: Duration = Duration::from_secs(1800);

/// Consumes, recomputes, copies timelines and repairs, until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> anyhow::Result<()> {
    let hints = Arc::new(Hints::default());
    tokio::try_join!(
        consumer::run(app.clone(), hints.clone(), stop.clone()),
        keep_recomputing(app.clone(), hints, stop.clone()),
        keep_filling(app.clone(), stop.clone()),
        every(SYNC_EVERY, &app, &stop, "timelines could not be copied", |app| async move { timelines::sync(&app).await.map(drop) }),
        every(REPAIR_EVERY, &app, &stop, "duplicates could not be searched for", |app| async move { repair::recent(&app).await }),
        every(TAKE_UP_EVERY, &app, &stop, "interrupted corrections could not be finished", |app| async move {
            corrections::take_up(&app).await
        }),
        every(TAKE_UP_EVERY, &app, &stop, "interrupted erasures could not be finished", |app| async move { erasure::take_up(&app).await }),
        every(BACKFILL_EVERY, &app, &stop, "backfills wait", |app| async move { history::step(&app).await }),
        every(
            EXPIRE_EVERY,
            &app,
            &stop,
            "raw events could not expire",
            |app| async move { retention::step(&app, retention::ANNOUNCED).await }
        ),
        every(AUDIT_EVERY, &app, &stop, "the pipeline could not be audited", |app| async move { audit::settled_hours(&app).await }),
        every(TIDY_EVERY, &app, &stop, "rollups could not be tidied", |app| async move {
            recompute::collect_garbage(&app, recompute::GARBAGE_AGE).await
        }),
    )?;
    Ok(())
}

async fn keep_recomputing(app: App, hints: Arc<Hints>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = interval(Duration::from_millis(app.config.metering.recompute_every_ms.max(50)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut settling = Settling::default();
    let mut waiting = BTreeSet::new();
    let mut next_search = Instant::now();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        let everywhere = Instant::now() >= next_search;
        waiting.append(&mut hints.take());
        if !everywhere && waiting.is_empty() {
            continue;
        }
        let search = if everywhere { Search::Everywhere } else { Search::Minutes(&waiting) };
        let step = tokio::select! {
            step = recompute::step(&app, search, &mut settling) => step,
            () = stop.cancelled() => return Ok(()),
        };
        match step {
            Ok(left) => {
                if everywhere && !left.more {
                    next_search = Instant::now() + SEARCH_EVERY;
                }
                // What was found and not done is looked at by itself; under live traffic there is always some.
                if everywhere || !left.more {
                    waiting = left.minutes;
                }
                if waiting.len() > MOST_WAITING {
                    waiting.clear();
                }
            }
            Err(error) => {
                tracing::warn!("rollups could not be recomputed, answers are read from raw events meanwhile: {error}");
                next_search = Instant::now() + Duration::from_secs(1);
            }
        }
    }
}

async fn keep_filling(app: App, stop: CancellationToken) -> anyhow::Result<()> {
    let seen = tokio::sync::Mutex::new(tiers::Seen::default());
    every(FILL_EVERY, &app, &stop, "hours and days could not be rolled up", |app| {
        let seen = &seen;
        async move { tiers::step(&app, &mut *seen.lock().await).await.map(drop) }
    })
    .await
}

/// Repeats `task` until `stop`. A failure is told and tried again at the next turn.
async fn every<F: Future<Output = Result<(), MeteringError>> + Send>(
    period: Duration,
    app: &App,
    stop: &CancellationToken,
    failed: &str,
    task: impl Fn(App) -> F + Send,
) -> anyhow::Result<()> {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        match task(app.clone()).await {
            Ok(()) => told = false,
            Err(error) if !told => {
                tracing::warn!("{failed}, and will be tried again: {error}");
                told = true;
            }
            Err(_) => {}
        }
    }
}
