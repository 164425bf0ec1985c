//! Quotas: how much of a meter a subscription may use in a minute, hour, day, week or month of the workspace's calendar.
//!
//! What is used is known as three parts: usage **settled** before an instant up to which metering is complete; since
//! then, the greater of what metering has and of what was **decided** (let pass) by all instances, because an event
//! arrives seconds after its decision. This instance's own decisions count at once, those of others when [`crate::usage`]
//! next reads them from the ledger. So several instances together let through at most what the others let pass until
//! then ([`crate::usage::BOUND`]) beyond a quota.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_billing::rating::plan::{self, Per};
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::money::BigDecimal;
use farebox_core::period::{Period, Window, window_of};
use farebox_metering::meters::{Aggregate, Definition};

use crate::rate::Standing;

/// Quantities have at most 12 decimals: here whole numbers of millionths of millionths, so that comparing is exact and
/// quick.
const UNIT: i128 = 1_000_000_000_000;

pub fn units(quantity: &BigDecimal) -> i128 {
    let scaled: BigDecimal = (quantity * BigDecimal::from(UNIT)).with_scale_round(0, bigdecimal::RoundingMode::Floor);
    let negative = scaled.sign() == bigdecimal::num_bigint::Sign::Minus;
    scaled.to_string().parse().unwrap_or(if negative { i128::MIN / 4 } else { i128::MAX / 4 })
}

/// How a decision adds to a meter before its event is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Adds {
    /// Every call of the subscription: a count of requests without a filter.
    EveryCall,
    /// Calls under the entitlement that has the quota: a count with a filter, which only the event can answer.
    OwnCalls,
    /// Nothing: a sum, which only the event knows.
    Nothing,
}

impl Adds {
    pub fn of(meter: &Definition) -> Self {
        let of_requests = meter.event.is_empty() || meter.event == farebox_core::event::REQUEST;
        match meter.aggregate {
            Aggregate::Count if of_requests && meter.filter.is_empty() => Self::EveryCall,
            Aggregate::Count if of_requests => Self::OwnCalls,
            _ => Self::Nothing,
        }
    }
}

/// What a counter counts; one counter for each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CounterKey {
    pub workspace: WorkspaceId,
    pub subscription: SubscriptionId,
    pub meter: String,
    pub per: &'static str,
    /// The entitlement, where only its own calls add.
    pub feature: Option<String>,
}

/// What was known of a counter at the last refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub window: Period,
    /// Metered before `since`.
    pub settled: i128,
    /// Whole minute up to which metering is complete, within the window.
    pub since: DateTime<Utc>,
    /// Metered from `since` on.
    pub recent: i128,
    /// When it was read.
    pub as_of: DateTime<Utc>,
}

pub struct Counter {
    pub key: CounterKey,
    pub window: Window,
    pub adds: Adds,
    /// What one call adds, in [`units`].
    per_call: i128,
    /// Calls that this instance let pass, by minute, oldest first.
    own: Mutex<VecDeque<(DateTime<Utc>, u64)>>,
    /// Those of other instances, as far as the ledger has them.
    pub others: ArcSwapOption<Vec<(DateTime<Utc>, u64)>>,
    pub known: ArcSwapOption<Known>,
}

/// Minutes that are remembered by minute: an hour without a refresh, and what may be unsettled.
pub const REMEMBERED: TimeDelta = TimeDelta::minutes(60);

impl Counter {
    fn own(&self) -> std::sync::MutexGuard<'_, VecDeque<(DateTime<Utc>, u64)>> {
        // Counters are whole after any panic.
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call passed that adds to it.
    pub fn add(&self, now: DateTime<Utc>) {
        push(&mut self.own(), now);
    }

    /// Forgets what is long settled. Not all of it: a source that comes back from a silence moves `since` back.
    pub fn learn(&self, known: Known) {
        let mut own = self.own();
        while own.front().is_some_and(|(minute, _)| *minute < known.since - TimeDelta::minutes(20)) {
            own.pop_front();
        }
        self.known.store(Some(Arc::new(known)));
    }

    /// What is used of `window`, and by calls of this instance since when.
    fn used(&self, window: Period, own: &VecDeque<(DateTime<Utc>, u64)>) -> i128 {
        let known = self.known.load();
        // In a window that began after the last refresh nothing is settled yet.
        let known = known.as_deref().filter(|known| known.window == window);
        let since = known.map_or(window.start, |known| known.since);
        let mine: u64 = own.iter().rev().take_while(|(minute, _)| *minute >= since).map(|(_, n)| n).sum();
        let others = self.others.load();
        let theirs: u64 = others.iter().flat_map(|o| o.iter()).filter(|(minute, _)| *minute >= since).map(|(_, n)| n).sum();
        let (settled, recent) = known.map_or((0, 0), |k| (k.settled, k.recent));
        settled.saturating_add(recent.max(i128::from(mine + theirs) * self.per_call))
    }
}

fn push(own: &mut VecDeque<(DateTime<Utc>, u64)>, now: DateTime<Utc>) {
    let minute = farebox_core::period::floor_minute(now);
    match own.back_mut() {
        Some((last, n)) if *last >= minute => *n += 1,
        _ => own.push_back((minute, 1)),
    }
    // Older minutes are counted together.
    if i64::try_from(own.len()).unwrap_or(i64::MAX) > REMEMBERED.num_minutes()
        && let Some((_, oldest)) = own.pop_front()
        && let Some((_, next)) = own.front_mut()
    {
        *next += oldest;
    }
}

/// A limit of a plan on a counter.
pub struct Quota {
    pub counter: Arc<Counter>,
    /// `orders-requests`: the entitlement's feature and the meter.
    name: Arc<str>,
    feature: String,
    limit: i128,
    limit_text: String,
    pub hard: bool,
    zone: Tz,
}

/// What a quota says about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    pub standing: Standing,
    /// Beyond the quota: refused by a hard one, marked by a soft one.
    pub over: bool,
}

impl Quota {
    /// Counts the call when it passes. Two calls at once cannot both take the last one.
    pub fn check(&self, now: DateTime<Utc>) -> Spent {
        let window = self.window(now);
        let mut own = self.counter.own();
        let used = self.counter.used(window, &own);
        let adds = if self.counter.adds == Adds::Nothing { 0 } else { self.counter.per_call };
        // A sum is refused once it has reached its limit, a count before it would pass it.
        let within = if adds == 0 { used < self.limit } else { used.saturating_add(adds) <= self.limit };
        let refused = self.hard && !within;
        if !refused && adds > 0 {
            push(&mut own, now);
        }
        drop(own);
        let left = self.limit.saturating_sub(used).saturating_sub(if refused { 0 } else { adds }).max(0);
        let seconds = |span: TimeDelta| u64::try_from(span.num_seconds()).unwrap_or(0);
        let standing = Standing {
            name: self.name.clone(),
            limit: whole(self.limit),
            window_s: seconds(window.end - window.start),
            remaining: whole(left),
            reset_s: seconds(window.end - now) + 1,
            refused,
        };
        Spent { standing, over: !within }
    }

    /// The window that `now` falls into: nearly always the known one.
    fn window(&self, now: DateTime<Utc>) -> Period {
        let known = self.counter.known.load();
        if let Some(known) = known.as_deref().filter(|known| known.window.contains(now)) {
            return known.window;
        }
        window_of(now, self.counter.window, self.zone).unwrap_or(Period { start: now, end: now + TimeDelta::seconds(1) })
    }

    /// Whole seconds since the usage was read; None: it never was.
    pub fn age_s(&self, real_now: DateTime<Utc>) -> Option<u64> {
        let known = self.counter.known.load();
        known.as_deref().map(|known| u64::try_from((real_now - known.as_of).num_seconds()).unwrap_or(0))
    }

    pub fn feature(&self) -> &str {
        &self.feature
    }

    /// In the meter's unit, as a decimal.
    pub fn limit(&self) -> &str {
        &self.limit_text
    }

    pub fn meter(&self) -> &str {
        &self.counter.key.meter
    }

    pub fn per(&self) -> &'static str {
        self.counter.key.per
    }
}

/// Whole units, as far as a structured header has room for them.
fn whole(units: i128) -> u64 {
    u64::try_from(units / UNIT).unwrap_or(u64::MAX).min(999_999_999_999_999)
}

fn word(per: Per) -> (&'static str, Window) {
    match per {
        // Usage is kept by minute: a quota by the second is one by the minute.
        Per::Second | Per::Minute => ("minute", Window::Minute),
        Per::Hour => ("hour", Window::Hour),
        Per::Day => ("day", Window::Day),
        Per::Week => ("week", Window::Week),
        Per::Month => ("month", Window::Month),
    }
}

/// The counters of the snapshot in force, carried over to the next.
#[derive(Default)]
pub struct Counters(HashMap<CounterKey, Arc<Counter>>);

impl Counters {
    /// `meter`: None when there is no such meter any more; the quota then only knows decisions.
    pub fn quota(
        &mut self,
        workspace: &WorkspaceId,
        subscription: &SubscriptionId,
        feature: &str,
        quota: &plan::Quota,
        meter: Option<&Definition>,
        zone: Tz,
    ) -> Quota {
        let adds = meter.map_or(Adds::OwnCalls, Adds::of);
        let (per, window) = word(quota.per);
        let key = CounterKey {
            workspace: workspace.clone(),
            subscription: subscription.clone(),
            meter: quota.meter.clone(),
            per,
            feature: (adds == Adds::OwnCalls).then(|| feature.to_owned()),
        };
        let divided = meter.and_then(|m| m.divide_by.as_ref()).map(|by| units(&(BigDecimal::from(1) / by)));
        let counter = self.0.entry(key.clone()).or_insert_with(|| {
            Arc::new(Counter {
                key,
                window,
                adds,
                per_call: divided.unwrap_or(UNIT),
                own: Mutex::default(),
                others: ArcSwapOption::empty(),
                known: ArcSwapOption::empty(),
            })
        });
        let times = if quota.per == Per::Second { 60 } else { 1 };
        let limit = &quota.limit.0 * BigDecimal::from(times);
        Quota {
            counter: counter.clone(),
            name: format!("{feature}-{}", quota.meter).into(),
            feature: feature.to_owned(),
            limit: units(&limit),
            limit_text: limit.normalized().to_plain_string(),
            hard: quota.hard,
            zone,
        }
    }

    pub fn forget_all_but(&mut self, in_use: &HashSet<CounterKey>) {
        self.0.retain(|key, _| in_use.contains(key));
    }

    pub fn all(&self) -> Vec<Arc<Counter>> {
        self.0.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use farebox_billing::rating::plan::Decimal;
    use proptest::prelude::*;

    use super::*;

    fn quota(limit: &str, per: Per, hard: bool, meter: &Definition) -> Quota {
        let limit = Decimal(limit.parse().expect("a decimal"));
        let quota = plan::Quota { meter: "requests".to_owned(), limit, per, hard };
        Counters::default().quota(&WorkspaceId::new(), &SubscriptionId::new(), "orders", &quota, Some(meter), Tz::UTC)
    }

    fn meter(json: &str) -> Definition {
        serde_json::from_str(json).expect("a definition")
    }

    fn requests() -> Definition {
        meter(r#"{"name": "requests", "aggregate": "count", "counted": true}"#)
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn known(quota: &Quota, now: DateTime<Utc>, settled: i128, recent: i128) -> Known {
        let window = window_of(now, quota.counter.window, Tz::UTC).expect("a window");
        Known { window, settled: settled * UNIT, since: now - TimeDelta::minutes(2), recent: recent * UNIT, as_of: now }
    }

    #[test]
    fn a_hard_quota_refuses_what_is_beyond_and_a_soft_one_marks_it() {
        let now = at("2026-11-28T10:00:30Z");
        let hard = quota("3", Per::Month, true, &requests());
        let asked: Vec<_> = (0..4).map(|_| hard.check(now)).map(|s| (s.standing.remaining, s.standing.refused)).collect();
        assert_eq!(asked, [(2, false), (1, false), (0, false), (0, true)]);
        let spent = hard.check(now).standing;
        assert_eq!((spent.window_s, spent.reset_s), (30 * 86_400, 3 * 86_400 - 10 * 3600 - 30 + 1));
        let soft = quota("1", Per::Month, false, &requests());
        let asked: Vec<_> = (0..3).map(|_| soft.check(now)).map(|s| (s.over, s.standing.refused)).collect();
        assert_eq!(asked, [(false, false), (true, false), (true, false)]);
    }

    #[test]
    fn an_event_that_has_arrived_is_not_counted_beside_its_decision() {
        let now = at("2026-11-28T10:00:30Z");
        let quota = quota("10", Per::Month, true, &requests());
        for _ in 0..4 {
            quota.check(now);
        }
        // All four have arrived, and two of another instance; its decisions are known, too, also some that are settled.
        quota.counter.others.store(Some(Arc::new(vec![(at("2026-11-28T09:00:00Z"), 9), (at("2026-11-28T10:00:00Z"), 2)])));
        quota.counter.learn(known(&quota, now, 1, 6));
        assert_eq!(quota.check(now).standing.remaining, 10 - 1 - 6 - 1);
        // The same minutes settle: what was counted here goes.
        quota.counter.learn(Known { since: now + TimeDelta::minutes(1), settled: 8 * UNIT, recent: 0, ..known(&quota, now, 0, 0) });
        assert_eq!(quota.check(now + TimeDelta::minutes(1)).standing.remaining, 1);
    }

    #[test]
    fn a_new_window_starts_from_nothing() {
        let before = at("2026-11-30T23:59:59Z");
        let quota = quota("2", Per::Month, true, &requests());
        quota.counter.learn(known(&quota, before, 2, 0));
        assert!(quota.check(before).standing.refused);
        let after = at("2026-12-01T00:00:00Z");
        let asked: Vec<_> = (0..3).map(|_| quota.check(after).standing.refused).collect();
        assert_eq!(asked, [false, false, true]);
    }

    #[test]
    fn sums_and_filtered_counts_add_as_far_as_a_decision_can_tell() {
        let now = at("2026-11-28T10:00:30Z");
        let sum =
            quota("2.5", Per::Day, true, &meter(r#"{"name": "gb", "aggregate": "sum", "value": "response_bytes", "divide_by": "1000"}"#));
        assert!((0..9).all(|_| !sum.check(now).standing.refused), "only metering knows");
        sum.counter.learn(Known { settled: units(&"2.5".parse().expect("a decimal")), ..known(&sum, now, 0, 0) });
        assert!(sum.check(now).standing.refused);
        assert_eq!(Adds::of(&meter(r#"{"name": "s", "aggregate": "count", "filter": {"route": ["GET /search"]}}"#)), Adds::OwnCalls);
        assert_eq!(Adds::of(&meter(r#"{"name": "s", "aggregate": "count", "event": "llm"}"#)), Adds::Nothing);
        let thousands = quota("0.002", Per::Day, true, &meter(r#"{"name": "k", "aggregate": "count", "divide_by": "1000"}"#));
        let asked: Vec<_> = (0..3).map(|_| thousands.check(now).standing.refused).collect();
        assert_eq!(asked, [false, false, true]);
    }

    proptest! {
        /// One instance alone never lets more through than is left, however its refreshes fall.
        #[test]
        fn alone_it_never_passes_its_limit(limit in 0_u64..40, steps in prop::collection::vec((0_u64..4, any::<bool>(), 0_i64..90), 1..80)) {
            let quota = quota(&limit.to_string(), Per::Day, true, &requests());
            let mut now = at("2026-11-28T10:00:00Z");
            let mut passed: Vec<DateTime<Utc>> = Vec::new();
            for (calls, refresh, wait) in steps {
                for _ in 0..calls {
                    if !quota.check(now).standing.refused {
                        passed.push(now);
                    }
                }
                now += TimeDelta::seconds(wait);
                if refresh {
                    // Metering has everything up to a minute ago, and any part of what is newer.
                    let since = farebox_core::period::floor_minute(now - TimeDelta::minutes(1));
                    let settled = passed.iter().filter(|at| **at < since).count();
                    let recent = (passed.len() - settled) / 2;
                    let of = |n: usize| i128::try_from(n).expect("small");
                    quota.counter.learn(Known { since, ..known(&quota, now, of(settled), of(recent)) });
                }
                prop_assert!(passed.len() as u64 <= limit);
            }
        }
    }
}
