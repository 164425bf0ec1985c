//! What months come to: as they were, and on other plans.

use std::collections::{BTreeMap, HashMap};

use bigdecimal::BigDecimal;
use farebox_core::App;
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::money::{Currency, Money, MoneyError};
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use farebox_metering::usage;

use crate::gather::{self, Counting, Span};
use crate::rating::cycle::{self, Cycle, Source, Wanted};
use crate::rating::invoice::{Credit, Terms, invoice};
use crate::rating::plan::{IncludedOf, Model, Price};
use crate::rating::units::{Prepaid, cover};
use crate::rating::usage::EventTerms;
use crate::rating::{PlanDefinition, RatingError, Usage};
use crate::subscriptions::{self, Plans, Subscription};
use crate::{BillingError, calendar, included};

/// What months come to, after what the plan's own credits take off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Worth {
    pub cost: Money,
    pub included: Money,
}

impl Worth {
    fn nothing(currency: Currency) -> Self {
        Self { cost: Money::zero(currency), included: Money::zero(currency) }
    }

    fn and(self, other: Self) -> Result<Self, MoneyError> {
        Ok(Self { cost: self.cost.checked_add(other.cost)?, included: self.included.checked_add(other.included)? })
    }
}

/// A subscription's months, and what they would have been on each plan, or why that plan cannot price them.
#[derive(Debug)]
pub(super) struct Figures {
    pub actual: Worth,
    pub on: Vec<Result<Worth, RatingError>>,
}

/// None when it was not in force in any of the months.
pub(super) async fn figures(
    app: &App,
    workspace: &Workspace,
    subscription: &Subscription,
    instead: &[PlanDefinition],
    months: &[Period],
    versions: &Plans,
    known: &mut Known,
) -> Result<Option<Figures>, BillingError> {
    let nothing = Worth::nothing(subscriptions::currency_of(subscription)?);
    let as_it_was = gather::sources(subscription, versions);
    let mut found: Option<Figures> = None;
    for month in months.iter().filter(|month| subscription.is_in_force_in(**month)) {
        let figures = found.get_or_insert_with(|| Figures { actual: nothing, on: vec![Ok(nothing); instead.len()] });
        let actual = worth(app, workspace, subscription, *month, Rated { plans: &as_it_was, all_on: None }, known).await?;
        figures.actual = figures.actual.and(actual)?;
        for (sum, plan) in figures.on.iter_mut().zip(instead) {
            let Ok(before) = *sum else { continue };
            let plans = on_plan(&as_it_was, plan);
            let rated = Rated { plans: &plans, all_on: subscription.phases.first().map(|phase| Source::Plan(phase.plan_version.clone())) };
            *sum = match worth(app, workspace, subscription, *month, rated, known).await {
                Ok(worth) => before.and(worth).map_err(RatingError::from),
                Err(BillingError::Rating(reason)) => Err(reason),
                Err(error) => return Err(error),
            };
        }
    }
    Ok(found)
}

/// Each plan it had replaced by `plan`; what was added beside stays.
fn on_plan(as_it_was: &BTreeMap<Source, PlanDefinition>, plan: &PlanDefinition) -> BTreeMap<Source, PlanDefinition> {
    let instead = |(source, had): (&Source, &PlanDefinition)| {
        let plan = if matches!(source, Source::Plan(_)) { plan } else { had };
        (source.clone(), plan.clone())
    };
    as_it_was.iter().map(instead).collect()
}

/// By which plans a month is rated.
struct Rated<'a> {
    plans: &'a BTreeMap<Source, PlanDefinition>,
    /// On one plan all the time: a change between plans it had cuts nothing.
    all_on: Option<Source>,
}

/// A month by definition: the fees of the time in force, however they are billed, usage, cap and minimum, less what the plan
/// itself includes.
async fn worth(
    app: &App,
    workspace: &Workspace,
    subscription: &Subscription,
    month: Period,
    rated: Rated<'_>,
    known: &mut Known,
) -> Result<Worth, BillingError> {
    let next = calendar::period_of(month.end, workspace.time_zone)?;
    let mut cycle = gather::cycle_of(workspace, subscription, Span { period: month, next }, Vec::new(), rated.plans)?;
    for part in &mut cycle.parts {
        if let (Source::Plan(_), Some(one)) = (&part.source, &rated.all_on) {
            part.source = one.clone();
        }
    }
    let wanted = cycle::wanted(&cycle)?;
    let mut used = BTreeMap::new();
    for wanted in &wanted {
        used.insert(wanted.key(), known.count(app, &workspace.id, subscription, wanted, cycle.currency).await?);
    }
    let (mut prepaid, credits) = included_in(subscription, &cycle, workspace, month)?;
    cover(&wanted, &mut used, &mut prepaid, &HashMap::new());
    let lines = cycle::worth(&cycle, &used)?.into_iter().map(|line| line.line).collect();
    let rated = invoice(lines, &Terms { credits, ..Terms::default() }, cycle.currency)?;
    let included = Money::sum(rated.credits.iter().map(|(_, used)| *used), cycle.currency)?;
    Ok(Worth { cost: rated.total, included })
}

/// What the month comes with, as units and as money.
fn included_in(
    subscription: &Subscription,
    cycle: &Cycle<'_>,
    workspace: &Workspace,
    month: Period,
) -> Result<(Vec<Prepaid>, Vec<Credit>), BillingError> {
    let versions = cycle.plans.iter().filter_map(|(source, plan)| match source {
        Source::Plan(version) => Some((version.clone(), plan.clone())),
        Source::AddOn(_) => None,
    });
    let (mut prepaid, mut credits) = (Vec::new(), Vec::new());
    let due = included::worth_in(subscription, &versions.collect(), workspace.time_zone, month)?;
    for (n, (included, share)) in due.into_iter().enumerate() {
        match included.of {
            IncludedOf::Units { meter, units, .. } => prepaid.push(Prepaid { grant: n.to_string(), meter, left: units.0 * share }),
            IncludedOf::Money { amount, .. } => {
                let Some(amount) = amount.get(cycle.currency) else { continue };
                let left = Money::round(&(amount * share), cycle.currency)?;
                credits.push(Credit { id: n.to_string(), name: included.name, left, taxed: false, prices: included.prices, lines: None });
            }
        }
    }
    Ok((prepaid, credits))
}

/// What was counted, asked for once however many plans want it: sums of all subscriptions (or of one) over a period, and for
/// one subscription what sums do not tell.
#[derive(Default)]
pub(super) struct Known {
    only: Option<SubscriptionId>,
    sums: HashMap<(String, Period), HashMap<String, BigDecimal>>,
    own: HashMap<Asked, Usage>,
}

/// What decides the answer, whatever the price's name and amounts are.
#[derive(PartialEq, Eq, Hash)]
struct Asked {
    subscription: SubscriptionId,
    meter: String,
    stretch: Period,
    before: Option<Period>,
    manner: String,
}

impl Known {
    pub fn of(only: SubscriptionId) -> Self {
        Self { only: Some(only), ..Self::default() }
    }

    async fn count(
        &mut self,
        app: &App,
        ws: &WorkspaceId,
        subscription: &Subscription,
        wanted: &Wanted,
        currency: Currency,
    ) -> Result<Usage, BillingError> {
        let special = matches!(wanted.price.model, Model::Matrix { .. } | Model::Percentage { .. });
        if special || !wanted.alone || wanted.before.is_some() {
            let asked = Asked {
                subscription: subscription.id.clone(),
                meter: wanted.meter.clone(),
                stretch: wanted.counted_over(),
                before: wanted.before,
                manner: manner(&wanted.price, currency)?,
            };
            if let Some(usage) = self.own.get(&asked) {
                return Ok(usage.clone());
            }
            let usage = gather::count_usage(app, ws, subscription, wanted, currency, Counting::Quick).await?;
            self.own.insert(asked, usage.clone());
            return Ok(usage);
        }
        let key = (wanted.meter.clone(), wanted.of);
        if !self.sums.contains_key(&key) {
            let by = match &self.only {
                None => usage::totals(app, ws, &wanted.meter, wanted.of).await?,
                Some(id) => HashMap::from([(id.to_string(), usage::total(app, ws, &wanted.meter, id, wanted.of).await?)]),
            };
            self.sums.insert(key.clone(), by);
        }
        let value = self.sums.get(&key).and_then(|by| by.get(subscription.id.as_str())).cloned();
        Ok(Usage::of(value.unwrap_or_default()))
    }
}

/// How a price is counted.
fn manner(price: &Price, currency: Currency) -> Result<String, RatingError> {
    Ok(match &price.model {
        Model::Matrix { dimension, .. } => format!("by {dimension}"),
        Model::Percentage { .. } => match EventTerms::of(price, currency)?.filter(EventTerms::bounded) {
            Some(terms) => format!("event by event: {terms:?}"),
            None => "value and events".to_owned(),
        },
        _ => "value".to_owned(),
    })
}
