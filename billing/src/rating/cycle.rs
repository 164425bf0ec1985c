//! The lines of a subscription's invoice for one period: usage whose period ended in it, fees in arrears likewise, fees
//! in advance for what begins in the next, and what changes make of fees that were billed in advance before.
//!
//! Every price has its own interval; the invoice has the plan's. Usage and a fee in arrears are billed where their
//! stretch (the part of the price's period in which it was in force) ends. A fee in advance is billed on the invoice
//! before its period begins, for what was then known to be in force; each invoice sets what is in force from its start
//! on against what was billed for it: what is missing is charged (a start, a new plan, more seats), what was too much is
//! given back (a change, an end), each on its own line.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use farebox_core::ids::{AddOnId, PlanVersionId};
use farebox_core::money::{BigDecimal, Currency};
use farebox_core::period::Period;

use super::lines::{cap, fee, fee_credit, fees, minimum, usage_prices};
use super::plan::{Amounts, Anchor, Billed, PlanDefinition, Price, Proration};
use super::schedule::Schedule;
use super::usage::usage;
use super::{Line, RatingError, Scope, Usage};

/// Where prices come from: a plan version, or something added to the subscription.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Plan(PlanVersionId),
    AddOn(AddOnId),
}

/// In force over a stretch, with a quantity for what is charged per seat.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub source: Source,
    pub stretch: Period,
    pub trial: bool,
    pub quantity: BigDecimal,
}

/// A line by which an earlier invoice billed a fee in advance, or gave it back: then the quantity is negative.
#[derive(Debug, Clone, PartialEq)]
pub struct BilledFee {
    pub source: Source,
    pub price: String,
    pub stretch: Period,
    pub quantity: BigDecimal,
}

#[derive(Debug)]
pub struct Cycle<'a> {
    pub currency: Currency,
    pub zone: Tz,
    /// Where periods begin that are not the calendar's: the subscription's start.
    pub anchor: DateTime<Utc>,
    pub period: Period,
    pub next: Period,
    /// Everything known to be in force, at whatever time, in its order; [`FOREVER`] where no end is known.
    pub parts: Vec<Part>,
    /// The period goes on: its usage so far, without its minimum.
    pub interim: bool,
    /// What was paid in advance for the time after is not given back.
    pub keep_after: Option<DateTime<Utc>>,
    /// In the order in which they were billed.
    pub billed: Vec<BilledFee>,
    pub plans: &'a BTreeMap<Source, PlanDefinition>,
}

/// The end of what has no known end: beyond every period.
pub const FOREVER: DateTime<Utc> = DateTime::<Utc>::MAX_UTC;

/// Usage that has to be counted for a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub source: Source,
    pub price: Price,
    pub meter: String,
    /// The price's period, and the part of it in which it was in force.
    pub of: Period,
    pub stretch: Period,
    /// Earlier parts of the period whose usage is carried over.
    pub before: Option<Period>,
    /// Nothing else of the subscription was in force in the period, so that counting over all of it is the same.
    pub alone: bool,
}

impl Wanted {
    /// What is counted: attribution itself keeps to the time the subscription was in force, so one that had a single plan
    /// may be counted over the whole period, which is the same question for all of them, and is answered for all at once.
    pub fn counted_over(&self) -> Period {
        if self.alone { self.of } else { self.stretch }
    }

    pub fn key(&self) -> UsedKey {
        (self.source.clone(), self.price.name.clone(), self.stretch.start)
    }
}

/// Source, price, and the start of its stretch.
pub type UsedKey = (Source, String, DateTime<Utc>);

/// A line, and where its price comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct CycleLine {
    pub source: Source,
    pub line: Line,
}

/// All lines, `used` being what was counted for each of [`wanted`].
pub fn lines(cycle: &Cycle, used: &BTreeMap<UsedKey, Usage>) -> Result<Vec<CycleLine>, RatingError> {
    let mut found = fee_lines(cycle)?;
    found.extend(usage_lines(cycle, used)?);
    Ok(found)
}

/// Fees: in advance as far as not billed before, and in arrears.
pub fn fee_lines(cycle: &Cycle) -> Result<Vec<CycleLine>, RatingError> {
    let mut found = Vec::new();
    for (source, plan) in cycle.plans {
        for (price, amount, billed) in fees(plan) {
            let of = OfPrice { cycle, source, plan, price, amount };
            match billed {
                Billed::InAdvance => of.settle(&mut found)?,
                Billed::InArrears => of.arrears(&mut found)?,
            }
        }
    }
    Ok(found)
}

/// What must be counted for the usage lines of the period.
pub fn wanted(cycle: &Cycle) -> Result<Vec<Wanted>, RatingError> {
    let mut found = Vec::new();
    for part in merged(&cycle.parts) {
        let plan = cycle.plan(&part.source);
        for (price, meter) in usage_prices(plan) {
            for of in cycle.periods(plan, price, cycle.period)? {
                let Some(stretch) = part.stretch.intersect(&of).filter(|stretch| cycle.ends_here(*stretch)) else { continue };
                let others = cycle.parts.iter().filter(|other| other.stretch.intersect(&of).is_some());
                let alone = !cycle.interim && matches!(part.source, Source::Plan(_)) && merged_count(others) == 1;
                found.push(Wanted {
                    source: part.source.clone(),
                    price: price.clone(),
                    meter: meter.to_owned(),
                    of,
                    stretch,
                    before: price.carry_over.then(|| cycle.before(of, stretch)).flatten(),
                    alone,
                });
            }
        }
    }
    Ok(found)
}

/// Usage whose stretch ends in the period, with the cap on it and the minimum of what was in force.
pub fn usage_lines(cycle: &Cycle, used: &BTreeMap<UsedKey, Usage>) -> Result<Vec<CycleLine>, RatingError> {
    let all_wanted = wanted(cycle)?;
    let mut found = Vec::new();
    for part in merged(&cycle.parts) {
        let plan = cycle.plan(&part.source);
        let mut own = Vec::new();
        for wanted in all_wanted.iter().filter(|w| w.source == part.source && part.stretch.contains(w.stretch.start)) {
            let nothing = Usage::of_events(&wanted.price, &[], cycle.currency)?;
            own.extend(usage(&wanted.price, used.get(&wanted.key()).unwrap_or(&nothing), &cycle.scope(plan, wanted.of, wanted.stretch))?);
        }
        if let Some(inside) = part.stretch.intersect(&cycle.period) {
            let scope = cycle.scope(plan, cycle.schedule(plan, plan.interval).period_of(inside.start)?, inside);
            own.extend(cap(plan, &own, &scope)?);
            if plan.minimum.is_some() && !cycle.interim {
                let mut counted = own.clone();
                counted.extend(cycle.fees_of_stretch(&part.source, plan, inside)?);
                own.extend(minimum(plan, &counted, &scope)?);
            }
        }
        found.extend(own.into_iter().map(|line| CycleLine { source: part.source.clone(), line }));
    }
    Ok(found)
}

/// What the period is worth by definition: the fees of the time in force in it, however they are billed, and usage.
pub fn worth(cycle: &Cycle, used: &BTreeMap<UsedKey, Usage>) -> Result<Vec<CycleLine>, RatingError> {
    let mut found = Vec::new();
    for (source, plan) in cycle.plans {
        let fees = cycle.fees_of_stretch(source, plan, cycle.period)?;
        found.extend(fees.into_iter().map(|line| CycleLine { source: source.clone(), line }));
    }
    found.extend(usage_lines(cycle, used)?);
    Ok(found)
}

/// Parts of one source that follow each other are one, whatever their quantities; trials are left out.
fn merged(parts: &[Part]) -> Vec<Part> {
    let mut found: Vec<Part> = Vec::new();
    for part in parts.iter().filter(|part| !part.trial) {
        match found.iter_mut().find(|before| before.source == part.source && before.stretch.end == part.stretch.start) {
            Some(before) => before.stretch.end = part.stretch.end,
            None => found.push(part.clone()),
        }
    }
    found
}

fn merged_count<'a>(parts: impl Iterator<Item = &'a Part>) -> usize {
    let plans: Vec<_> =
        parts.filter(|part| matches!(part.source, Source::Plan(_))).map(|part| Part { trial: false, ..part.clone() }).collect();
    let trials = plans.iter().filter(|part| part.trial).count();
    merged(&plans).len() + trials
}

impl Cycle<'_> {
    fn scope(&self, plan: &PlanDefinition, period: Period, part: Period) -> Scope {
        Scope { currency: self.currency, zone: self.zone, period, part, proration: plan.terms.proration }
    }

    fn plan(&self, source: &Source) -> &PlanDefinition {
        // Whoever makes a cycle loads the plan of every part and fee in it.
        self.plans.get(source).expect("the plan of every part is loaded")
    }

    fn schedule(&self, plan: &PlanDefinition, interval: super::plan::Interval) -> Schedule {
        Schedule { interval, anchor: (plan.anchor == Anchor::Subscription).then_some(self.anchor), zone: self.zone }
    }

    /// The price's periods that have something in common with `range`.
    fn periods(&self, plan: &PlanDefinition, price: &Price, range: Period) -> Result<Vec<Period>, RatingError> {
        let schedule = self.schedule(plan, price.interval.unwrap_or(plan.interval));
        let (mut found, mut at) = (Vec::new(), range.start);
        while at < range.end {
            let period = schedule.period_of(at)?;
            at = period.end;
            found.push(period);
        }
        Ok(found)
    }

    /// What ends in the period is billed on its invoice.
    fn ends_here(&self, stretch: Period) -> bool {
        self.period.start < stretch.end && stretch.end <= self.period.end
    }

    /// The part of `of` before `stretch` whose usage is carried over; a trial's is not.
    fn before(&self, of: Period, stretch: Period) -> Option<Period> {
        let trial = self.parts.iter().filter(|part| part.trial && part.stretch.end <= stretch.start).map(|part| part.stretch.end).max();
        let start = trial.map_or(of.start, |end| end.max(of.start));
        (start < stretch.start).then_some(Period { start, end: stretch.start })
    }

    /// The recurring fees of a stretch, however they are billed: what counts towards a minimum.
    fn fees_of_stretch(&self, source: &Source, plan: &PlanDefinition, inside: Period) -> Result<Vec<Line>, RatingError> {
        let mut found = Vec::new();
        for (price, amount, _) in fees(plan) {
            for part in self.parts.iter().filter(|part| part.source == *source && !part.trial) {
                let Some(own) = part.stretch.intersect(&inside) else { continue };
                for of in self.periods(plan, price, own)? {
                    if let Some(stretch) = own.intersect(&of) {
                        found.push(fee(price, amount, &part.quantity, &self.scope(plan, of, stretch))?);
                    }
                }
            }
        }
        Ok(found)
    }
}

/// A flat fee of a source.
struct OfPrice<'a> {
    cycle: &'a Cycle<'a>,
    source: &'a Source,
    plan: &'a PlanDefinition,
    price: &'a Price,
    amount: &'a Amounts,
}

/// A stretch with a quantity.
type Quantified = (BigDecimal, Period);

impl OfPrice<'_> {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.cycle.parts.iter().filter(|part| part.source == *self.source && !part.trial)
    }

    fn push(&self, line: Line, found: &mut Vec<CycleLine>) {
        found.push(CycleLine { source: self.source.clone(), line });
    }

    fn arrears(&self, found: &mut Vec<CycleLine>) -> Result<(), RatingError> {
        for of in self.cycle.periods(self.plan, self.price, self.cycle.period)? {
            for (quantity, stretch) in self.due(of) {
                if self.cycle.ends_here(stretch) {
                    self.push(fee(self.price, self.amount, &quantity, &self.cycle.scope(self.plan, of, stretch))?, found);
                }
            }
        }
        Ok(())
    }

    /// Charges what is in force and not billed, gives back what was billed and is not in force.
    fn settle(&self, found: &mut Vec<CycleLine>) -> Result<(), RatingError> {
        let (here, next) = (self.cycle.period, self.cycle.next);
        let from_here = Period { start: here.start, end: FOREVER };
        for of in self.cycle.periods(self.plan, self.price, Period { start: here.start, end: next.end.max(here.end) })? {
            let (due, before) = (self.due(of), self.covered(of));
            if self.plan.terms.proration == Proration::None {
                // Whole or not at all: once billed it stays, and what was in force at all is billed once.
                if let Some((quantity, stretch)) = due.first().filter(|_| before.is_empty()) {
                    self.push(fee(self.price, self.amount, quantity, &self.cycle.scope(self.plan, of, *stretch))?, found);
                }
                continue;
            }
            let open = |all: &[Quantified]| -> Vec<Quantified> {
                all.iter().filter_map(|(quantity, stretch)| Some((quantity.clone(), stretch.intersect(&from_here)?))).collect()
            };
            let (due, before) = (open(&due), open(&before));
            let kept = |stretch: Period| self.cycle.keep_after.is_some_and(|end| stretch.start >= end);
            for (quantity, stretch) in without(&before, &due).into_iter().filter(|(_, stretch)| !kept(*stretch)) {
                self.push(fee_credit(self.price, self.amount, &quantity, &self.cycle.scope(self.plan, of, stretch))?, found);
            }
            for (quantity, stretch) in without(&due, &before) {
                self.push(fee(self.price, self.amount, &quantity, &self.cycle.scope(self.plan, of, stretch))?, found);
            }
        }
        Ok(())
    }

    /// In force in a period of the price; what follows with the same quantity is one stretch.
    fn due(&self, of: Period) -> Vec<Quantified> {
        let mut found: Vec<Quantified> = Vec::new();
        for part in self.parts() {
            let Some(stretch) = part.stretch.intersect(&of) else { continue };
            let quantity = if self.price.per_seat { part.quantity.clone() } else { BigDecimal::from(1) };
            match found.last_mut() {
                Some((same, before)) if *same == quantity && before.end == stretch.start => before.end = stretch.end,
                _ => found.push((quantity, stretch)),
            }
        }
        found
    }

    /// What earlier invoices billed of a period of the price and did not give back.
    fn covered(&self, of: Period) -> Vec<Quantified> {
        let mut found: Vec<Quantified> = Vec::new();
        for billed in self.cycle.billed.iter().filter(|fee| fee.source == *self.source && fee.price == self.price.name) {
            let Some(stretch) = billed.stretch.intersect(&of) else { continue };
            if billed.quantity > BigDecimal::from(0) {
                found.push((billed.quantity.clone(), stretch));
            } else {
                found = without(&found, &[(-&billed.quantity, stretch)]);
            }
        }
        found
    }
}

/// What of `from` nothing in `minus` covers with the same quantity.
fn without(from: &[Quantified], minus: &[Quantified]) -> Vec<Quantified> {
    let mut left = from.to_vec();
    for (quantity, cut) in minus {
        left = left
            .into_iter()
            .flat_map(|(own, p)| {
                if own != *quantity || p.intersect(cut).is_none() {
                    return vec![(own, p)];
                }
                [Period { start: p.start, end: p.end.min(cut.start) }, Period { start: p.start.max(cut.end), end: p.end }]
                    .into_iter()
                    .filter(|p| p.start < p.end)
                    .map(|p| (own.clone(), p))
                    .collect()
            })
            .collect();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use farebox_core::money::Money;
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

    fn one() -> BigDecimal {
        BigDecimal::from(1)
    }

    /// Phases known at a close: `changed` says from when on the second plan, `ended` when it ends.
    fn parts(phases: &[(Source, Period)]) -> Vec<Part> {
        let part = |(source, stretch): &(Source, Period)| Part { source: source.clone(), stretch: *stretch, trial: false, quantity: one() };
        phases.iter().map(part).collect()
    }

    proptest! {
        /// Whatever changes when, and whatever was known when the months before were closed: all fee lines together
        /// are what was in force, within half a cent a line.
        #[test]
        fn fees_in_advance_come_to_what_was_in_force(start_min in 0_i64..44_000, change_min in 1_i64..80_000, length_min in 1_i64..80_000) {
            let versions = [Source::Plan(PlanVersionId::new()), Source::Plan(PlanVersionId::new())];
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
                    currency: usd(), zone: chrono_tz::Europe::Berlin, anchor: start, period: month(n), next: month(n + 1),
                    parts: parts(&phases), interim: false, keep_after: None, billed: billed.clone(), plans: &plans,
                };
                for CycleLine { source, line } in lines(&cycle, &BTreeMap::new()).expect("rates") {
                    total += line.amount.minor;
                    count += 1;
                    billed.push(BilledFee { source, price: "Fee".to_owned(), stretch: line.period, quantity: line.quantity });
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
        let versions = [Source::Plan(PlanVersionId::new()), Source::Plan(PlanVersionId::new())];
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
            anchor: month(1).start,
            parts: parts(&phases),
            interim: false,
            keep_after: None,
            billed: vec![BilledFee { source: versions[0].clone(), price: "Fee".to_owned(), stretch: month(3), quantity: one() }],
            plans: &plans,
        };
        let shown: Vec<_> = lines(&cycle, &BTreeMap::new())
            .expect("rates")
            .into_iter()
            .map(|CycleLine { line, .. }| format!("{}: {}", line.amount, line.explanation))
            .collect();
        insta::assert_debug_snapshot!(shown);
    }
}
