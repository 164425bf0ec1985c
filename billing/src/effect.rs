//! What changes of usage mean in money, for metering's previews: a subscription's month as it is, and as it would be.
//! And what usage that is nobody's would cost at list price.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bigdecimal::{BigDecimal, Zero};
use farebox_core::App;
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::money::Money;
use farebox_core::period::Period;
use farebox_core::workspace::{self, Workspace};
use farebox_metering::corrections::{self, MeterEffect, MoneyEffect, Priced};
use farebox_metering::unattributed::{self, ListValue};

use crate::gather::{self, Counting, Span};
use crate::rating::cycle::{self, Source};
use crate::rating::plan::Model;
use crate::rating::{PlanDefinition, Scope, Usage, lines, usage_lines};
use crate::{BillingError, calendar, plans, subscriptions};

/// Makes metering's previews tell money.
pub fn install() {
    corrections::price_with(Arc::new(|app, ws, effects| Box::pin(async move { Ok(priced(&app, &ws, &effects).await?) })));
    unattributed::price_with(Arc::new(|app, ws, period, used| Box::pin(async move { Ok(list_value(&app, &ws, period, &used).await?) })));
}

/// (meter, plan) -> how much more.
type Deltas = BTreeMap<(String, String), BigDecimal>;

async fn workspace_of(app: &App, ws: &WorkspaceId) -> Result<Workspace, BillingError> {
    workspace::by_id(&mut *app.pg.acquire().await?, ws).await?.ok_or(BillingError::NotFound("workspace"))
}

async fn priced(app: &App, ws: &WorkspaceId, effects: &[MeterEffect]) -> Result<Priced, BillingError> {
    let workspace = workspace_of(app, ws).await?;
    let mut by: BTreeMap<(&str, &str), Deltas> = BTreeMap::new();
    for effect in effects.iter().filter(|effect| !effect.subscription.is_empty()) {
        let deltas = by.entry((&effect.subscription, &effect.month)).or_default();
        *deltas.entry((effect.meter.clone(), effect.plan.clone())).or_insert_with(BigDecimal::zero) += &effect.after - &effect.before;
    }
    let (mut money, mut unpriced) = (Vec::new(), BTreeSet::new());
    for ((subscription, month), deltas) in by {
        let period = calendar::parse(month, workspace.time_zone)?;
        let id: SubscriptionId = subscription.parse().map_err(|e| BillingError::unreadable("a subscription's id", e))?;
        match of_month(app, &workspace, &id, period, &deltas).await? {
            Some((before, after)) => {
                money.push(MoneyEffect { subscription: subscription.to_owned(), month: month.to_owned(), before, after });
            }
            None => drop(unpriced.insert(subscription.to_owned())),
        }
    }
    Ok(Priced { money, unpriced: unpriced.into_iter().collect() })
}

/// None where the new price does not follow from the meters' values: prices by event or by dimension, and usage that is
/// carried over within the month.
async fn of_month(
    app: &App,
    workspace: &Workspace,
    id: &SubscriptionId,
    period: Period,
    deltas: &Deltas,
) -> Result<Option<(Money, Money)>, BillingError> {
    let ws = &workspace.id;
    let mut conn = app.pg.acquire().await?;
    let Some(subscription) = subscriptions::get(&mut conn, ws, id).await? else { return Ok(None) };
    let pinned: BTreeSet<_> = subscription.pinned().collect();
    let versions = plans::of(&mut conn, ws, pinned.iter()).await?;
    drop(conn);
    let plans = gather::sources(&subscription, &versions);
    let next = calendar::period_of(period.end, workspace.time_zone)?;
    let cycle = gather::cycle_of(workspace, &subscription, Span { period, next }, Vec::new(), &plans)?;
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    let wanted = cycle::wanted(&cycle)?;
    for one in &wanted {
        let used = gather::count_usage(app, ws, &subscription, one, cycle.currency, Counting::Quick).await?;
        let plan = plans.get(&one.source).map(|plan| plan.name.as_str()).unwrap_or_default();
        let own = |(meter, of): &(String, String)| *meter == one.meter && (one.alone || of == plan);
        let delta: BigDecimal = deltas.iter().filter(|(key, _)| own(key)).map(|(_, delta)| delta).sum();
        let mut changed = used.clone();
        if !delta.is_zero() {
            // The same plan twice in a month, or an add-on beside it: which part the events are of is not known here.
            let twice = !one.alone && wanted.iter().filter(|w| w.meter == one.meter && same_plan(&plans, &w.source, plan)).count() > 1;
            let special = matches!(one.price.model, Model::Matrix { .. } | Model::Percentage { .. });
            if special || twice || one.before.is_some() {
                return Ok(None);
            }
            changed = Usage { value: &used.value + delta, ..changed };
        }
        before.insert(one.key(), used);
        after.insert(one.key(), changed);
    }
    let worth = |used: &BTreeMap<_, _>| -> Result<Money, BillingError> {
        Ok(Money::sum(cycle::worth(&cycle, used)?.into_iter().map(|line| line.line.amount), cycle.currency)?)
    };
    Ok(Some((worth(&before)?, worth(&after)?)))
}

fn same_plan(plans: &BTreeMap<Source, PlanDefinition>, source: &Source, name: &str) -> bool {
    plans.get(source).is_some_and(|plan| plan.name == name)
}

/// What one consumer with this usage would pay for it on each plan that is sold, without the plan's fees. Plans with a
/// price that needs single events are left out.
async fn list_value(
    app: &App,
    ws: &WorkspaceId,
    period: Period,
    used: &BTreeMap<String, BigDecimal>,
) -> Result<Vec<ListValue>, BillingError> {
    let workspace = workspace_of(app, ws).await?;
    let sold = plans::list_published(&mut *app.pg.acquire().await?, ws).await?;
    let mut found = Vec::new();
    for plan in sold {
        let definition = &plan.definition;
        let prices: Vec<_> = lines::usage_prices(definition).collect();
        if prices.iter().any(|(price, _)| matches!(price.model, Model::Matrix { .. } | Model::Percentage { .. })) {
            continue;
        }
        let counted = prices
            .iter()
            .map(|(price, meter)| (price.name.clone(), Usage::of(used.get(*meter).cloned().unwrap_or_else(BigDecimal::zero))))
            .collect();
        let scope =
            Scope { currency: workspace.currency, zone: workspace.time_zone, period, part: period, proration: definition.terms.proration };
        // A plan without prices in the workspace's currency.
        let Ok(lines) = usage_lines(definition, &scope, &counted) else { continue };
        let amount = Money::sum(lines.into_iter().map(|line| line.amount), workspace.currency)?;
        found.push(ListValue { plan: definition.name.clone(), version: definition.version, amount });
    }
    Ok(found)
}
