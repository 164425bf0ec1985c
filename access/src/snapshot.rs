//! Everything a decision needs, in memory: gateways' tokens and networks, keys, subscriptions with what they allow.
//! Built whole from PostgreSQL and never changed; a change there makes another one.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use farebox_billing::entitlements::{self, Entitled};
use farebox_core::auth::{self, Scope};
use farebox_core::clock::WorkspaceClock;
use farebox_core::ids::{ConsumerId, CredentialId, SubscriptionId, WorkspaceId};
use farebox_core::{clock, source, workspace};
use farebox_metering::{apis, credentials};
use ipnet::IpNet;
use sqlx::{Connection, PgConnection};

use crate::rate::{Limiters, Rate};
use crate::routes::Pattern;

pub type Hash = [u8; 32];

pub struct Snapshot {
    /// When what it says was true.
    pub as_of: DateTime<Utc>,
    pub tokens: HashMap<Hash, Token>,
    /// By name; names are unique only in a workspace.
    pub gateways: HashMap<String, Vec<Gateway>>,
    pub keys: HashMap<Hash, Key>,
    pub subscriptions: HashMap<ConsumerId, Vec<Subscription>>,
    /// The product of each registered API.
    pub products: HashMap<WorkspaceId, HashMap<String, String>>,
    /// Those of workspaces in test mode; all others live in real time.
    pub clocks: HashMap<WorkspaceId, WorkspaceClock>,
}

/// A gateway's own.
pub struct Token {
    pub workspace: WorkspaceId,
    pub expires_at: Option<DateTime<Utc>>,
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
}

pub struct Entitlement {
    /// None at all: all routes of the product.
    pub routes: Vec<Pattern>,
    pub rate: Option<Arc<Rate>>,
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

impl Snapshot {
    /// Reads all of one instant. Limiters of rates that stay as they are keep what they have counted.
    pub async fn load(conn: &mut PgConnection, limiters: &mut Limiters) -> Result<Self, SnapshotError> {
        let as_of = clock::now();
        let mut tx = conn.begin().await?;
        sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *tx).await?;
        let workspaces = workspace::all(&mut tx).await?;
        let tokens = auth::all_with_scope(&mut tx, Scope::Decide).await?;
        let sources = source::all(&mut tx).await?;
        let active = credentials::all_active(&mut tx).await?;
        let entitled = entitlements::all(&mut tx).await?;
        let mut products = HashMap::new();
        for workspace in &workspaces {
            let apis = apis::list(&mut tx, &workspace.id).await?;
            products.insert(workspace.id.clone(), apis.into_iter().map(|api| (api.name, api.product)).collect());
        }
        tx.rollback().await?;

        let mut gateways: HashMap<String, Vec<Gateway>> = HashMap::new();
        for source in sources {
            let gateway = Gateway { networks: networks(&source), workspace: source.workspace, format: source.format };
            gateways.entry(source.name).or_default().push(gateway);
        }
        Ok(Self {
            as_of,
            tokens: tokens
                .into_iter()
                .filter_map(|t| Some((t.hash.try_into().ok()?, Token { workspace: t.workspace, expires_at: t.expires_at })))
                .collect(),
            gateways,
            keys: active
                .into_iter()
                .filter_map(|c| {
                    let key = Key { workspace: c.workspace, consumer: c.consumer, credential: c.id, expires_at: c.expires_at };
                    Some((c.hash.try_into().ok()?, key))
                })
                .collect(),
            subscriptions: by_consumer(entitled, limiters),
            products,
            clocks: workspaces.into_iter().filter(|w| w.test_mode).map(|w| (w.id, w.clock)).collect(),
        })
    }

    pub fn now_in(&self, workspace: &WorkspaceId) -> DateTime<Utc> {
        self.clocks.get(workspace).copied().unwrap_or_default().now()
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

fn networks(source: &source::Source) -> Vec<IpNet> {
    let parse = |text: &String| {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network
            .inspect_err(|_| tracing::warn!(source = %source.name, network = %text, "a source's network is no CIDR and allows nothing"))
            .ok()
    };
    source.networks.iter().filter_map(parse).collect()
}

fn by_consumer(entitled: Vec<Entitled>, limiters: &mut Limiters) -> HashMap<ConsumerId, Vec<Subscription>> {
    let mut subscriptions: HashMap<ConsumerId, Vec<Subscription>> = HashMap::new();
    let mut in_use = HashSet::new();
    for entitled in entitled {
        let entitlements = entitled
            .entitlements
            .iter()
            .map(|e| Entitlement {
                routes: e.routes.iter().map(|r| Pattern::parse(r)).collect(),
                rate: e.rate.as_ref().map(|rate| limiters.of(&entitled.subscription, &e.feature, rate, &mut in_use)),
            })
            .collect();
        let subscription = Subscription {
            id: entitled.subscription,
            product: entitled.product,
            plan: entitled.plan,
            from: entitled.from,
            to: entitled.to,
            entitlements,
        };
        subscriptions.entry(entitled.consumer).or_default().push(subscription);
    }
    limiters.forget_all_but(&in_use);
    subscriptions
}
