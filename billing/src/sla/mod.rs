//! Service credits: a plan may promise something of the service in each period, measured by meters. Where it is not
//! kept, a share of what the period costs is given back, as a line of the same invoice with the evidence sealed in it.
//!
//! What is measured is what the subscription's own calls met. It is decided when the period is invoiced; calls that come
//! later change usage, not the credit.

mod again;
mod judge;

use std::collections::BTreeMap;

use farebox_core::ids::SubscriptionId;
use farebox_core::money::{BigDecimal, Money, decimal_string};
use farebox_core::period::Period;
use farebox_metering::proof::{self, Proof};
use farebox_metering::usage;
use serde::{Deserialize, Serialize};

pub(crate) use again::audit;

use crate::BillingError;
use crate::gather::{Counter, Counting, GatheredLine};
use crate::proofs::Sealed;
use crate::rating::cycle::{self, Cycle, Source, UsedKey};
use crate::rating::plan::{Measure, Promise};
use crate::rating::{Line, LineKind, RatingError, Usage};
use crate::subscriptions::Subscription;

/// What is sealed with the line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub promise: Promise,
    /// What was measured, each meter with its query and count.
    pub measured: Vec<Proof>,
    /// What the period costs by the plan that promised.
    #[serde(with = "decimal_string")]
    pub cost: BigDecimal,
}

/// The credits of a period, one line for each promise that was not kept.
pub(crate) async fn lines(
    counter: &Counter,
    subscription: &Subscription,
    cycle: &Cycle<'_>,
    used: &BTreeMap<UsedKey, Usage>,
    counting: Counting,
) -> Result<Vec<GatheredLine>, BillingError> {
    let mut found = Vec::new();
    if cycle.plans.values().all(|plan| plan.sla.is_empty()) {
        return Ok(found);
    }
    let worth = cycle::worth(cycle, used)?;
    for (source, plan) in cycle.plans.iter().filter(|(_, plan)| !plan.sla.is_empty()) {
        let own = worth.iter().filter(|line| line.source == *source).map(|line| line.line.amount);
        let cost = Money::sum(own, cycle.currency)?;
        let mut left = cost;
        let Some(stretch) = stretch(cycle, source) else { continue };
        // Attribution itself keeps to the time the subscription was in force: with one plan alone it is the same question for all
        // that are invoiced together.
        let alone = cycle.parts.iter().all(|part| !part.trial && (part.source == *source || !matches!(part.source, Source::Plan(_))));
        let shared = counting == Counting::Proven && alone;
        let asked = Asked { counter, id: &subscription.id, stretch, shared: shared.then_some(cycle.period) };
        for promise in &plan.sla {
            // A proof reads raw events: only what is given back for needs one.
            let mut measured = asked.measure(promise, Counting::Quick).await?;
            let kept = judge::broken(promise, &measured.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>()).is_none();
            if kept {
                continue;
            }
            if counting == Counting::Proven {
                measured = asked.measure(promise, counting).await?;
            }
            let values: Vec<_> = measured.iter().map(|(_, value)| value.clone()).collect();
            let Some(broken) = judge::broken(promise, &values) else { continue };
            let share = Money::round(&(cost.to_decimal() * &broken.share.0), cycle.currency).map_err(RatingError::from)?;
            // No more is given back than the period costs.
            let back = Money::new(share.minor.min(left.minor), cycle.currency);
            if back.minor <= 0 {
                continue;
            }
            left = left.checked_sub(back)?;
            let line = line(promise, &values, broken, cost, back, stretch)?;
            let measured = measured.into_iter().filter_map(|(proof, _)| proof).collect();
            let evidence = Evidence { promise: promise.clone(), measured, cost: cost.to_decimal() };
            let proof = if counting == Counting::Proven { Some(Sealed::evidence(&evidence)?) } else { None };
            found.push(GatheredLine { source: Some(source.clone()), line, proof, adjusts: None, of: None });
        }
    }
    Ok(found)
}

/// From when until when in the period the plan was in force and charged. What lies between two parts of it has no calls
/// of the subscription.
fn stretch(cycle: &Cycle<'_>, source: &Source) -> Option<Period> {
    let own = cycle.parts.iter().filter(|part| part.source == *source && !part.trial);
    let parts: Vec<_> = own.filter_map(|part| part.stretch.intersect(&cycle.period)).collect();
    Some(Period { start: parts.first()?.start, end: parts.last()?.end })
}

/// One subscription's question.
struct Asked<'a> {
    counter: &'a Counter,
    id: &'a SubscriptionId,
    stretch: Period,
    /// The period over which many ask the same, without proof.
    shared: Option<Period>,
}

impl Asked<'_> {
    /// The values of the promise's meters, in its order; with proof where the line is sealed.
    async fn measure(&self, promise: &Promise, counting: Counting) -> Result<Vec<(Option<Proof>, BigDecimal)>, BillingError> {
        let (app, ws, id) = (&self.counter.app, &self.counter.ws, self.id);
        let meters: Vec<&str> = match &promise.measure {
            Measure::Share { good, of } => vec![good, of],
            Measure::Value { meter } => vec![meter],
        };
        let mut found = Vec::with_capacity(meters.len());
        for meter in meters {
            found.push(match (counting, self.shared) {
                (Counting::Proven, _) => {
                    let proof = proof::of(app, ws, id, meter, self.stretch).await?;
                    let value = proof.value.clone();
                    (Some(proof), value)
                }
                (Counting::Quick, Some(period)) => (None, self.counter.shared_total(id, meter, period).await?),
                (Counting::Quick, None) => (None, usage::total(app, ws, meter, id, self.stretch).await?),
            });
        }
        Ok(found)
    }
}

fn line(
    promise: &Promise,
    values: &[BigDecimal],
    broken: &crate::rating::plan::Credit,
    cost: Money,
    back: Money,
    period: Period,
) -> Result<Line, BillingError> {
    Ok(Line {
        kind: LineKind::ServiceCredit,
        name: format!("{}, not as promised", promise.name),
        price: None,
        meter: None,
        value: None,
        period,
        quantity: BigDecimal::from(1),
        amount: Money::zero(back.currency).checked_sub(back)?,
        explanation: judge::words(promise, values, broken, cost, back),
        counts_to_minimum: false,
        basis: None,
        alert: None,
    })
}
