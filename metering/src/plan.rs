//! Which minutes can be answered from a rollup, by which generation, and which must be read from their events.
//!
//! The plan of a day is remembered and holds while nothing in the day was touched, which one small sum tells; so a
//! question about months costs little more than one about today. A remembered generation is always still there:
//! superseded ones are deleted an hour after they were superseded, and no plan is remembered that long.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::{Period, floor_minute};
use serde::Deserialize;

use crate::MeteringError;
use crate::facts::bound;

const DAY: u32 = 86_400;
/// How long a day's plan is trusted.
const REMEMBER: Duration = Duration::from_secs(600);
/// Runs remembered over all days, some 16 bytes each.
const MOST_RUNS: usize = 1_000_000;

/// Rows of `minute` are current when their generation is that of the last run that starts at or before it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub starts: Vec<u32>,
    /// 0 (no generation) where a run of dirty minutes starts.
    pub gens: Vec<u64>,
    /// Minutes to be read from their events.
    pub dirty: Vec<u32>,
}

/// (minute, generation) where the generation changes; 0 for a dirty minute, each of which is listed.
type Runs = Arc<Vec<(u32, u64)>>;

struct Remembered {
    touched: u64,
    at: Instant,
    runs: Runs,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    database: String,
    workspace: WorkspaceId,
    rollup: String,
    day: u32,
}

#[derive(Default)]
struct Memory {
    days: HashMap<Key, Remembered>,
    /// Days that had dirty minutes when they were last looked at.
    hot: HashSet<Key>,
}

static DAYS: LazyLock<Mutex<Memory>> = LazyLock::new(Mutex::default);

/// As if the process had just started.
pub fn forget() {
    *DAYS.lock().unwrap_or_else(PoisonError::into_inner) = Memory::default();
}

/// The whole minutes of a period, and those that its ends cut.
pub(crate) fn whole_and_cut(period: Period) -> (Period, Vec<u32>) {
    let minute = TimeDelta::minutes(1);
    let (first, last) = (floor_minute(period.start), floor_minute(period.end));
    let start = if first == period.start { first } else { first + minute };
    let cut = [(first, first != period.start), (last, last != period.end)];
    let mut cut: Vec<_> = cut.iter().filter(|(_, is_cut)| *is_cut).map(|(at, _)| seconds(at.timestamp())).collect();
    cut.dedup();
    (Period { start, end: last.max(start) }, cut)
}

fn seconds(at: i64) -> u32 {
    u32::try_from(at.max(0)).unwrap_or(u32::MAX)
}

pub(crate) async fn plan(app: &App, workspace: &WorkspaceId, rollup: &str, period: Period) -> Result<Plan, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Day {
        day: u32,
        touched: u64,
    }
    let (whole, cut) = whole_and_cut(period);
    let (first, last) = (seconds(whole.start.timestamp()) / DAY, seconds(whole.end.timestamp()).div_ceil(DAY));
    let sql = format!(
        "SELECT toUInt32(intDiv(toUnixTimestamp(minute), {DAY})) AS day, sum(n) AS touched FROM touched WHERE workspace = {{ws:String}} {} \
         GROUP BY day ORDER BY day",
        between("minute", first, last)
    );
    let key = |day| Key { database: app.config.clickhouse.database.clone(), workspace: workspace.clone(), rollup: rollup.to_owned(), day };
    // Days that were dirty the last time most likely are again: they are looked up beside the sums, not after them.
    let hot: Vec<u32> = {
        let known = DAYS.lock().unwrap_or_else(PoisonError::into_inner);
        let hot = known.hot.iter().filter(|k| k.rollup == rollup && k.workspace == *workspace && (first..last).contains(&k.day));
        let mut hot: Vec<_> = hot.filter(|k| k.database == app.config.clickhouse.database).map(|k| k.day).collect();
        hot.sort_unstable();
        hot
    };
    let sums = async { Ok::<_, MeteringError>(bound(app, workspace, &sql).fetch_all::<Day>().await?) };
    let (days, mut looked_up) = tokio::try_join!(sums, look_up(app, workspace, rollup, &hot))?;
    let mut known: BTreeMap<u32, Runs> = BTreeMap::new();
    {
        let remembered = DAYS.lock().unwrap_or_else(PoisonError::into_inner);
        for day in &days {
            if let Some(found) = remembered.days.get(&key(day.day))
                && found.touched == day.touched
                && found.at.elapsed() < REMEMBER
            {
                known.insert(day.day, found.runs.clone());
            }
        }
    }
    let stale: Vec<_> = days.iter().map(|d| d.day).filter(|day| !known.contains_key(day) && !looked_up.contains_key(day)).collect();
    looked_up.extend(look_up(app, workspace, rollup, &stale).await?);
    let mut remembered = DAYS.lock().unwrap_or_else(PoisonError::into_inner);
    if remembered.days.values().map(|r| r.runs.len()).sum::<usize>() > MOST_RUNS {
        *remembered = Memory::default();
    }
    for (day, (touched, runs)) in looked_up {
        let runs: Runs = Arc::new(runs);
        // A dirty minute gets clean without being touched: such a day is looked up again. The sum is of the same look as
        // the minutes, so that a touch after it is noticed the next time.
        if runs.iter().all(|(_, generation)| *generation != 0) {
            remembered.hot.remove(&key(day));
            remembered.days.insert(key(day), Remembered { touched, at: Instant::now(), runs: runs.clone() });
        } else {
            remembered.hot.insert(key(day));
        }
        known.insert(day, runs);
    }
    Ok(assemble(known.values().flat_map(|runs| runs.iter().copied()), whole, cut))
}

/// From runs in the order of time.
fn assemble(runs: impl Iterator<Item = (u32, u64)>, whole: Period, cut: Vec<u32>) -> Plan {
    let (start, end) = (seconds(whole.start.timestamp()), seconds(whole.end.timestamp()));
    let mut plan = Plan { dirty: cut, ..Plan::default() };
    for (minute, generation) in runs {
        if generation == 0 && (start..end).contains(&minute) {
            plan.dirty.push(minute);
        }
        if plan.gens.last() != Some(&generation) {
            plan.starts.push(minute);
            plan.gens.push(generation);
        }
    }
    plan
}

/// Some days: how often each was touched, and its runs.
async fn look_up(
    app: &App,
    workspace: &WorkspaceId,
    rollup: &str,
    days: &[u32],
) -> Result<HashMap<u32, (u64, Vec<(u32, u64)>)>, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Minute {
        at: u32,
        touched: u64,
        current: u64,
    }
    if days.is_empty() {
        return Ok(HashMap::new());
    }
    let (first, last) = (days.first().copied().unwrap_or(0), days.last().copied().unwrap_or(0) + 1);
    let list: Vec<_> = days.iter().map(u32::to_string).collect();
    let only = |column: &str| {
        let whole = days.len() == usize::try_from(last - first).unwrap_or(0);
        let days = if whole { String::new() } else { format!(" AND intDiv(toUnixTimestamp({column}), {DAY}) IN ({})", list.join(", ")) };
        format!("{}{days}", between(column, first, last))
    };
    let sql = format!(
        "SELECT toUnixTimestamp(t.minute) AS at, t.touched_n AS touched, if(g.done_n >= t.touched_n, g.last_gen, 0) AS current FROM \
         (SELECT minute, sum(n) AS touched_n FROM touched WHERE workspace = {{ws:String}} {} GROUP BY minute) AS t LEFT JOIN \
         (SELECT bucket, max(n) AS done_n, argMax(gen, (n, gen)) AS last_gen FROM rollup_gen \
         WHERE rollup = '{}' AND workspace = {{ws:String}} {} GROUP BY bucket) AS g ON t.minute = g.bucket ORDER BY at",
        only("minute"),
        rollup,
        only("bucket")
    );
    let minutes: Vec<Minute> = bound(app, workspace, &sql).fetch_all().await?;
    let mut found: HashMap<u32, (u64, Vec<(u32, u64)>)> = HashMap::new();
    for minute in minutes {
        let (touched, runs) = found.entry(minute.at / DAY).or_default();
        *touched += minute.touched;
        if minute.current == 0 || runs.last().is_none_or(|(_, generation)| *generation != minute.current) {
            runs.push((minute.at, minute.current));
        }
    }
    Ok(found)
}

fn between(column: &str, first: u32, last: u32) -> String {
    let at = |day: u32| crate::facts::minute_sql(i64::from(day) * i64::from(DAY));
    format!("AND {column} >= {} AND {column} < {}", at(first), at(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use proptest::prelude::*;

    fn at(seconds: i64) -> chrono::DateTime<chrono::Utc> {
        DateTime::from_timestamp(seconds, 0).expect("in range")
    }

    proptest! {
        /// Every touched minute of the period is either read raw or belongs to the run of its generation.
        #[test]
        fn every_minute_is_answered_once(
            gens in prop::collection::vec(0_u64..4, 1..60), start in 0_i64..4000, length in 0_i64..4000,
        ) {
            let period = Period { start: at(start), end: at(start + length) };
            let (whole, cut) = whole_and_cut(period);
            let mut runs: Vec<(u32, u64)> = Vec::new();
            for (n, generation) in (0_u32..).zip(&gens) {
                if *generation == 0 || runs.last().is_none_or(|(_, last)| last != generation) {
                    runs.push((n * 60, *generation));
                }
            }
            let plan = assemble(runs.into_iter(), whole, cut);
            for (n, generation) in (0_i64..).zip(&gens) {
                let minute = n * 60;
                let overlaps = minute < start + length && start < minute + 60 && length > 0;
                let inside = start <= minute && minute + 60 <= start + length;
                let raw = plan.dirty.contains(&u32::try_from(minute).expect("small"));
                let run = plan.starts.partition_point(|s| i64::from(*s) <= minute);
                let by_run = run > 0 && plan.gens[run - 1] == *generation && *generation != 0;
                let rolled = whole.contains(at(minute)) && by_run;
                if overlaps {
                    prop_assert!(raw != rolled, "minute {} of {:?}: raw {}, rolled {}", n, period, raw, rolled);
                    prop_assert_eq!(rolled, inside && *generation != 0);
                } else {
                    prop_assert!(!rolled);
                }
            }
        }
    }
}
