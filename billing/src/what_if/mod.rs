//! What-if: plans, published or only drafted, side by side on consumers' real history. Each month is rated as it was and as
//! it would have been on each plan, by the same functions that invoices use, less the credits that a plan itself includes
//! (each month's own: what would have rolled over is left out), before discounts, other credits and tax.
//!
//! What was counted, and what it came to, is found once, however many plans are compared. One plan alone is a
//! [`Simulation`]; one consumer's own months, for its portal, are a [`Comparison`].

mod candidates;
mod csv;
mod http;
mod one;
mod own;
mod worth;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use farebox_core::App;
use farebox_core::ids::{ConsumerId, SubscriptionId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use farebox_core::period::Period;
use farebox_core::workspace;
use farebox_metering::{consumers, timelines};
use serde::Serialize;

use crate::rating::PlanDefinition;
use crate::subscriptions::{self, Subscription};
use crate::{BillingError, calendar, plans};
use worth::{Figures, Known, figures};

pub use candidates::{AskedPlan, Candidate, Unread, Wrong, read};
pub use csv::csv;
pub use one::{Simulation, simulate};
pub use own::{Comparison, OnPlan, compare};

pub(crate) use http::router;

/// Months in one question, at most.
const MOST_MONTHS: usize = 24;
/// Plans in one question, at most: more columns than that nobody compares.
pub const MOST_PLANS: usize = 6;

#[derive(Debug, Clone)]
pub struct Question {
    /// What everybody would have had instead: of one product, by [`read`].
    pub plans: Vec<Candidate>,
    /// Months of the workspace's calendar.
    pub months: Vec<Period>,
    /// Only these; everybody with a subscription to the plans' product unless given.
    pub consumers: Option<Vec<ConsumerId>>,
    /// Only who was on this plan (name).
    pub on_plan: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct WhatIf {
    pub product: String,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// In the order asked for.
    pub plans: Vec<WhatIfPlan>,
    /// The greatest differences first.
    pub rows: Vec<WhatIfRow>,
    /// Whom not even what they had can price, and why.
    pub unpriced: Vec<Unpriced>,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct WhatIfPlan {
    /// `growth@2`, or `growth (draft)`.
    pub label: String,
    pub plan: String,
    pub version: i32,
    /// Not published.
    pub draft: bool,
    /// By currency, of those whom this plan can price; less what plans include of credits, before discounts, other credits
    /// and tax.
    pub totals: Vec<SimulatedTotal>,
    /// Whom it cannot price, and why.
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
pub struct WhatIfRow {
    pub consumer: ConsumerId,
    pub name: String,
    pub subscription: SubscriptionId,
    /// The plans it had.
    pub plans: Vec<String>,
    #[schema(value_type = String)]
    pub currency: Currency,
    #[schema(value_type = String)]
    pub actual: Money,
    /// What the credits took off that the plans included.
    #[schema(value_type = String)]
    pub actual_included: Money,
    /// On each plan, in their order; null where the plan cannot price it.
    pub on: Vec<Option<WhatIfAmount>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, utoipa::ToSchema)]
pub struct WhatIfAmount {
    #[schema(value_type = String)]
    pub simulated: Money,
    #[schema(value_type = String)]
    pub difference: Money,
    /// What the credits would have taken off that the plan includes.
    #[schema(value_type = String)]
    pub simulated_included: Money,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Unpriced {
    pub subscription: SubscriptionId,
    pub name: String,
    pub detail: String,
}

/// The months from `from` to `to`, both such as 2026-08 and both included.
pub fn months(from: &str, to: &str, zone: Tz) -> Result<Vec<Period>, BillingError> {
    let month = |field: &str, text: &str| {
        calendar::parse(text, zone).map_err(|_| BillingError::invalid(field, format!("`{text}` is not a month such as 2026-08")))
    };
    let (first, last) = (month("/from", from)?, month("/to", to)?);
    if last.start < first.start {
        return Err(BillingError::invalid("/to", "must not be before `from`"));
    }
    let mut months = vec![first];
    while months.last().is_some_and(|month| month.start < last.start) {
        if months.len() == MOST_MONTHS {
            return Err(BillingError::invalid("/from", format!("at most {MOST_MONTHS} months are compared at once")));
        }
        let end = months.last().map_or(first.end, |month| month.end);
        months.push(calendar::period_of(end, zone)?);
    }
    Ok(months)
}

/// Everybody's months on every plan.
pub async fn what_if(app: &App, ws: &WorkspaceId, question: &Question) -> Result<WhatIf, BillingError> {
    let (Some(first), Some(last)) = (question.months.first(), question.months.last()) else {
        return Err(BillingError::invalid("/to", "must not be before `from`"));
    };
    let Some(product) = question.plans.first().map(|plan| plan.definition.product.clone()) else {
        return Err(BillingError::invalid("/plans", "names no plan"));
    };
    timelines::sync(app).await?;
    let mut conn = app.pg.acquire().await?;
    let workspace = workspace::by_id(&mut conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    let names: HashMap<_, _> = consumers::all(&mut conn, ws).await?.into_iter().map(|c| (c.id, c.name)).collect();
    if let Some(n) = question.consumers.iter().flatten().position(|id| !names.contains_key(id)) {
        return Err(BillingError::invalid(format!("/consumers/{n}"), "there is no such consumer"));
    }
    if let Some(plan) = &question.on_plan
        && plans::find(&mut conn, ws, plan, None).await?.is_none()
    {
        return Err(BillingError::invalid("/on_plan", format!("there is no plan named `{plan}`")));
    }
    let mut subscriptions = subscriptions::list(&mut conn, ws, None, i64::MAX, "").await?;
    subscriptions.retain(|own| own.product == product && asked_about(own, question));
    let pinned: BTreeSet<_> = subscriptions.iter().flat_map(Subscription::pinned).collect();
    let versions = plans::of(&mut conn, ws, pinned.iter()).await?;
    drop(conn);
    let instead: Vec<PlanDefinition> = question.plans.iter().map(|plan| plan.definition.clone()).collect();
    let mut found = WhatIf {
        product,
        from: first.start,
        to: last.end,
        plans: question.plans.iter().map(Candidate::column).collect(),
        rows: Vec::new(),
        unpriced: Vec::new(),
    };
    let mut known = Known::default();
    for own in &subscriptions {
        let name = names.get(&own.consumer).cloned().unwrap_or_default();
        match figures(app, &workspace, own, &instead, &question.months, &versions, &mut known).await {
            Ok(Some(figures)) => found.add(own, name, figures)?,
            Ok(None) => {}
            Err(BillingError::Rating(reason)) => found.unpriced.push(unpriced(own, &name, reason)),
            Err(error) => return Err(error),
        }
    }
    found.rows.sort_by_key(|row| (std::cmp::Reverse(row.greatest_difference()), row.name.clone()));
    for n in 0..found.plans.len() {
        found.plans[n].totals = totals(&found.rows, n)?;
    }
    Ok(found)
}

fn asked_about(own: &Subscription, question: &Question) -> bool {
    let chosen = question.consumers.as_ref().is_none_or(|only| only.contains(&own.consumer));
    chosen && question.on_plan.as_ref().is_none_or(|plan| own.phases.iter().any(|phase| phase.plan == *plan))
}

fn unpriced(own: &Subscription, name: &str, reason: impl std::fmt::Display) -> Unpriced {
    Unpriced { subscription: own.id.clone(), name: name.to_owned(), detail: reason.to_string() }
}

impl WhatIf {
    fn add(&mut self, own: &Subscription, name: String, figures: Figures) -> Result<(), BillingError> {
        let actual = figures.actual;
        let mut on = Vec::with_capacity(figures.on.len());
        for (plan, worth) in self.plans.iter_mut().zip(figures.on) {
            on.push(match worth {
                Ok(worth) => Some(WhatIfAmount {
                    simulated: worth.cost,
                    difference: worth.cost.checked_sub(actual.cost)?,
                    simulated_included: worth.included,
                }),
                Err(reason) => {
                    plan.unpriced.push(unpriced(own, &name, reason));
                    None
                }
            });
        }
        self.rows.push(WhatIfRow {
            consumer: own.consumer.clone(),
            name,
            subscription: own.id.clone(),
            plans: plans_in(own, Period { start: self.from, end: self.to }),
            currency: actual.cost.currency,
            actual: actual.cost,
            actual_included: actual.included,
            on,
        });
        Ok(())
    }
}

impl WhatIfRow {
    fn greatest_difference(&self) -> u64 {
        self.on.iter().flatten().map(|amount| amount.difference.minor.unsigned_abs()).max().unwrap_or_default()
    }
}

fn plans_in(subscription: &Subscription, range: Period) -> Vec<String> {
    let mut found: Vec<_> =
        subscription.phases.iter().filter(|phase| phase.is_in_force_in(range)).map(|phase| phase.plan.clone()).collect();
    found.dedup();
    found
}

/// Of the plan in this place, by currency.
fn totals(rows: &[WhatIfRow], place: usize) -> Result<Vec<SimulatedTotal>, BillingError> {
    let mut by_currency: BTreeMap<&'static str, Vec<(Money, WhatIfAmount)>> = BTreeMap::new();
    for row in rows {
        if let Some(on) = row.on[place] {
            by_currency.entry(row.currency.code()).or_default().push((row.actual, on));
        }
    }
    let mut found = Vec::new();
    for own in by_currency.into_values() {
        let currency = own[0].0.currency;
        let count = |which: fn(i64) -> bool| own.iter().filter(|(_, on)| which(on.difference.minor)).count();
        found.push(SimulatedTotal {
            currency,
            actual: Money::sum(own.iter().map(|(actual, _)| *actual), currency)?,
            simulated: Money::sum(own.iter().map(|(_, on)| on.simulated), currency)?,
            difference: Money::sum(own.iter().map(|(_, on)| on.difference), currency)?,
            winners: count(|minor| minor < 0),
            losers: count(|minor| minor > 0),
            unchanged: count(|minor| minor == 0),
        });
    }
    Ok(found)
}
