//! `farebox rate`: the same functions as invoices use, offline, on one plan and given usage.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use farebox_core::money::{Currency, Money, decimal, plain};
use farebox_core::period::Period;
use serde::Deserialize;
use serde_json::{Value, json};

use super::lines::{fee, fee_credit, fees, minimum};
use super::plan::Billed;
use super::{PlanDefinition, Prior, RatedInvoice, RatedLine, RatingError, Scope, TaxRate, Usage, rate as rate_stretch, total, usage_lines};
use crate::catalog::CatalogError;

#[derive(Debug, thiserror::Error)]
pub enum RateError {
    #[error("the plan is not right:\n{}", .0.iter().map(|e| format!("  {e}")).collect::<Vec<_>>().join("\n"))]
    Plan(Vec<CatalogError>),
    #[error("the usage is not right: {0}")]
    Usage(String),
    #[error("the change is not right: {0}")]
    Change(String),
    #[error(transparent)]
    Rating(#[from] RatingError),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageFile {
    currency: Currency,
    period: Period,
    /// The part of the period in which the plan was in force; all of it unless given.
    in_force: Option<Period>,
    #[serde(default)]
    meters: BTreeMap<String, MeterValue>,
    /// For proration by day; UTC unless given.
    time_zone: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeterValue {
    value: String,
    prior: Option<PriorValue>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PriorValue {
    value: String,
    billed: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeFile {
    at: DateTime<Utc>,
    /// The entry of the new plan; null to leave.
    to_plan: Value,
}

struct Request {
    plan: PlanDefinition,
    tax: Option<TaxRate>,
    scope: Scope,
    meters: BTreeMap<String, Usage>,
}

/// Rates `plan_yaml` (one entry of `plans`) on `usage_json`, and answers the lines as the API writes them.
pub fn rate(plan_yaml: &str, usage_json: &str) -> Result<Value, RateError> {
    let request = read(plan_yaml, usage_json)?;
    let rated = rate_stretch(&request.plan, &request.scope, &request.meters, request.tax.as_ref())?;
    Ok(answer(&rated))
}

/// Previews a change of plan at an instant of the period, or leaving: what was paid in advance and is unused is given
/// back, the new plan's advance fee charged, and the old plan's arrears and usage (up to the change) billed.
pub fn change(plan_yaml: &str, usage_json: &str, change_json: &str) -> Result<Value, RateError> {
    let Request { plan, tax, scope, meters } = read(plan_yaml, usage_json)?;
    let change: ChangeFile = serde_json::from_str(change_json).map_err(|e| RateError::Change(e.to_string()))?;
    let new_plan = match &change.to_plan {
        Value::Null => None,
        Value::Object(_) => Some(crate::catalog::parse_plan(&change.to_plan.to_string(), scope.currency).map_err(RateError::Plan)?.0),
        _ => return Err(RateError::Change("`to_plan` is the entry of the new plan, or null to leave".to_owned())),
    };
    if !scope.part.contains(change.at) {
        return Err(RateError::Change(format!("`at` must lie in the period, from {} to before {}", scope.part.start, scope.part.end)));
    }
    let before = Scope { part: Period { start: scope.part.start, end: change.at }, ..scope };
    let after = Scope { part: Period { start: change.at, end: scope.part.end }, ..scope };
    let mut lines = Vec::new();
    for (price, amount, billed) in fees(&plan) {
        lines.push(match billed {
            Billed::InAdvance => fee_credit(price, amount, &after)?,
            Billed::InArrears => fee(price, amount, &before)?,
        });
    }
    if let Some(new) = &new_plan {
        let after = Scope { proration: new.terms.proration, ..after };
        for (price, amount, _) in fees(new).filter(|(_, _, billed)| *billed == Billed::InAdvance) {
            lines.push(fee(price, amount, &after)?);
        }
    }
    let used = usage_lines(&plan, &before, &meters)?;
    if plan.minimum.is_some() {
        let mut counted = used.clone();
        for (price, amount, _) in fees(&plan) {
            counted.push(fee(price, amount, &before)?);
        }
        lines.extend(minimum(&plan, &counted, &before)?);
    }
    lines.extend(used);
    Ok(answer(&total(lines, tax.as_ref(), scope.currency)?))
}

fn read(plan_yaml: &str, usage_json: &str) -> Result<Request, RateError> {
    let usage: UsageFile = serde_json::from_str(usage_json).map_err(|e| RateError::Usage(e.to_string()))?;
    let (plan, tax) = crate::catalog::parse_plan(plan_yaml, usage.currency).map_err(RateError::Plan)?;
    let zone = usage.time_zone.as_deref().unwrap_or("UTC");
    let zone: Tz = zone.parse().map_err(|_| RateError::Usage(format!("`{zone}` is not an IANA time zone such as Europe/Berlin")))?;
    let part = usage.in_force.unwrap_or(usage.period);
    if usage.period.start > usage.period.end || part.start < usage.period.start || part.end > usage.period.end || part.start > part.end {
        return Err(RateError::Usage("`period` runs from an instant to a later one, and `in_force` lies within it".to_owned()));
    }
    if let Some(name) = usage.meters.keys().find(|name| !plan.meters().contains(&name.as_str())) {
        return Err(RateError::Usage(format!("the plan has no price on the meter `{name}`; it has {}", plan.meters().join(", "))));
    }
    let scope = Scope { currency: usage.currency, zone, period: usage.period, part, proration: plan.terms.proration };
    let meters =
        usage.meters.into_iter().map(|(name, value)| Ok((name, meter(value, scope.currency)?))).collect::<Result<_, RateError>>()?;
    Ok(Request { plan, tax, scope, meters })
}

fn meter(value: MeterValue, currency: Currency) -> Result<Usage, RateError> {
    let number = |text: &str| decimal(text).map_err(|e| RateError::Usage(e.to_string()));
    let prior = match value.prior {
        None => None,
        Some(prior) => {
            let billed = Money::exact(&number(&prior.billed)?, currency).map_err(|e| RateError::Usage(e.to_string()))?;
            Some(Prior { value: number(&prior.value)?, billed })
        }
    };
    Ok(Usage { value: number(&value.value)?, prior })
}

fn answer(rated: &RatedInvoice) -> Value {
    let lines: Vec<_> = rated
        .lines
        .iter()
        .map(|RatedLine { line, tax }| {
            let mut shown = json!({
                "name": line.name,
                "kind": line.kind,
                "quantity": plain(&line.quantity),
                "amount": line.amount,
                "explanation": line.explanation,
            });
            if let Some(tax) = tax {
                shown["net"] = json!(tax.net);
                shown["tax"] = json!(tax.tax);
            }
            if let Some(alert) = &line.alert {
                shown["alert"] = json!(alert);
            }
            shown
        })
        .collect();
    json!({ "currency": rated.currency, "lines": lines, "subtotal": rated.subtotal, "tax": rated.tax, "total": rated.total })
}
