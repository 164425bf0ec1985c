//! One consumer's own months on every plan on offer: what it would have paid.

use std::collections::BTreeSet;

use farebox_core::App;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use farebox_core::period::Period;
use farebox_core::workspace;
use farebox_metering::timelines;
use serde::Serialize;

use super::{Known, Question, of_subscription};
use crate::BillingError;
use crate::plans::{self, Plan};
use crate::subscriptions;

/// The months as they were, and on each plan. Less the credits that a plan includes, before discounts, other credits and tax, as
/// by [`super::simulate`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub currency: Currency,
    pub months: Vec<Period>,
    pub actual: Vec<Money>,
    pub plans: Vec<OnPlan>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OnPlan {
    pub plan: String,
    /// In the order of the months; none where the plan cannot price them.
    pub months: Option<Vec<Money>>,
}

/// Of the subscriptions to the product of those plans that were in force in the months; none when none was. Months
/// without one cost nothing on any plan.
pub async fn compare(
    app: &App,
    ws: &WorkspaceId,
    consumer: &ConsumerId,
    offered: &[Plan],
    months: &[Period],
) -> Result<Option<Comparison>, BillingError> {
    timelines::sync(app).await?;
    let mut conn = app.pg.acquire().await?;
    let workspace = workspace::by_id(&mut conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    let in_force = |period: &Period, own: &subscriptions::Subscription| {
        own.phases.iter().any(|phase| phase.from < period.end && phase.to.is_none_or(|to| to > period.start))
    };
    let mut found = subscriptions::list(&mut conn, ws, Some(consumer), i64::MAX, "").await?;
    found.retain(|own| months.iter().any(|month| in_force(month, own)));
    // Of several products the one that is on offer; its latest currency.
    let Some(last) = found.iter().rfind(|own| offered.iter().any(|plan| plan.product == own.product)).cloned() else { return Ok(None) };
    found.retain(|own| own.product == last.product && own.currency == last.currency);
    let currency = subscriptions::currency_of(&last)?;
    let pinned: BTreeSet<_> = found
        .iter()
        .flat_map(|own| own.phases.iter().map(|p| p.plan_version.clone()).chain(own.add_ons.iter().map(|a| a.beside.clone())))
        .collect();
    let versions = plans::of(&mut conn, ws, pinned.iter()).await?;
    drop(conn);
    let mut comparison =
        Comparison { currency, months: months.to_vec(), actual: vec![Money::zero(currency); months.len()], plans: Vec::new() };
    let mut known: Vec<_> = found.iter().map(|own| Known::of(own.id.clone())).collect();
    for (n, plan) in offered.iter().filter(|plan| plan.product == last.product).enumerate() {
        let mut by_month = Some(vec![Money::zero(currency); months.len()]);
        for (m, month) in months.iter().enumerate() {
            let question = Question { plan: plan.definition.clone(), months: vec![*month], consumers: None, on_plan: None };
            for (own, known) in found.iter().zip(&mut known) {
                match of_subscription(app, &workspace, own, &question, &versions, known).await {
                    Ok(Some((actual, simulated))) => {
                        if n == 0 {
                            comparison.actual[m] = comparison.actual[m].checked_add(actual.cost)?;
                        }
                        if let Some(months) = &mut by_month {
                            months[m] = months[m].checked_add(simulated.cost)?;
                        }
                    }
                    Ok(None) => {}
                    // A plan that has no price in the currency, or none for what was used.
                    Err(BillingError::Rating(_)) => by_month = None,
                    Err(error) => return Err(error),
                }
            }
        }
        comparison.plans.push(OnPlan { plan: plan.name.clone(), months: by_month });
    }
    Ok(Some(comparison))
}
