//! What a correction would do to numbers: by month, meter and subscription, before and after, and in money where billing
//! says how.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bigdecimal::{BigDecimal, Zero};
use clickhouse::Row;
use clickhouse::query::Query;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::money::{Money, decimal_string};
use farebox_core::workspace;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::choice::Chosen;
use super::{Action, Choice, Request};
use crate::attribution::{SEEN, attributed, attributed_from};
use crate::facts::{bound, minute_sql};
use crate::filter::{Parameters, of_definition};
use crate::meters::{self, Meter};
use crate::repair::IDS;
use crate::rule::CountingRule;
use crate::selection::Selection;
use crate::{MeteringError, rule};

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Effect {
    /// Events that would change.
    pub events: u64,
    /// Where numbers would change; those that stay are left out.
    pub meters: Vec<MeterEffect>,
    /// Meters whose value is not made of parts (averages, unique counts): what becomes of them is seen afterwards.
    pub not_additive: Vec<String>,
    /// By subscription and month, in its currency: what the month comes to, before discounts, credits and tax.
    pub money: Vec<MoneyEffect>,
    /// Subscriptions whose price does not follow from meters alone (by event, by dimension): see their preview afterwards.
    pub unpriced: Vec<String>,
}

/// What the chosen events add to a meter.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct MeterEffect {
    pub meter: String,
    /// By the workspace's calendar: `2026-10`.
    pub month: String,
    /// Empty for nobody's.
    pub consumer: String,
    pub subscription: String,
    pub plan: String,
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub before: BigDecimal,
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub after: BigDecimal,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct MoneyEffect {
    pub subscription: String,
    pub month: String,
    #[schema(value_type = String)]
    pub before: Money,
    #[schema(value_type = String)]
    pub after: Money,
}

/// Changes of usage in money.
#[derive(Debug, Clone, Default)]
pub struct Priced {
    pub money: Vec<MoneyEffect>,
    pub unpriced: Vec<String>,
}

/// How billing prices changes of usage.
pub type Price = Arc<dyn Fn(App, WorkspaceId, Vec<MeterEffect>) -> BoxFuture<'static, anyhow::Result<Priced>> + Send + Sync>;

static PRICE: OnceLock<Price> = OnceLock::new();

/// Given once, when the process starts; without it effects are told in units alone.
pub fn price_with(price: Price) {
    let _ = PRICE.set(price);
}

#[derive(Row, Deserialize)]
struct Found {
    month: u32,
    consumer: String,
    subscription: String,
    plan: String,
    value: String,
    n: u64,
    #[allow(dead_code)] // every column of the answer has a field
    failed: u64,
}

/// Meter, month (202610), consumer, subscription, plan.
pub(crate) type Key = (String, u32, String, String, String);

pub(super) async fn of(app: &App, workspace: &WorkspaceId, request: &Request, chosen: &[Chosen]) -> Result<Effect, MeteringError> {
    let (all, rule, zone) = {
        let mut conn = app.pg.acquire().await?;
        let zone = workspace::by_id(&mut conn, workspace).await.map_err(|e| MeteringError::unreadable("the workspace", e))?;
        (
            meters::list(&mut conn, workspace).await?,
            rule::current(&mut conn, workspace).await?.1,
            zone.map_or(chrono_tz::UTC, |w| w.time_zone),
        )
    };
    let mut sums: BTreeMap<Key, (BigDecimal, BigDecimal)> = BTreeMap::new();
    let mut not_additive = Vec::new();
    let (Some(first), Some(last)) = (chosen.first(), chosen.last()) else {
        return Ok(Effect { events: 0, meters: Vec::new(), not_additive, money: Vec::new(), unpriced: Vec::new() });
    };
    let range = format!(
        "AND toStartOfMinute(time) >= {} AND toStartOfMinute(time) <= {}",
        minute_sql(i64::from(first.minute)),
        minute_sql(i64::from(last.minute))
    );
    for meter in &all {
        let selection = Selection::new(meter, &[], &[])?;
        if !selection.measure.is_additive() {
            not_additive.push(meter.definition.name.clone());
            continue;
        }
        for keys in keys(request, &rule, &range)? {
            for after in [false, true] {
                if after && request.action == Action::Void {
                    continue;
                }
                for (key, value) in ask(app, workspace, request, meter, &rule, zone.name(), &range, &keys, after).await? {
                    let sum = sums.entry(key).or_insert_with(|| (BigDecimal::zero(), BigDecimal::zero()));
                    if after { sum.1 += value } else { sum.0 += value }
                }
            }
        }
    }
    let meters = effects(sums);
    let Priced { money, unpriced } = price(app, workspace, &meters).await?;
    Ok(Effect { events: chosen.len() as u64, meters, not_additive, money, unpriced })
}

/// Those that change.
pub(crate) fn effects(sums: BTreeMap<Key, (BigDecimal, BigDecimal)>) -> Vec<MeterEffect> {
    sums.into_iter()
        .filter(|(_, (before, after))| before != after)
        .map(|((meter, month, consumer, subscription, plan), (before, after))| MeterEffect {
            meter,
            month: format!("{}-{:02}", month / 100, month % 100),
            consumer,
            subscription,
            plan,
            before,
            after,
        })
        .collect()
}

/// Nothing where billing has not said how.
pub(crate) async fn price(app: &App, workspace: &WorkspaceId, meters: &[MeterEffect]) -> Result<Priced, MeteringError> {
    let Some(price) = PRICE.get() else { return Ok(Priced::default()) };
    price(app.clone(), workspace.clone(), meters.to_vec()).await.map_err(|e| MeteringError::unreadable("the price", format!("{e:#}")))
}

/// SELECTs of (minute, id) of the chosen events, with what they bind.
fn keys(request: &Request, rule: &CountingRule, range: &str) -> Result<Vec<(String, Parameters)>, MeteringError> {
    match &request.choice {
        Choice::Ids(ids) => Ok(ids
            .chunks(IDS)
            .map(|ids| {
                let mut parameters = Parameters::default();
                parameters.texts("ids", ids.to_vec());
                let sql = format!("SELECT toStartOfMinute(time), id FROM events FINAL WHERE workspace = {{ws:String}} {range} AND id IN {{ids:Array(String)}}");
                (sql, parameters)
            })
            .collect()),
        Choice::Filter { period, filter } => {
            let mut parameters = Parameters::default();
            let conditions = parameters.conditions(&of_definition(filter)?, "c");
            let exact = crate::facts::exact(*period);
            Ok(vec![(format!("SELECT minute, id FROM ({}) WHERE {exact} AND {conditions}", attributed(rule, range)), parameters)])
        }
    }
}

/// What the chosen events add to the meter, as they are or as they would be.
#[allow(clippy::too_many_arguments)] // one query
async fn ask(
    app: &App,
    workspace: &WorkspaceId,
    request: &Request,
    meter: &Meter,
    rule: &CountingRule,
    zone: &str,
    range: &str,
    keys: &(String, Parameters),
    after: bool,
) -> Result<Vec<(Key, BigDecimal)>, MeteringError> {
    let chosen = format!("events FINAL WHERE workspace = {{ws:String}} {range} AND (toStartOfMinute(time), id) IN ({})", keys.0);
    let mut parameters = Parameters::default();
    let source = if after {
        let columns: Vec<_> =
            SEEN.iter().chain(&["environment"]).map(|name| format!("{} AS {name}", request.set.column(name, &mut parameters))).collect();
        format!("(SELECT {} FROM (SELECT * FROM {chosen}))", columns.join(", "))
    } else {
        chosen
    };
    sums(app, workspace, meter, zone, &attributed_from(rule, &source), &|query| parameters.bind(keys.1.bind(query))).await
}

/// What attributed events add to a meter that is made of parts.
pub(crate) async fn sums(
    app: &App,
    workspace: &WorkspaceId,
    meter: &Meter,
    zone: &str,
    attributed: &str,
    bind: &(dyn Fn(Query) -> Query + Sync),
) -> Result<Vec<(Key, BigDecimal)>, MeteringError> {
    let selection = Selection::new(meter, &[], &[])?;
    let columns: Vec<_> = selection.measure.columns.iter().map(|c| format!("{} AS {}", c.raw, c.name)).collect();
    let sql = format!(
        "SELECT toUInt32(toYYYYMM(minute, '{zone}')) AS month, consumer, subscription, toString(plan) AS plan, {} FROM \
         (SELECT minute, consumer, subscription, plan, {} FROM ({attributed}) WHERE {}) GROUP BY month, consumer, subscription, plan",
        selection.measure.value,
        columns.join(", "),
        selection.raw
    );
    let query = bind(selection.parameters.bind(bound(app, workspace, &sql)));
    let mut found = Vec::new();
    for row in query.fetch_all::<Found>().await? {
        let value = selection.measure.quantity(&meter.definition, &row.value, row.n)?.unwrap_or_default();
        found.push(((meter.definition.name.clone(), row.month, row.consumer, row.subscription, row.plan), value));
    }
    Ok(found)
}
