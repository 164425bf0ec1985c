//! What was invoiced for months of the calendar, by route and consumer, beside what the calls of those months cost.

use std::collections::{BTreeMap, HashMap};

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::money::{Currency, Money, decimal_string};
use farebox_core::period::Period;
use farebox_core::workspace;
use farebox_metering::meters::{self, Aggregate};
use farebox_metering::usage::{self, UsageQuery};
use farebox_metering::{Dimension, consumers};
use serde::Serialize;

use super::costs::{self, Cost};
use super::spread::spread;
use crate::BillingError;
use crate::rating::RatingError;

/// What belongs to a route or a consumer. `revenue` is what was invoiced, without tax, after discounts and credits.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct MarginRow {
    /// Empty, as is `route`: what is of no route, such as fees.
    pub api: String,
    pub route: String,
    /// Absent in rows by route alone; `id` is empty for calls of nobody known.
    pub consumer: Option<MarginConsumer>,
    pub calls: u64,
    #[schema(value_type = String)]
    pub revenue: Money,
    /// Exact: calls times what one costs.
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub cost: BigDecimal,
    /// revenue - cost.
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub margin: BigDecimal,
    /// Calls for which no rule says what they cost; nothing is counted for them.
    pub calls_without_cost: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
pub struct MarginConsumer {
    pub id: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Margin {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    #[schema(value_type = String)]
    pub currency: Currency,
    pub formula: String,
    /// The greatest revenue first.
    pub rows: Vec<MarginRow>,
    /// The sums of all rows.
    pub total: MarginRow,
    /// Invoiced in another currency, which has no cost to set it against: consumers' names.
    pub left_out: Vec<String>,
}

/// How rows are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct By {
    pub route: bool,
    pub consumer: bool,
}

const FORMULA: &str = "Revenue: lines of issued invoices that are not void, of stretches that begin in the period, without tax, after discounts and \
                       credits. A usage line is spread over the routes its units came from, by their units (by calls where the meter does not add up), \
                       by largest remainder; what is of no route stands by itself. Cost: every call of the period times what a call of its route costs.";

type Key = (String, String, String);

#[derive(Default, Clone)]
struct Sums {
    calls: u64,
    minor: i64,
    cost: BigDecimal,
    without: u64,
}

pub async fn margin(app: &App, ws: &WorkspaceId, period: Period, by: By) -> Result<Margin, BillingError> {
    let mut conn = app.pg.acquire().await?;
    let currency = workspace::by_id(&mut conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?.currency;
    let rules = costs::list(&mut conn, ws).await?;
    let lines = lines(&mut conn, ws, period).await?;
    drop(conn);
    let mut sums: BTreeMap<Key, Sums> = BTreeMap::new();
    spend(app, ws, &rules, period, &mut sums).await?;
    let mut other = Vec::new();
    let mut units = Units { app, ws, known: HashMap::new(), additive: HashMap::new() };
    for line in lines {
        if line.currency != currency.code() {
            other.push(line.consumer);
            continue;
        }
        let net = Money::new(line.net_minor, currency);
        let parts = match &line.meter {
            Some(meter) => units.of(meter, &line.subscription, line.period).await?,
            None => Vec::new(),
        };
        let weights: Vec<_> = parts.iter().map(|(_, units)| units.clone()).collect();
        let mut add = |api: &str, route: &str, minor: i64| {
            let sum = sums.entry((api.to_owned(), route.to_owned(), line.consumer.clone())).or_default();
            sum.minor = sum.minor.checked_add(minor).ok_or(farebox_core::money::MoneyError::Overflow(currency))?;
            Ok::<_, farebox_core::money::MoneyError>(())
        };
        match spread(net, &weights).map_err(RatingError::from)? {
            Some(amounts) => {
                for (((api, route), _), amount) in parts.iter().zip(amounts) {
                    add(api, route, amount.minor).map_err(RatingError::from)?;
                }
            }
            None => add("", "", net.minor).map_err(RatingError::from)?,
        }
    }
    report(app, ws, period, currency, by, sums, other).await
}

struct Line {
    consumer: String,
    subscription: String,
    currency: String,
    meter: Option<String>,
    period: Period,
    net_minor: i64,
}

/// Carried amounts and credits after tax are other invoices' money.
async fn lines(conn: &mut sqlx::PgConnection, ws: &WorkspaceId, period: Period) -> Result<Vec<Line>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT i.consumer_id, coalesce(l.subscription_id, i.subscription_id) AS "subscription_id!", i.currency, l.meter, l.period_start, l.period_end,
                  l.amount_minor - l.discount_minor - l.credit_minor - CASE WHEN l.tax_inclusive THEN l.tax_minor ELSE 0 END AS "net!"
           FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
           WHERE i.workspace_id = $1 AND i.state NOT IN ('draft', 'void') AND l.kind NOT IN ('carried', 'credit')
             AND l.period_start >= $2 AND l.period_start < $3 ORDER BY i.id, l.position"#,
        ws.as_str(),
        period.start,
        period.end
    )
    .fetch_all(conn)
    .await?;
    let read = rows.into_iter().map(|row| Line {
        consumer: row.consumer_id,
        subscription: row.subscription_id,
        currency: row.currency,
        meter: row.meter,
        period: Period { start: row.period_start, end: row.period_end },
        net_minor: row.net,
    });
    Ok(read.collect())
}

/// Calls and what they cost.
async fn spend(app: &App, ws: &WorkspaceId, rules: &[Cost], period: Period, sums: &mut BTreeMap<Key, Sums>) -> Result<(), BillingError> {
    for stretch in costs::stretches(rules, period) {
        let all = UsageQuery::new(ws, "calls", stretch).only(Dimension::Type, farebox_core::event::REQUEST);
        for (group, calls) in grouped(app, all, &[Dimension::Api, Dimension::Route, Dimension::Consumer]).await? {
            let [api, route, consumer] = group.try_into().map_err(|_| BillingError::unreadable("usage", "it has other groups"))?;
            let each = costs::of_call(rules, &api, &route, stretch.start).cloned();
            let sum = sums.entry((api, route, consumer)).or_default();
            let count = calls.with_scale(0).as_bigint_and_exponent().0.try_into().unwrap_or(0_u64);
            sum.calls += count;
            match each {
                Some(each) => sum.cost += calls * each,
                None => sum.without += count,
            }
        }
    }
    Ok(())
}

async fn grouped(app: &App, mut query: UsageQuery, by: &[Dimension]) -> Result<Vec<(Vec<String>, BigDecimal)>, BillingError> {
    query.group_by = by.to_vec();
    let mut found = Vec::new();
    loop {
        let answer = usage::query(app, &query).await?;
        for mut row in answer.rows {
            found.push((by.iter().map(|d| row.group.remove(d.name()).unwrap_or_default()).collect(), row.value));
        }
        if !answer.more {
            return Ok(found);
        }
        query.offset += usage::MAX_ROWS;
    }
}

type ByRoute = Vec<((String, String), BigDecimal)>;

/// Units of a meter by route, of all subscriptions asked for at once.
struct Units<'a> {
    app: &'a App,
    ws: &'a WorkspaceId,
    known: HashMap<(String, Period), HashMap<String, ByRoute>>,
    additive: HashMap<String, bool>,
}

impl Units<'_> {
    async fn of(&mut self, meter: &str, subscription: &str, period: Period) -> Result<ByRoute, BillingError> {
        let meter = if self.adds_up(meter).await? { meter } else { "calls" };
        let key = (meter.to_owned(), period);
        if !self.known.contains_key(&key) {
            let mut by: HashMap<String, ByRoute> = HashMap::new();
            let all = UsageQuery::new(self.ws, meter, period);
            for (group, value) in grouped(self.app, all, &[Dimension::Subscription, Dimension::Api, Dimension::Route]).await? {
                let [own, api, route] = group.try_into().map_err(|_| BillingError::unreadable("usage", "it has other groups"))?;
                // What was taken back has no share of what is left.
                by.entry(own).or_default().push(((api, route), value.max(BigDecimal::from(0))));
            }
            self.known.insert(key.clone(), by);
        }
        Ok(self.known.get(&key).and_then(|by| by.get(subscription)).cloned().unwrap_or_default())
    }

    async fn adds_up(&mut self, meter: &str) -> Result<bool, BillingError> {
        if let Some(known) = self.additive.get(meter) {
            return Ok(*known);
        }
        let found = meters::get(&mut *self.app.pg.acquire().await?, self.ws, meter).await?;
        let adds = found.is_some_and(|meter| matches!(meter.definition.aggregate, Aggregate::Count | Aggregate::Sum));
        self.additive.insert(meter.to_owned(), adds);
        Ok(adds)
    }
}

async fn report(
    app: &App,
    ws: &WorkspaceId,
    period: Period,
    currency: Currency,
    by: By,
    sums: BTreeMap<Key, Sums>,
    mut other: Vec<String>,
) -> Result<Margin, BillingError> {
    let mut rows: BTreeMap<Key, Sums> = BTreeMap::new();
    let mut whole = Sums::default();
    for ((api, route, consumer), sum) in sums {
        let (api, route) = if by.route { (api, route) } else { Default::default() };
        let consumer = if by.consumer { consumer } else { String::new() };
        for into in [rows.entry((api, route, consumer)).or_default(), &mut whole] {
            into.calls += sum.calls;
            into.minor =
                into.minor.checked_add(sum.minor).ok_or(farebox_core::money::MoneyError::Overflow(currency)).map_err(RatingError::from)?;
            into.cost += sum.cost.clone();
            into.without += sum.without;
        }
    }
    let mut ids: Vec<_> =
        rows.keys().map(|(_, _, consumer)| consumer.clone()).chain(other.iter().cloned()).filter(|id| !id.is_empty()).collect();
    ids.sort_unstable();
    ids.dedup();
    let known = consumers::by_ids(&mut *app.pg.acquire().await?, ws, &ids).await?;
    let name = |id: &str| known.iter().find(|c| c.id.as_str() == id).map_or_else(|| id.to_owned(), |c| c.name.clone());
    let row = |(api, route, consumer): Key, sum: Sums| {
        let revenue = Money::new(sum.minor, currency);
        MarginRow {
            api,
            route,
            consumer: by.consumer.then(|| MarginConsumer { name: name(&consumer), id: consumer }),
            calls: sum.calls,
            margin: revenue.to_decimal() - &sum.cost,
            revenue,
            cost: sum.cost,
            calls_without_cost: sum.without,
        }
    };
    let mut rows: Vec<_> = rows.into_iter().map(|(key, sum)| row(key, sum)).collect();
    rows.sort_by(|a, b| b.revenue.minor.cmp(&a.revenue.minor).then_with(|| b.calls.cmp(&a.calls)));
    let total = MarginRow { consumer: None, ..row(Key::default(), whole) };
    other.sort_unstable();
    other.dedup();
    let left_out = other.iter().map(|id| name(id)).collect();
    Ok(Margin { from: period.start, to: period.end, currency, formula: FORMULA.to_owned(), rows, total, left_out })
}
