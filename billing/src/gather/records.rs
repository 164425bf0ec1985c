//! What the records hold of subscriptions whose periods are rated: read in a handful of queries, however many they are.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::{AddOnId, ConsumerId, PlanVersionId, SubscriptionId};
use farebox_core::money::Currency;
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use sqlx::PgConnection;

use super::{Counter, billed, late, sources};
use crate::rating::PlanDefinition;
use crate::rating::cycle::{BilledFee, Source};
use crate::rating::difference::BilledLine;
use crate::subscriptions::{Plans, Subscription};
use crate::units::{self, Covers, Purse};
use crate::{BillingError, plans};

/// No fee is billed longer ahead than a year.
const LONGEST_AHEAD: TimeDelta = TimeDelta::days(400);

#[derive(Debug, Default)]
pub struct Records {
    plans: Plans,
    /// Fees that earlier invoices billed in advance, and gave back, in their order.
    fees: HashMap<SubscriptionId, Vec<BilledFee>>,
    billed: HashMap<SubscriptionId, Vec<BilledLine>>,
    late: HashMap<SubscriptionId, Vec<Period>>,
    purses: HashMap<ConsumerId, Purse>,
    covers: HashMap<SubscriptionId, Covers>,
}

impl Records {
    /// Of each subscription, from where its period begins. `lock`: prepaid units are going to be taken in this transaction.
    pub async fn load(
        conn: &mut PgConnection,
        workspace: &Workspace,
        counter: &Counter,
        of: &[(&Subscription, DateTime<Utc>)],
        lock: bool,
    ) -> Result<Self, BillingError> {
        let late = late::changed(conn, workspace, counter, of).await?;
        let since = since(of, &late);
        let billed = billed::usage_lines(conn, &since).await?;
        let fees = fees(conn, &since).await?;
        let versions = versions(of, &fees);
        let plans = plans::of(conn, &workspace.id, versions.iter()).await?;
        let consumers: Vec<_> = of.iter().map(|(subscription, _)| subscription.consumer.to_string()).collect();
        let purses = units::load(conn, workspace, &consumers, lock).await?;
        // After the lock: what another invoice took is seen.
        let covers = units::covers(conn, &since).await?;
        Ok(Self { plans, fees, billed, late, purses, covers })
    }

    /// What the consumer has of prepaid units.
    pub fn purse(&self, consumer: &ConsumerId) -> Purse {
        self.purses.get(consumer).cloned().unwrap_or_default()
    }

    pub(super) fn covers(&self, subscription: &Subscription) -> Covers {
        self.covers.get(&subscription.id).cloned().unwrap_or_default()
    }

    /// As far as they may concern a period.
    pub(super) fn fees(&self, subscription: &Subscription, period: Period) -> Vec<BilledFee> {
        let fees = self.fees.get(&subscription.id).into_iter().flatten();
        fees.filter(|fee| fee.stretch.end > period.start - LONGEST_AHEAD).cloned().collect()
    }

    /// Usage, cap and minimum lines whose stretch ends in the period, in the order in which they were billed.
    pub(super) fn billed(&self, subscription: &Subscription, period: Period) -> Vec<BilledLine> {
        let lines = self.billed.get(&subscription.id).into_iter().flatten();
        lines.filter(|billed| billed.line.period.end > period.start && billed.line.period.end <= period.end).cloned().collect()
    }

    /// Closed periods whose events changed since they were counted.
    pub(super) fn late(&self, subscription: &Subscription) -> &[Period] {
        self.late.get(&subscription.id).map_or(&[], Vec::as_slice)
    }

    /// The plans of every phase, add-on, and fee billed before.
    pub(super) fn definitions(&self, subscription: &Subscription, fees: &[BilledFee]) -> BTreeMap<Source, PlanDefinition> {
        let before = fees.iter().filter_map(|fee| match &fee.source {
            Source::Plan(version) => Some(version),
            Source::AddOn(_) => None,
        });
        let own = subscription.phases.iter().map(|phase| &phase.plan_version);
        let own = own.chain(subscription.add_ons.iter().map(|add_on| &add_on.beside)).chain(before);
        sources(subscription, own.filter_map(|version| self.plans.get_key_value(version)))
    }
}

/// From where what was billed matters: the period's begin, or that of the earliest one whose events changed.
fn since<'a>(
    of: &[(&'a Subscription, DateTime<Utc>)],
    late: &HashMap<SubscriptionId, Vec<Period>>,
) -> Vec<(&'a Subscription, DateTime<Utc>)> {
    let mut since = of.to_vec();
    for (subscription, from) in &mut since {
        for period in late.get(&subscription.id).into_iter().flatten() {
            *from = (*from).min(period.start);
        }
    }
    since
}

/// Of every phase, add-on and fee billed before.
fn versions(of: &[(&Subscription, DateTime<Utc>)], fees: &HashMap<SubscriptionId, Vec<BilledFee>>) -> BTreeSet<PlanVersionId> {
    let mut versions = BTreeSet::new();
    for (subscription, _) in of {
        versions.extend(subscription.pinned());
    }
    for fee in fees.values().flatten() {
        if let Source::Plan(version) = &fee.source {
            versions.insert(version.clone());
        }
    }
    versions
}

async fn fees(
    conn: &mut PgConnection,
    since: &[(&Subscription, DateTime<Utc>)],
) -> Result<HashMap<SubscriptionId, Vec<BilledFee>>, BillingError> {
    let (ids, from): (Vec<_>, Vec<_>) =
        since.iter().map(|(subscription, from)| (subscription.id.as_str().to_owned(), *from - LONGEST_AHEAD)).unzip();
    let rows = sqlx::query!(
        // Invoice by invoice: while a close fills empty tables the planner would read them whole.
        r#"WITH own AS MATERIALIZED (
               SELECT p.subscription_id, p.invoice_id, w.since FROM unnest($1::text[], $2::timestamptz[]) AS w (subscription_id, since)
               JOIN invoice_parts p ON p.subscription_id = w.subscription_id)
           SELECT own.subscription_id AS "subscription: SubscriptionId", l.plan_version_id AS "version: PlanVersionId",
                  l.add_on_id AS "add_on: AddOnId", l.price AS "price!", l.period_start, l.period_end, l.quantity
           FROM own CROSS JOIN LATERAL (
               SELECT l.* FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id
               WHERE i.id = own.invoice_id AND coalesce(l.subscription_id, i.subscription_id) = own.subscription_id
                 AND l.kind = 'fee' AND l.period_end > own.since OFFSET 0) l
           ORDER BY own.invoice_id, l.position"#,
        &ids,
        &from
    )
    .fetch_all(conn)
    .await?;
    let mut found: HashMap<SubscriptionId, Vec<BilledFee>> = HashMap::new();
    for row in rows {
        let Some(source) = row.version.map(Source::Plan).or(row.add_on.map(Source::AddOn)) else { continue };
        let stretch = Period { start: row.period_start, end: row.period_end };
        found.entry(row.subscription).or_default().push(BilledFee { source, price: row.price, stretch, quantity: row.quantity });
    }
    Ok(found)
}

pub(super) fn currency(code: &str) -> Result<Currency, BillingError> {
    code.parse().map_err(|e| BillingError::unreadable("a subscription", e))
}
