//! Meters derived from a price: what totals cannot tell. From raw events, as a proof is.

use std::sync::Arc;

use bigdecimal::{BigDecimal, RoundingMode};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::money::{MAX_DECIMALS, plain};
use farebox_core::period::Period;
use serde::Deserialize;

use crate::dimension::Dimension;
use crate::facts::Column;
use crate::filter::Filter;
use crate::proof::{Proof, definition, facts};
use crate::selection::Selection;
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
    let selection = Selection::new(&meter, &[Filter::is(Dimension::Subscription, subscription.as_str())], &[])?;
    if !selection.measure.is_additive() {
        return Err(MeteringError::invalid(
            "meter",
            format!(
                "`{}` is the {} of its events; a price for each event needs a meter that counts or sums",
                meter.definition.name,
                meter.definition.aggregate.name()
            ),
        ));
    }
    let mut facts = facts(&selection, period, &rule, String::new());
    facts.columns.push(Column::of_event("at", "time"));
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
        .parameters
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
        n: u64,
        failed: u64,
    }
    if period.is_empty() {
        return Ok(Vec::new());
    }
    let (meter, rule) = definition(app, workspace, meter).await?;
    let versions = sync::versions(app, workspace).await?;
    let selection = Selection::new(&meter, &[Filter::is(Dimension::Subscription, subscription.as_str())], &[])?;
    let mut facts = facts(&selection, period, &rule, String::new());
    facts.columns.push(Column::of_event("of", &dimension.sql("of_pointer")));
    let summed = |only: &str| {
        format!(
            "SELECT of, count() AS events, lower(leftPad(hex(sum(reinterpretAsUInt128(sipHash128({{ws:String}}, id)))), 32, '0')) AS hash, \
             {} FROM ({{facts}}) {only} GROUP BY of ORDER BY of",
            selection.measure.value
        )
    };
    let mut query = selection.parameters.bind(facts.query(app, workspace, &summed("")).await?);
    let mut parameters = selection.parameters.shown();
    parameters.insert("ws".to_owned(), workspace.as_str().into());
    if let Dimension::Property(pointer) = dimension {
        query = query.param("of_pointer", pointer);
        parameters.insert("of_pointer".to_owned(), pointer.as_str().into());
    }
    let mut found = Vec::new();
    for row in query.fetch_all::<Found>().await? {
        // The values of a dimension that have events, but none with a value to take.
        let Some(value) = selection.measure.quantity(&meter.definition, &row.value, row.n)? else { continue };
        let mut parameters = parameters.clone();
        parameters.insert("value".to_owned(), row.of.as_str().into());
        let proof = Proof {
            meter: meter.definition.name.clone(),
            meter_version: meter.version,
            subscription: subscription.clone(),
            period,
            query: facts.raw_sql(&summed("WHERE of = {value:String}")).into(),
            parameters: Arc::new(parameters),
            events: row.events,
            hash: row.hash,
            errors: row.failed,
            value,
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
    let selection = Selection::new(&meter, &[], &[])?;
    let facts = facts(&selection, period, &rule, String::new());
    Ok(selection.parameters.bind(facts.query(app, workspace, "SELECT sum(wrong) FROM ({facts})").await?).fetch_one().await?)
}
