//! Everything a decision needs, in memory: gateways' tokens and networks, keys, subscriptions with what they allow, who
//! owes, and what the provider chose. Built whole from PostgreSQL and never changed; a change there makes another one.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use farebox_billing::entitlements::{self, Entitled};
use farebox_billing::overdue::{self, Overdue};
use farebox_core::auth::{self, Kind, LiveToken, Scope};
use farebox_core::clock::WorkspaceClock;
use farebox_core::ids::{ConsumerId, CredentialId, SubscriptionId, WorkspaceId};
use farebox_core::period::start_of_day;
use farebox_core::workspace::Workspace;
use farebox_core::{clock, source, workspace};
use farebox_metering::meters::Definition;
use farebox_metering::{apis, credentials, meters};
use ipnet::IpNet;
use sqlx::{Connection, PgConnection};

use crate::anonymous::{Allowances, Anonymous};
use crate::policy::{self, Policy, WhenStale};
use crate::quota::{Counter, Counters, Quota};
use crate::rate::{Limiters, Rate};
use crate::routes::Pattern;

pub type Hash = [u8; 32];

pub struct Snapshot {
    /// When what it says was true.
    pub as_of: DateTime<Utc>,
    /// The first transaction that it does not see: of two snapshots the one with the greater version is newer.
    pub version: i64,
    pub tokens: HashMap<Hash, Token>,
    /// By the SHA-256 of their DER form.
    pub certificates: HashMap<Hash, Token>,
    /// By name; names are unique only in a workspace.
    pub gateways: HashMap<String, Vec<Gateway>>,
    pub keys: HashMap<Hash, Key>,
    pub subscriptions: HashMap<ConsumerId, Vec<Subscription>>,
    /// Who has an invoice that is past its due date.
    pub overdue: HashMap<ConsumerId, Overdue>,
    pub spaces: HashMap<WorkspaceId, Space>,
    /// All counters of quotas, for the refresh.
    pub counters: Vec<Arc<Counter>>,
}

/// What holds in a whole workspace.
pub struct Space {
    pub clock: WorkspaceClock,
    pub zone: Tz,
    pub policy: Policy,
    /// Registered ones.
    pub apis: HashMap<String, Api>,
    /// By the name in the policy, so that `*` has one, too.
    pub anonymous: HashMap<String, Arc<Anonymous>>,
    /// Where developers sign up, without a path.
    pub portal: String,
}

pub struct Api {
    pub product: String,
    pub versions: HashMap<String, Lifetime>,
}

/// Until when a version of an API lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    pub deprecated: Option<DateTime<Utc>>,
    pub sunset: Option<DateTime<Utc>>,
}

/// A gateway's own: a token, or a client certificate.
pub struct Token {
    pub workspace: WorkspaceId,
    pub expires_at: Option<DateTime<Utc>>,
}

impl Token {
    pub fn is_in_force(&self) -> bool {
        self.expires_at.is_none_or(|at| clock::now() < at)
    }
}

/// A registered source.
pub struct Gateway {
    pub workspace: WorkspaceId,
    pub format: String,
    /// From where it may ask without a token.
    pub networks: Vec<IpNet>,
}

/// A consumer's key.
pub struct Key {
    pub workspace: WorkspaceId,
    pub consumer: ConsumerId,
    pub credential: CredentialId,
    pub expires_at: Option<DateTime<Utc>>,
}

/// [from, to)
pub struct Subscription {
    pub id: SubscriptionId,
    pub product: String,
    pub plan: String,
    pub from: DateTime<Utc>,
    pub to: Option<DateTime<Utc>>,
    /// None at all allow everything of the product.
    pub entitlements: Vec<Entitlement>,
    /// Counters that every call of it adds to.
    pub counters: Vec<Arc<Counter>>,
}

pub struct Entitlement {
    pub feature: String,
    /// None at all: all routes of the product.
    pub routes: Vec<Pattern>,
    pub rate: Option<Arc<Rate>>,
    pub quota: Option<Quota>,
}

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Source(#[from] source::SourceError),
    #[error(transparent)]
    Workspace(#[from] workspace::WorkspaceError),
    #[error(transparent)]
    Metering(#[from] farebox_metering::MeteringError),
    #[error(transparent)]
    Billing(#[from] farebox_billing::BillingError),
}

/// What a new snapshot takes over from the one before, so that nothing that was spent is forgiven.
#[derive(Default)]
pub struct Spent {
    limiters: Limiters,
    counters: Counters,
    allowances: Allowances,
}

impl Snapshot {
    /// Reads all of one instant. `portal`: where developers sign up unless the workspace has a host of its own.
    pub async fn load(conn: &mut PgConnection, spent: &mut Spent, portal: &str) -> Result<Self, SnapshotError> {
        let as_of = clock::now();
        let mut tx = conn.begin().await?;
        sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *tx).await?;
        let version = sqlx::query_scalar!(r#"SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS "version!""#)
            .fetch_one(&mut *tx)
            .await?;
        let workspaces = workspace::all(&mut tx).await?;
        let tokens = auth::all_with_scope(&mut tx, Kind::Bearer, Scope::Decide).await?;
        let certificates = auth::all_with_scope(&mut tx, Kind::Certificate, Scope::Decide).await?;
        let sources = source::all(&mut tx).await?;
        let active = credentials::all_active(&mut tx).await?;
        let entitled = entitlements::all(&mut tx).await?;
        let overdue = overdue::all(&mut tx).await?;
        let meters = meters_with_quotas(&mut tx, &entitled).await?;
        let mut policies: HashMap<_, _> = policy::all(&mut tx).await?.into_iter().collect();
        let mut spaces = HashMap::new();
        let mut allowances_in_use = HashSet::new();
        for workspace in workspaces {
            let apis = apis::list(&mut tx, &workspace.id).await?;
            let policy: Policy = policies.remove(&workspace.id).unwrap_or_default();
            let anonymous = policy.apis.iter().filter_map(|(name, api)| {
                let allowance = spent.allowances.of(&workspace.id, name, api.anonymous.as_ref()?, &mut allowances_in_use);
                Some((name.clone(), allowance))
            });
            let anonymous = anonymous.collect();
            spaces.insert(workspace.id.clone(), space(&workspace, apis, policy, anonymous, portal));
        }
        tx.rollback().await?;
        spent.allowances.forget_all_but(&allowances_in_use);

        let mut gateways: HashMap<String, Vec<Gateway>> = HashMap::new();
        for source in sources {
            let gateway = Gateway { networks: networks(&source), workspace: source.workspace, format: source.format };
            gateways.entry(source.name).or_default().push(gateway);
        }
        let subscriptions = by_consumer(entitled, &meters, &spaces, spent);
        Ok(Self {
            as_of,
            version,
            tokens: by_hash(tokens),
            certificates: by_hash(certificates),
            gateways,
            keys: active
                .into_iter()
                .filter_map(|c| {
                    let key = Key { workspace: c.workspace, consumer: c.consumer, credential: c.id, expires_at: c.expires_at };
                    Some((c.hash.try_into().ok()?, key))
                })
                .collect(),
            subscriptions,
            overdue: overdue.into_iter().map(|o| (o.consumer.clone(), o)).collect(),
            spaces,
            counters: spent.counters.all(),
        })
    }

    pub fn now_in(&self, workspace: &WorkspaceId) -> DateTime<Utc> {
        self.spaces.get(workspace).map(|space| space.clock).unwrap_or_default().now()
    }

    pub fn zone_of(&self, workspace: &WorkspaceId) -> Tz {
        self.spaces.get(workspace).map_or(Tz::UTC, |space| space.zone)
    }

    /// The workspace that a gateway without a token asks for: the one whose source of this name allows its address.
    pub fn workspace_by_network(&self, source: &str, peer: IpAddr) -> Option<&WorkspaceId> {
        let mut allowing = self.gateways.get(source)?.iter().filter(|g| g.networks.iter().any(|n| n.contains(&peer.to_canonical())));
        let first = allowing.next()?;
        // Two workspaces allow it: whose call it is would be a guess.
        allowing.next().is_none().then_some(&first.workspace)
    }

    pub fn format_of(&self, workspace: &WorkspaceId, source: &str) -> &str {
        let gateways = self.gateways.get(source).map(Vec::as_slice).unwrap_or_default();
        gateways.iter().find(|g| g.workspace == *workspace).map_or("", |g| &g.format)
    }
}

impl Space {
    pub fn anonymous(&self, api: &str) -> Option<&Anonymous> {
        // An API with an entry of its own does not fall back on that of all.
        let name = if self.policy.apis.contains_key(api) { api } else { policy::EVERY };
        self.anonymous.get(name).map(AsRef::as_ref)
    }

    pub fn when_stale(&self, api: &str) -> WhenStale {
        self.policy.of_api(api).map_or(WhenStale::Open, |api| api.when_stale)
    }
}

fn space(workspace: &Workspace, apis: Vec<apis::Api>, policy: Policy, anonymous: HashMap<String, Arc<Anonymous>>, portal: &str) -> Space {
    let zone = workspace.time_zone;
    let day = |date: Option<NaiveDate>| date.map(|date| start_of_day(date, zone));
    let lifetime = |v: apis::ApiVersion| (v.name.to_ascii_lowercase(), Lifetime { deprecated: day(v.deprecated), sunset: day(v.sunset) });
    Space {
        clock: if workspace.test_mode { workspace.clock } else { WorkspaceClock::default() },
        zone,
        policy,
        apis: apis
            .into_iter()
            .map(|api| (api.name, Api { product: api.product, versions: api.versions.into_iter().map(lifetime).collect() }))
            .collect(),
        anonymous,
        portal: workspace.portal_host.as_ref().map_or_else(|| portal.to_owned(), |host| format!("https://{host}")),
    }
}

fn by_hash(tokens: Vec<LiveToken>) -> HashMap<Hash, Token> {
    tokens.into_iter().filter_map(|t| Some((t.hash.try_into().ok()?, Token { workspace: t.workspace, expires_at: t.expires_at }))).collect()
}

type Meters = HashMap<(WorkspaceId, String), Definition>;

async fn meters_with_quotas(conn: &mut PgConnection, entitled: &[Entitled]) -> Result<Meters, SnapshotError> {
    let mut found = HashMap::new();
    for entitled in entitled {
        for quota in entitled.entitlements.iter().filter_map(|e| e.quota.as_ref()) {
            let key = (entitled.workspace.clone(), quota.meter.clone());
            if !found.contains_key(&key)
                && let Some(meter) = meters::get(conn, &entitled.workspace, &quota.meter).await?
            {
                found.insert(key, meter.definition);
            }
        }
    }
    Ok(found)
}

fn networks(source: &source::Source) -> Vec<IpNet> {
    let parse = |text: &String| {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network
            .inspect_err(|_| tracing::warn!(source = %source.name, network = %text, "a source's network is no CIDR and allows nothing"))
            .ok()
    };
    source.networks.iter().filter_map(parse).collect()
}

fn by_consumer(
    entitled: Vec<Entitled>,
    meters: &Meters,
    spaces: &HashMap<WorkspaceId, Space>,
    spent: &mut Spent,
) -> HashMap<ConsumerId, Vec<Subscription>> {
    let mut subscriptions: HashMap<ConsumerId, Vec<Subscription>> = HashMap::new();
    let (mut limiters_in_use, mut counters_in_use) = (HashSet::new(), HashSet::new());
    for entitled in entitled {
        let zone = spaces.get(&entitled.workspace).map_or(Tz::UTC, |space| space.zone);
        let mut entitlements = Vec::with_capacity(entitled.entitlements.len());
        let mut counters: Vec<Arc<Counter>> = Vec::new();
        for e in &entitled.entitlements {
            let quota = e.quota.as_ref().map(|quota| {
                let meter = meters.get(&(entitled.workspace.clone(), quota.meter.clone()));
                spent.counters.quota(&entitled.workspace, &entitled.subscription, &e.feature, quota, meter, zone)
            });
            if let Some(quota) = &quota {
                let counter = &quota.counter;
                counters_in_use.insert(counter.key.clone());
                if counter.adds == crate::quota::Adds::EveryCall && !counters.iter().any(|known| Arc::ptr_eq(known, counter)) {
                    counters.push(counter.clone());
                }
            }
            entitlements.push(Entitlement {
                feature: e.feature.clone(),
                routes: e.routes.iter().map(|r| Pattern::parse(r)).collect(),
                rate: e.rate.as_ref().map(|rate| spent.limiters.of(&entitled.subscription, &e.feature, rate, &mut limiters_in_use)),
                quota,
            });
        }
        let subscription = Subscription {
            id: entitled.subscription,
            product: entitled.product,
            plan: entitled.plan,
            from: entitled.from,
            to: entitled.to,
            entitlements,
            counters,
        };
        subscriptions.entry(entitled.consumer).or_default().push(subscription);
    }
    spent.limiters.forget_all_but(&limiters_in_use);
    spent.counters.forget_all_but(&counters_in_use);
    subscriptions
}
