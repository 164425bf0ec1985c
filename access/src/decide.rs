//! The decision itself: a snapshot and a question in, an outcome out. Knows no HTTP and no store.

use chrono::{DateTime, Utc};
use farebox_core::api_path::api_and_version;
use farebox_core::ids::{ConsumerId, CredentialId, SubscriptionId, WorkspaceId};

use crate::rate::Standing;
use crate::routes::Path;
use crate::snapshot::{Entitlement, Hash, Snapshot, Subscription};

/// What is asked.
pub struct Question<'a> {
    pub workspace: &'a WorkspaceId,
    pub method: &'a str,
    /// Canonical, see [`farebox_core::api_path::canonical`].
    pub path: &'a str,
    /// Hash of the key that the caller shows.
    pub key: Option<Hash>,
    /// The workspace's time.
    pub now: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Allowed,
    NoKey,
    /// Unknown, mistyped or revoked.
    UnknownKey,
    ExpiredKey,
    NoSubscription,
    NotInPlan,
    RateLimited,
}

impl Outcome {
    /// Its stable name, in the ledger and as the problem's type.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::NoKey => "no_key",
            Self::UnknownKey => "unknown_key",
            Self::ExpiredKey => "expired_key",
            Self::NoSubscription => "no_subscription",
            Self::NotInPlan => "not_in_plan",
            Self::RateLimited => "rate_limited",
        }
    }
}

/// The outcome, and whose call it is as far as is known: refusals are attributed, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub outcome: Outcome,
    pub consumer: Option<ConsumerId>,
    pub credential: Option<CredentialId>,
    pub subscription: Option<SubscriptionId>,
    pub plan: Option<String>,
    pub limit: Option<Standing>,
}

impl Decision {
    fn refused(outcome: Outcome) -> Self {
        Self { outcome, consumer: None, credential: None, subscription: None, plan: None, limit: None }
    }
}

pub fn decide(snapshot: &Snapshot, question: &Question) -> Decision {
    let Some(hash) = question.key else { return Decision::refused(Outcome::NoKey) };
    // A key of another workspace is as unknown as none.
    let Some(key) = snapshot.keys.get(&hash).filter(|key| key.workspace == *question.workspace) else {
        return Decision::refused(Outcome::UnknownKey);
    };
    let known = Decision {
        consumer: Some(key.consumer.clone()),
        credential: Some(key.credential.clone()),
        ..Decision::refused(Outcome::NoSubscription)
    };
    if key.expires_at.is_some_and(|at| at <= question.now) {
        return Decision { outcome: Outcome::ExpiredKey, ..known };
    }
    let candidates = candidates(snapshot, question, &key.consumer);
    let Some(first) = candidates.first() else { return known };
    let path = Path::new(question.path);
    let allowing = candidates.iter().find_map(|s| Some((s, allowed_by(s, question.method, &path)?)));
    let (subscription, entitlement) = match allowing {
        Some((subscription, entitlement)) => (*subscription, entitlement),
        None => return Decision { outcome: Outcome::NotInPlan, ..known.under(first) },
    };
    let limit = entitlement.and_then(|e| e.rate.as_ref()).map(|rate| rate.check());
    let outcome = match &limit {
        Some(Standing { retry_after_s: Some(_), .. }) => Outcome::RateLimited,
        _ => Outcome::Allowed,
    };
    Decision { outcome, limit, ..known.under(subscription) }
}

impl Decision {
    fn under(self, subscription: &Subscription) -> Self {
        Self { subscription: Some(subscription.id.clone()), plan: Some(subscription.plan.clone()), ..self }
    }
}

/// The consumer's subscriptions in force to the product of the API that is called; to any product, `default` first,
/// where the API is not registered.
fn candidates<'a>(snapshot: &'a Snapshot, question: &Question, consumer: &ConsumerId) -> Vec<&'a Subscription> {
    let (api, _) = api_and_version(question.path);
    let product = snapshot.products.get(question.workspace).and_then(|products| products.get(&api));
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
fn allowed_by<'a>(subscription: &'a Subscription, method: &str, path: &Path) -> Option<Option<&'a Entitlement>> {
    if subscription.entitlements.is_empty() {
        return Some(None);
    }
    let covers = |e: &&Entitlement| e.routes.is_empty() || e.routes.iter().any(|pattern| pattern.matches(method, path));
    subscription.entitlements.iter().find(covers).map(Some)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use chrono::TimeDelta;
    use farebox_billing::rating::plan::{Per, RateLimit};
    use farebox_core::clock;

    use super::*;
    use crate::rate::Limiters;
    use crate::routes::Pattern;
    use crate::snapshot::Key;

    struct World {
        snapshot: Snapshot,
        workspace: WorkspaceId,
    }

    fn subscription(product: &str, routes: &[&str], rate: Option<RateLimit>) -> Subscription {
        let id = SubscriptionId::new();
        let rate = rate.map(|rate| Limiters::default().of(&id, "feature", &rate, &mut HashSet::new()));
        let entitlement = Entitlement { routes: routes.iter().map(|r| Pattern::parse(r)).collect(), rate };
        Subscription {
            id,
            product: product.to_owned(),
            plan: format!("{product}-plan"),
            from: clock::now() - TimeDelta::hours(1),
            to: None,
            entitlements: vec![entitlement],
        }
    }

    /// One consumer with key [1; 32] and these subscriptions; the API `reports` is of the product `insights`.
    fn world(subscriptions: Vec<Subscription>) -> World {
        let (workspace, consumer) = (WorkspaceId::new(), ConsumerId::new());
        let key = Key { workspace: workspace.clone(), consumer: consumer.clone(), credential: CredentialId::new(), expires_at: None };
        let products = HashMap::from([("orders".to_owned(), "default".to_owned()), ("reports".to_owned(), "insights".to_owned())]);
        let snapshot = Snapshot {
            as_of: clock::now(),
            tokens: HashMap::new(),
            gateways: HashMap::new(),
            keys: HashMap::from([([1; 32], key)]),
            subscriptions: HashMap::from([(consumer, subscriptions)]),
            products: HashMap::from([(workspace.clone(), products)]),
            clocks: HashMap::new(),
        };
        World { snapshot, workspace }
    }

    impl World {
        fn ask(&self, method: &str, path: &str) -> Decision {
            self.ask_with(Some([1; 32]), method, path, clock::now())
        }

        fn ask_with(&self, key: Option<Hash>, method: &str, path: &str, now: DateTime<Utc>) -> Decision {
            decide(&self.snapshot, &Question { workspace: &self.workspace, method, path, key, now })
        }
    }

    #[test]
    fn the_plan_of_the_apis_product_decides() {
        let world = world(vec![subscription("insights", &["GET /reports*"], None), subscription("default", &["GET /orders*"], None)]);
        let orders = world.ask("GET", "/v1/orders/7");
        assert_eq!((orders.outcome, orders.plan.as_deref()), (Outcome::Allowed, Some("default-plan")));
        let reports = world.ask("GET", "/reports/daily");
        assert_eq!((reports.outcome, reports.plan.as_deref()), (Outcome::Allowed, Some("insights-plan")));
        let refused = world.ask("DELETE", "/v1/orders/7");
        assert_eq!((refused.outcome.clone(), refused.plan.as_deref()), (Outcome::NotInPlan, Some("default-plan")));
        assert!(refused.consumer.is_some() && refused.credential.is_some(), "a refusal is attributed");
    }

    #[test]
    fn a_key_of_another_workspace_is_unknown() {
        let mut world = world(vec![subscription("default", &[], None)]);
        assert_eq!(world.ask("GET", "/orders").outcome, Outcome::Allowed);
        world.workspace = WorkspaceId::new();
        assert_eq!(world.ask("GET", "/orders").outcome, Outcome::UnknownKey);
        assert_eq!(world.ask_with(None, "GET", "/orders", clock::now()).outcome, Outcome::NoKey);
    }

    #[test]
    fn subscriptions_and_keys_hold_from_their_start_until_just_before_their_end() {
        let now = clock::now();
        let ended = Subscription { to: Some(now), ..subscription("default", &[], None) };
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
        let world = world(vec![subscription("default", &["GET /orders*"], Some(hourly))]);
        assert_eq!(world.ask("GET", "/orders").outcome, Outcome::Allowed);
        let refused = world.ask("GET", "/orders");
        assert_eq!(refused.outcome, Outcome::RateLimited);
        assert!(refused.limit.expect("it says which").retry_after_s.is_some_and(|s| s > 3500));
    }
}
