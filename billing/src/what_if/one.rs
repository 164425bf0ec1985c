//! One plan alone: the case of a comparison with a single column, told without its columns.

use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::ids::{ConsumerId, SubscriptionId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use serde::Serialize;

use super::{Question, SimulatedTotal, Unpriced, what_if};
use crate::BillingError;

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Simulation {
    pub plan: String,
    pub version: i32,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// By currency; less what plans include of credits, before discounts, other credits and tax.
    pub totals: Vec<SimulatedTotal>,
    /// The greatest differences first.
    pub rows: Vec<SimulatedRow>,
    /// Whom the plan cannot price, and why.
    pub unpriced: Vec<Unpriced>,
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

/// A question with one plan.
pub async fn simulate(app: &App, ws: &WorkspaceId, question: &Question) -> Result<Simulation, BillingError> {
    let found = what_if(app, ws, question).await?;
    let Ok([column]) = <[_; 1]>::try_from(found.plans) else {
        return Err(BillingError::invalid("/plans", "is one plan"));
    };
    let row = |row: super::WhatIfRow| {
        let on = row.on.into_iter().next().flatten()?;
        Some(SimulatedRow {
            consumer: row.consumer,
            name: row.name,
            subscription: row.subscription,
            plans: row.plans,
            currency: row.currency,
            actual: row.actual,
            simulated: on.simulated,
            difference: on.difference,
            actual_included: row.actual_included,
            simulated_included: on.simulated_included,
        })
    };
    let mut unpriced = column.unpriced;
    unpriced.extend(found.unpriced);
    Ok(Simulation {
        plan: column.plan,
        version: column.version,
        from: found.from,
        to: found.to,
        totals: column.totals,
        rows: found.rows.into_iter().filter_map(row).collect(),
        unpriced,
    })
}
