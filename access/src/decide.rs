//! The decision itself: a snapshot and a question in, an outcome out. Knows no HTTP and no store.

use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_billing::overdue::Overdue;
use farebox_core::ids::{ConsumerId, CredentialId, WorkspaceId};

use crate::policy::WhenStale;
use crate::quota::Quota;
use crate::rate::Standing;
use crate::snapshot::{Entitlement, Hash, Lifetime, Snapshot, Space, Subscription};
use crate::version::Called;

/// What is asked.
pub struct Question<'a> {
    pub workspace: &'a WorkspaceId,
    pub method: &'a str,
    pub called: &'a Called,
    /// Hash of the key that the caller shows.
    pub key: Option<Hash>,
    /// The caller's, as far as the gateway tells.
    pub address: Option<IpAddr>,
    /// The gateway marks it as mirrored traffic: it is let through and counts for nothing.
    pub mirrored: bool,
    /// The workspace's time, and real time.
    pub now: DateTime<Utc>,
    pub real_now: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Allowed,
    /// Allowed although what it rests on is older than trusted: the provider chose so.
    AllowedStale,
    /// Without a key, within the allowance of its address.
    Anonymous,
    Mirrored,
    NoKey,
    /// Unknown, mistyped or revoked.
    UnknownKey,
    ExpiredKey,
    NoSubscription,
    NotInPlan,
    Unpaid,
    RateLimited,
    OverQuota,
    AnonymousLimited,
    /// What it rests on is older than trusted, and the provider chose to refuse then.
    Stale,
}

impl Outcome {
    /// Its stable name, in the ledger and as the problem's type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::AllowedStale => "allowed_stale",
            Self::Anonymous => "anonymous",
            Self::Mirrored => "mirrored",
            Self::NoKey => "no_key",
            Self::UnknownKey => "unknown_key",
            Self::ExpiredKey => "expired_key",
            Self::NoSubscription => "no_subscription",
            Self::NotInPlan => "not_in_plan",
            Self::Unpaid => "unpaid",
            Self::RateLimited => "rate_limited",
            Self::OverQuota => "over_quota",
            Self::AnonymousLimited => "anonymous_limited",
            Self::Stale => "stale",
        }
    }
}

/// The outcome, and whose call it is as far as is known: refusals are attributed, too.
pub struct Decision<'a> {
    pub outcome: Outcome,
    pub space: Option<&'a Space>,
    pub consumer: Option<&'a ConsumerId>,
    pub credential: Option<&'a CredentialId>,
    pub subscription: Option<&'a Subscription>,
    pub entitlement: Option<&'a Entitlement>,
    /// The API is one of the workspace's; a path can say anything.
    pub registered: bool,
    /// Of a registered API's registered version.
    pub lifetime: Option<Lifetime>,
    /// The invoice that is not paid.
    pub owes: Option<&'a Overdue>,
    /// What limits say, the one that refuses last.
    pub limits: Vec<Standing>,
    /// Beyond a soft quota.
    pub over: Option<&'a Quota>,
    /// Whole seconds since what it rests on was true.
    pub snapshot_age_s: u64,
    pub usage_age_s: Option<u64>,
}

impl<'a> Decision<'a> {
    fn with(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }

    pub fn plan(&self) -> Option<&'a str> {
        self.subscription.map(|s| s.plan.as_str())
    }
}

pub fn decide<'a>(snapshot: &'a Snapshot, question: &Question) -> Decision<'a> {
    let space = snapshot.spaces.get(question.workspace);
    let api = space.and_then(|space| space.apis.get(&question.called.api));
    let start = Decision {
        outcome: Outcome::NoKey,
        space,
        consumer: None,
        credential: None,
        subscription: None,
        entitlement: None,
        registered: api.is_some(),
        lifetime: api.and_then(|api| api.versions.get(&question.called.version)).copied(),
        owes: None,
        limits: Vec::new(),
        over: None,
        snapshot_age_s: u64::try_from((question.real_now - snapshot.as_of).num_seconds()).unwrap_or(0),
        usage_age_s: None,
    };
    if question.mirrored {
        return start.with(Outcome::Mirrored);
    }
    let Some(hash) = question.key else { return anonymous(start, question) };
    // A key of another workspace is as unknown as none.
    let Some(key) = snapshot.keys.get(&hash).filter(|key| key.workspace == *question.workspace) else {
        return start.with(Outcome::UnknownKey);
    };
    let known = Decision { consumer: Some(&key.consumer), credential: Some(&key.credential), ..start };
    if key.expires_at.is_some_and(|at| at <= question.now) {
        return known.with(Outcome::ExpiredKey);
    }
    let candidates = candidates(snapshot, question, api.map(|api| api.product.as_str()), &key.consumer);
    let Some(first) = candidates.first() else { return known.with(Outcome::NoSubscription) };
    let allowing = candidates.iter().find_map(|s| Some((*s, allowed_by(s, question)?)));
    let Some((subscription, entitlement)) = allowing else {
        return Decision { subscription: Some(first), ..known }.with(Outcome::NotInPlan);
    };
    let known = Decision { subscription: Some(subscription), entitlement, ..known };
    let grace = space.and_then(|space| space.policy.unpaid_grace_days).map(|days| TimeDelta::days(i64::from(days)));
    if let Some(owes) = snapshot.overdue.get(&key.consumer) {
        let from = [grace.map(|grace| owes.due_at + grace), owes.restricted_from];
        if from.into_iter().flatten().any(|from| from <= question.now) {
            return Decision { owes: Some(owes), ..known }.with(Outcome::Unpaid);
        }
    }
    within_limits(known, subscription, entitlement, question)
}

/// Rate, then quota; a call that passes both is counted.
fn within_limits<'a>(
    mut known: Decision<'a>,
    subscription: &'a Subscription,
    entitlement: Option<&'a Entitlement>,
    question: &Question,
) -> Decision<'a> {
    let trust = known.space.map_or(u64::MAX, |space| u64::from(space.policy.trust_seconds));
    let mut stale = known.snapshot_age_s > trust;
    if entitlement.is_some_and(|e| e.quota.is_some()) {
        known.usage_age_s = entitlement.and_then(|e| e.quota.as_ref()?.age_s(question.real_now));
        stale |= known.usage_age_s.is_none_or(|age| age > trust);
    }
    if stale && known.space.is_some_and(|space| space.when_stale(&question.called.api) == WhenStale::Closed) {
        return known.with(Outcome::Stale);
    }
    if let Some(rate) = entitlement.and_then(|e| e.rate.as_ref()) {
        known.limits.push(rate.check());
        if known.limits.iter().any(|limit| limit.refused) {
            return known.with(Outcome::RateLimited);
        }
    }
    let quota = entitlement.and_then(|e| e.quota.as_ref());
    if let Some(quota) = quota {
        let spent = quota.check(question.now);
        let refused = spent.standing.refused;
        known.over = (spent.over && !refused).then_some(quota);
        known.limits.push(spent.standing);
        if refused {
            return known.with(Outcome::OverQuota);
        }
    }
    // Other entitlements' quotas on the same requests; the one above has counted already.
    for counter in subscription.counters.iter().filter(|c| quota.is_none_or(|q| !std::sync::Arc::ptr_eq(c, &q.counter))) {
        counter.add(question.now);
    }
    known.with(if stale { Outcome::AllowedStale } else { Outcome::Allowed })
}

fn anonymous<'a>(start: Decision<'a>, question: &Question) -> Decision<'a> {
    let allowance = start.space.and_then(|space| space.anonymous(&question.called.api));
    let Some(allowance) = allowance.filter(|a| a.covers(question.method, question.called)) else {
        return start.with(Outcome::NoKey);
    };
    let standing = allowance.check(question.address);
    let outcome = if standing.refused { Outcome::AnonymousLimited } else { Outcome::Anonymous };
    Decision { limits: vec![standing], ..start }.with(outcome)
}

/// The consumer's subscriptions in force to the product of the API that is called; to any product, `default` first,
/// where the API is not registered.
fn candidates<'a>(snapshot: &'a Snapshot, question: &Question, product: Option<&str>, consumer: &ConsumerId) -> Vec<&'a Subscription> {
    let all = snapshot.subscriptions.get(consumer).map(Vec::as_slice).unwrap_or_default();
    let mut in_force: Vec<&Subscription> = all
        .iter()
        .filter(|s| s.from <= question.now && s.to.is_none_or(|to| question.now < to))
        .filter(|s| product.is_none_or(|product| s.product == *product))
        .collect();
    in_force.sort_by_key(|s| s.product != "default");
    in_force
}

/// Some when the plan allows the route: the entitlement that does, or none where the plan allows everything.
#[allow(clippy::option_option)] // two questions: whether it is allowed, and by which entitlement
fn allowed_by<'a>(subscription: &'a Subscription, question: &Question) -> Option<Option<&'a Entitlement>> {
    if subscription.entitlements.is_empty() {
        return Some(None);
    }
    let covers = |e: &&Entitlement| e.routes.is_empty() || e.routes.iter().any(|pattern| pattern.matches(question.method, question.called));
    subscription.entitlements.iter().find(covers).map(Some)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use chrono_tz::Tz;
    use farebox_billing::rating::plan::{self, Decimal, Per, RateLimit};
    use farebox_core::clock;
    use farebox_core::clock::WorkspaceClock;
    use farebox_core::ids::SubscriptionId;

    use super::*;
    use crate::anonymous::Allowances;
    use crate::policy::Policy;
    use crate::quota::Counters;
    use crate::rate::Limiters;
    use crate::routes::Pattern;
    use crate::snapshot::{Api, Key};

    struct World {
        snapshot: Snapshot,
        workspace: WorkspaceId,
        consumer: ConsumerId,
    }

    fn subscription(product: &str, routes: &[&str], rate: Option<RateLimit>, quota: Option<u32>) -> Subscription {
        let id = SubscriptionId::new();
        let rate = rate.map(|rate| Limiters::default().of(&id, "feature", &rate, &mut HashSet::new()));
        let quota = quota.map(|limit| {
            let quota = plan::Quota { meter: "requests".to_owned(), limit: Decimal(limit.into()), per: Per::Month, hard: true };
            Counters::default().quota(&WorkspaceId::new(), &id, "feature", &quota, None, Tz::UTC)
        });
        let routes = routes.iter().map(|r| Pattern::parse(r)).collect();
        Subscription {
            id,
            product: product.to_owned(),
            plan: format!("{product}-plan"),
            from: clock::now() - TimeDelta::hours(1),
            to: None,
            counters: quota.iter().map(|q| q.counter.clone()).collect(),
            entitlements: vec![Entitlement { feature: "feature".to_owned(), routes, rate, quota }],
        }
    }

    /// One consumer with key [1; 32] and these subscriptions; the API `reports` is of the product `insights`.
    fn world(subscriptions: Vec<Subscription>) -> World {
        let (workspace, consumer) = (WorkspaceId::new(), ConsumerId::new());
        let key = Key { workspace: workspace.clone(), consumer: consumer.clone(), credential: CredentialId::new(), expires_at: None };
        let api = |name: &str, product: &str| {
            let old = Lifetime { deprecated: Some(clock::now()), sunset: None };
            (name.to_owned(), Api { product: product.to_owned(), versions: HashMap::from([("v1".to_owned(), old)]) })
        };
        let space = Space {
            clock: WorkspaceClock::default(),
            zone: Tz::UTC,
            policy: Policy::default(),
            apis: HashMap::from([api("orders", "default"), api("reports", "insights")]),
            anonymous: HashMap::new(),
            portal: "https://portal.example".to_owned(),
        };
        let snapshot = Snapshot {
            as_of: clock::now(),
            version: 1,
            tokens: HashMap::new(),
            certificates: HashMap::new(),
            gateways: HashMap::new(),
            keys: HashMap::from([([1; 32], key)]),
            subscriptions: HashMap::from([(consumer.clone(), subscriptions)]),
            overdue: HashMap::new(),
            spaces: HashMap::from([(workspace.clone(), space)]),
            counters: Vec::new(),
        };
        World { snapshot, workspace, consumer }
    }

    impl World {
        fn ask(&self, method: &str, path: &str) -> Decision<'_> {
            self.ask_with(Some([1; 32]), method, path, clock::now())
        }

        fn ask_with(&self, key: Option<Hash>, method: &str, path: &str, now: DateTime<Utc>) -> Decision<'_> {
            let called = Called::by_path(path);
            let question = Question {
                workspace: &self.workspace,
                method,
                called: &called,
                key,
                address: "203.0.113.7".parse().ok(),
                mirrored: false,
                now,
                real_now: now,
            };
            decide(&self.snapshot, &question)
        }

        fn set(&mut self, policy: &str) {
            let policy: Policy = serde_json::from_str(policy).expect("a policy");
            let space = self.snapshot.spaces.get_mut(&self.workspace).expect("the space");
            for (name, api) in &policy.apis {
                if let Some(anonymous) = &api.anonymous {
                    let allowance = Allowances::default().of(&self.workspace, name, anonymous, &mut HashSet::new());
                    space.anonymous.insert(name.clone(), allowance);
                }
            }
            space.policy = policy;
        }
    }

    #[test]
    fn the_plan_of_the_apis_product_decides() {
        let world =
            world(vec![subscription("insights", &["GET /reports*"], None, None), subscription("default", &["GET /orders*"], None, None)]);
        let orders = world.ask("GET", "/v1/orders/7");
        assert_eq!((orders.outcome, orders.plan()), (Outcome::Allowed, Some("default-plan")));
        assert!(orders.lifetime.is_some_and(|l| l.deprecated.is_some()));
        let reports = world.ask("GET", "/reports/daily");
        assert_eq!((reports.outcome, reports.plan()), (Outcome::Allowed, Some("insights-plan")));
        let refused = world.ask("DELETE", "/v1/orders/7");
        assert_eq!((refused.outcome, refused.plan()), (Outcome::NotInPlan, Some("default-plan")));
        assert!(refused.consumer.is_some() && refused.credential.is_some(), "a refusal is attributed");
    }

    #[test]
    fn a_key_of_another_workspace_is_unknown() {
        let mut world = world(vec![subscription("default", &[], None, None)]);
        assert_eq!(world.ask("GET", "/orders").outcome, Outcome::Allowed);
        world.workspace = WorkspaceId::new();
        assert_eq!(world.ask("GET", "/orders").outcome, Outcome::UnknownKey);
        assert_eq!(world.ask_with(None, "GET", "/orders", clock::now()).outcome, Outcome::NoKey);
    }

    #[test]
    fn subscriptions_and_keys_hold_from_their_start_until_just_before_their_end() {
        let now = clock::now();
        let ended = Subscription { to: Some(now), ..subscription("default", &[], None, None) };
        let mut world = world(vec![ended]);
        assert_eq!(world.ask_with(Some([1; 32]), "GET", "/orders", now - TimeDelta::microseconds(1)).outcome, Outcome::Allowed);
        assert_eq!(world.ask_with(Some([1; 32]), "GET", "/orders", now).outcome, Outcome::NoSubscription);
        world.snapshot.keys.get_mut(&[1; 32]).expect("the key").expires_at = Some(now);
        let expired = world.ask_with(Some([1; 32]), "GET", "/orders", now);
        assert!(expired.outcome == Outcome::ExpiredKey && expired.consumer.is_some());
    }

    #[test]
    fn beyond_the_rate_is_refused_with_when_to_come_again() {
        let hourly = RateLimit { limit: 1, per: Per::Hour, burst: None };
        let world = world(vec![subscription("default", &["GET /orders*"], Some(hourly), None)]);
        assert_eq!(world.ask("GET", "/orders").outcome, Outcome::Allowed);
        let refused = world.ask("GET", "/orders");
        assert_eq!(refused.outcome, Outcome::RateLimited);
        assert!(refused.limits.last().expect("it says which").reset_s > 3500);
    }

    #[test]
    fn who_owes_is_refused_once_the_grace_is_over() {
        let mut world = world(vec![subscription("default", &[], None, None)]);
        let now = clock::now();
        let owes = Overdue {
            workspace: world.workspace.clone(),
            consumer: world.consumer.clone(),
            number: "ACME-7".to_owned(),
            due_at: now - TimeDelta::days(3),
            restricted_from: None,
            hosted_url: None,
        };
        world.snapshot.overdue.insert(world.consumer.clone(), owes);
        assert_eq!(world.ask("GET", "/orders").outcome, Outcome::Allowed, "no grace is set: never");
        world.set(r#"{"unpaid_grace_days": 3}"#);
        let before = now - TimeDelta::microseconds(1);
        assert_eq!(world.ask_with(Some([1; 32]), "GET", "/orders", before).outcome, Outcome::Allowed);
        let refused = world.ask_with(Some([1; 32]), "GET", "/orders", now);
        assert_eq!((refused.outcome, refused.owes.map(|o| o.number.as_str())), (Outcome::Unpaid, Some("ACME-7")));
        // A payment that failed refuses by the policy of dunning, without any grace.
        world.set("{}");
        let consumer = world.consumer.clone();
        world.snapshot.overdue.get_mut(&consumer).expect("owes").restricted_from = Some(now);
        assert_eq!(world.ask_with(Some([1; 32]), "GET", "/orders", before).outcome, Outcome::Allowed);
        assert_eq!(world.ask_with(Some([1; 32]), "GET", "/orders", now).outcome, Outcome::Unpaid);
    }

    #[test]
    fn what_is_too_old_is_decided_as_the_provider_chose() {
        let mut world = world(vec![subscription("default", &[], None, Some(1))]);
        let quota = |world: &World| world.ask("GET", "/orders").outcome;
        assert_eq!(quota(&world), Outcome::AllowedStale, "usage was never read: open unless chosen otherwise");
        assert_eq!(quota(&world), Outcome::OverQuota, "what passed here is known all the same");
        world.set(r#"{"apis": {"*": {"when_stale": "closed"}, "reports": {}}}"#);
        assert_eq!(quota(&world), Outcome::Stale);
        world.snapshot.as_of = clock::now() - TimeDelta::hours(1);
        assert_eq!(world.ask_with(None, "GET", "/orders", clock::now()).outcome, Outcome::NoKey);
    }

    #[test]
    fn without_a_key_each_address_has_its_allowance() {
        let mut world = world(vec![]);
        let ask = |world: &World, method: &str, path: &str| world.ask_with(None, method, path, clock::now()).outcome;
        assert_eq!(ask(&world, "GET", "/orders"), Outcome::NoKey);
        world.set(r#"{"apis": {"orders": {"anonymous": {"limit": 1, "per": "hour", "routes": ["GET /orders*"]}}}}"#);
        assert_eq!(ask(&world, "GET", "/orders/7"), Outcome::Anonymous);
        assert_eq!(ask(&world, "GET", "/orders"), Outcome::AnonymousLimited);
        assert_eq!((ask(&world, "POST", "/orders"), ask(&world, "GET", "/reports")), (Outcome::NoKey, Outcome::NoKey));
    }
}
