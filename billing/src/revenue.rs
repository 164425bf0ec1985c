//! Facts about money for insights: who became a payer when, and what recurs.

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use sqlx::PgConnection;

use crate::rating::lines::fees;
use crate::rating::plan::{Amounts, Interval, PlanDefinition};
use crate::{BillingError, plans, subscriptions};

/// When a consumer first paid an invoice with an amount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstPaid {
    pub consumer: ConsumerId,
    pub at: DateTime<Utc>,
}

pub async fn first_paid(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<Vec<FirstPaid>, BillingError> {
    Ok(sqlx::query_as!(
        FirstPaid,
        r#"SELECT consumer_id AS "consumer: ConsumerId", min(paid_at) AS "at!" FROM invoices
           WHERE workspace_id = $1 AND paid_at IS NOT NULL AND total_minor > 0 GROUP BY consumer_id ORDER BY consumer_id"#,
        ws.as_str()
    )
    .fetch_all(conn)
    .await?)
}

/// A stretch of a consumer's subscription, free (a free plan, or a trial) or paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    pub consumer: ConsumerId,
    pub product: String,
    pub plan: String,
    pub from: DateTime<Utc>,
    pub to: Option<DateTime<Utc>>,
    pub trial: bool,
    pub free: bool,
    /// The recurring fees, normalised to a month; nothing in a trial.
    pub monthly: Money,
}

/// All stretches of all subscriptions, by consumer and time: transitions from free to paid, trials and their ends, MRR.
pub async fn stretches(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<Vec<Stretch>, BillingError> {
    let versions: BTreeMap<_, _> = plans::all_versions(conn, ws).await?.into_iter().map(|plan| (plan.version_id.clone(), plan)).collect();
    let mut found = Vec::new();
    for subscription in subscriptions::list(conn, ws, None, i64::MAX, "").await? {
        let currency: Currency = subscription.currency.parse().map_err(|e| BillingError::unreadable("a subscription", e))?;
        for phase in subscription.phases {
            let Some(plan) = versions.get(&phase.plan_version) else { continue };
            found.push(Stretch {
                consumer: subscription.consumer.clone(),
                product: subscription.product.clone(),
                plan: phase.plan,
                from: phase.from,
                to: phase.to,
                trial: phase.trial,
                free: phase.trial || plan.free,
                monthly: if phase.trial { Money::zero(currency) } else { monthly(&plan.definition, currency)? },
            });
        }
    }
    found.sort_by(|a, b| (&a.consumer, a.from).cmp(&(&b.consumer, b.from)));
    Ok(found)
}

/// When a consumer went from free to paid for the first time; those who started paid have no such instant.
pub async fn free_to_paid(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<Vec<FirstPaid>, BillingError> {
    let mut found: Vec<FirstPaid> = Vec::new();
    let mut was_free: Option<ConsumerId> = None;
    for stretch in stretches(conn, ws).await? {
        if found.last().is_some_and(|last| last.consumer == stretch.consumer) {
            continue;
        }
        if stretch.free {
            was_free = Some(stretch.consumer);
        } else if was_free.as_ref() == Some(&stretch.consumer) {
            found.push(FirstPaid { consumer: stretch.consumer, at: stretch.from });
        }
    }
    Ok(found)
}

/// The flat fees of a plan, normalised to a month. Usage is left out.
fn monthly(plan: &PlanDefinition, currency: Currency) -> Result<Money, BillingError> {
    let mut sum = BigDecimal::from(0);
    for (price, amounts, _) in fees(plan) {
        let (times, per) = in_a_month(price.interval.unwrap_or(plan.interval));
        sum += amounts.get(currency).map_or_else(|| BigDecimal::from(0), |amount| amount * BigDecimal::from(times) / BigDecimal::from(per));
    }
    Ok(Money::round(&sum, currency)?)
}

/// How often an interval fits into a month, as a fraction: a month is a twelfth of a year, and a year has 365 days,
/// 52 weeks for this purpose.
fn in_a_month(interval: Interval) -> (i32, i32) {
    match interval {
        Interval::Hour => (365 * 24, 12),
        Interval::Day => (365, 12),
        Interval::Week => (52, 12),
        Interval::Month => (1, 1),
        Interval::Quarter => (1, 3),
        Interval::HalfYear => (1, 6),
        Interval::Year => (1, 12),
    }
}

/// What of a plan has no amount in this currency, by name.
pub fn missing_amounts(plan: &PlanDefinition, currency: Currency) -> Vec<String> {
    let lacks = |amounts: &Amounts| amounts.get(currency).is_none();
    let mut missing = Vec::new();
    for price in &plan.prices {
        let in_model = price.model.amounts().into_iter().any(lacks);
        if in_model || price.minimum.as_ref().is_some_and(lacks) || price.maximum.as_ref().is_some_and(lacks) {
            missing.push(price.name.clone());
        }
    }
    if plan.minimum.as_ref().is_some_and(lacks) {
        missing.push("minimum".to_owned());
    }
    if plan.terms.threshold.as_ref().is_some_and(lacks) {
        missing.push("threshold".to_owned());
    }
    if plan.spend_cap.as_ref().is_some_and(lacks) {
        missing.push("spend_cap".to_owned());
    }
    missing
}
