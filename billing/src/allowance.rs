//! What a plan holds before it costs more, or is refused: for alerts, and for whoever shows how much of it is used.

use bigdecimal::{BigDecimal, Zero};

use crate::rating::PlanDefinition;
use crate::rating::plan::{Interval, Model, Per, Unit};

/// What is included in a period before it costs more, or is refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Allowance {
    pub meter: String,
    pub units: BigDecimal,
    /// Calls beyond it are refused; otherwise they are charged, or free.
    pub refused_beyond: bool,
    /// Whether units beyond it cost something.
    pub charged_beyond: bool,
    /// It is a quota's, for a month of the calendar; otherwise it is for a period of the subscription.
    pub by_calendar: bool,
}

/// A hard quota for the period limits first; otherwise what the price of usage includes.
pub fn allowance(definition: &PlanDefinition, free: bool) -> Option<Allowance> {
    let quotas = definition.entitlements.iter().filter_map(|e| e.quota.as_ref());
    let monthly: Vec<_> = quotas.filter(|quota| quota.per == Per::Month && definition.interval == Interval::Month).collect();
    if let Some(quota) = monthly.iter().find(|quota| quota.hard) {
        return Some(Allowance {
            meter: quota.meter.clone(),
            units: quota.limit.0.clone(),
            refused_beyond: true,
            charged_beyond: false,
            by_calendar: true,
        });
    }
    let included = definition.prices.iter().find_map(|price| {
        let name = price.meter.clone()?;
        let free_tier = match &price.model {
            Model::Graduated { tiers, .. } => tiers.first().and_then(|tier| match (&tier.unit, &tier.up_to) {
                (Unit::UnitAmount(amounts), Some(up)) if amounts.0.values().all(|a| a.0.is_zero()) => Some(up.0.clone()),
                _ => None,
            }),
            _ => None,
        };
        let units = &price.included.0 + free_tier.unwrap_or_default();
        (!units.is_zero()).then_some((name, units))
    });
    if let Some((meter, units)) = included {
        return Some(Allowance { meter, units, refused_beyond: false, charged_beyond: !free, by_calendar: false });
    }
    let quota = monthly.first()?;
    Some(Allowance {
        meter: quota.meter.clone(),
        units: quota.limit.0.clone(),
        refused_beyond: false,
        charged_beyond: !free,
        by_calendar: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth() -> PlanDefinition {
        serde_json::from_value(serde_json::json!({
            "name": "growth", "product": "default", "version": 1, "interval": "month", "anchor": "calendar",
            "terms": {"collect": "automatically", "due_days": 14, "proration": "second"}, "trial": null,
            "prices": [{"name": "Requests", "meter": "requests", "included": "100000", "model": "graduated", "tiers": [
                {"up_to": "1000000", "unit_amount": {"USD": "0.0004"}}, {"up_to": null, "unit_amount": {"USD": "0.0002"}}]}],
            "minimum": null, "spend_cap": null,
            "entitlements": [{"feature": "orders", "routes": [], "quota": {"meter": "requests", "limit": "5000000", "per": "month", "hard": false}, "rate": null}],
        }))
        .expect("a plan")
    }

    #[test]
    fn the_allowance_is_what_is_included_or_a_hard_limit() {
        let mut definition = growth();
        let soft = allowance(&definition, false).expect("included units");
        assert_eq!((soft.meter.as_str(), soft.units, soft.refused_beyond), ("requests", BigDecimal::from(100_000), false));
        for entitlement in &mut definition.entitlements {
            entitlement.quota.as_mut().expect("a quota").hard = true;
        }
        let hard = allowance(&definition, false).expect("a quota");
        assert_eq!((hard.units, hard.refused_beyond), (BigDecimal::from(5_000_000), true));
    }
}
