//! Usage that is nobody's: what gateways name and no link knows. A consumer of its own ("unknown") until it is linked.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::money::{Money, plain};
use farebox_core::period::Period;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::attribution::attributed;
use crate::corrections::effect;
use crate::facts::{Column, Facts, Table, exact, range};
use crate::meters::{self, Aggregate};
use crate::{MeteringError, plan, rule};

/// A subject or key that gateways sent and no link knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Stranger {
    /// As the gateway named the consumer; empty for calls that name none.
    pub subject: String,
    /// Id of the key; empty for calls without one.
    pub credential: String,
    pub calls: u64,
    pub first: DateTime<Utc>,
    pub last: DateTime<Utc>,
}

/// What this usage would cost one consumer on a plan, without the plan's fees.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ListValue {
    pub plan: String,
    pub version: i32,
    #[schema(value_type = String)]
    pub amount: Money,
}

/// How billing values usage (by meter) at list price, on each plan that is sold.
pub type ListPrice =
    Arc<dyn Fn(App, WorkspaceId, Period, BTreeMap<String, BigDecimal>) -> BoxFuture<'static, anyhow::Result<Vec<ListValue>>> + Send + Sync>;

static PRICE: OnceLock<ListPrice> = OnceLock::new();

/// Given once, when the process starts.
pub fn price_with(price: ListPrice) {
    let _ = PRICE.set(price);
}

/// What nobody's usage measures, by meter that is made of parts, and what it would cost. Were it somebody's, it would
/// count by the same rule as theirs.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
pub struct Unknown {
    #[schema(value_type = BTreeMap<String, String>)]
    pub usage: BTreeMap<String, String>,
    pub list_value: Vec<ListValue>,
}

pub async fn value(app: &App, workspace: &WorkspaceId, period: Period) -> Result<Unknown, MeteringError> {
    if period.is_empty() {
        return Ok(Unknown::default());
    }
    let (rule, meters) = {
        let mut conn = app.pg.acquire().await?;
        (rule::current(&mut conn, workspace).await?.1, meters::list(&mut conn, workspace).await?)
    };
    let reason = rule.reason_of("'somebody'");
    let strangers = format!(
        "SELECT * EXCEPT (reason, counted), {reason} AS reason, toBool({reason} = '') AS counted FROM ({}) WHERE consumer = '' AND {}",
        attributed(&rule, &range("toStartOfMinute(time)", period)),
        exact(period)
    );
    let mut used: BTreeMap<String, BigDecimal> = BTreeMap::new();
    for meter in meters.iter().filter(|meter| matches!(meter.definition.aggregate, Aggregate::Count | Aggregate::Sum)) {
        let sums = effect::sums(app, workspace, meter, "UTC", &strangers, &|query| query).await?;
        used.insert(meter.definition.name.clone(), sums.into_iter().map(|(_, value)| value).sum());
    }
    let usage = used.iter().map(|(meter, value)| (meter.clone(), plain(value))).collect();
    let list_value = match PRICE.get() {
        Some(price) => {
            let priced = price(app.clone(), workspace.clone(), period, used).await;
            priced.map_err(|e| MeteringError::unreadable("the list price", format!("{e:#}")))?
        }
        None => Vec::new(),
    };
    Ok(Unknown { usage, list_value })
}

/// Those with most calls first.
pub async fn list(app: &App, workspace: &WorkspaceId, period: Period, limit: usize) -> Result<Vec<Stranger>, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        subject: String,
        credential: String,
        calls: u64,
        first_at: i64,
        last_at: i64,
    }
    if period.is_empty() {
        return Ok(Vec::new());
    }
    let rule = rule::current(&mut *app.pg.acquire().await?, workspace).await?.1;
    let columns = ["subject", "credential", "time"].map(|name| Column::of_event(name, name)).to_vec();
    let raw = "consumer = ''".to_owned();
    let facts = Facts {
        table: Table::Raw,
        period,
        whole: &plan::never,
        columns,
        rolled: String::new(),
        raw,
        scope: String::new(),
        rule: &rule,
        may_be_partial: false,
    };
    let outer = format!(
        "SELECT subject, credential, count() AS calls, toUnixTimestamp64Micro(min(time)) AS first_at, toUnixTimestamp64Micro(max(time)) AS last_at \
         FROM ({{facts}}) GROUP BY subject, credential ORDER BY calls DESC, subject, credential LIMIT {limit}"
    );
    let found: Vec<Found> = facts.query(app, workspace, &outer).await?.fetch_all().await?;
    let at = |micros| DateTime::from_timestamp_micros(micros).unwrap_or_default();
    let read = found.into_iter().map(|row| Stranger {
        subject: row.subject,
        credential: row.credential,
        calls: row.calls,
        first: at(row.first_at),
        last: at(row.last_at),
    });
    Ok(read.collect())
}
