//! Random histories of a subscription against a model: whatever changes when, and however late usage becomes known or is taken back, all
//! documents together come to what fees and usage are worth by definition, within half a minor unit for each fee line. They know
//! trials, ends with and without credit, minimums and caps, invoices within a period, and units that were prepaid.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::ids::{AddOnId, ConsumerId, InvoiceLineId, PlanVersionId, SubscriptionId};
use farebox_core::money::{BigDecimal, Currency, Money};
use farebox_core::period::Period;
use proptest::prelude::*;

use super::{AddOn, Phase, Plans, Subscription};
use crate::gather::{parts, sources};
use crate::rating::cycle::{self, BilledFee, Cycle, CycleLine, Source, UsedKey, Wanted};
use crate::rating::difference::{BilledLine, corrections, less_billed};
use crate::rating::lines::fees;
use crate::rating::plan::{Anchor, Interval, PlanDefinition};
use crate::rating::schedule::Schedule;
use crate::rating::units::{Covered, Prepaid, Stretch, cover, stretch_of};
use crate::rating::{Line, LineKind, Usage};

const ZONE: Tz = chrono_tz::Europe::Berlin;

/// Every interval and anchor, fees in advance and in arrears, seats, tiers, included units, a price of its own interval.
pub(crate) const PLANS: &[&str] = &[
    "{name: a, prices: [{name: Fee, model: flat, amount: \"49.99\"}, {name: R, model: per_unit, meter: requests, unit_amount: \"0.37\"}]}",
    "{name: b, prices: [{name: Fee, model: flat, amount: \"17\", billed: in_arrears}, {name: R, model: graduated, meter: requests, included: 3, tiers: [{up_to: 5, unit_amount: 2, flat_amount: 1}, {unit_amount: \"0.5\"}]}]}",
    "{name: c, interval: year, prices: [{name: Fee, model: flat, amount: \"1200\"}, {name: R, model: per_unit, meter: requests, unit_amount: \"0.1\", interval: month}]}",
    "{name: d, interval: quarter, anchor: subscription, prices: [{name: Seats, model: flat, amount: \"30.01\", per_seat: true}, {name: R, model: package, meter: requests, amount: 3, package_size: 4}]}",
    "{name: e, interval: month, anchor: subscription, prices: [{name: Yearly, model: flat, amount: \"365\", interval: year}, {name: Seat, model: flat, amount: \"9.99\", per_seat: true, billed: in_arrears}]}",
    "{name: f, interval: week, prices: [{name: Fee, model: flat, amount: \"7\"}, {name: R, model: volume, meter: requests, tiers: [{up_to: 3, unit_amount: 2}, {unit_amount: 1}]}]}",
    BOUNDED,
];

/// A minimum of the price and one of the plan, a maximum and a cap: see [`World::bounded`].
const BOUNDED: &str = "{name: g, minimum: \"40\", spend_cap: \"60\", prices: [{name: Fee, model: flat, amount: \"12.34\", billed: in_arrears}, {name: R, model: per_unit, meter: requests, unit_amount: \"19.99\", minimum: \"5\", maximum: \"50\"}, {name: S, model: per_unit, meter: requests, unit_amount: \"3.03\"}]}";

#[derive(Debug, Clone)]
pub(crate) enum Act {
    Change(usize),
    Seats(i64),
    Pause,
    Resume,
    AddOn,
    RemoveAddOn,
    Cancel,
    /// What was paid in advance for the time after is not given back.
    CancelWithoutCredit,
    /// An invoice for the usage of the period so far.
    Threshold,
    Units(i64),
}

pub(crate) fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..PLANS.len()).prop_map(Act::Change),
        3 => (0_i64..6).prop_map(Act::Seats),
        2 => Just(Act::Pause),
        2 => Just(Act::Resume),
        1 => Just(Act::AddOn),
        1 => Just(Act::RemoveAddOn),
        1 => Just(Act::Cancel),
        1 => Just(Act::CancelWithoutCredit),
        3 => Just(Act::Threshold),
        1 => (1_i64..20).prop_map(Act::Units),
    ]
}

fn usd() -> Currency {
    "USD".parse().expect("a currency")
}

/// When a call happened, when it became known, and when it was taken back.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    at: DateTime<Utc>,
    known: DateTime<Utc>,
    gone: Option<DateTime<Utc>>,
}

/// The same in minutes, each since the one before.
#[derive(Debug, Clone)]
pub(crate) struct Minutes(i64, i64, Option<i64>);

impl Minutes {
    pub fn since(self, zero: DateTime<Utc>) -> Call {
        let after = |minutes| zero + TimeDelta::minutes(minutes);
        Call { at: after(self.0), known: after(self.0 + self.1), gone: self.2.map(|gone| after(self.0 + self.1 + gone)) }
    }
}

/// At most so many, in so many days; some weeks late, some taken back after weeks.
pub(crate) fn calls(days: i64, most: usize) -> impl Strategy<Value = Vec<Minutes>> {
    let (day, gone) = (24 * 60, prop::option::weighted(0.25, 0_i64..60 * 24 * 60));
    prop::collection::vec((0..days * day, 0..50 * day, gone).prop_map(|(at, late, gone)| Minutes(at, late, gone)), 0..most)
}

pub(crate) struct World {
    subscription: Subscription,
    paused: Option<PlanVersionId>,
    ids: Vec<PlanVersionId>,
    plans: Plans,
    calls: Vec<Call>,
    billed: Vec<BilledFee>,
    usage: Vec<BilledLine>,
    closed: Vec<Period>,
    pub total: i64,
    fee_lines: i64,
    /// Of what was paid in advance, what an end without credit kept.
    kept: BigDecimal,
    /// Units that were prepaid, what is left of them, and what they cover.
    granted: i64,
    purse: Vec<Prepaid>,
    covered: HashMap<Stretch, Covered>,
    /// Lines of each invoice, before discounts, credits and tax, that nobody has taken yet.
    pub documents: Vec<Vec<Line>>,
}

impl World {
    pub fn new(start: DateTime<Utc>, first: usize, calls: Vec<Call>) -> Self {
        let ids: Vec<_> = PLANS.iter().map(|_| PlanVersionId::new()).collect();
        let plan = |yaml: &&str| crate::catalog::parse_plan(yaml, usd()).expect("a plan").0;
        let subscription = Subscription {
            id: SubscriptionId::new(),
            consumer: ConsumerId::new(),
            product: "default".to_owned(),
            currency: "USD".to_owned(),
            started_at: start,
            ended_at: None,
            credit_at_end: true,
            paused: false,
            closed_until: None,
            phases: vec![phase(&ids[first], start, 1)],
            add_ons: Vec::new(),
        };
        let plans = ids.iter().cloned().zip(PLANS.iter().map(plan)).collect();
        Self {
            subscription,
            paused: None,
            ids,
            plans,
            calls,
            billed: Vec::new(),
            usage: Vec::new(),
            closed: Vec::new(),
            total: 0,
            fee_lines: 0,
            kept: BigDecimal::from(0),
            granted: 0,
            purse: Vec::new(),
            covered: HashMap::new(),
            documents: Vec::new(),
        }
    }

    /// The first plan is tried before it is paid for.
    fn with_trial(mut self, length: TimeDelta) -> Self {
        let mut paid = self.subscription.phases[0].clone();
        paid.from += length;
        self.subscription.phases[0].to = Some(paid.from);
        self.subscription.phases[0].trial = true;
        self.subscription.phases.push(paid);
        self
    }

    fn cut(&mut self, at: DateTime<Utc>) -> Option<Phase> {
        let current = self.subscription.at(at).cloned()?;
        self.subscription.phases.retain(|phase| phase.from < at);
        if let Some(last) = self.subscription.phases.last_mut().filter(|last| last.to.is_none_or(|to| to > at)) {
            last.to = Some(at);
        }
        Some(current)
    }

    /// What [`super::change`] does, without a store.
    pub fn act(&mut self, act: &Act, at: DateTime<Utc>) {
        if self.subscription.ended_at.is_some() || self.subscription.closed_until.is_some_and(|closed| at < closed) {
            return;
        }
        match act {
            Act::Change(n) => {
                if let Some(before) = self.cut(at) {
                    let mut next = phase(&self.ids[*n], at, 1);
                    next.quantity = before.quantity;
                    self.subscription.phases.push(next);
                }
            }
            Act::Seats(seats) => {
                if let Some(before) = self.cut(at) {
                    self.subscription.phases.push(phase(&before.plan_version, at, *seats));
                }
            }
            Act::Pause => self.paused = self.cut(at).map(|before| before.plan_version).or(self.paused.take()),
            Act::Resume => {
                if let Some(version) = self.paused.take() {
                    self.subscription.phases.push(phase(&version, at, 2));
                }
            }
            Act::AddOn => {
                let price = "{name: Extra, model: flat, amount: \"5.55\", per_seat: true}";
                let price = crate::catalog::parse_price(price, usd()).expect("a price");
                let beside = self.subscription.phases.last().expect("it began").plan_version.clone();
                let quantity = BigDecimal::from(3);
                self.subscription.add_ons.push(AddOn { id: AddOnId::new(), price, beside, quantity, from: at, to: None });
            }
            Act::RemoveAddOn => {
                if let Some(open) = self.subscription.add_ons.iter_mut().find(|own| own.to.is_none() && own.from < at) {
                    open.to = Some(at);
                }
            }
            Act::Cancel | Act::CancelWithoutCredit => {
                if matches!(act, Act::CancelWithoutCredit) {
                    self.kept = self.paid_ahead(at);
                    self.subscription.credit_at_end = false;
                }
                self.cut(at);
                self.paused = None;
                self.subscription.ended_at = Some(at);
            }
            Act::Threshold => self.threshold(at),
            Act::Units(units) => {
                let grant = self.purse.len().to_string();
                self.purse.push(Prepaid { grant, meter: "requests".to_owned(), left: (*units).into() });
                self.granted += units;
            }
        }
    }

    fn cycle<'a>(&self, period: Period, next: Period, plans: &'a BTreeMap<Source, PlanDefinition>) -> Cycle<'a> {
        Cycle {
            currency: usd(),
            zone: ZONE,
            anchor: self.subscription.started_at,
            period,
            next,
            parts: parts(&self.subscription),
            interim: false,
            keep_after: self.subscription.ended_at.filter(|_| !self.subscription.credit_at_end),
            billed: self.billed.clone(),
            plans,
        }
    }

    fn count(&self, wanted: &Wanted, known: DateTime<Utc>) -> Usage {
        let there = |call: &&Call| call.known <= known && call.gone.is_none_or(|gone| gone > known);
        let calls = self.calls.iter().filter(|call| wanted.stretch.contains(call.at)).filter(there).count();
        Usage::of(BigDecimal::from(calls as u64))
    }

    fn used(&self, cycle: &Cycle, known: DateTime<Utc>) -> BTreeMap<UsedKey, Usage> {
        cycle::wanted(cycle).expect("in the calendar").into_iter().map(|wanted| (wanted.key(), self.count(&wanted, known))).collect()
    }

    /// What was counted, and covered as far as there are units: what is taken stays noted.
    fn used_and_covered(&mut self, cycle: &Cycle, known: DateTime<Utc>) -> BTreeMap<UsedKey, Usage> {
        let mut used = self.used(cycle, known);
        for taken in cover(&cycle::wanted(cycle).expect("in the calendar"), &mut used, &mut self.purse, &self.covered) {
            if taken.units < BigDecimal::from(0) {
                let grant = self.purse.iter_mut().find(|own| own.grant == taken.grant).expect("its grant");
                grant.left -= &taken.units;
            }
            let own = self.covered.entry(taken.stretch).or_default();
            own.units += &taken.units;
            match own.taken.iter_mut().find(|(grant, _)| *grant == taken.grant) {
                Some((_, sum)) => *sum += &taken.units,
                None => own.taken.push((taken.grant, taken.units)),
            }
        }
        used
    }

    /// Of fees that were billed in advance, what is for the time after `at` of what is then in force.
    fn paid_ahead(&self, at: DateTime<Utc>) -> BigDecimal {
        let plans = sources(&self.subscription, &self.plans);
        let mut ahead = BigDecimal::from(0);
        for part in parts(&self.subscription).iter().filter(|part| part.stretch.start < at && part.stretch.end >= at) {
            let plan = &plans[&part.source];
            for (price, amount, _) in fees(plan) {
                let quantity = if price.per_seat { part.quantity.clone() } else { BigDecimal::from(1) };
                for fee in self.billed.iter().filter(|fee| fee.source == part.source && fee.price == price.name) {
                    let Some(after) = fee.stretch.intersect(&Period { start: at, end: cycle::FOREVER }) else { continue };
                    if fee.quantity.abs() == quantity {
                        let of = schedule(self.subscription.started_at, plan, price.interval.unwrap_or(plan.interval));
                        let whole = of.period_of(fee.stretch.start).expect("in the calendar");
                        ahead += amount.get(usd()).expect("usd") * &fee.quantity * seconds(after) / seconds(whole);
                    }
                }
            }
        }
        ahead
    }

    /// What an invoice within the period bills, as [`crate::close`] gathers it.
    fn threshold(&mut self, at: DateTime<Utc>) {
        let (mut period, next) = self.subscription.next_period(&self.plans, ZONE, None).expect("in the calendar");
        if period.start >= at || !period.contains(at) {
            return;
        }
        period.end = at;
        let plans = sources(&self.subscription, &self.plans);
        let mut cycle = self.cycle(period, next, &plans);
        cycle.interim = true;
        for part in &mut cycle.parts {
            part.stretch.end = part.stretch.end.min(at);
        }
        cycle.parts.retain(|part| part.stretch.start < part.stretch.end);
        let used = self.used_and_covered(&cycle, at);
        let lines = cycle::usage_lines(&cycle, &used).expect("rates");
        self.documents.push(Vec::new());
        self.bill(lines, period);
    }

    /// Usage of a period, less what is billed of it.
    fn bill(&mut self, whole: Vec<CycleLine>, period: Period) {
        for continued in less_billed(whole, &self.billed_of(period)).expect("rates") {
            let kind = continued.line.kind;
            self.note_usage(continued.source, kind, continued.line);
        }
    }

    fn billed_of(&self, period: Period) -> Vec<BilledLine> {
        self.usage.iter().filter(|own| own.line.period.end > period.start && own.line.period.end <= period.end).cloned().collect()
    }

    fn note_usage(&mut self, source: Source, kind: LineKind, line: Line) {
        self.total += line.amount.minor;
        if let Some(document) = self.documents.last_mut() {
            document.push(line.clone());
        }
        self.usage.push(BilledLine { source, kind, line, first: InvoiceLineId::new(), number: "N".to_owned() });
    }

    /// Invoices every period that is over, and corrects those that were.
    pub fn close(&mut self, now: DateTime<Utc>) {
        for _ in 0..1000 {
            let (period, next) = self.subscription.next_period(&self.plans, ZONE, None).expect("in the calendar");
            if period.end > now {
                break;
            }
            let plans = sources(&self.subscription, &self.plans);
            let cycle = self.cycle(period, next, &plans);
            let fees = cycle::fee_lines(&cycle).expect("rates");
            let used = self.used_and_covered(&cycle, now);
            let usage = cycle::usage_lines(&cycle, &used).expect("rates");
            self.documents.push(fees.iter().map(|fee| fee.line.clone()).collect());
            for CycleLine { source, line } in fees {
                self.total += line.amount.minor;
                self.fee_lines += 1;
                self.billed.push(BilledFee { source, price: line.price.expect("a price"), stretch: line.period, quantity: line.quantity });
            }
            self.bill(usage, period);
            self.subscription.closed_until = Some(period.end);
            self.closed.push(period);
            if self.subscription.ended_at.is_some_and(|end| end <= period.end)
                && !self.billed.iter().any(|fee| fee.stretch.end > period.end)
            {
                break;
            }
        }
        self.documents.push(Vec::new());
        for period in self.closed.clone() {
            let plans = sources(&self.subscription, &self.plans);
            let cycle = self.cycle(period, period, &plans);
            let used = self.used_and_covered(&cycle, now);
            let whole = cycle::usage_lines(&cycle, &used).expect("rates");
            for correction in corrections(whole, &self.billed_of(period)).expect("rates") {
                let kind = correction.of.expect("a kind");
                self.note_usage(correction.source, kind, correction.line);
            }
        }
    }

    /// What everything is worth by definition: exact fees, and usage in minor units.
    fn worth(&self, until: DateTime<Utc>) -> (BigDecimal, i64) {
        let plans = sources(&self.subscription, &self.plans);
        let (mut exact, mut used) = (self.kept.clone(), 0);
        let whole = Period { start: self.subscription.started_at, end: until };
        for part in parts(&self.subscription).into_iter().filter(|part| !part.trial) {
            let plan = &plans[&part.source];
            for (price, amount, _) in fees(plan) {
                let quantity = if price.per_seat { part.quantity.clone() } else { BigDecimal::from(1) };
                let each = amount.get(usd()).expect("usd") * &quantity;
                for of in periods(self.subscription.started_at, plan, price.interval.unwrap_or(plan.interval), whole) {
                    if let Some(inside) = part.stretch.intersect(&of).and_then(|inside| inside.intersect(&whole)) {
                        exact += &each * seconds(inside) / seconds(of);
                    }
                }
            }
        }
        // Usage is rated by the plan's own stretches, whatever the seats did within them.
        for period in &self.closed {
            let cycle = self.cycle(*period, *period, &plans);
            let mut counted = self.used(&cycle, until);
            for wanted in cycle::wanted(&cycle).expect("in the calendar") {
                let own = counted.get_mut(&wanted.key()).expect("was counted");
                // A trial is free, whatever was called in it.
                if self
                    .subscription
                    .phases
                    .iter()
                    .any(|phase| phase.trial && phase.from <= wanted.stretch.start && phase.to > Some(wanted.stretch.start))
                {
                    own.value = BigDecimal::from(0);
                }
                let covers = self.covered.get(&stretch_of(&wanted)).map(|own| own.units.clone()).unwrap_or_default();
                own.prepaid = (&own.value - &wanted.price.included.0).max(BigDecimal::from(0)).min(covers);
            }
            let lines = cycle::usage_lines(&cycle, &counted).expect("rates");
            used += lines.iter().map(|l| l.line.amount.minor).sum::<i64>();
        }
        (exact, used)
    }

    /// What usage on [`BOUNDED`] is worth, by hand.
    fn bounded(&self, until: DateTime<Utc>) -> i64 {
        let plans = sources(&self.subscription, &self.plans);
        let source = Source::Plan(self.ids[PLANS.len() - 1].clone());
        let mut sum = 0;
        for period in &self.closed {
            let cycle = self.cycle(*period, *period, &plans);
            let mut stretches: Vec<Period> = Vec::new();
            for part in parts(&self.subscription).iter().filter(|part| part.source == source && !part.trial) {
                match stretches.last_mut() {
                    Some(before) if before.end == part.stretch.start => before.end = part.stretch.end,
                    _ => stretches.push(part.stretch),
                }
            }
            for stretch in stretches.iter().filter_map(|stretch| stretch.intersect(period)) {
                let month = schedule(self.subscription.started_at, &plans[&source], Interval::Month);
                let month = month.period_of(stretch.start).expect("in the calendar");
                let share = |minor: i64, of: Period, whole: Period| {
                    Money::round(&(BigDecimal::from(minor) * seconds(of) / seconds(whole) / BigDecimal::from(100)), usd())
                        .expect("small")
                        .minor
                };
                let wanted = cycle::wanted(&cycle).expect("in the calendar");
                let own = wanted.iter().filter(|own| own.source == source && own.stretch.intersect(&stretch).is_some());
                let usage: i64 = own
                    .map(|own| {
                        let calls = self.count(own, until).value;
                        let covers = self.covered.get(&stretch_of(own)).map(|own| own.units.clone()).unwrap_or_default();
                        let charged: i64 = (&calls - calls.clone().min(covers)).to_string().parse().expect("whole calls");
                        match own.price.name.as_str() {
                            "R" => (charged * 1999).max(share(500, own.stretch, own.of)).min(5000),
                            _ => charged * 303,
                        }
                    })
                    .sum();
                let capped = usage.min(6000);
                let fees: i64 = parts(&self.subscription)
                    .iter()
                    .filter(|part| part.source == source && !part.trial)
                    .filter_map(|part| part.stretch.intersect(&stretch))
                    .map(|inside| share(1234, inside, month))
                    .sum();
                sum += capped + (share(4000, stretch, month) - capped - fees).max(0);
            }
        }
        sum
    }
}

fn seconds(period: Period) -> BigDecimal {
    BigDecimal::from((period.end - period.start).num_seconds())
}

fn schedule(anchor: DateTime<Utc>, plan: &PlanDefinition, interval: Interval) -> Schedule {
    Schedule { interval, anchor: (plan.anchor == Anchor::Subscription).then_some(anchor), zone: ZONE }
}

fn periods(anchor: DateTime<Utc>, plan: &PlanDefinition, interval: Interval, range: Period) -> Vec<Period> {
    let schedule = schedule(anchor, plan, interval);
    let (mut found, mut at) = (Vec::new(), range.start);
    while at < range.end {
        let period = schedule.period_of(at).expect("in the calendar");
        at = period.end;
        found.push(period);
    }
    found
}

fn phase(version: &PlanVersionId, from: DateTime<Utc>, quantity: i64) -> Phase {
    let (plan, quantity) = (version.to_string(), BigDecimal::from(quantity));
    Phase { plan_version: version.clone(), plan, version: 1, from, to: None, trial: false, quantity }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn all_documents_come_to_what_it_was_worth(
        first in 0..PLANS.len(), start in 0_i64..60 * 24 * 60, trial in prop::option::of(1_i64..40 * 24 * 60),
        acts in prop::collection::vec((1_i64..40 * 24 * 60, act()), 0..10),
        calls in calls(400, 60),
    ) {
        let zero: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().expect("a time");
        let start = zero + TimeDelta::minutes(start);
        let calls = calls.into_iter().map(|call| call.since(zero)).collect();
        let mut world = World::new(start, first, calls);
        if let Some(minutes) = trial {
            world = world.with_trial(TimeDelta::minutes(minutes));
        }
        let mut at = start;
        for (after, act) in acts {
            at += TimeDelta::minutes(after);
            world.close(at - TimeDelta::minutes(1));
            world.act(&act, at);
        }
        world.act(&Act::Cancel, at + TimeDelta::days(20));
        let end = zero + TimeDelta::days(900);
        world.close(end);
        // Once more, when everything is long known: units that one stretch gave back cover another, and then nothing is left to say.
        let state = |world: &World| (world.total, world.purse.clone());
        for _ in 0..100 {
            let before = state(&world);
            world.close(end);
            if state(&world) == before {
                break;
            }
        }
        let before = state(&world);
        world.close(end);
        prop_assert_eq!(state(&world), before);
        let (left, covers): (BigDecimal, BigDecimal) =
            (world.purse.iter().map(|own| own.left.clone()).sum(), world.covered.values().map(|own| own.units.clone()).sum());
        prop_assert_eq!(left + covers, BigDecimal::from(world.granted));
        let (exact, used) = world.worth(end);
        let billed_fees = world.total - world.usage.iter().map(|l| l.line.amount.minor).sum::<i64>();
        let billed_usage = world.total - billed_fees;
        prop_assert_eq!(billed_usage, used);
        let last = Source::Plan(world.ids[PLANS.len() - 1].clone());
        let on_last = world.usage.iter().filter(|own| own.source == last).map(|own| own.line.amount.minor).sum::<i64>();
        prop_assert_eq!(on_last, world.bounded(end));
        let off = BigDecimal::from(billed_fees) - exact * BigDecimal::from(100);
        prop_assert!(off.abs() * BigDecimal::from(2) <= BigDecimal::from(world.fee_lines), "{billed_fees} is off by {off} in {} lines", world.fee_lines);
        prop_assert!(Money::new(world.total, usd()).minor >= 0);
    }
}
