//! The proof of a number: the query, how many events are behind it, a hash over their ids that does not depend on
//! their order, and the versions of what attributed them. Always from raw events, never from rollups, so that it is a
//! second witness.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::period::Period;
use serde::{Deserialize, Serialize};

use crate::dimension::Dimension;
use crate::facts::{Column, Facts, Table, bound, minute_sql};
use crate::filter::Filter;
use crate::meters::{self, Meter};
use crate::selection::Selection;
use crate::sync::{self, Versions};
use crate::usage::{UsageQuery, unknown_meter};
use crate::{MeteringError, plan, rule};

/// What is sealed with an invoice line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Proof {
    pub meter: String,
    /// 0 for `calls` and `requests`.
    pub meter_version: i32,
    pub subscription: SubscriptionId,
    pub period: Period,
    /// ClickHouse SQL; `{name:Type}` stands for a parameter. The same for all that were counted together.
    #[schema(value_type = String)]
    pub query: Arc<str>,
    #[schema(value_type = Object)]
    pub parameters: Arc<BTreeMap<String, serde_json::Value>>,
    /// Events behind the value, each once.
    pub events: u64,
    /// Of them, those whose value is no number and so in no sum.
    #[serde(default)]
    pub errors: u64,
    /// Sum of SipHash-128 over (workspace, id), modulo 2^128, in hexadecimal.
    pub hash: String,
    #[schema(value_type = String)]
    pub value: BigDecimal,
    pub versions: Versions,
}

/// What is behind any number of usage.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct UsageProof {
    pub meter: String,
    /// 0 for `calls` and `requests`.
    pub meter_version: i32,
    pub period: Period,
    /// As the raw events give it: what `/api/v1/usage` answers from rollups. None where there is no value, such as the
    /// average of nothing.
    #[schema(value_type = Option<String>)]
    pub value: Option<String>,
    /// Events behind the value, each once.
    pub events: u64,
    /// Of them, those whose value is no number and so in no sum.
    pub errors: u64,
    /// Sum of SipHash-128 over (workspace, id), modulo 2^128, in hexadecimal: the same in whatever order events came.
    pub hash: String,
    /// ClickHouse SQL that gives all this again; `{name:Type}` stands for a parameter.
    pub query: String,
    #[schema(value_type = Object)]
    pub parameters: BTreeMap<String, serde_json::Value>,
    pub versions: Versions,
}

/// Of a question's number over its whole period.
pub async fn of_usage(app: &App, asked: &UsageQuery) -> Result<UsageProof, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        events: u64,
        hash: String,
        value: String,
        n: u64,
        failed: u64,
    }
    let (workspace, period) = (&asked.workspace, asked.period);
    let (meter, rule) = definition(app, workspace, &asked.meter).await?;
    let versions = sync::versions(app, workspace).await?;
    let selection = Selection::new(&meter, &asked.filters, &[])?;
    let facts = facts(&selection, period, &rule, String::new());
    let outer = format!("SELECT count() AS events, {HASH} AS hash, {} FROM ({{facts}})", selection.measure.value);
    let found: Found = selection.parameters.bind(facts.query(app, workspace, &outer).await?).fetch_one().await?;
    let mut parameters = selection.parameters.shown();
    parameters.insert("ws".to_owned(), workspace.as_str().into());
    Ok(UsageProof {
        value: selection.measure.quantity(&meter.definition, &found.value, found.n)?.map(|value| value.to_plain_string()),
        meter: meter.definition.name,
        meter_version: meter.version,
        period,
        events: found.events,
        errors: found.failed,
        hash: found.hash,
        query: facts.raw_sql(&outer),
        parameters,
        versions,
    })
}

/// One event behind a number.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ProofEvent {
    pub id: String,
    pub time: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    pub source: String,
    pub subject: String,
    pub route: String,
    pub status: u16,
    /// What is measured of it, before `divide_by`: 1 for a count; as it came where it is no number.
    pub amount: String,
}

#[derive(Clone, Row, Deserialize)]
struct Behind {
    of: String,
    events: u64,
    hash: String,
    value: String,
    n: u64,
    failed: u64,
}

/// Of the events of a group.
const HASH: &str = "lower(leftPad(hex(sum(reinterpretAsUInt128(sipHash128({ws:String}, id)))), 32, '0'))";

/// Around the facts, each subscription's row; `value` is the meter's own.
fn summed(value: &str) -> String {
    format!("SELECT subscription AS of, count() AS events, {HASH} AS hash, {value} FROM ({{facts}}) GROUP BY subscription")
}

/// What is behind a meter's value in a period for every subscription: one scan, however many are asked about.
pub struct Proofs {
    meter: Meter,
    selection: Selection,
    period: Period,
    query: Arc<str>,
    parameters: Arc<BTreeMap<String, serde_json::Value>>,
    versions: Versions,
    behind: Answers,
}

pub async fn of_all(app: &App, workspace: &WorkspaceId, meter: &str, period: Period) -> Result<Proofs, MeteringError> {
    let (meter, rule) = definition(app, workspace, meter).await?;
    let versions = sync::versions(app, workspace).await?;
    let selection = Selection::new(&meter, &[], &[])?;
    let facts = facts(&selection, period, &rule, String::new());
    let behind = if period.is_empty() { Answers::default() } else { all(app, workspace, &meter, &selection, &facts, versions).await? };
    let query = facts.raw_sql(&summed(&selection.measure.value));
    let mut parameters = selection.parameters.shown();
    parameters.insert("ws".to_owned(), workspace.as_str().into());
    let (query, parameters) = (query.into(), Arc::new(parameters));
    Ok(Proofs { meter, selection, period, query, parameters, versions, behind })
}

impl Proofs {
    pub fn of(&self, subscription: &SubscriptionId) -> Result<Proof, MeteringError> {
        let behind = self.behind.get(subscription.as_str());
        let (value, n) = behind.map_or(("0", 0), |behind| (behind.value.as_str(), behind.n));
        let definition = &self.meter.definition;
        Ok(Proof {
            // Nothing is what there is of no value: no average, no latest one.
            value: self.selection.measure.quantity(definition, value, n)?.unwrap_or_default(),
            meter: definition.name.clone(),
            meter_version: self.meter.version,
            subscription: subscription.clone(),
            period: self.period,
            query: self.query.clone(),
            parameters: self.parameters.clone(),
            events: behind.map_or(0, |behind| behind.events),
            errors: behind.map_or(0, |behind| behind.failed),
            hash: behind.map_or_else(|| "0".repeat(32), |behind| behind.hash.clone()),
            versions: self.versions,
        })
    }
}

/// What is behind a meter's value for a subscription in a period.
pub async fn of(
    app: &App,
    workspace: &WorkspaceId,
    subscription: &SubscriptionId,
    meter: &str,
    period: Period,
) -> Result<Proof, MeteringError> {
    of_all(app, workspace, meter, period).await?.of(subscription)
}

/// The events behind it, sorted by id, those after `after` (empty for the first page).
pub async fn events(
    app: &App,
    workspace: &WorkspaceId,
    subscription: &SubscriptionId,
    meter: &str,
    period: Period,
    limit: usize,
    after: &str,
) -> Result<Vec<ProofEvent>, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        id: String,
        at: i64,
        received: i64,
        from_source: String,
        subject: String,
        via: String,
        status: u16,
        value: String,
    }
    if period.is_empty() {
        return Ok(Vec::new());
    }
    let (meter, rule) = definition(app, workspace, meter).await?;
    let selection = Selection::new(&meter, &[Filter::is(Dimension::Subscription, subscription.as_str())], &[])?;
    let mut facts = facts(&selection, period, &rule, " AND id > {after:String}".to_owned());
    facts.columns.push(Column::of_event("seen", &selection.measure.seen));
    for (name, sql) in [
        ("at", "toUnixTimestamp64Micro(time)"),
        ("received", "toUnixTimestamp64Milli(received_at)"),
        ("from_source", "toString(source)"),
        ("subject", "subject"),
        ("via", "toString(route)"),
        ("status", "status"),
    ] {
        facts.columns.push(Column::of_event(name, sql));
    }
    let outer =
        format!("SELECT id, at, received, from_source, subject, via, status, seen AS value FROM ({{facts}}) ORDER BY id LIMIT {limit}");
    let found: Vec<Found> = selection.parameters.bind(facts.query(app, workspace, &outer).await?).param("after", after).fetch_all().await?;
    let read = found.into_iter().map(|row| ProofEvent {
        id: row.id,
        time: DateTime::from_timestamp_micros(row.at).unwrap_or_default(),
        received_at: DateTime::from_timestamp_millis(row.received).unwrap_or_default(),
        source: row.from_source,
        subject: row.subject,
        route: row.via,
        status: row.status,
        amount: row.value,
    });
    Ok(read.collect())
}

pub(crate) async fn definition(app: &App, workspace: &WorkspaceId, meter: &str) -> Result<(Meter, rule::CountingRule), MeteringError> {
    let mut conn = app.pg.acquire().await?;
    let found = meters::get(&mut conn, workspace, meter).await?.ok_or_else(|| unknown_meter(meter))?;
    Ok((found, rule::current(&mut conn, workspace).await?.1))
}

pub(crate) fn facts<'a>(selection: &Selection, period: Period, rule: &'a rule::CountingRule, and: String) -> Facts<'a> {
    let mut columns = vec![Column::of_event("id", "id"), Column::of_event("subscription", "subscription")];
    columns.extend(selection.measure.columns.iter().cloned());
    Facts {
        table: Table::Raw,
        period,
        whole: &plan::never,
        columns,
        rolled: String::new(),
        raw: format!("{}{and}", selection.raw),
        scope: String::new(),
        rule,
        may_be_partial: false,
    }
}

type Answers = Arc<HashMap<String, Behind>>;

/// A month's lines of all subscriptions ask for the same scan: it is made once, and remembered until anything that
/// could change it happens.
static REMEMBERED: LazyLock<Mutex<Vec<(String, Answers)>>> = LazyLock::new(Mutex::default);
const REMEMBER: usize = 8;

/// Whatever changes an answer touches its minutes, or is another version of meter, rule or timeline.
async fn touched(app: &App, workspace: &WorkspaceId, period: Period) -> Result<u64, MeteringError> {
    let sql = format!(
        "SELECT sum(n) FROM touched WHERE workspace = {{ws:String}} AND minute >= {} AND minute < {}",
        minute_sql(period.start.timestamp() - 60),
        minute_sql(period.end.timestamp() + 60)
    );
    Ok(bound(app, workspace, &sql).fetch_one().await?)
}

/// The state of a period's events and of what attributes them: as long as it is the same, every count is.
pub async fn state(app: &App, workspace: &WorkspaceId, period: Period) -> Result<String, MeteringError> {
    let (touched, versions) = (touched(app, workspace, period).await?, sync::versions(app, workspace).await?);
    Ok(format!("{touched}/{}/{}/{}", versions.links, versions.subscriptions, versions.rule))
}

/// Every subscription's sums in the period.
async fn all(
    app: &App,
    workspace: &WorkspaceId,
    meter: &Meter,
    selection: &Selection,
    facts: &Facts<'_>,
    versions: Versions,
) -> Result<Answers, MeteringError> {
    let touched = touched(app, workspace, facts.period).await?;
    let key = format!(
        "{workspace} {:?} {} {:?} {versions:?} {touched} {}",
        facts.period, meter.definition.name, meter.version, app.config.clickhouse.database
    );
    let known = |key: &str| {
        let remembered = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.iter().find(|(k, _)| k == key).map(|(_, answers)| answers.clone())
    };
    if let Some(answers) = known(&key) {
        return Ok(answers);
    }
    let found: Vec<Behind> =
        selection.parameters.bind(facts.query(app, workspace, &summed(&selection.measure.value)).await?).fetch_all().await?;
    let answers: Answers = Arc::new(found.into_iter().map(|b| (b.of.clone(), b)).collect());
    let mut remembered = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    if remembered.len() >= REMEMBER {
        remembered.remove(0);
    }
    remembered.push((key, answers.clone()));
    Ok(answers)
}
