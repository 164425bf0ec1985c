//! What should be at a gateway: every consumer with a key that can be used, the groups of its plans, and those keys.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use farebox_billing::entitlements;
use farebox_billing::rating::plan::Per;
use farebox_core::ids::{ConsumerId, CredentialId, PlanVersionId, WorkspaceId};
use farebox_metering::{consumers, credentials};
use sqlx::PgConnection;

use crate::rate;
use crate::snapshot::SnapshotError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    pub consumer: ConsumerId,
    pub name: String,
    /// Of its subscriptions in force, that to the product `default` first.
    pub groups: Vec<Group>,
    pub keys: Vec<DesiredKey>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub plan_version: PlanVersionId,
    pub plan: String,
    pub limit: Option<Limit>,
}

/// So many calls in so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub calls: u64,
    pub window_s: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredKey {
    pub credential: CredentialId,
    pub hash: [u8; 32],
    pub expires_at: Option<DateTime<Utc>>,
}

/// Of a workspace, by consumer.
pub async fn all(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    now: DateTime<Utc>,
) -> Result<HashMap<ConsumerId, Desired>, SnapshotError> {
    let mut keys: HashMap<ConsumerId, Vec<DesiredKey>> = HashMap::new();
    for key in credentials::all_active(conn).await? {
        if key.workspace == *workspace
            && key.expires_at.is_none_or(|at| now < at)
            && let Ok(hash) = key.hash.try_into()
        {
            keys.entry(key.consumer).or_default().push(DesiredKey { credential: key.id, hash, expires_at: key.expires_at });
        }
    }
    let mut groups: HashMap<ConsumerId, Vec<(bool, Group)>> = HashMap::new();
    for entitled in entitlements::all(conn).await? {
        if entitled.workspace == *workspace && entitled.from <= now && entitled.to.is_none_or(|to| now < to) {
            let group = Group { limit: limit(&entitled.entitlements), plan_version: entitled.plan_version, plan: entitled.plan };
            groups.entry(entitled.consumer).or_default().push((entitled.product != "default", group));
        }
    }
    let mut desired = HashMap::new();
    for consumer in consumers::all(conn, workspace).await? {
        let Some(keys) = keys.remove(&consumer.id) else { continue };
        let mut own = groups.remove(&consumer.id).unwrap_or_default();
        own.sort_by_key(|(other, _)| *other);
        let groups = own.into_iter().map(|(_, group)| group).collect();
        desired.insert(consumer.id.clone(), Desired { consumer: consumer.id, name: consumer.name, groups, keys });
    }
    Ok(desired)
}

/// What a gateway can count by itself for a whole plan: the first rate of it, else the first hard quota of calls. Limits
/// by route and quotas by meter are for `/v1/decide`.
fn limit(entitlements: &[farebox_billing::rating::plan::Entitlement]) -> Option<Limit> {
    let rate = entitlements.iter().find_map(|e| e.rate.as_ref()).map(|r| Limit { calls: r.limit.into(), window_s: rate::seconds(r.per) });
    let quota = || {
        let quota =
            entitlements.iter().filter_map(|e| e.quota.as_ref()).find(|q| q.hard && matches!(q.meter.as_str(), "calls" | "requests"))?;
        Some(Limit { calls: quota.limit.0.to_string().parse().ok().filter(|n| *n > 0)?, window_s: rate::seconds(quota.per) })
    };
    rate.or_else(quota)
}

/// Kong's name of a stretch of time; it knows no weeks.
pub fn kong_period(per: Per) -> Option<&'static str> {
    match per {
        Per::Second => Some("second"),
        Per::Minute => Some("minute"),
        Per::Hour => Some("hour"),
        Per::Day => Some("day"),
        Per::Week => None,
        Per::Month => Some("month"),
    }
}
