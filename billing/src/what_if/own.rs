//! One consumer's own months on every plan on offer: what it would have paid.

use std::collections::BTreeSet;

use farebox_core::App;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use farebox_core::period::Period;
use farebox_core::workspace;
use farebox_metering::timelines;
use serde::Serialize;

use super::worth::{Known, figures};
use crate::BillingError;
use crate::plans::{self, Plan};
use crate::subscriptions::{self, Subscription};

/// The months as they were, and on each plan. Less the credits that a plan includes, before discounts, other credits and tax, as
/// by [`super::what_if`].
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
    let mut found = subscriptions::list(&mut conn, ws, Some(consumer), i64::MAX, "").await?;
    found.retain(|own| months.iter().any(|month| own.is_in_force_in(*month)));
    // Of several products the one that is on offer; its latest currency.
    let Some(last) = found.iter().rfind(|own| offered.iter().any(|plan| plan.product == own.product)).cloned() else { return Ok(None) };
    found.retain(|own| own.product == last.product && own.currency == last.currency);
    let currency = subscriptions::currency_of(&last)?;
    let pinned: BTreeSet<_> = found.iter().flat_map(Subscription::pinned).collect();
    let versions = plans::of(&mut conn, ws, pinned.iter()).await?;
    drop(conn);
    let offered: Vec<_> = offered.iter().filter(|plan| plan.product == last.product).collect();
    let instead: Vec<_> = offered.iter().map(|plan| plan.definition.clone()).collect();
    let mut actual = vec![Money::zero(currency); months.len()];
    let mut on = vec![Some(actual.clone()); offered.len()];
    for own in &found {
        let mut known = Known::of(own.id.clone());
        for (m, month) in months.iter().enumerate() {
            match figures(app, &workspace, own, &instead, &[*month], &versions, &mut known).await {
                Ok(Some(figures)) => {
                    actual[m] = actual[m].checked_add(figures.actual.cost)?;
                    for (sums, worth) in on.iter_mut().zip(figures.on) {
                        match (sums.as_mut(), worth) {
                            (Some(sums), Ok(worth)) => sums[m] = sums[m].checked_add(worth.cost)?,
                            // A plan that has no price in the currency, or none for what was used.
                            (_, Err(_)) => *sums = None,
                            (None, Ok(_)) => {}
                        }
                    }
                }
                Ok(None) => {}
                Err(BillingError::Rating(_)) => on.fill(None),
                Err(error) => return Err(error),
            }
        }
    }
    let plans = offered.iter().zip(on).map(|(plan, months)| OnPlan { plan: plan.name.clone(), months }).collect();
    Ok(Some(Comparison { currency, months: months.to_vec(), actual, plans }))
}
