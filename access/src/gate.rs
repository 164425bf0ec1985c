//! What a process keeps for deciding: the snapshot in force, and the counts of decisions not yet sent. One for each
//! set of stores in a process: the HTTP routes read it, the loops of [`crate::run`] keep it fresh.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use farebox_core::App;
use tokio::sync::Notify;

use crate::ledger::Counts;
use crate::snapshot::Snapshot;

pub struct Gate {
    /// None until it was loaded once.
    pub snapshot: ArcSwapOption<Snapshot>,
    pub counts: Counts,
    /// Begins the id of each batch of counts that this process sends, so that it does not count its own twice.
    pub instance: String,
    /// A snapshot came with counters that know nothing yet.
    pub new_counters: Notify,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            snapshot: ArcSwapOption::empty(),
            counts: Counts::default(),
            instance: format!("{}-", uuid::Uuid::now_v7().simple()),
            new_counters: Notify::new(),
        }
    }
}

static GATES: LazyLock<Mutex<HashMap<String, Arc<Gate>>>> = LazyLock::new(Mutex::default);

impl Gate {
    pub fn of(app: &App) -> Arc<Self> {
        let key = format!("{} {}", app.config.postgres.url, app.kafka.name(farebox_core::kafka::DECISIONS));
        GATES.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }
}
