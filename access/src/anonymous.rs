//! What callers without a key may do: so many calls for each address.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use farebox_core::ids::WorkspaceId;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::policy::AnonymousPolicy;
use crate::rate::{Standing, seconds};
use crate::routes::Pattern;
use crate::version::Called;

/// Addresses remembered for one allowance, at most; beyond it new ones share one allowance.
const MAX_ADDRESSES: usize = 100_000;
const SHARED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

type Limiter = RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock, StateInformationMiddleware>;

pub struct Anonymous {
    name: Arc<str>,
    limit: u32,
    window_s: u64,
    routes: Vec<Pattern>,
    limiter: Limiter,
}

impl Anonymous {
    fn new(policy: &AnonymousPolicy) -> Self {
        let limit = NonZeroU32::new(policy.limit).unwrap_or(NonZeroU32::MIN);
        let window_s = seconds(policy.per);
        let every = (Duration::from_secs(window_s) / limit.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(every).unwrap_or(Quota::per_hour(limit)).allow_burst(limit);
        Self {
            name: "anonymous".into(),
            limit: limit.get(),
            window_s,
            routes: policy.routes.iter().map(|r| Pattern::parse(r)).collect(),
            limiter: RateLimiter::hashmap(quota).with_middleware(),
        }
    }

    pub fn covers(&self, method: &str, called: &Called) -> bool {
        self.routes.is_empty() || self.routes.iter().any(|r| r.matches(method, called))
    }

    /// Counts a call when it passes. Whose address is unknown shares one allowance with all such.
    pub fn check(&self, address: Option<IpAddr>) -> Standing {
        let mut address = address.map_or(SHARED, network_of);
        if self.limiter.len() >= MAX_ADDRESSES {
            self.limiter.retain_recent();
            if self.limiter.len() >= MAX_ADDRESSES {
                address = SHARED;
            }
        }
        let (remaining, retry_after_s) = match self.limiter.check_key(&address) {
            Ok(state) => (u64::from(state.remaining_burst_capacity()), None),
            Err(until) => {
                let wait = until.wait_time_from(self.limiter.clock().now());
                (0, Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)))
            }
        };
        let reset_s = retry_after_s.unwrap_or(self.window_s);
        Standing {
            name: self.name.clone(),
            limit: u64::from(self.limit),
            window_s: self.window_s,
            remaining,
            reset_s,
            refused: retry_after_s.is_some(),
        }
    }
}

/// Someone with IPv6 has a whole /64 to call from.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

type Key = (WorkspaceId, String, u32, u64, Vec<String>);

/// The allowances of the snapshot in force, carried over to the next.
#[derive(Default)]
pub struct Allowances(HashMap<Key, Arc<Anonymous>>);

impl Allowances {
    pub fn of(&mut self, workspace: &WorkspaceId, api: &str, policy: &AnonymousPolicy, in_use: &mut HashSet<Key>) -> Arc<Anonymous> {
        let key = (workspace.clone(), api.to_owned(), policy.limit, seconds(policy.per), policy.routes.clone());
        in_use.insert(key.clone());
        self.0.entry(key).or_insert_with(|| Arc::new(Anonymous::new(policy))).clone()
    }

    pub fn forget_all_but(&mut self, in_use: &HashSet<Key>) {
        self.0.retain(|key, _| in_use.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use farebox_billing::rating::plan::Per;

    use super::*;

    #[test]
    fn each_network_has_its_own_allowance() {
        let anonymous = Anonymous::new(&AnonymousPolicy { limit: 2, per: Per::Hour, routes: vec!["GET /orders*".to_owned()] });
        let ask = |address: &str| {
            let standing = anonymous.check(address.parse().ok());
            (standing.refused, standing.remaining)
        };
        assert_eq!((ask("203.0.113.7"), ask("::ffff:203.0.113.7"), ask("203.0.113.7")), ((false, 1), (false, 0), (true, 0)));
        assert_eq!((ask("2001:db8::1"), ask("2001:db8::2"), ask("2001:db8::3")), ((false, 1), (false, 0), (true, 0)));
        assert_eq!(ask("2001:db8:0:1::1"), (false, 1));
        assert_eq!((ask("nowhere"), ask("unknown"), ask("_hidden")), ((false, 1), (false, 0), (true, 0)));
        assert!(anonymous.covers("GET", &Called::by_path("/orders/7")) && !anonymous.covers("POST", &Called::by_path("/orders")));
    }
}
