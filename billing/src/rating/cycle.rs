//! The lines of a subscription's invoice for one period: usage of the period, fees in arrears for it, fees in advance
//! for the next, and what the plan's changes make of the fees that were billed in advance for it before.
//!
//! A fee in advance is billed on the invoice of the period before, for what was then known to be in force. When the
//! period is over, what was in force is set against what was billed: what is missing is charged (a start in the
//! period, a new plan), what was too much is given back (a change, an end), each on its own line.

use std::collections::BTreeMap;

use chrono_tz::Tz;
use farebox_core::ids::PlanVersionId;
use farebox_core::money::Currency;
use farebox_core::period::Period;

use super::lines::{fee, fee_credit, fees, minimum};
use super::plan::{Billed, PlanDefinition, Proration};
use super::{Line, RatingError, Scope, Usage, usage_lines};

/// A plan version in force over a stretch.
#[derive(Debug, Clone)]
pub struct Part {
    pub version: PlanVersionId,
    pub stretch: Period,
    pub trial: bool,
    /// The meters' values over the stretch.
    pub meters: BTreeMap<String, Usage>,
}

/// A fee that an earlier invoice billed in advance for a stretch of this period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BilledFee {
    pub version: PlanVersionId,
    pub price: String,
    pub stretch: Period,
}

#[derive(Debug)]
pub struct Cycle<'a> {
    pub currency: Currency,
    pub zone: Tz,
    pub period: Period,
    pub next: Period,
    /// In force in the period, in their order.
    pub parts: Vec<Part>,
    /// Known to be in force in the next period.
    pub next_parts: Vec<Part>,
    pub billed: Vec<BilledFee>,
    pub plans: &'a BTreeMap<PlanVersionId, PlanDefinition>,
}

/// A line, and the plan version it comes from.
pub type CycleLine = (PlanVersionId, Line);

pub fn lines(cycle: &Cycle) -> Result<Vec<CycleLine>, RatingError> {
    let mut found = Vec::new();
    for (version, plan) in cycle.plans {
        advance_position(cycle, version, plan, &mut found)?;
    }
    for part in cycle.next_parts.iter().filter(|part| !part.trial) {
        advance_for_next(cycle, part, &mut found)?;
    }
    for part in cycle.parts.iter().filter(|part| !part.trial) {
        let plan = plan_of(cycle, &part.version);
        let scope = cycle.scope(plan, cycle.period, part.stretch);
        let mut counted = Vec::new();
        for (price, amount, billed) in fees(plan) {
            let line = fee(price, amount, &scope)?;
            if billed == Billed::InArrears {
                found.push((part.version.clone(), line.clone()));
            }
            counted.push(line);
        }
        let used = usage_lines(plan, &scope, &part.meters)?;
        counted.extend(used.iter().cloned());
        let missing = minimum(plan, &counted, &scope)?;
        found.extend(used.into_iter().chain(missing).map(|line| (part.version.clone(), line)));
    }
    Ok(found)
}

impl Cycle<'_> {
    fn scope(&self, plan: &PlanDefinition, period: Period, part: Period) -> Scope {
        Scope { currency: self.currency, zone: self.zone, period, part, proration: plan.terms.proration }
    }
}

fn plan_of<'a>(cycle: &Cycle<'a>, version: &PlanVersionId) -> &'a PlanDefinition {
    // Whoever makes a cycle loads the plan of every phase and fee in it.
    cycle.plans.get(version).expect("the plan of every part is loaded")
}

/// Fees in advance of this period: charge what was in force and not billed, give back what was billed and not in force.
fn advance_position(cycle: &Cycle, version: &PlanVersionId, plan: &PlanDefinition, found: &mut Vec<CycleLine>) -> Result<(), RatingError> {
    let due: Vec<_> = cycle.parts.iter().filter(|part| !part.trial && part.version == *version).map(|part| part.stretch).collect();
    for (price, amount, _) in fees(plan).filter(|(_, _, billed)| *billed == Billed::InAdvance) {
        let before = cycle.billed.iter().filter(|fee| fee.version == *version && fee.price == price.name);
        let before: Vec<_> = before.map(|fee| fee.stretch).collect();
        if plan.terms.proration == Proration::None {
            // Whole or not at all: once billed it stays, and a plan that was in force at all is billed once.
            if before.is_empty()
                && let Some(first) = due.first()
            {
                found.push((version.clone(), fee(price, amount, &cycle.scope(plan, cycle.period, *first))?));
            }
            continue;
        }
        for stretch in without(&before, &due) {
            found.push((version.clone(), fee_credit(price, amount, &cycle.scope(plan, cycle.period, stretch))?));
        }
        for stretch in without(&due, &before) {
            found.push((version.clone(), fee(price, amount, &cycle.scope(plan, cycle.period, stretch))?));
        }
    }
    Ok(())
}

fn advance_for_next(cycle: &Cycle, part: &Part, found: &mut Vec<CycleLine>) -> Result<(), RatingError> {
    let plan = plan_of(cycle, &part.version);
    for (price, amount, _) in fees(plan).filter(|(_, _, billed)| *billed == Billed::InAdvance) {
        let line = fee(price, amount, &cycle.scope(plan, cycle.next, part.stretch))?;
        let twice = plan.terms.proration == Proration::None
            && found.iter().any(|(v, l)| *v == part.version && l.price == line.price && l.period.start >= cycle.next.start);
        if !twice {
            found.push((part.version.clone(), line));
        }
    }
    Ok(())
}

/// What of `from` no stretch of `minus` covers.
fn without(from: &[Period], minus: &[Period]) -> Vec<Period> {
    let mut left = from.to_vec();
    for cut in minus {
        left = left
            .into_iter()
            .flat_map(|p| [Period { start: p.start, end: p.end.min(cut.start) }, Period { start: p.start.max(cut.end), end: p.end }])
            .filter(|p| p.start < p.end)
            .collect();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, TimeDelta, Utc};
    use farebox_core::money::{BigDecimal, Money};
    use proptest::prelude::*;

    fn month(n: u32) -> Period {
        farebox_core::period::month(2026, n, chrono_tz::Europe::Berlin).expect("a month")
    }

    fn usd() -> Currency {
        "USD".parse().expect("a currency")
    }

    fn plan(amount: i64) -> PlanDefinition {
        let yaml = format!("{{name: p{amount}, prices: [{{name: Fee, model: flat, amount: \"{amount}\"}}]}}");
        crate::catalog::parse_plan(&yaml, usd()).expect("a plan").0
    }

    /// Phases known at a close: `changed` says from when on the second plan, `ended` when it ends.
    fn parts(phases: &[(PlanVersionId, Period)], of: Period) -> Vec<Part> {
        let inside = phases.iter().filter_map(|(version, stretch)| Some((version.clone(), stretch.intersect(&of)?)));
        inside.map(|(version, stretch)| Part { version, stretch, trial: false, meters: BTreeMap::new() }).collect()
    }

    proptest! {
        /// Whatever changes when, and whatever was known when the months before were closed: all fee lines together
        /// are what was in force, within half a cent a line.
        #[test]
        fn fees_in_advance_come_to_what_was_in_force(start_min in 0_i64..44_000, change_min in 1_i64..80_000, length_min in 1_i64..80_000) {
            let versions = [PlanVersionId::new(), PlanVersionId::new()];
            let amounts = [1000_i64, 2700];
            let plans: BTreeMap<_, _> = versions.iter().cloned().zip(amounts.map(plan)).collect();
            let start = month(1).start + TimeDelta::minutes(start_min);
            let changed = start + TimeDelta::minutes(change_min);
            let ended = changed + TimeDelta::minutes(length_min);
            let (mut billed, mut total, mut count): (Vec<BilledFee>, i64, i64) = (Vec::new(), 0, 0);
            for n in 1..=10_u32 {
                let closed_at = month(n).end + TimeDelta::hours(1);
                let far: DateTime<Utc> = month(12).end;
                // Nobody knows of a change before it happens.
                let mut phases = vec![(versions[0].clone(), Period { start, end: if changed <= closed_at { changed } else { far } })];
                if changed <= closed_at {
                    phases.push((versions[1].clone(), Period { start: changed, end: if ended <= closed_at { ended } else { far } }));
                }
                let cycle = Cycle {
                    currency: usd(), zone: chrono_tz::Europe::Berlin, period: month(n), next: month(n + 1),
                    parts: parts(&phases, month(n)), next_parts: parts(&phases, month(n + 1)),
                    billed: billed.iter().filter(|fee| fee.stretch.intersect(&month(n)).is_some()).cloned().collect(), plans: &plans,
                };
                for (version, line) in lines(&cycle).expect("rates") {
                    total += line.amount.minor;
                    count += 1;
                    if line.period.start >= month(n).end {
                        billed.push(BilledFee { version, price: "Fee".to_owned(), stretch: line.period });
                    }
                }
            }
            let mut expected = BigDecimal::from(0);
            for n in 1..=10_u32 {
                for (stretch, amount) in [(Period { start, end: changed }, amounts[0]), (Period { start: changed, end: ended }, amounts[1])] {
                    if let Some(inside) = stretch.intersect(&month(n)) {
                        let whole = (month(n).end - month(n).start).num_seconds();
                        expected += BigDecimal::from(amount) * BigDecimal::from((inside.end - inside.start).num_seconds()) / BigDecimal::from(whole);
                    }
                }
            }
            let expected = Money::round(&expected, usd()).expect("small").minor;
            prop_assert!((total - expected).abs() * 2 <= count + 1, "{total} against {expected} in {count} lines");
        }
    }

    #[test]
    fn a_change_gives_back_the_old_fee_and_charges_the_new() {
        let versions = [PlanVersionId::new(), PlanVersionId::new()];
        let plans: BTreeMap<_, _> = versions.iter().cloned().zip([plan(10), plan(20)]).collect();
        let change = month(3).start + TimeDelta::days(14);
        let phases = [
            (versions[0].clone(), Period { start: month(1).start, end: change }),
            (versions[1].clone(), Period { start: change, end: month(12).end }),
        ];
        let cycle = Cycle {
            currency: usd(),
            zone: chrono_tz::Europe::Berlin,
            period: month(3),
            next: month(4),
            parts: parts(&phases, month(3)),
            next_parts: parts(&phases, month(4)),
            billed: vec![BilledFee { version: versions[0].clone(), price: "Fee".to_owned(), stretch: month(3) }],
            plans: &plans,
        };
        let shown: Vec<_> =
            lines(&cycle).expect("rates").into_iter().map(|(_, line)| format!("{}: {}", line.amount, line.explanation)).collect();
        insta::assert_debug_snapshot!(shown);
    }
}
