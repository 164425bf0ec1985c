//! Facts about money for insights: who became a payer when, and what recurs.

use std::collections::{BTreeMap, BTreeSet};

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use sqlx::PgConnection;

use crate::rating::lines::fees;
use crate::rating::plan::{Amounts, IncludedOf, Interval, PlanDefinition};
use crate::subscriptions::{self, AddOn, Phase};
use crate::{BillingError, plans};

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

/// A stretch of a consumer's subscription, free (a free plan, or a trial) or paid, with what recurs unchanged over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    pub consumer: ConsumerId,
    pub product: String,
    pub plan: String,
    pub from: DateTime<Utc>,
    pub to: Option<DateTime<Utc>>,
    pub trial: bool,
    pub free: bool,
    /// The recurring fees, with seats and what was added, normalised to a month; nothing in a trial.
    pub monthly: Money,
}

/// All stretches of all subscriptions, by consumer and time: transitions from free to paid, trials and their ends, MRR.
pub async fn stretches(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<Vec<Stretch>, BillingError> {
    let versions: BTreeMap<_, _> = plans::all_versions(conn, ws).await?.into_iter().map(|plan| (plan.version_id.clone(), plan)).collect();
    let mut found = Vec::new();
    for subscription in subscriptions::list(conn, ws, None, i64::MAX, "").await? {
        let currency: Currency = subscription.currency.parse().map_err(|e| BillingError::unreadable("a subscription", e))?;
        for phase in &subscription.phases {
            let Some(plan) = versions.get(&phase.plan_version) else { continue };
            for (from, to) in cut(phase, &subscription.add_ons) {
                let monthly = if phase.trial {
                    Money::zero(currency)
                } else {
                    let beside = subscription.add_ons.iter().filter(|own| own.from <= from && own.to.is_none_or(|end| end > from));
                    let extra = beside.map(|own| (plan.definition.of_one_price(own.price.clone()), &own.quantity));
                    let mut sum = monthly(&plan.definition, &phase.quantity, currency)?;
                    for (plan, quantity) in extra {
                        sum = sum.checked_add(self::monthly(&plan, quantity, currency)?)?;
                    }
                    sum
                };
                found.push(Stretch {
                    consumer: subscription.consumer.clone(),
                    product: subscription.product.clone(),
                    plan: phase.plan.clone(),
                    from,
                    to,
                    trial: phase.trial,
                    free: phase.trial || plan.free,
                    monthly,
                });
            }
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

/// A phase, cut where something is added or taken away.
fn cut(phase: &Phase, add_ons: &[AddOn]) -> Vec<(DateTime<Utc>, Option<DateTime<Utc>>)> {
    let inside = |at: &DateTime<Utc>| *at > phase.from && phase.to.is_none_or(|to| *at < to);
    let starts: BTreeSet<_> =
        add_ons.iter().flat_map(|own| [Some(own.from), own.to]).flatten().filter(inside).chain([phase.from]).collect();
    let starts: Vec<_> = starts.into_iter().collect();
    let ends = starts.iter().skip(1).map(|at| Some(*at)).chain([phase.to]);
    starts.iter().copied().zip(ends).collect()
}

/// The flat fees of a plan for so many seats, normalised to a month. Usage is left out.
fn monthly(plan: &PlanDefinition, seats: &BigDecimal, currency: Currency) -> Result<Money, BillingError> {
    let mut sum = BigDecimal::from(0);
    for (price, amounts, _) in fees(plan) {
        let (times, per) = in_a_month(price.interval.unwrap_or(plan.interval));
        let each = amounts.get(currency).cloned().unwrap_or_default();
        let seats = if price.per_seat { seats.clone() } else { BigDecimal::from(1) };
        sum += each * seats * BigDecimal::from(times) / BigDecimal::from(per);
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
    for included in &plan.terms.credits {
        if let IncludedOf::Money { amount, rollover } = &included.of
            && (lacks(amount) || rollover.as_ref().is_some_and(|rollover| lacks(&rollover.most)))
        {
            missing.push(format!("credits `{}`", included.name));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use farebox_core::ids::{AddOnId, PlanVersionId};

    fn usd() -> Currency {
        "USD".parse().expect("a currency")
    }

    fn at(day: u32) -> DateTime<Utc> {
        format!("2026-10-{day:02}T00:00:00Z").parse().expect("an instant")
    }

    #[test]
    fn what_recurs_knows_seats_and_intervals() {
        let plan = |text: &str| crate::catalog::parse_plan(text, usd()).expect("a plan").0;
        let recurs = |text: &str, seats: i64| monthly(&plan(text), &BigDecimal::from(seats), usd()).expect("in range").to_string();
        assert_eq!(recurs("{name: a, prices: [{name: F, model: flat, amount: \"10\"}]}", 7), "10.00");
        assert_eq!(recurs("{name: a, prices: [{name: F, model: flat, amount: \"10\", per_seat: true}]}", 7), "70.00");
        assert_eq!(recurs("{name: a, interval: year, prices: [{name: F, model: flat, amount: \"120\"}]}", 1), "10.00");
        assert_eq!(recurs("{name: a, prices: [{name: U, model: per_unit, meter: requests, unit_amount: 1}]}", 1), "0.00");
    }

    #[test]
    fn a_phase_is_cut_where_something_is_added_and_taken_away() {
        let version = PlanVersionId::new();
        let phase = Phase {
            plan_version: version.clone(),
            plan: "a".to_owned(),
            version: 1,
            from: at(1),
            to: Some(at(20)),
            trial: false,
            quantity: BigDecimal::from(1),
        };
        let price = crate::catalog::parse_price("{name: Extra, model: flat, amount: \"5\"}", usd()).expect("a price");
        let add_on =
            |from, to| AddOn { id: AddOnId::new(), price: price.clone(), beside: version.clone(), quantity: BigDecimal::from(1), from, to };
        assert_eq!(cut(&phase, &[]), [(at(1), Some(at(20)))]);
        assert_eq!(
            cut(&phase, &[add_on(at(5), Some(at(9))), add_on(at(1), None), add_on(at(21), None)]),
            [(at(1), Some(at(5))), (at(5), Some(at(9))), (at(9), Some(at(20)))]
        );
    }
}
