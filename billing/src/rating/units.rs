//! Units of a meter that were prepaid: they cover usage before it is priced.
//!
//! A stretch of a meter is covered once, whichever prices count with it: each leaves its included units, and of what is above
//! them the prepaid ones are taken off. A stretch that is rated again (late usage, a threshold) keeps what covers it, and takes
//! or gives back only the difference.

use std::collections::{BTreeMap, HashMap};

use farebox_core::money::BigDecimal;
use farebox_core::period::Period;

use super::Usage;
use super::cycle::{UsedKey, Wanted};
use super::models::zero;
use super::plan::{Model, Price};

/// Of a grant, what is left of it. A purse has them in the order of use.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepaid {
    pub grant: String,
    pub meter: String,
    pub left: BigDecimal,
}

/// A meter over a part of a price's period: where the part begins, and the period ends.
pub type Stretch = (String, Period);

/// What covers a stretch by earlier invoices.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Covered {
    /// Also by invoices that are void since: what those charged is forgiven, not charged anew.
    pub units: BigDecimal,
    /// By grant, what is still taken from it, in the order in which it was taken.
    pub taken: Vec<(String, BigDecimal)>,
}

/// What a stretch takes from a grant; below zero, what it gives back.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    pub grant: String,
    pub stretch: Stretch,
    pub units: BigDecimal,
}

/// Why units cover nothing where a meter has only other prices.
pub const ONLY_QUANTITIES: &str = "units cover usage that is priced by quantity (per_unit, package, graduated, volume); what is priced by value, \
                                   event or amount (matrix, percentage, graduated_percentage, pass_through) is covered by credits in money";

/// Why units are refused where one price of the meter would be covered and another would go on charging.
pub fn charged_beside(meter: &str, covered: &str, other: &str) -> String {
    format!(
        "units of `{meter}` would be taken off `{covered}`, while `{other}` still charges them, because it does not price by quantity: \
         give credits in money, or let one of both follow a meter of its own"
    )
}

/// Models that price one quantity. Others price events, values or money, of which no unit can be taken off.
pub fn takes_units(price: &Price) -> bool {
    matches!(price.model, Model::PerUnit { .. } | Model::Package { .. } | Model::Graduated { .. } | Model::Volume { .. })
}

/// The units that a price would charge: above those that are included, and after earlier parts of the period.
fn charged(price: &Price, used: &Usage) -> BigDecimal {
    let above = |units: BigDecimal| (units - &price.included.0).max(zero());
    above(&used.before + used.value.clone().max(zero())) - above(used.before.clone().max(zero()))
}

pub fn stretch_of(wanted: &Wanted) -> Stretch {
    (wanted.meter.clone(), Period { start: wanted.stretch.start, end: wanted.of.end })
}

/// Notes with the usage of each price how much of it is prepaid, and answers what is taken from which grant. The purse is left
/// with what remains.
pub(crate) fn cover(
    wanted: &[Wanted],
    used: &mut BTreeMap<UsedKey, Usage>,
    purse: &mut [Prepaid],
    covered: &HashMap<Stretch, Covered>,
) -> Vec<Taken> {
    let mut by_stretch: BTreeMap<_, Vec<&Wanted>> = BTreeMap::new();
    for wanted in wanted.iter().filter(|wanted| takes_units(&wanted.price)) {
        let stretch = stretch_of(wanted);
        by_stretch.entry((stretch.1.start, stretch.1.end, stretch.0.clone())).or_default().push(wanted);
    }
    let mut found = Vec::new();
    for ((start, end, meter), wanted) in by_stretch {
        let stretch = (meter, Period { start, end });
        let need =
            |wanted: &Wanted, used: &BTreeMap<UsedKey, Usage>| used.get(&wanted.key()).map_or_else(zero, |own| charged(&wanted.price, own));
        let most = wanted.iter().map(|wanted| need(wanted, used)).max().unwrap_or_else(zero);
        let nothing = Covered::default();
        let before = covered.get(&stretch).unwrap_or(&nothing);
        let mut covers = before.units.clone();
        if most > covers {
            for prepaid in purse.iter_mut().filter(|prepaid| prepaid.meter == stretch.0 && prepaid.left > zero()) {
                let units = (&most - &covers).min(prepaid.left.clone());
                if units <= zero() {
                    break;
                }
                prepaid.left -= &units;
                covers += &units;
                found.push(Taken { grant: prepaid.grant.clone(), stretch: stretch.clone(), units });
            }
        } else {
            // The last that was taken is the first to go back.
            for (grant, taken) in before.taken.iter().rev() {
                let units = (&covers - &most).min(taken.clone());
                if units <= zero() {
                    continue;
                }
                covers -= &units;
                found.push(Taken { grant: grant.clone(), stretch: stretch.clone(), units: -units });
            }
        }
        for wanted in wanted {
            let prepaid = need(wanted, used).min(covers.clone());
            if let Some(own) = used.get_mut(&wanted.key()) {
                own.prepaid = prepaid;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rating::cycle::Source;
    use chrono::{DateTime, TimeDelta, Utc};
    use farebox_core::ids::PlanVersionId;
    use proptest::prelude::*;

    fn price(name: &str, included: i64) -> Price {
        let yaml = format!("{{name: {name}, model: per_unit, meter: calls, included: {included}, unit_amount: 1}}");
        crate::catalog::parse_price(&yaml, "USD".parse().expect("a currency")).expect("a price")
    }

    fn wanted(source: &Source, price: Price, day: i64) -> Wanted {
        let start = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(day);
        let stretch = Period { start, end: start + TimeDelta::days(1) };
        Wanted { source: source.clone(), price, meter: "calls".to_owned(), of: stretch, stretch, before: None, alone: true }
    }

    fn prepaid(grant: &str, left: i64) -> Prepaid {
        Prepaid { grant: grant.to_owned(), meter: "calls".to_owned(), left: left.into() }
    }

    fn used(of: &[(&Wanted, i64)]) -> BTreeMap<UsedKey, Usage> {
        of.iter().map(|(wanted, value)| (wanted.key(), Usage::of((*value).into()))).collect()
    }

    #[test]
    fn included_units_come_first_and_prices_share_what_covers_them() {
        let source = Source::Plan(PlanVersionId::new());
        let (free, all) = (wanted(&source, price("Free", 100), 0), wanted(&source, price("All", 0), 0));
        let mut counted = used(&[(&free, 120), (&all, 120)]);
        let mut purse = [prepaid("a", 30), prepaid("b", 50)];
        let taken = cover(&[free.clone(), all.clone()], &mut counted, &mut purse, &HashMap::new());
        let shown: Vec<_> = taken.iter().map(|t| format!("{} {}", t.grant, t.units)).collect();
        assert_eq!(shown, ["a 30", "b 50"]);
        // Of the one only 20 are above what is included; of the other all 80 cover.
        assert_eq!((&counted[&free.key()].prepaid, &counted[&all.key()].prepaid), (&BigDecimal::from(20), &BigDecimal::from(80)));
        assert!(purse.iter().all(|prepaid| prepaid.left == zero()));
    }

    proptest! {
        /// However often and in whichever order stretches are counted and counted again: what covers them is what grants have
        /// given less what they were given back, none has given more than it had, and a stretch that can be covered is.
        #[test]
        fn units_are_conserved(
            grants in prop::collection::vec(0_i64..100, 1..4), included in 0_i64..50,
            rounds in prop::collection::vec(prop::collection::vec(0_i64..150, 3), 1..6),
        ) {
            let source = Source::Plan(PlanVersionId::new());
            let stretches: Vec<_> = (0..3).map(|day| wanted(&source, price("R", included), day)).collect();
            let names: Vec<_> = (0..grants.len()).map(|n| n.to_string()).collect();
            let mut purse: Vec<_> = names.iter().zip(&grants).map(|(name, left)| prepaid(name, *left)).collect();
            let mut covered: HashMap<Stretch, Covered> = HashMap::new();
            for values in &rounds {
                let mut counted = used(&stretches.iter().zip(values).map(|(own, value)| (own, *value)).collect::<Vec<_>>());
                let mut gave_back = false;
                for taken in cover(&stretches, &mut counted, &mut purse, &covered) {
                    gave_back |= taken.units < zero();
                    let own = covered.entry(taken.stretch.clone()).or_default();
                    own.units += &taken.units;
                    match own.taken.iter_mut().find(|(grant, _)| *grant == taken.grant) {
                        Some((_, sum)) => *sum += &taken.units,
                        None => own.taken.push((taken.grant.clone(), taken.units.clone())),
                    }
                    if taken.units < zero() {
                        let back = purse.iter_mut().find(|prepaid| prepaid.grant == taken.grant).expect("its grant");
                        back.left -= &taken.units;
                    }
                }
                let given: BigDecimal = grants.iter().map(|left| BigDecimal::from(*left)).sum();
                let left: BigDecimal = purse.iter().map(|prepaid| prepaid.left.clone()).sum();
                let covers: BigDecimal = covered.values().map(|own| own.units.clone()).sum();
                prop_assert_eq!(&left + &covers, given);
                prop_assert!(purse.iter().all(|prepaid| prepaid.left >= zero()));
                for (own, value) in stretches.iter().zip(values) {
                    let above = (BigDecimal::from(*value) - BigDecimal::from(included)).max(zero());
                    let prepaid = &counted[&own.key()].prepaid;
                    prop_assert_eq!(prepaid, &covered.get(&stretch_of(own)).cloned().unwrap_or_default().units);
                    // What goes back in a round is there for the next.
                    prop_assert!(*prepaid == above || (*prepaid < above && (left == zero() || gave_back)), "{prepaid} of {above}");
                }
            }
        }
    }
}
