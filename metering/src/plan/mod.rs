//! Which buckets answer a question: clean days, clean hours of the other days, clean minutes of the other hours, and the
//! minutes that must be read from their events. Each minute is answered by exactly one of them.
//!
//! Whether a day is clean is asked each time, by two small sums. What is inside a day that is not answered as a whole is
//! remembered, and holds while nothing in the day was touched. A remembered generation is always still there: superseded
//! ones are deleted an hour after they were superseded, and nothing is remembered that long.

mod look;
mod memory;

use std::sync::{Arc, LazyLock};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::{Period, floor_minute, local_date, start_of_day};

use self::look::{Inside, Look};
use self::memory::Place;
use crate::facts::{Table, bound};
use crate::tiers::{HOUR, Tier};
use crate::together::Together;
use crate::{MeteringError, retention};

pub(crate) use look::current;
pub use memory::forget;

/// A longer question first asks in which time there are any events.
const LONG: TimeDelta = TimeDelta::days(400);

/// Whether a question takes [start, end), in seconds since 1970, together.
pub(crate) type Whole<'a> = dyn Fn(u32, u32) -> bool + Sync + 'a;

/// A question about a period as one.
pub(crate) fn any(_: u32, _: u32) -> bool {
    true
}

/// A question that needs minutes.
pub(crate) fn never(_: u32, _: u32) -> bool {
    false
}

/// Rows of a bucket are current when their generation is that of the last run that starts at or before it; 0, which is
/// no generation, where another tier or the events answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    starts: Vec<u32>,
    gens: Vec<u64>,
}

impl Runs {
    /// In the order of time. A second run from the same start takes the place of the first: each start stands once,
    /// because the question looks generations up by it.
    pub fn push(&mut self, start: u32, generation: u64) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.gens.pop();
        }
        if self.gens.last() != Some(&generation) {
            self.starts.push(start);
            self.gens.push(generation);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.gens.iter().all(|generation| *generation == 0)
    }

    /// The condition on rows, by the column of their bucket.
    pub fn sql(&self, column: &str) -> String {
        let list = |numbers: Vec<String>| numbers.join(", ");
        let starts = list(self.starts.iter().map(u32::to_string).collect());
        let gens = list(self.gens.iter().map(u64::to_string).collect());
        format!("gen = transform(roundDown(toUnixTimestamp({column}), [{starts}]), [{starts}], [{gens}], toUInt64(0))")
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub days: Runs,
    pub hours: Runs,
    pub minutes: Runs,
    /// Minutes to be read from their events.
    pub dirty: Vec<u32>,
    /// The same as spans from first to last, in which no other minute has events.
    pub spans: Vec<(u32, u32)>,
}

/// A day of the plan.
struct Day {
    start: u32,
    end: u32,
    /// That of the whole day when it answers; else 0, and what is inside.
    generation: u64,
    inside: Arc<Inside>,
}

/// The whole minutes of a period, and those that its ends cut.
pub(crate) fn whole_and_cut(period: Period) -> (Period, Vec<u32>) {
    let minute = TimeDelta::minutes(1);
    let (first, last) = (floor_minute(period.start), floor_minute(period.end));
    let start = if first == period.start { first } else { first + minute };
    let cut = [(first, first != period.start), (last, last != period.end)];
    let mut cut: Vec<_> = cut.iter().filter(|(_, is_cut)| *is_cut).map(|(at, _)| seconds(*at)).collect();
    cut.dedup();
    (Period { start, end: last.max(start) }, cut)
}

pub(crate) fn seconds(at: DateTime<Utc>) -> u32 {
    u32::try_from(at.timestamp().max(0)).unwrap_or(u32::MAX)
}

/// The first and the last minute that has events; none when there is none.
pub(crate) async fn extent(app: &App, workspace: &WorkspaceId) -> Result<Option<(u32, u32)>, MeteringError> {
    static TOGETHER: LazyLock<Together<(String, WorkspaceId), Option<(u32, u32)>>> = LazyLock::new(Together::default);
    let sql = "SELECT toUnixTimestamp(min(minute)), toUnixTimestamp(max(minute)), count() FROM touched WHERE workspace = {ws:String}";
    let look = async || {
        let (first, last, n): (u32, u32, u64) = bound(app, workspace, sql).fetch_one().await?;
        Ok((n > 0).then_some((first, last)))
    };
    TOGETHER.ask(&(app.config.clickhouse.database.clone(), workspace.clone()), look).await
}

/// Starts of the days of a calendar, from the one that holds `from` to the first at or after `to`.
pub(crate) fn day_edges(from: DateTime<Utc>, to: DateTime<Utc>, zone: Tz) -> Vec<u32> {
    let mut edges = Vec::new();
    for date in local_date(from, zone).iter_days() {
        let start = start_of_day(date, zone);
        edges.push(seconds(start));
        if start >= to {
            break;
        }
    }
    edges
}

/// The plan, and the time zone of its days.
pub(crate) async fn plan(
    app: &App,
    workspace: &WorkspaceId,
    table: &Table,
    period: Period,
    whole: &Whole<'_>,
) -> Result<(Plan, Tz), MeteringError> {
    let zone = memory::zone(app, workspace).await?;
    let frozen = retention::limits(app, workspace).await?.frozen;
    let (inner, cut) = whole_and_cut(period);
    let (mut from, mut to) = (inner.start, inner.end);
    if to - from > LONG {
        let Some((first, last)) = extent(app, workspace).await? else { return Ok((Plan { dirty: cut, ..Plan::default() }, zone)) };
        let at = |seconds: u32, more: i64| DateTime::from_timestamp(i64::from(seconds) + more, 0).unwrap_or_default();
        (from, to) = (from.max(at(first, 0)), to.min(at(last, 60)));
    }
    if cut.iter().any(|minute| *minute < seconds(frozen)) {
        return Err(retention::expired(frozen));
    }
    let frozen = seconds(frozen);
    let edges = if from < to { day_edges(from, to, zone) } else { Vec::new() };
    if edges.is_empty() {
        return Ok((assemble(&[], inner, cut, whole), zone));
    }
    let days: Vec<(u32, u32)> = edges.windows(2).map(|w| (w[0], w[1])).collect();
    let answers = |(start, end): (u32, u32)| inside(inner, start, end) && whole(start, end);
    let source = table.source();
    let place = Place { database: app.config.clickhouse.database.clone(), workspace: workspace.clone(), rollup: source.rollup() };
    let look = |edges, by_day, inside| {
        let finer = (source.rollup(), source.rollup_of(Tier::Hour));
        Look { place: place.clone(), edges, by_day, finer, inside, frozen }
    };
    let by_day = days.iter().any(|day| answers(*day)).then(|| table.rollup_of(Tier::Day(zone)));
    // Days that were dirty the last time most likely are again: they are looked into beside the sums, not after them.
    let seen = look(edges, by_day, memory::hot(&place, &days)).ask(app).await?;
    memory::keep(&place, &days, &seen.insides);
    let mut planned = Vec::new();
    let mut unknown = Vec::new();
    let mut insides = seen.insides.clone();
    for day in &days {
        let Some(touched) = seen.touched.get(&day.0) else { continue };
        let found = seen.published.get(&day.0).filter(|(n, _)| (n >= touched || day.1 <= frozen) && answers(*day));
        let generation = found.map_or(0, |(_, generation)| *generation);
        planned.push((*day, generation));
        if generation != 0 || insides.contains_key(&day.0) {
            continue;
        }
        match memory::recall(&place, *day, *touched) {
            Some(remembered) => drop(insides.insert(day.0, remembered)),
            None => unknown.push(*day),
        }
    }
    if !unknown.is_empty() {
        let more = look(Vec::new(), None, unknown).ask(app).await?;
        memory::keep(&place, &days, &more.insides);
        insides.extend(more.insides.iter().map(|(start, inside)| (*start, inside.clone())));
    }
    let planned: Vec<_> = planned
        .into_iter()
        .map(|((start, end), generation)| Day { start, end, generation, inside: insides.remove(&start).unwrap_or_default() })
        .collect();
    Ok((assemble(&planned, inner, cut, whole), zone))
}

fn inside(period: Period, start: u32, end: u32) -> bool {
    seconds(period.start) <= start && end <= seconds(period.end)
}

/// From days in the order of time.
fn assemble(days: &[Day], period: Period, cut: Vec<u32>, whole: &Whole<'_>) -> Plan {
    let mut plan = Plan { dirty: cut, ..Plan::default() };
    plan.spans = plan.dirty.iter().map(|minute| (*minute, *minute)).collect();
    let mut in_span = false;
    for day in days {
        plan.days.push(day.start, day.generation);
        plan.hours.push(day.start, 0);
        plan.minutes.push(day.start, 0);
        if day.generation != 0 {
            in_span = false;
            continue;
        }
        for (hour, generation) in &day.inside.hours {
            // An hour that lies in two days (calendars with half hours) is not known here.
            let answers =
                day.start <= *hour && *hour + HOUR <= day.end && inside(period, *hour, *hour + HOUR) && whole(*hour, *hour + HOUR);
            plan.hours.push(*hour, if answers { *generation } else { 0 });
        }
        plan.hours.push(day.end - day.end % HOUR, 0);
        for (minute, generation) in &day.inside.minutes {
            let hour = minute - minute % HOUR;
            let by_hour = day.inside.hours.get(&hour).is_some_and(|generation| *generation != 0)
                && day.start <= hour
                && hour + HOUR <= day.end
                && inside(period, hour, hour + HOUR)
                && whole(hour, hour + HOUR);
            let asked = inside(period, *minute, *minute + 60);
            plan.minutes.push(*minute, if by_hour || !asked { 0 } else { *generation });
            if by_hour || !asked || *generation != 0 {
                in_span = false;
                continue;
            }
            plan.dirty.push(*minute);
            match plan.spans.last_mut() {
                Some(span) if in_span => span.1 = *minute,
                _ => plan.spans.push((*minute, *minute)),
            }
            in_span = true;
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u32) -> DateTime<Utc> {
        DateTime::from_timestamp(i64::from(seconds), 0).expect("in range")
    }

    fn run(runs: &Runs, bucket: u32) -> u64 {
        let n = runs.starts.partition_point(|start| *start <= bucket);
        if n == 0 { 0 } else { runs.gens[n - 1] }
    }

    proptest! {
        /// Every minute with events is answered once, by the day, the hour, the minute or its events; rows of other
        /// buckets are in the tables, with the same generations.
        #[test]
        fn every_minute_is_answered_once(
            gens in prop::collection::vec((0_u8..4, 0_u64..3), 360..=360),
            hour_gens in prop::collection::vec(0_u64..3, 7..=7),
            day_gens in prop::collection::vec(0_u64..3, 3..=3),
            shift in 0_u32..2, start in 0_u32..360 * 60, length in 1_u32..360 * 60, window in 1_u32..200, offset in 0_u32..200,
        ) {
            // Three days of two hours, which may start at half past.
            let base = 1_000_000 * HOUR;
            let edges: Vec<u32> = (0..4).map(|n| base + shift * 1800 + n * 2 * HOUR).collect();
            let period = Period { start: at(base + start), end: at(base + start + length) };
            let (inner, cut) = whole_and_cut(period);
            // Windows start every so many minutes.
            let window_of = move |at: u32| (at / 60 + offset) / window;
            let whole = move |start: u32, end: u32| window_of(start) == window_of(end - 60);
            // Of four minutes one has no events.
            let events = |minute: u32| gens[usize::try_from((minute - edges[0]) / 60).expect("small")].0 > 0;
            let minute_gen = |minute: u32| gens[usize::try_from((minute - edges[0]) / 60).expect("small")].1;
            let hour_gen = |hour: u32| hour_gens[usize::try_from((hour - base) / HOUR).expect("small")];
            let days: Vec<Day> = edges.windows(2).zip(&day_gens).map(|(w, generation)| {
                let minutes: Vec<_> = (w[0]..w[1]).step_by(60).filter(|m| events(*m)).map(|m| (m, minute_gen(m))).collect();
                let hours = minutes.iter().map(|(m, _)| m - m % HOUR).map(|h| (h, hour_gen(h))).collect();
                let answers = inside(inner, w[0], w[1]) && whole(w[0], w[1]);
                Day { start: w[0], end: w[1], generation: if answers { *generation } else { 0 }, inside: Arc::new(Inside { touched: 1, minutes, hours }) }
            }).collect();
            let plan = assemble(&days, inner, cut, &whole);
            for runs in [&plan.days, &plan.hours, &plan.minutes] {
                prop_assert!(runs.starts.windows(2).all(|w| w[0] < w[1]), "{:?}", runs.starts);
            }
            for minute in (edges[0]..edges[3]).step_by(60).filter(|m| events(*m)) {
                let asked = at(minute) < period.end && period.start < at(minute + 60);
                let row = |bucket: u32, generation: u64, runs: &Runs| {
                    generation != 0 && inner.contains(at(bucket)) && run(runs, bucket) == generation
                };
                let n = edges.partition_point(|edge| *edge <= minute) - 1;
                let hour = minute - minute % HOUR;
                let answers = [
                    row(edges[n], day_gens[n], &plan.days),
                    row(hour, hour_gen(hour), &plan.hours),
                    row(minute, minute_gen(minute), &plan.minutes),
                    plan.dirty.contains(&minute),
                ];
                prop_assert_eq!(answers.iter().filter(|a| **a).count(), usize::from(asked), "minute {} of {:?}: {:?}", minute, period, answers);
                prop_assert_eq!(plan.dirty.contains(&minute), plan.spans.iter().any(|(first, last)| (*first..=*last).contains(&minute)));
                // A bucket answers only what lies in the period and in one window.
                prop_assert!(!answers[0] || (inside(inner, edges[n], edges[n + 1]) && whole(edges[n], edges[n + 1])));
                prop_assert!(!answers[1] || (inside(inner, hour, hour + HOUR) && whole(hour, hour + HOUR)));
            }
        }
    }
}
