//! Which minutes this process has touched: tells the recomputation where to look, so that the full search for dirty
//! minutes (other instances' touches, those before a crash) is rare. Forgetting a hint is harmless.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use farebox_core::ids::WorkspaceId;

/// More are not worth remembering: a full search is as good.
const MOST: usize = 4000;

#[derive(Default)]
pub(crate) struct Hints(Mutex<BTreeSet<(WorkspaceId, u32)>>);

impl Hints {
    pub fn add(&self, minutes: Vec<(WorkspaceId, u32)>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for minute in minutes {
            if known.len() < MOST {
                known.insert(minute);
            }
        }
    }

    pub fn take(&self) -> BTreeSet<(WorkspaceId, u32)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
