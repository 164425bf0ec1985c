//! What a process keeps for deciding: the snapshot in force, and the counts of decisions not yet sent. One for each
//! set of stores in a process: the HTTP routes read it, the loops of [`crate::run`] keep it fresh.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use farebox_core::App;

use crate::ledger::Counts;
use crate::snapshot::Snapshot;

#[derive(Default)]
pub struct Gate {
    /// None until it was loaded once.
    pub snapshot: ArcSwapOption<Snapshot>,
    pub counts: Counts,
}

static GATES: LazyLock<Mutex<HashMap<String, Arc<Gate>>>> = LazyLock::new(Mutex::default);

impl Gate {
    pub fn of(app: &App) -> Arc<Self> {
        let key = format!("{} {}", app.config.postgres.url, app.kafka.name(farebox_core::kafka::DECISIONS));
        GATES.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }
}
