//! Meters derived from a price: what totals cannot tell. From raw events, as a proof is.

use bigdecimal::{BigDecimal, RoundingMode};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::money::{MAX_DECIMALS, plain};
use farebox_core::period::Period;
use serde::Deserialize;

use crate::dimension::Dimension;
use crate::proof::{Proof, definition, facts};
use crate::usage::{Selection, scaled};
use crate::{MeteringError, sync};

/// Decimals of a rate for one event: its own 12, and as many for a meter's `divide_by`.
const RATE_DECIMALS: i64 = 2 * MAX_DECIMALS;

/// What one event costs: `rate` of its amount (at least 0) and `fixed`, held between `min` and `max`; the first `free`
/// events in time cost nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct EventFee {
    pub rate: BigDecimal,
    pub fixed: BigDecimal,
    pub min: Option<BigDecimal>,
    pub max: Option<BigDecimal>,
    pub free: BigDecimal,
}

/// The exact sum of a fee over each event of a meter, for a subscription in a period.
pub async fn fees(
    app: &App,
    workspace: &WorkspaceId,
    subscription: &SubscriptionId,
    meter: &str,
    period: Period,
    fee: &EventFee,
) -> Result<BigDecimal, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        value: String,
    }
    if period.is_empty() {
        return Ok(BigDecimal::from(0));
    }
    let (meter, rule) = definition(app, workspace, meter).await?;
    let selection = Selection::new(&meter.definition, &[(Dimension::Subscription, vec![subscription.to_string()])], &[])?;
    let mut facts = facts(&selection, period, &rule, String::new());
    facts.columns.push(("at", String::new(), "time".to_owned()));
    let rate = meter.definition.divide_by.as_ref().map_or_else(|| fee.rate.clone(), |by| &fee.rate / by);
    let amount = |name: &str| format!("toDecimal256({{{name}:String}}, {MAX_DECIMALS})");
    let mut sql = format!(
        "greatest(toDecimal256(toString(amount), {MAX_DECIMALS}) * toDecimal256({{rate:String}}, {RATE_DECIMALS}), toDecimal256(0, 0)) + {}",
        amount("fixed")
    );
    if fee.min.is_some() {
        sql = format!("greatest({sql}, {})", amount("low"));
    }
    if fee.max.is_some() {
        sql = format!("least({sql}, {})", amount("high"));
    }
    let outer = format!(
        "SELECT toString(sum(fee)) AS value FROM (SELECT {sql} AS fee, row_number() OVER (ORDER BY at, id) - 1 AS before FROM ({{facts}})) \
         WHERE toDecimal256(before, {MAX_DECIMALS}) >= {}",
        amount("free")
    );
    let text = |value: &Option<BigDecimal>| value.as_ref().map(plain).unwrap_or_default();
    let query = selection
        .bind(facts.query(app, workspace, &outer).await?)
        .param("rate", plain(&rate.with_scale_round(RATE_DECIMALS, RoundingMode::HalfEven)))
        .param("fixed", plain(&fee.fixed))
        .param("low", text(&fee.min))
        .param("high", text(&fee.max))
        .param("free", plain(&fee.free));
    let found: Found = query.fetch_one().await?;
    found.value.parse().map_err(|e| MeteringError::unreadable("a sum of fees", e))
}

/// A meter by the values of a dimension, for a subscription in a period: each with its proof, sorted by value.
pub async fn by_value(
    app: &App,
    workspace: &WorkspaceId,
    subscription: &SubscriptionId,
    meter: &str,
    dimension: &Dimension,
    period: Period,
) -> Result<Vec<(String, Proof)>, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        of: String,
        events: u64,
        hash: String,
        value: String,
    }
    const SUMMED: &str = "SELECT of, count() AS events, lower(leftPad(hex(sum(reinterpretAsUInt128(sipHash128({ws:String}, id)))), 32, '0')) AS hash, \
         toString(sum(amount)) AS value FROM ({facts}) GROUP BY of ORDER BY of";
    if period.is_empty() {
        return Ok(Vec::new());
    }
    let (meter, rule) = definition(app, workspace, meter).await?;
    let versions = sync::versions(app, workspace).await?;
    let selection = Selection::new(&meter.definition, &[(Dimension::Subscription, vec![subscription.to_string()])], &[])?;
    let mut facts = facts(&selection, period, &rule, String::new());
    facts.columns.push(("of", String::new(), dimension.sql("of_pointer")));
    let mut query = selection.bind(facts.query(app, workspace, SUMMED).await?);
    let mut parameters = selection.parameters();
    parameters.insert("ws".to_owned(), workspace.as_str().into());
    if let Dimension::Property(pointer) = dimension {
        query = query.param("of_pointer", pointer);
        parameters.insert("of_pointer".to_owned(), pointer.as_str().into());
    }
    let mut found = Vec::new();
    for row in query.fetch_all::<Found>().await? {
        let mut parameters = parameters.clone();
        parameters.insert("value".to_owned(), row.of.as_str().into());
        let proof = Proof {
            meter: meter.definition.name.clone(),
            meter_version: meter.version,
            subscription: subscription.clone(),
            period,
            query: facts.raw_sql(&SUMMED.replace("GROUP BY of", "WHERE of = {value:String} GROUP BY of")),
            parameters,
            events: row.events,
            hash: row.hash,
            value: scaled(&meter, &row.value)?,
            versions,
        };
        found.push((row.of, proof));
    }
    Ok(found)
}

/// Events of a summing meter in a period whose value is missing or no decimal of at most 12 places: they add nothing.
pub async fn unreadable(app: &App, workspace: &WorkspaceId, meter: &str, period: Period) -> Result<u64, MeteringError> {
    let (meter, rule) = definition(app, workspace, meter).await?;
    let pointer = meter.definition.value.as_deref().filter(|value| value.starts_with('/'));
    if pointer.is_none() || period.is_empty() {
        return Ok(0);
    }
    let selection = Selection::new(&meter.definition, &[], &[])?;
    let mut facts = facts(&selection, period, &rule, String::new());
    facts.columns.push(("text", String::new(), "properties[{value:String}]".to_owned()));
    let outer = "SELECT countIf(NOT match(text, '^-?[0-9]{1,26}([.][0-9]{1,12})?$')) FROM ({facts})";
    Ok(selection.bind(facts.query(app, workspace, outer).await?).fetch_one().await?)
}
