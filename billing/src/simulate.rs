//! What-if: a plan, published or only drafted, on consumers' real history. Each month is rated as it was and as it would
//! have been, by the same functions that invoices use, less the credits that a plan itself includes (each month's own: what
//! would have rolled over is left out), before discounts, other credits and tax.

mod own;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bigdecimal::BigDecimal;
use farebox_core::App;
use farebox_core::ids::{ConsumerId, SubscriptionId, WorkspaceId};
use farebox_core::money::{Currency, Money, MoneyError};
use farebox_core::period::Period;
use farebox_core::workspace::{self, Workspace};
use farebox_metering::consumers;
use farebox_metering::{timelines, usage};
use serde::Serialize;

use crate::gather::{self, Counting, Span};
use crate::rating::cycle::{self, Source, Wanted};
use crate::rating::invoice::{Credit, Terms, invoice};
use crate::rating::plan::{IncludedOf, Model};
use crate::rating::units::{Prepaid, cover};
use crate::rating::{PlanDefinition, Usage};
use crate::subscriptions::{self, Subscription};
use crate::{BillingError, calendar, included, plans};

pub use own::{Comparison, OnPlan, compare};

/// Months in one question, at most.
const MOST_MONTHS: usize = 24;

#[derive(Debug, Clone)]
pub struct Question {
    /// What everybody would have had instead.
    pub plan: PlanDefinition,
    /// Months of the workspace's calendar.
    pub months: Vec<Period>,
    /// Only these; everybody with a subscription to the plan's product unless given.
    pub consumers: Option<Vec<ConsumerId>>,
    /// Only who is on this plan (name).
    pub on_plan: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Simulation {
    pub plan: String,
    pub version: i32,
    pub from: chrono::DateTime<chrono::Utc>,
    pub to: chrono::DateTime<chrono::Utc>,
    /// By currency; less what plans include of credits, before discounts, other credits and tax.
    pub totals: Vec<SimulatedTotal>,
    /// The greatest differences first.
    pub rows: Vec<SimulatedRow>,
    /// Whom the plan cannot price, and why.
    pub unpriced: Vec<Unpriced>,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct SimulatedTotal {
    #[schema(value_type = String)]
    pub currency: Currency,
    #[schema(value_type = String)]
    pub actual: Money,
    #[schema(value_type = String)]
    pub simulated: Money,
    #[schema(value_type = String)]
    pub difference: Money,
    /// Who would have paid less, more, the same.
    pub winners: usize,
    pub losers: usize,
    pub unchanged: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct SimulatedRow {
    pub consumer: ConsumerId,
    pub name: String,
    pub subscription: SubscriptionId,
    /// The plans it had.
    pub plans: Vec<String>,
    #[schema(value_type = String)]
    pub currency: Currency,
    #[schema(value_type = String)]
    pub actual: Money,
    #[schema(value_type = String)]
    pub simulated: Money,
    #[schema(value_type = String)]
    pub difference: Money,
    /// What the credits took off that the plans included, and the other would have.
    #[schema(value_type = String)]
    pub actual_included: Money,
    #[schema(value_type = String)]
    pub simulated_included: Money,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Unpriced {
    pub subscription: SubscriptionId,
    pub name: String,
    pub detail: String,
}

pub async fn simulate(app: &App, ws: &WorkspaceId, question: &Question) -> Result<Simulation, BillingError> {
    let (Some(first), Some(last)) = (question.months.first(), question.months.last()) else {
        return Err(BillingError::invalid("/to", "must not be before `from`"));
    };
    if question.months.len() > MOST_MONTHS {
        return Err(BillingError::invalid("/from", format!("at most {MOST_MONTHS} months are simulated at once")));
    }
    timelines::sync(app).await?;
    let mut conn = app.pg.acquire().await?;
    let workspace = workspace::by_id(&mut conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    let names: HashMap<_, _> = consumers::all(&mut conn, ws).await?.into_iter().map(|c| (c.id, c.name)).collect();
    let mut subscriptions = subscriptions::list(&mut conn, ws, None, i64::MAX, "").await?;
    subscriptions.retain(|own| {
        let chosen = question.consumers.as_ref().is_none_or(|only| only.contains(&own.consumer));
        let on_plan = question.on_plan.as_ref().is_none_or(|plan| own.phases.iter().any(|phase| phase.plan == *plan));
        own.product == question.plan.product && chosen && on_plan
    });
    let pinned = |own: &Subscription| {
        own.phases.iter().map(|p| p.plan_version.clone()).chain(own.add_ons.iter().map(|a| a.beside.clone())).collect()
    };
    let pinned: BTreeSet<_> = subscriptions.iter().flat_map::<Vec<_>, _>(pinned).collect();
    let versions = plans::of(&mut conn, ws, pinned.iter()).await?;
    drop(conn);
    let mut known = Known::default();
    let (mut rows, mut unpriced) = (Vec::new(), Vec::new());
    for own in &subscriptions {
        let name = names.get(&own.consumer).cloned().unwrap_or_default();
        match of_subscription(app, &workspace, own, question, &versions, &mut known).await {
            Ok(Some((actual, simulated))) => rows.push(SimulatedRow {
                consumer: own.consumer.clone(),
                name,
                subscription: own.id.clone(),
                plans: plans_in(own, Period { start: first.start, end: last.end }),
                currency: actual.cost.currency,
                difference: simulated.cost.checked_sub(actual.cost)?,
                actual: actual.cost,
                simulated: simulated.cost,
                actual_included: actual.included,
                simulated_included: simulated.included,
            }),
            Ok(None) => {}
            Err(BillingError::Rating(reason)) => unpriced.push(Unpriced { subscription: own.id.clone(), name, detail: reason.to_string() }),
            Err(error) => return Err(error),
        }
    }
    rows.sort_by_key(|row| (std::cmp::Reverse(row.difference.minor.unsigned_abs()), row.name.clone()));
    let (plan, version) = (question.plan.name.clone(), question.plan.version);
    Ok(Simulation { plan, version, from: first.start, to: last.end, totals: totals(&rows)?, rows, unpriced })
}

fn plans_in(subscription: &Subscription, range: Period) -> Vec<String> {
    let mut found: Vec<_> = subscription
        .phases
        .iter()
        .filter(|phase| phase.from < range.end && phase.to.is_none_or(|to| to > range.start))
        .map(|phase| phase.plan.clone())
        .collect();
    found.dedup();
    found
}

fn totals(rows: &[SimulatedRow]) -> Result<Vec<SimulatedTotal>, BillingError> {
    let mut by_currency: BTreeMap<&'static str, Vec<&SimulatedRow>> = BTreeMap::new();
    for row in rows {
        by_currency.entry(row.currency.code()).or_default().push(row);
    }
    let mut found = Vec::new();
    for own in by_currency.into_values() {
        let currency = own[0].currency;
        let count = |which: fn(i64) -> bool| own.iter().filter(|row| which(row.difference.minor)).count();
        found.push(SimulatedTotal {
            currency,
            actual: Money::sum(own.iter().map(|row| row.actual), currency)?,
            simulated: Money::sum(own.iter().map(|row| row.simulated), currency)?,
            difference: Money::sum(own.iter().map(|row| row.difference), currency)?,
            winners: count(|minor| minor < 0),
            losers: count(|minor| minor > 0),
            unchanged: count(|minor| minor == 0),
        });
    }
    Ok(found)
}

/// What months come to, after what the plan's own credits take off.
#[derive(Debug, Clone, Copy)]
struct Worth {
    cost: Money,
    included: Money,
}

impl Worth {
    fn nothing(currency: Currency) -> Self {
        Self { cost: Money::zero(currency), included: Money::zero(currency) }
    }

    fn and(self, other: Self) -> Result<Self, MoneyError> {
        Ok(Self { cost: self.cost.checked_add(other.cost)?, included: self.included.checked_add(other.included)? })
    }
}

/// What the months came to, and would have come to. None when it was not in force.
async fn of_subscription(
    app: &App,
    workspace: &Workspace,
    subscription: &Subscription,
    question: &Question,
    versions: &subscriptions::Plans,
    known: &mut Known,
) -> Result<Option<(Worth, Worth)>, BillingError> {
    let currency = subscriptions::currency_of(subscription)?;
    let mut sums = None;
    for month in &question.months {
        if !subscription.phases.iter().any(|phase| phase.from < month.end && phase.to.is_none_or(|to| to > month.start)) {
            continue;
        }
        let (actual, simulated) = sums.unwrap_or((Worth::nothing(currency), Worth::nothing(currency)));
        let as_it_was = gather::sources(subscription, versions);
        let instead = |(source, plan): (&Source, &PlanDefinition)| {
            let plan = if matches!(source, Source::Plan(_)) { &question.plan } else { plan };
            (source.clone(), plan.clone())
        };
        let as_it_would_be = as_it_was.iter().map(instead).collect();
        sums = Some((
            actual.and(worth(app, workspace, subscription, *month, as_it_was, known).await?)?,
            simulated.and(worth(app, workspace, subscription, *month, as_it_would_be, known).await?)?,
        ));
    }
    Ok(sums)
}

/// A month by definition: the fees of the time in force, however they are billed, usage, cap and minimum, less what the plan
/// itself includes.
async fn worth(
    app: &App,
    workspace: &Workspace,
    subscription: &Subscription,
    month: Period,
    plans: BTreeMap<Source, PlanDefinition>,
    known: &mut Known,
) -> Result<Worth, BillingError> {
    let next = calendar::period_of(month.end, workspace.time_zone)?;
    let cycle = gather::cycle_of(workspace, subscription, Span { period: month, next }, Vec::new(), &plans)?;
    let mut used = BTreeMap::new();
    for wanted in cycle::wanted(&cycle)? {
        used.insert(wanted.key(), known.count(app, &workspace.id, subscription, &wanted, cycle.currency).await?);
    }
    let (mut prepaid, mut credits) = (Vec::new(), Vec::new());
    let versions = plans.iter().filter_map(|(source, plan)| match source {
        Source::Plan(version) => Some((version.clone(), plan.clone())),
        Source::AddOn(_) => None,
    });
    for (n, (included, share)) in included::worth_in(subscription, &versions.collect(), workspace.time_zone, month)?.into_iter().enumerate()
    {
        match included.of {
            IncludedOf::Units { meter, units, .. } => prepaid.push(Prepaid { grant: n.to_string(), meter, left: units.0 * share }),
            IncludedOf::Money { amount, .. } => {
                let Some(amount) = amount.get(cycle.currency) else { continue };
                let left = Money::round(&(amount * share), cycle.currency)?;
                credits.push(Credit { id: n.to_string(), name: included.name, left, taxed: false, prices: included.prices, lines: None });
            }
        }
    }
    cover(&cycle::wanted(&cycle)?, &mut used, &mut prepaid, &HashMap::new());
    let lines = cycle::worth(&cycle, &used)?.into_iter().map(|line| line.line).collect();
    let rated = invoice(lines, &Terms { credits, ..Terms::default() }, cycle.currency)?;
    let included = Money::sum(rated.credits.iter().map(|(_, used)| *used), cycle.currency)?;
    Ok(Worth { cost: rated.total, included })
}

/// Sums of all subscriptions, or of one, over a period, asked for once.
#[derive(Default)]
struct Known {
    only: Option<SubscriptionId>,
    sums: HashMap<(String, Period), HashMap<String, BigDecimal>>,
}

impl Known {
    fn of(only: SubscriptionId) -> Self {
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
            return gather::count_usage(app, ws, subscription, wanted, currency, Counting::Quick).await;
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
