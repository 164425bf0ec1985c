//! Rate limits: GCRA, one limiter for each subscription and feature. Each instance counts for itself.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use farebox_billing::rating::plan::{Per, RateLimit};
use farebox_core::ids::SubscriptionId;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

type Limiter = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

pub struct Rate {
    name: Arc<str>,
    limit: u32,
    window_s: u64,
    /// None: the limit is 0, nothing passes.
    limiter: Option<Limiter>,
}

/// What a limit says about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// As `RateLimit` names it.
    pub name: Arc<str>,
    /// Calls, or whole units of a meter.
    pub limit: u64,
    pub window_s: u64,
    pub remaining: u64,
    /// Seconds until more is there.
    pub reset_s: u64,
    pub refused: bool,
}

impl Rate {
    fn new(feature: &str, rate: &RateLimit) -> Self {
        let window_s = seconds(rate.per);
        let burst = NonZeroU32::new(rate.burst.unwrap_or(rate.limit).max(1));
        let limiter = (rate.limit > 0).then(|| {
            let every = Duration::from_secs(window_s) / rate.limit;
            // Shorter than a nanosecond only beyond a billion calls a second.
            let quota = Quota::with_period(every.max(Duration::from_nanos(1)))?;
            Some(RateLimiter::direct(quota.allow_burst(burst?)).with_middleware::<StateInformationMiddleware>())
        });
        Self { name: feature.into(), limit: rate.limit, window_s, limiter: limiter.flatten() }
    }

    /// Counts a call when it passes.
    pub fn check(&self) -> Standing {
        let (remaining, retry_after_s) = match self.limiter.as_ref().map(|l| (l, l.check())) {
            None => (0, Some(self.window_s)),
            Some((_, Ok(state))) => (u64::from(state.remaining_burst_capacity()), None),
            Some((limiter, Err(until))) => {
                let wait = until.wait_time_from(limiter.clock().now());
                (0, Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)))
            }
        };
        Standing {
            name: self.name.clone(),
            limit: u64::from(self.limit),
            window_s: self.window_s,
            remaining,
            reset_s: retry_after_s.unwrap_or(self.window_s),
            refused: retry_after_s.is_some(),
        }
    }
}

pub fn seconds(per: Per) -> u64 {
    match per {
        Per::Second => 1,
        Per::Minute => 60,
        Per::Hour => 3600,
        Per::Day => 86_400,
        Per::Week => 7 * 86_400,
        Per::Month => 30 * 86_400,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LimiterKey {
    subscription: SubscriptionId,
    feature: String,
    limit: u32,
    window_s: u64,
    burst: Option<u32>,
}

/// The limiters of the snapshot in force, carried over to the next.
#[derive(Default)]
pub struct Limiters(HashMap<LimiterKey, Arc<Rate>>);

impl Limiters {
    pub fn of(&mut self, subscription: &SubscriptionId, feature: &str, rate: &RateLimit, in_use: &mut HashSet<LimiterKey>) -> Arc<Rate> {
        let key = LimiterKey {
            subscription: subscription.clone(),
            feature: feature.to_owned(),
            limit: rate.limit,
            window_s: seconds(rate.per),
            burst: rate.burst,
        };
        in_use.insert(key.clone());
        self.0.entry(key).or_insert_with(|| Arc::new(Rate::new(feature, rate))).clone()
    }

    pub fn forget_all_but(&mut self, in_use: &HashSet<LimiterKey>) {
        self.0.retain(|key, _| in_use.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(limit: u32, per: Per, burst: Option<u32>) -> RateLimit {
        RateLimit { limit, per, burst }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let limited = Rate::new("orders", &rate(1, Per::Hour, Some(3)));
        let remaining: Vec<_> = (0..3).map(|_| limited.check()).map(|s| (s.remaining, s.refused)).collect();
        assert_eq!(remaining, [(2, false), (1, false), (0, false)]);
        let refused = limited.check();
        assert!(refused.refused && (3590..=3600).contains(&refused.reset_s), "{refused:?}");
    }

    #[test]
    fn a_limit_of_zero_lets_nothing_pass() {
        let standing = Rate::new("none", &rate(0, Per::Minute, None)).check();
        assert!(standing.refused && standing.reset_s == 60);
    }

    #[test]
    fn a_new_snapshot_does_not_forgive_what_was_spent() {
        let (mut limiters, mut in_use) = (Limiters::default(), HashSet::new());
        let (subscription, hourly) = (SubscriptionId::new(), rate(1, Per::Hour, None));
        assert!(!limiters.of(&subscription, "orders", &hourly, &mut in_use).check().refused);
        limiters.forget_all_but(&in_use);
        assert!(limiters.of(&subscription, "orders", &hourly, &mut in_use).check().refused);
        limiters.forget_all_but(&HashSet::new());
        assert!(!limiters.of(&subscription, "orders", &hourly, &mut in_use).check().refused);
    }
}
