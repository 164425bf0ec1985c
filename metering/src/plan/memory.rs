//! What is known of days from earlier questions: what is inside clean ones, and which were dirty.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono_tz::Tz;
use farebox_core::ids::WorkspaceId;
use farebox_core::{App, workspace as workspaces};

use super::look::Inside;
use crate::MeteringError;

/// How long the inside of a day is trusted: for long once all of its hours are rolled up.
const REMEMBER: Duration = Duration::from_secs(600);
const REMEMBER_SHORTLY: Duration = Duration::from_secs(30);
/// Minutes remembered over all days, 16 bytes each.
const MOST_MINUTES: usize = 1_000_000;

/// Of whose days, and in which rollup.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub database: String,
    pub workspace: WorkspaceId,
    pub rollup: String,
}

struct Remembered {
    at: Instant,
    inside: Arc<Inside>,
}

impl Remembered {
    fn is_fresh(&self) -> bool {
        let long = self.inside.hours.values().all(|generation| *generation != 0);
        self.at.elapsed() < if long { REMEMBER } else { REMEMBER_SHORTLY }
    }
}

#[derive(Default)]
struct Memory {
    /// By the start and the end of a day.
    days: HashMap<Place, HashMap<(u32, u32), Remembered>>,
    /// Days that had dirty minutes when they were last looked at.
    hot: HashMap<Place, HashSet<(u32, u32)>>,
    zones: HashMap<WorkspaceId, (Instant, Tz)>,
}

static MEMORY: LazyLock<Mutex<Memory>> = LazyLock::new(Mutex::default);

fn memory() -> std::sync::MutexGuard<'static, Memory> {
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As if the process had just started.
pub fn forget() {
    *memory() = Memory::default();
}

/// Those of some days that were dirty the last time.
pub(super) fn hot(place: &Place, days: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let memory = memory();
    let Some(hot) = memory.hot.get(place) else { return Vec::new() };
    days.iter().filter(|day| hot.contains(day)).copied().collect()
}

/// What is inside a day that was clean, and was touched no more since.
pub(super) fn recall(place: &Place, day: (u32, u32), touched: u64) -> Option<Arc<Inside>> {
    let memory = memory();
    let remembered = memory.days.get(place)?.get(&day)?;
    (remembered.inside.touched == touched && remembered.is_fresh()).then(|| remembered.inside.clone())
}

/// Of days just looked into, by their start. A dirty minute gets clean without being touched: such a day is looked into
/// again. The sum is of the same look as the minutes, so that a touch after it is noticed the next time.
pub(super) fn keep(place: &Place, days: &[(u32, u32)], insides: &HashMap<u32, Arc<Inside>>) {
    if insides.is_empty() {
        return;
    }
    let mut memory = memory();
    if memory.days.values().flat_map(HashMap::values).map(|r| r.inside.minutes.len()).sum::<usize>() > MOST_MINUTES {
        memory.days.clear();
        memory.hot.clear();
    }
    let Memory { days: clean, hot, .. } = &mut *memory;
    let (clean, hot) = (clean.entry(place.clone()).or_default(), hot.entry(place.clone()).or_default());
    for day in days {
        let Some(inside) = insides.get(&day.0) else { continue };
        if inside.is_clean() {
            hot.remove(day);
            clean.insert(*day, Remembered { at: Instant::now(), inside: inside.clone() });
        } else {
            clean.remove(day);
            hot.insert(*day);
        }
    }
}

/// The time zone whose days are rolled up. One that is no longer the workspace's costs speed for a moment, no exactness.
pub(super) async fn zone(app: &App, workspace: &WorkspaceId) -> Result<Tz, MeteringError> {
    if let Some((at, zone)) = memory().zones.get(workspace)
        && at.elapsed() < REMEMBER_SHORTLY
    {
        return Ok(*zone);
    }
    let found = workspaces::by_id(&mut *app.pg.acquire().await?, workspace).await;
    let zone = found.map_err(|e| MeteringError::unreadable("the workspace", e))?.map_or(Tz::UTC, |w| w.time_zone);
    memory().zones.insert(workspace.clone(), (Instant::now(), zone));
    Ok(zone)
}
