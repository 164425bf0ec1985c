//! Random histories of a subscription against a model: whatever changes when, and however late usage becomes known or is taken back, all
//! documents together come to what fees and usage are worth by definition, within half a minor unit for each fee line.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::ids::{AddOnId, ConsumerId, InvoiceLineId, PlanVersionId, SubscriptionId};
use farebox_core::money::{BigDecimal, Currency, Money};
use farebox_core::period::Period;
use proptest::prelude::*;

use super::{AddOn, Phase, Plans, Subscription};
use crate::gather::{parts, sources};
use crate::rating::cycle::{self, BilledFee, Cycle, CycleLine, Source, UsedKey, Wanted};
use crate::rating::difference::{BilledLine, corrections};
use crate::rating::lines::fees;
use crate::rating::plan::{Anchor, PlanDefinition};
use crate::rating::schedule::Schedule;
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
];

#[derive(Debug, Clone)]
pub(crate) enum Act {
    Change(usize),
    Seats(i64),
    Pause,
    Resume,
    AddOn,
    RemoveAddOn,
    Cancel,
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
        let (billed, usage, closed) = (Vec::new(), Vec::new(), Vec::new());
        Self { subscription, paused: None, ids, plans, calls, billed, usage, closed, total: 0, fee_lines: 0, documents: Vec::new() }
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
            Act::Cancel => {
                self.cut(at);
                self.paused = None;
                self.subscription.ended_at = Some(at);
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
            keep_after: None,
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
            let used = self.used(&cycle, now);
            let usage = cycle::usage_lines(&cycle, &used).expect("rates");
            self.documents.push(fees.iter().map(|fee| fee.line.clone()).collect());
            for CycleLine { source, line } in fees {
                self.total += line.amount.minor;
                self.fee_lines += 1;
                self.billed.push(BilledFee { source, price: line.price.expect("a price"), stretch: line.period, quantity: line.quantity });
            }
            for CycleLine { source, line } in usage {
                self.note_usage(source, LineKind::Usage, line);
            }
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
            let whole = cycle::usage_lines(&cycle, &self.used(&cycle, now)).expect("rates");
            let of: Vec<_> =
                self.usage.iter().filter(|l| l.line.period.end > period.start && l.line.period.end <= period.end).cloned().collect();
            for correction in corrections(whole, &of).expect("rates") {
                let kind = correction.of.expect("a kind");
                self.note_usage(correction.source, kind, correction.line);
            }
        }
    }

    /// What everything is worth by definition: exact fees, and usage in minor units.
    fn worth(&self, until: DateTime<Utc>) -> (BigDecimal, i64) {
        let plans = sources(&self.subscription, &self.plans);
        let (mut exact, mut used) = (BigDecimal::from(0), 0);
        let whole = Period { start: self.subscription.started_at, end: until };
        for part in parts(&self.subscription) {
            let plan = &plans[&part.source];
            for (price, amount, _) in fees(plan) {
                let quantity = if price.per_seat { part.quantity.clone() } else { BigDecimal::from(1) };
                let each = amount.get(usd()).expect("usd") * &quantity;
                for of in periods(self.subscription.started_at, plan, price.interval.unwrap_or(plan.interval), whole) {
                    if let Some(inside) = part.stretch.intersect(&of).and_then(|inside| inside.intersect(&whole)) {
                        let seconds = |p: Period| BigDecimal::from((p.end - p.start).num_seconds());
                        exact += &each * seconds(inside) / seconds(of);
                    }
                }
            }
        }
        // Usage is rated by the plan's own stretches, whatever the seats did within them.
        for period in &self.closed {
            let cycle = self.cycle(*period, *period, &plans);
            let lines = cycle::usage_lines(&cycle, &self.used(&cycle, until)).expect("rates");
            used += lines.iter().map(|l| l.line.amount.minor).sum::<i64>();
        }
        (exact, used)
    }
}

fn periods(anchor: DateTime<Utc>, plan: &PlanDefinition, interval: crate::rating::plan::Interval, range: Period) -> Vec<Period> {
    let schedule = Schedule { interval, anchor: (plan.anchor == Anchor::Subscription).then_some(anchor), zone: ZONE };
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
        first in 0..PLANS.len(), start in 0_i64..60 * 24 * 60,
        acts in prop::collection::vec((1_i64..40 * 24 * 60, act()), 0..10),
        calls in calls(400, 60),
    ) {
        let zero: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().expect("a time");
        let start = zero + TimeDelta::minutes(start);
        let calls = calls.into_iter().map(|call| call.since(zero)).collect();
        let mut world = World::new(start, first, calls);
        let mut at = start;
        for (after, act) in acts {
            at += TimeDelta::minutes(after);
            world.close(at - TimeDelta::minutes(1));
            world.act(&act, at);
        }
        world.act(&Act::Cancel, at + TimeDelta::days(20));
        let end = zero + TimeDelta::days(900);
        world.close(end);
        // Once more, when everything is long known: nothing is left to say.
        let before = world.total;
        world.close(end);
        prop_assert_eq!(world.total, before);
        let (exact, used) = world.worth(end);
        let billed_fees = world.total - world.usage.iter().map(|l| l.line.amount.minor).sum::<i64>();
        let billed_usage = world.total - billed_fees;
        prop_assert_eq!(billed_usage, used);
        let off = BigDecimal::from(billed_fees) - exact * BigDecimal::from(100);
        prop_assert!(off.abs() * BigDecimal::from(2) <= BigDecimal::from(world.fee_lines), "{billed_fees} is off by {off} in {} lines", world.fee_lines);
        prop_assert!(Money::new(world.total, usd()).minor >= 0);
    }
}
