//! The invoice that is gathering: what the current period would cost if it ended with the usage so far.

use std::collections::BTreeMap;

use farebox_core::App;
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::money::{BigDecimal, Currency, Money, plain};
use farebox_core::period::Period;
use serde::Serialize;

use crate::gather::{Accounts, Counter, Counting, Portion, Records, Span, assemble, gather};
use crate::invoices::InvoiceCredit;
use crate::left_out::LeftOut;
use crate::rating::LineKind;
use crate::{BillingError, included, plans, settings, subscriptions};

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Preview {
    pub subscription: SubscriptionId,
    pub period: Period,
    /// Usage until then is in it.
    pub as_of: chrono::DateTime<chrono::Utc>,
    #[schema(value_type = String)]
    pub currency: Currency,
    pub lines: Vec<PreviewLine>,
    /// Calls so far that are in no line, by reason.
    pub left_out: LeftOut,
    /// Prepaid credits that would be used, by grant.
    pub credits: Vec<InvoiceCredit>,
    /// Prepaid units that would be used, by grant.
    pub units: Vec<PreviewUnits>,
    #[schema(value_type = String)]
    pub subtotal: Money,
    #[schema(value_type = String)]
    pub tax: Money,
    #[schema(value_type = String)]
    pub total: Money,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PreviewUnits {
    pub grant: String,
    pub name: String,
    pub meter: String,
    pub units: String,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct PreviewLine {
    pub kind: LineKind,
    pub name: String,
    pub meter: Option<String>,
    pub period: Period,
    pub quantity: String,
    #[schema(value_type = String)]
    pub amount: Money,
    /// Its share of the discounts and prepaid credits.
    #[schema(value_type = String)]
    pub discount: Money,
    #[schema(value_type = String)]
    pub credit: Money,
    pub explanation: String,
}

pub async fn preview(app: &App, ws: &WorkspaceId, id: &SubscriptionId) -> Result<Preview, BillingError> {
    let workspace = farebox_core::workspace::by_id(&mut *app.pg.acquire().await?, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    // What the period comes with is granted by whoever looks first.
    included::settle_due(app, &workspace, id).await?;
    let mut conn = app.pg.acquire().await?;
    let subscription = subscriptions::get(&mut conn, ws, id).await?.ok_or(BillingError::NotFound("subscription"))?;
    let consumer =
        farebox_metering::consumers::get(&mut conn, ws, &subscription.consumer).await?.ok_or(BillingError::NotFound("consumer"))?;
    let plans = plans::of(&mut conn, ws, subscription.phases.iter().map(|phase| &phase.plan_version)).await?;
    let from = subscription.open_from(settings::of(&mut conn, ws).await?.close_from);
    let now = workspace.clock.now().max(from);
    let period = subscription.period_at(&plans, workspace.time_zone, now, subscription.closed_until)?;
    let span = Span { period, next: subscription.period_at(&plans, workspace.time_zone, period.end, Some(period.end))? };
    let (counter, of) = (Counter::new(app, ws), [(&subscription, period.start)]);
    let records = Records::load(&mut conn, &workspace, &counter, &of, false).await?;
    let accounts = Accounts::load(&mut conn, &workspace, &of, false).await?;
    let mut purse = records.purse(&subscription.consumer);
    let gathered = gather(&counter, &records, &workspace, &subscription, span, Counting::Quick, &mut purse).await?;
    let mut taken: BTreeMap<(String, String), BigDecimal> = BTreeMap::new();
    for (_, units) in &gathered.units {
        *taken.entry((units.grant.clone(), units.stretch.0.clone())).or_default() += &units.units;
    }
    let units = taken.into_iter().map(|((grant, meter), units)| PreviewUnits {
        name: purse.name(&grant).unwrap_or_default().to_owned(),
        grant,
        meter,
        units: plain(&units),
    });
    let parts = [Portion { subscription: &subscription, period, lines: gathered.lines.len(), plans: gathered.plans.clone() }];
    let (units, available, left_out) = (units.collect(), accounts.credits(&parts, gathered.currency), gathered.left_out.clone());
    let rated = assemble(&accounts, &workspace, &parts, &consumer, gathered)?.rated;
    let mut credits = Vec::new();
    for (id, amount) in rated.credits.iter().filter(|(_, amount)| !amount.is_zero()) {
        let Some(credit) = available.iter().find(|credit| credit.id == *id && !credit.taxed) else { continue };
        let grant = id.parse().map_err(|e| BillingError::unreadable("a grant", e))?;
        credits.push(InvoiceCredit { grant, name: credit.name.clone(), amount: *amount });
    }
    let shown = rated.lines.into_iter().map(|rated| PreviewLine {
        kind: rated.line.kind,
        name: rated.line.name,
        meter: rated.line.meter,
        period: rated.line.period,
        quantity: plain(&rated.line.quantity),
        amount: rated.line.amount,
        discount: rated.discount,
        credit: rated.credit,
        explanation: rated.line.explanation,
    });
    Ok(Preview {
        subscription: subscription.id,
        period,
        as_of: workspace.clock.now(),
        currency: rated.currency,
        lines: shown.collect(),
        left_out,
        credits,
        units,
        subtotal: rated.subtotal,
        tax: rated.tax,
        total: rated.total,
    })
}
