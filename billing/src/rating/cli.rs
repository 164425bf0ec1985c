//! `farebox rate`: the same functions as invoices use, offline, on one plan and given usage.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use farebox_core::ids::PlanVersionId;
use farebox_core::money::{BigDecimal, Currency, Money, decimal, plain};
use farebox_core::period::Period;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cycle::{Source, Wanted};
use super::invoice::{Credit, Discount, Off, Terms, invoice};
use super::lines::{fee, fee_credit, fees, minimum, usage_prices};
use super::plan::{Amounts, Billed, Decimal, IncludedOf, Model, Price};
use super::units::{Prepaid, cover};
use super::{Detail, PlanDefinition, Prior, RatedInvoice, RatedLine, RatingError, Scope, Usage, rate as rate_stretch, usage_lines};
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
    /// By meter.
    #[serde(default)]
    meters: BTreeMap<String, MeterValue>,
    /// For proration by day; UTC unless given.
    time_zone: Option<String>,
    /// In the order in which they apply; shares come before fixed ones.
    #[serde(default)]
    discounts: Vec<DiscountValue>,
    /// Prepaid, in the order of use.
    #[serde(default)]
    credits: Vec<CreditValue>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiscountValue {
    #[serde(default = "discount")]
    name: String,
    /// 25 is 25 %.
    percent: Option<String>,
    amount: Option<String>,
    /// Only from prices of these names.
    #[serde(default)]
    prices: Vec<String>,
}

fn discount() -> String {
    "Discount".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreditValue {
    #[serde(default = "credits")]
    name: String,
    amount: String,
    /// Used after tax.
    #[serde(default)]
    taxed: bool,
}

fn credits() -> String {
    "Credits".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeterValue {
    value: Option<String>,
    /// Each event's amount, in their order in time: for what is charged by event.
    events: Option<Vec<String>>,
    /// By the value of a dimension: for a matrix.
    by: Option<BTreeMap<String, String>>,
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
    terms: Terms,
    scope: Scope,
    /// By price.
    used: BTreeMap<String, Usage>,
}

/// Rates `plan_yaml` (one entry of `plans`) on `usage_json`, and answers the lines as the API writes them.
pub fn rate(plan_yaml: &str, usage_json: &str) -> Result<Value, RateError> {
    let request = read(plan_yaml, usage_json)?;
    let rated = rate_stretch(&request.plan, &request.scope, &request.used, &request.terms)?;
    Ok(answer(&rated))
}

/// Previews a change of plan at an instant of the period, or leaving: what was paid in advance and is unused is given
/// back, the new plan's advance fee charged, and the old plan's arrears and usage (up to the change) billed.
pub fn change(plan_yaml: &str, usage_json: &str, change_json: &str) -> Result<Value, RateError> {
    let Request { plan, terms, scope, used } = read(plan_yaml, usage_json)?;
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
    let one = BigDecimal::from(1);
    let mut lines = Vec::new();
    for (price, amount, billed) in fees(&plan) {
        lines.push(match billed {
            Billed::InAdvance => fee_credit(price, amount, &one, &after)?,
            Billed::InArrears => fee(price, amount, &one, &before)?,
        });
    }
    if let Some(new) = &new_plan {
        let after = Scope { proration: new.terms.proration, ..after };
        for (price, amount, _) in fees(new).filter(|(_, _, billed)| *billed == Billed::InAdvance) {
            lines.push(fee(price, amount, &one, &after)?);
        }
    }
    let used = usage_lines(&plan, &before, &used)?;
    if plan.minimum.is_some() {
        let mut counted = used.clone();
        for (price, amount, _) in fees(&plan) {
            counted.push(fee(price, amount, &one, &before)?);
        }
        lines.extend(minimum(&plan, &counted, &before)?);
    }
    lines.extend(used);
    Ok(answer(&invoice(lines, &terms, scope.currency)?))
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
    let mut used = BTreeMap::new();
    for (price, meter) in usage_prices(&plan) {
        if let Some(value) = usage.meters.get(meter) {
            used.insert(price.name.clone(), used_by(price, meter, value, scope.currency)?);
        }
    }
    let included = included(&plan, &scope, &mut used)?;
    let discounts = usage.discounts.into_iter().enumerate().map(|(n, value)| read_discount(n, value, scope.currency));
    let credits = usage.credits.into_iter().enumerate().map(|(n, value)| read_credit(n, value, scope.currency));
    let credits = included.into_iter().map(Ok).chain(credits).collect::<Result<_, _>>()?;
    let terms = Terms { discounts: discounts.collect::<Result<_, _>>()?, credits, tax };
    Ok(Request { plan, terms, scope, used })
}

/// What the plan's period comes with: units cover usage, credits in money are used before those that were given.
fn included(plan: &PlanDefinition, scope: &Scope, used: &mut BTreeMap<String, Usage>) -> Result<Vec<Credit>, RateError> {
    let mut all: Vec<_> = plan.terms.credits.iter().enumerate().collect();
    all.sort_by_key(|(_, included)| included.priority);
    let (mut credits, mut purse) = (Vec::new(), Vec::new());
    for (n, included) in all {
        let id = format!("included {n}");
        match &included.of {
            IncludedOf::Units { meter, units, .. } => purse.push(Prepaid { grant: id, meter: meter.clone(), left: units.0.clone() }),
            IncludedOf::Money { amount, .. } => {
                let amount = amount.get(scope.currency);
                let amount = amount.ok_or_else(|| RatingError::NoAmount { price: included.name.clone(), currency: scope.currency })?;
                let left = Money::exact(amount, scope.currency).map_err(RatingError::from)?;
                let (name, prices) = (included.name.clone(), included.prices.clone());
                credits.push(Credit { id, name, left, taxed: false, prices, lines: None });
            }
        }
    }
    let source = Source::Plan(PlanVersionId::new());
    let wanted = usage_prices(plan).map(|(price, meter)| Wanted {
        source: source.clone(),
        price: price.clone(),
        meter: meter.to_owned(),
        of: scope.period,
        stretch: scope.part,
        before: None,
        alone: true,
    });
    let wanted: Vec<_> = wanted.collect();
    let mut by_key = wanted.iter().filter_map(|wanted| Some((wanted.key(), used.remove(&wanted.price.name)?))).collect();
    cover(&wanted, &mut by_key, &mut purse, &HashMap::new());
    used.extend(by_key.into_iter().map(|((_, price, _), usage)| (price, usage)));
    Ok(credits)
}

fn number(text: &str) -> Result<BigDecimal, RateError> {
    decimal(text).map_err(|e| RateError::Usage(e.to_string()))
}

fn read_discount(n: usize, given: DiscountValue, currency: Currency) -> Result<Discount, RateError> {
    let off = match (&given.percent, &given.amount) {
        (Some(percent), None) => Off::Share(Decimal(number(percent)? / BigDecimal::from(100))),
        (None, Some(amount)) => Off::Fixed(Amounts::of(currency, number(amount)?)),
        _ => return Err(RateError::Usage(format!("`{}` takes off either a `percent` or an `amount`", given.name))),
    };
    Ok(Discount { id: n.to_string(), name: given.name, off, prices: given.prices, lines: None })
}

fn read_credit(n: usize, given: CreditValue, currency: Currency) -> Result<Credit, RateError> {
    let left = Money::exact(&number(&given.amount)?, currency).map_err(|e| RateError::Usage(e.to_string()))?;
    Ok(Credit { id: n.to_string(), name: given.name, left, taxed: given.taxed, prices: Vec::new(), lines: None })
}

/// A meter's value, as the price's model needs it.
fn used_by(price: &Price, meter: &str, given: &MeterValue, currency: Currency) -> Result<Usage, RateError> {
    let wrong = |what: &str| RateError::Usage(format!("`{meter}` needs {what}"));
    let numbers = |texts: &[String]| texts.iter().map(|text| number(text)).collect::<Result<Vec<_>, _>>();
    let mut used = match (&given.by, &given.events, &given.value) {
        (Some(by), _, _) => {
            let by =
                by.iter().map(|(value, counted)| Ok((value.clone(), number(counted)?))).collect::<Result<BTreeMap<_, _>, RateError>>()?;
            Usage { detail: Detail::By(by.clone()), ..Usage::of(by.values().sum()) }
        }
        (None, Some(events), _) => Usage::of_events(price, &numbers(events)?, currency)?,
        (None, None, Some(value)) => Usage::of(number(value)?),
        (None, None, None) => return Err(wrong("its `value`, its `events` one by one, or its usage `by` the values of a dimension")),
    };
    if let Some(prior) = &given.prior {
        if matches!(price.model, Model::Matrix { .. }) {
            return Err(wrong("no `prior`: a matrix has no tiers to go on in, so rate what is new alone"));
        }
        let billed = Money::exact(&number(&prior.billed)?, currency).map_err(|e| RateError::Usage(e.to_string()))?;
        used.prior = Some(Prior { value: number(&prior.value)?, billed: Decimal(billed.to_decimal()) });
    }
    Ok(used)
}

fn answer(rated: &RatedInvoice) -> Value {
    let lines: Vec<_> = rated
        .lines
        .iter()
        .map(|RatedLine { line, discount, credit, tax }| {
            let mut shown = json!({
                "name": line.name,
                "kind": line.kind,
                "quantity": plain(&line.quantity),
                "amount": line.amount,
                "explanation": line.explanation,
            });
            if !discount.is_zero() {
                shown["discount"] = json!(discount);
            }
            if !credit.is_zero() {
                shown["credit"] = json!(credit);
            }
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
