//! Keeps the snapshot fresh: at once when PostgreSQL tells of a change, and every few seconds in case a word was lost.
//! When PostgreSQL is away, decisions go on from the last snapshot.

use std::sync::Arc;
use std::time::Duration;

use farebox_core::App;
use farebox_metering::credentials::CHANNEL;
use sqlx::postgres::PgListener;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::gate::Gate;
use crate::snapshot::{Snapshot, SnapshotError, Spent};

/// A word that was lost is made up for within this time; time itself (an invoice falls due) brings no word.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Changes that come together (a catalogue of hundreds of consumers) make one snapshot: at least the first, and four
/// times as long as the last one took to read, so that reading never fills the day; at most the second.
const GATHER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Gauge: when the snapshot in force was true, in seconds since 1970.
pub const AS_OF: &str = "farebox_access_snapshot_timestamp_seconds";
/// Gauge: the first transaction of PostgreSQL that the snapshot in force does not see. Instances with the same number
/// decide by the same state.
pub const VERSION: &str = "farebox_access_snapshot_version";

pub async fn run(app: App, gate: Arc<Gate>, stop: CancellationToken) {
    let mut spent = Spent::default();
    let mut failing = false;
    while !stop.is_cancelled() {
        let listened = tokio::select! {
            () = stop.cancelled() => return,
            listened = listen(&app, &gate, &mut spent, &mut failing) => listened,
        };
        if let Err(error) = listened
            && !failing
        {
            failing = true;
            tracing::warn!("decisions go on from the last snapshot, because it cannot be refreshed: {error}");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

/// Until something fails.
async fn listen(app: &App, gate: &Gate, spent: &mut Spent, failing: &mut bool) -> Result<(), SnapshotError> {
    let mut listener = PgListener::connect_with(&app.pg).await?;
    listener.listen(CHANNEL).await?;
    loop {
        // Listening first, so that no change falls between.
        let started = Instant::now();
        let mut conn = app.pg.acquire().await?;
        let snapshot = Snapshot::load(&mut conn, spent, &app.config.http.public_url).await?;
        drop(conn);
        let gather = (started.elapsed() * 4).clamp(GATHER.0, GATHER.1);
        #[allow(clippy::cast_precision_loss)] // seconds since 1970 and transactions are far below 2^52
        {
            metrics::gauge!(AS_OF).set(snapshot.as_of.timestamp() as f64);
            metrics::gauge!(VERSION).set(snapshot.version as f64);
        }
        let unknown = snapshot.counters.iter().any(|counter| counter.known.load().is_none());
        gate.snapshot.store(Some(Arc::new(snapshot)));
        if unknown {
            gate.new_counters.notify_one();
        }
        if std::mem::take(failing) {
            tracing::info!("the snapshot for decisions is fresh again");
        }
        let look_at = Instant::now() + LOOK_EVERY;
        // None: the connection broke, and words may be lost; an elapsed time: look anyway.
        if let Ok(word) = timeout_at(look_at, listener.try_recv()).await
            && word?.is_some()
        {
            let gathered_at = Instant::now() + gather;
            while let Ok(word) = timeout_at(gathered_at, listener.try_recv()).await {
                if word?.is_none() {
                    break;
                }
            }
        }
    }
}
