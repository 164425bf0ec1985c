//! What a subscription's period costs: phases and add-ons, usage with its proof, fees billed before; rated by pure
//! functions, and [`assemble`]d with discounts, credits and tax. Serves the close (sealed, from raw events) and the preview
//! (quick, from rollups) alike.
//!
//! What is known of subscriptions is read for many at once ([`Records`], [`Accounts`]) and what is counted for many is asked
//! once ([`Counter`]), so that a month of a hundred thousand subscriptions is not a million questions.

mod accounts;
mod assemble;
mod billed;
mod count;
mod counter;
mod late;
mod records;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use farebox_core::ids::{InvoiceLineId, PlanVersionId, SubscriptionId};
use farebox_core::money::Currency;
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use futures::future::try_join_all;

pub(crate) use accounts::Accounts;
pub(crate) use assemble::{Assembled, Beside, Portion, assemble};
pub(crate) use count::{count_usage, recount};
pub(crate) use counter::Counter;
pub(crate) use late::{Counted, Late, corrections, note, with_corrections};
pub(crate) use records::Records;

use crate::left_out::LeftOut;
use crate::proofs::Sealed;
use crate::rating::cycle::{self, BilledFee, Cycle, CycleLine, FOREVER, Part, Source, UsedKey};
use crate::rating::difference::{Continued, less_billed};
use crate::rating::plan::Terms;
use crate::rating::units::Taken;
use crate::rating::{Line, LineKind, PlanDefinition, Usage};
use crate::subscriptions::Subscription;
use crate::units::Purse;
use crate::{BillingError, sla};

/// Where quantities come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// From raw events, each with the proof that is sealed with its line.
    Proven,
    /// From rollups and the raw tail: equal, faster, without proof.
    Quick,
}

/// The period of an invoice and the one after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub period: Period,
    pub next: Period,
}

/// A rated line with what is stored beside it.
#[derive(Debug, Clone)]
pub struct GatheredLine {
    /// None for what is not of a price: carried over from other invoices.
    pub source: Option<Source>,
    pub line: Line,
    pub proof: Option<Sealed>,
    /// The first line that billed what this one corrects or continues.
    pub adjusts: Option<InvoiceLineId>,
    /// Of an adjustment: what kind of line it would have been in its period.
    pub of: Option<LineKind>,
}

impl From<CycleLine> for GatheredLine {
    fn from(CycleLine { source, line }: CycleLine) -> Self {
        Self { source: Some(source), line, proof: None, adjusts: None, of: None }
    }
}

#[derive(Debug, Clone)]
pub struct Gathered {
    pub currency: Currency,
    pub lines: Vec<GatheredLine>,
    /// Of the plan in force last.
    pub terms: Terms,
    /// Names of the plans in force in the period.
    pub plans: Vec<String>,
    /// What was counted with proof, to be noted with the invoice.
    pub counted: Vec<Counted>,
    /// What is taken of prepaid units, and for whose usage.
    pub units: Vec<(SubscriptionId, Taken)>,
    /// Calls of the period that are in no line.
    pub left_out: LeftOut,
}

/// The whole invoice of a period.
pub async fn gather(
    counter: &Counter,
    records: &Records,
    workspace: &Workspace,
    subscription: &Subscription,
    span: Span,
    counting: Counting,
    purse: &mut Purse,
) -> Result<Gathered, BillingError> {
    let fees = records.fees(subscription, span.period);
    let definitions = records.definitions(subscription, &fees);
    let cycle = cycle_of(workspace, subscription, span, fees, &definitions)?;
    let mut noted = Vec::new();
    let mut lines: Vec<_> = cycle::fee_lines(&cycle)?.into_iter().map(GatheredLine::from).collect();
    let mut counted = count_all(counter, subscription, &cycle, counting, &mut noted).await?;
    // What is older is covered first.
    let mut units = Vec::new();
    let late = Late { purse, noted: &mut noted, units: &mut units };
    let corrections = late::corrections(counter, records, workspace, subscription, counting, late).await?;
    units.extend(cover(records, subscription, &cycle, &mut counted, purse)?);
    lines.extend(usage(records, workspace, subscription, &cycle, &counted)?);
    lines.extend(sla::lines(counter, subscription, &cycle, &counted.used, counting).await?);
    lines.extend(corrections);
    let left_out = left_out(counter, subscription, &cycle).await?;
    Ok(Gathered { left_out, ..gathered(subscription, &cycle, lines, noted, units) })
}

/// Nothing where no price follows the rule: there each call is in a line, or is of no meter at all.
async fn left_out(counter: &Counter, subscription: &Subscription, cycle: &Cycle<'_>) -> Result<LeftOut, BillingError> {
    for wanted in cycle::wanted(cycle)? {
        if counter.follows_rule(&wanted.meter).await? {
            return Ok(counter.left_out(&subscription.id, cycle.period).await?);
        }
    }
    Ok(LeftOut::default())
}

/// Covers what was counted with prepaid units, as far as there are.
fn cover(
    records: &Records,
    subscription: &Subscription,
    cycle: &Cycle<'_>,
    counted: &mut CountedAll,
    purse: &mut Purse,
) -> Result<Vec<(SubscriptionId, Taken)>, BillingError> {
    let covers = records.covers(subscription);
    let taken = purse.cover(subscription, cycle.period.end, &cycle::wanted(cycle)?, &mut counted.used, &covers);
    Ok(taken.into_iter().map(|taken| (subscription.id.clone(), taken)).collect())
}

/// The usage of a period so far, until `at`, that is not billed yet: for an invoice within the period.
#[expect(clippy::too_many_arguments, reason = "those of `gather`, and until when")]
pub async fn gather_until(
    counter: &Counter,
    records: &Records,
    workspace: &Workspace,
    subscription: &Subscription,
    span: Span,
    at: DateTime<Utc>,
    counting: Counting,
    purse: &mut Purse,
) -> Result<Gathered, BillingError> {
    let definitions = records.definitions(subscription, &[]);
    let so_far = Span { period: Period { start: span.period.start, end: at }, next: span.next };
    let mut cycle = cycle_of(workspace, subscription, so_far, Vec::new(), &definitions)?;
    cycle.interim = true;
    for part in &mut cycle.parts {
        part.stretch.end = part.stretch.end.min(at);
    }
    cycle.parts.retain(|part| part.stretch.start < part.stretch.end);
    let mut noted = Vec::new();
    let mut counted = count_all(counter, subscription, &cycle, counting, &mut noted).await?;
    let units = cover(records, subscription, &cycle, &mut counted, purse)?;
    let mut lines = usage(records, workspace, subscription, &cycle, &counted)?;
    lines.retain(|line| !line.line.amount.is_zero());
    Ok(gathered(subscription, &cycle, lines, noted, units))
}

fn gathered(
    subscription: &Subscription,
    cycle: &Cycle,
    lines: Vec<GatheredLine>,
    counted: Vec<Counted>,
    units: Vec<(SubscriptionId, Taken)>,
) -> Gathered {
    let last = cycle.parts.iter().rfind(|part| part.stretch.start < cycle.period.end && matches!(part.source, Source::Plan(_)));
    let terms = last.and_then(|part| cycle.plans.get(&part.source)).map(|plan| plan.terms.clone()).unwrap_or_default();
    let in_force = subscription.phases.iter().filter(|phase| phase.is_in_force_in(cycle.period));
    let plans = in_force.map(|phase| phase.plan.clone()).collect();
    Gathered { currency: cycle.currency, lines, terms, plans, counted, units, left_out: LeftOut::default() }
}

/// The usage lines of a period, less what earlier invoices have of it.
fn usage(
    records: &Records,
    workspace: &Workspace,
    subscription: &Subscription,
    cycle: &Cycle<'_>,
    counted: &CountedAll,
) -> Result<Vec<GatheredLine>, BillingError> {
    let whole = cycle::usage_lines(cycle, &counted.used)?;
    for CycleLine { line, .. } in &whole {
        if let Some(alert) = &line.alert {
            tracing::warn!(workspace = workspace.name, subscription = %subscription.id, "{alert}");
        }
    }
    let billed = records.billed(subscription, cycle.period);
    Ok(less_billed(whole, &billed)?.into_iter().map(|continued| counted.with_proof(continued)).collect())
}

struct CountedAll {
    used: BTreeMap<UsedKey, Usage>,
    proofs: BTreeMap<(UsedKey, Option<String>), Sealed>,
}

impl CountedAll {
    fn with_proof(&self, continued: Continued) -> GatheredLine {
        let Continued { source, line, adjusts, of } = continued;
        let key = (source.clone(), line.price.clone().unwrap_or_default(), line.period.start);
        let proof = self.proofs.get(&(key, line.value.clone())).cloned().filter(|_| line.basis.is_some());
        GatheredLine { source: Some(source), line, proof, adjusts, of }
    }
}

const COUNTS_AT_ONCE: usize = 4;

/// Counts everything the period wants. With proof, the state of the events is taken first: what comes later is late.
async fn count_all(
    counter: &Counter,
    subscription: &Subscription,
    cycle: &Cycle<'_>,
    counting: Counting,
    noted: &mut Vec<Counted>,
) -> Result<CountedAll, BillingError> {
    let wanted = cycle::wanted(cycle)?;
    if counting == Counting::Proven && !cycle.interim {
        let counted = late::counted(&wanted, cycle.period);
        let state = counter.state(counted).await?;
        noted.push(Counted { subscription: subscription.id.clone(), period: cycle.period, from: counted.start, state });
    }
    let mut all = CountedAll { used: BTreeMap::new(), proofs: BTreeMap::new() };
    // Each asks the engine, and a plan has many prices.
    for some in wanted.chunks(COUNTS_AT_ONCE) {
        let mut asked = Vec::with_capacity(some.len());
        for wanted in some {
            asked.push(count::count(counter, subscription, wanted, cycle.currency, counting));
        }
        for (wanted, counted) in some.iter().zip(try_join_all(asked).await?) {
            for (value, proof) in counted.proofs {
                all.proofs.insert((wanted.key(), value), proof);
            }
            all.used.insert(wanted.key(), counted.usage);
        }
    }
    Ok(all)
}

/// The subscription's cycle, as the pure functions rate it.
pub(crate) fn cycle_of<'a>(
    workspace: &Workspace,
    subscription: &Subscription,
    span: Span,
    billed: Vec<BilledFee>,
    plans: &'a BTreeMap<Source, PlanDefinition>,
) -> Result<Cycle<'a>, BillingError> {
    Ok(Cycle {
        currency: subscription.currency.parse().map_err(|e| BillingError::unreadable("a subscription", e))?,
        zone: workspace.time_zone,
        anchor: subscription.started_at,
        period: span.period,
        next: span.next,
        parts: parts(subscription),
        interim: false,
        keep_after: subscription.ended_at.filter(|_| !subscription.credit_at_end),
        billed,
        plans,
    })
}

/// Phases, and add-ons as far as the subscription is in force.
pub(crate) fn parts(subscription: &Subscription) -> Vec<Part> {
    let mut parts = Vec::new();
    for phase in &subscription.phases {
        let stretch = Period { start: phase.from, end: phase.to.unwrap_or(FOREVER) };
        let source = Source::Plan(phase.plan_version.clone());
        parts.push(Part { source, stretch, trial: phase.trial, quantity: phase.quantity.clone() });
        for add_on in &subscription.add_ons {
            if let Some(stretch) = stretch.intersect(&Period { start: add_on.from, end: add_on.to.unwrap_or(FOREVER) }) {
                let source = Source::AddOn(add_on.id.clone());
                parts.push(Part { source, stretch, trial: phase.trial, quantity: add_on.quantity.clone() });
            }
        }
    }
    parts
}

/// Plan versions and add-ons as where prices come from. An add-on is a plan of one price, on the periods and terms of
/// the plan it stands beside.
pub(crate) fn sources<'a>(
    subscription: &Subscription,
    versions: impl IntoIterator<Item = (&'a PlanVersionId, &'a PlanDefinition)>,
) -> BTreeMap<Source, PlanDefinition> {
    let mut found: BTreeMap<_, _> = versions.into_iter().map(|(version, plan)| (Source::Plan(version.clone()), plan.clone())).collect();
    for add_on in &subscription.add_ons {
        if let Some(plan) = found.get(&Source::Plan(add_on.beside.clone())) {
            let plan = plan.of_one_price(add_on.price.clone());
            found.insert(Source::AddOn(add_on.id.clone()), plan);
        }
    }
    found
}
