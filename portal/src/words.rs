//! Plans and prices in words: what someone reads who decides.

use bigdecimal::{BigDecimal, Zero};
pub use farebox_billing::allowance::allowance;
use farebox_billing::plans::Plan;
use farebox_billing::rating::plan::{
    Amounts, Bound, Decimal, Entitlement, IncludedOf, Interval, Measure, Model, Per, PlanDefinition, Price, Promise, Tier, Unit,
};
use farebox_core::money::{Currency, Money};

use crate::format;
use crate::view::PlanCard;

/// A plan to choose: the price first, then a sentence for everything that costs or limits.
pub fn card(plan: &Plan, currency: Currency, current: bool) -> PlanCard {
    let definition = &plan.definition;
    let mut points: Vec<_> = definition.prices.iter().flat_map(|price| usage_price(price, currency)).collect();
    if plan.free && points.is_empty() {
        points.push("Requests cost nothing".into());
    }
    if let Some(minimum) = definition.minimum.as_ref().and_then(|m| m.get(currency)) {
        points.push(format!("At least {} {}", format::unit_price(minimum, currency), every(definition.interval)));
    }
    if let Some(cap) = definition.spend_cap.as_ref().and_then(|m| m.get(currency)) {
        points.push(format!("Usage never costs more than {} {}", format::unit_price(cap, currency), every(definition.interval)));
    }
    points.extend(included(definition, currency));
    points.extend(definition.entitlements.iter().flat_map(limits));
    points.extend(definition.sla.iter().map(promise_of));
    points.dedup();
    let note = match &definition.trial {
        Some(trial) => format!("{} free first", format::counted(trial.days.into(), "day", "days")),
        None if plan.free => "No card needed".into(),
        None => String::new(),
    };
    PlanCard { name: title(&plan.name), value: plan.name.clone(), price: headline(definition, plan.free, currency), points, note, current }
}

/// `Availability: 5 % back below 97 %, 15 % below 95 %`.
fn promise_of(promise: &Promise) -> String {
    // With every digit: 99.95 % is another promise than 99.9 %.
    let share = |value: &Decimal| format!("{}\u{a0}%", format::quantity(&(&value.0 * BigDecimal::from(100))));
    let measured = |value: &Decimal| match promise.measure {
        Measure::Share { .. } => share(value),
        Measure::Value { .. } => format::quantity(&value.0),
    };
    let credits = promise.credits.iter().enumerate().map(|(n, credit)| {
        let back = if n == 0 { " back" } else { "" };
        let (side, value) = match &credit.bound {
            Bound::Below(value) => ("below", value),
            Bound::Above(value) => ("above", value),
        };
        format!("{}{back} {side} {}", share(&credit.share), measured(value))
    });
    format!("{}: {}", promise.name, credits.collect::<Vec<_>>().join(", "))
}

/// The prepaid credits that each period comes with: `$20 of credits each month`.
pub fn included(definition: &PlanDefinition, currency: Currency) -> Vec<String> {
    let each = every(definition.interval).replacen("a ", "each ", 1);
    let credits = definition.terms.credits.iter().filter_map(|included| match &included.of {
        IncludedOf::Money { amount, .. } => Some(format!("{} of credits {each}", format::unit_price(amount.get(currency)?, currency))),
        IncludedOf::Units { meter: counted, units, .. } => {
            Some(format!("{} prepaid {} {each}", format::quantity(&units.0), meter(counted)))
        }
    });
    credits.collect()
}

/// `growth` -> `Growth`, `pay_as_you_go` -> `Pay as you go`.
pub fn title(name: &str) -> String {
    let spaced = name.replace(['_', '-'], " ");
    let mut letters = spaced.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The flat fees of a period together.
pub fn fixed_fee(definition: &PlanDefinition, currency: Currency) -> BigDecimal {
    let fees = definition.prices.iter().filter_map(|price| match &price.model {
        Model::Flat { amount, .. } => amount.get(currency),
        _ => None,
    });
    fees.fold(BigDecimal::zero(), |sum, fee| sum + fee)
}

/// `$49 a month`, `Free`, `Pay as you go`.
pub fn headline(definition: &PlanDefinition, free: bool, currency: Currency) -> String {
    let fixed = fixed_fee(definition, currency);
    if fixed.is_zero() {
        return if free { "Free".into() } else { "Pay as you go".into() };
    }
    let amount = Money::exact(&fixed, currency).map_or_else(|_| format::unit_price(&fixed, currency), format::money_short);
    format!("{amount} {}", every(definition.interval))
}

fn every(interval: Interval) -> &'static str {
    match interval {
        Interval::Hour => "an hour",
        Interval::Day => "a day",
        Interval::Week => "a week",
        Interval::Month => "a month",
        Interval::Quarter => "a quarter",
        Interval::HalfYear => "a half-year",
        Interval::Year => "a year",
    }
}

fn per(per: Per) -> &'static str {
    match per {
        Per::Second => "a second",
        Per::Minute => "a minute",
        Per::Hour => "an hour",
        Per::Day => "a day",
        Per::Week => "a week",
        Per::Month => "a month",
    }
}

/// `requests`, `egress gb`.
pub fn meter(name: &str) -> String {
    name.replace('_', " ")
}

/// A detail as a sentence: with a capital letter and a full stop.
pub fn sentence(text: &str) -> String {
    let mut letters = text.trim().chars();
    let start: String = letters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    let whole = format!("{start}{}", letters.as_str());
    if whole.is_empty() || whole.ends_with(['.', '!', '?']) { whole } else { format!("{whole}.") }
}

/// One of a meter: `request`, `egress gb`.
pub fn one(name: &str) -> String {
    let plural = meter(name);
    plural.strip_suffix("ies").map(|stem| format!("{stem}y")).or_else(|| plural.strip_suffix('s').map(str::to_owned)).unwrap_or(plural)
}

/// How a price is charged, as one sentence; for the table of the plan in force.
pub fn price(price: &Price, currency: Currency, interval: Interval) -> String {
    match &price.model {
        Model::Flat { amount, billed } => {
            let amount = amount.get(currency).map_or_else(|| "not offered in this currency".into(), |a| format::unit_price(a, currency));
            let when = match billed {
                farebox_billing::rating::plan::Billed::InAdvance => "in advance",
                farebox_billing::rating::plan::Billed::InArrears => "afterwards",
            };
            format!("{amount} {}, {when}", every(interval))
        }
        _ => {
            let sentences = usage_price(price, currency);
            if sentences.is_empty() { "Nothing".into() } else { sentences.join(", ") }
        }
    }
}

/// What usage costs, a step at a time. Empty for flat fees.
fn usage_price(price: &Price, currency: Currency) -> Vec<String> {
    let Some(name) = &price.meter else { return Vec::new() };
    let (unit, many) = (one(name), meter(name));
    let rate = |amounts: &Amounts| amounts.get(currency).map(|amount| each(amount, &unit, &many, currency));
    let mut out = Vec::new();
    if !price.included.0.is_zero() {
        out.push(format!("{} {many} included", format::quantity(&price.included.0)));
    }
    let started = !out.is_empty();
    let then = |text: String| if started { format!("then {text}") } else { text };
    match &price.model {
        Model::Flat { .. } => {}
        Model::PerUnit { unit_amount } => out.extend(rate(unit_amount).map(then)),
        Model::Package { amount, package_size } => {
            let size = format::quantity(&package_size.0);
            out.extend(amount.get(currency).map(|a| then(format!("{} for each {size} {many}", format::unit_price(a, currency)))));
        }
        Model::Graduated { tiers, .. } => out.extend(steps(tiers, &price.included, started, &rate, &many)),
        Model::Volume { tiers, .. } => {
            out.extend(tiers.iter().filter_map(|tier| {
                let Unit::UnitAmount(amounts) = &tier.unit else { return None };
                let upto = tier.up_to.as_ref().map_or_else(|| "above that".into(), |up| format!("for up to {}", format::quantity(&up.0)));
                Some(format!("{} {upto}, for all of them", rate(amounts)?))
            }));
        }
        Model::GraduatedPercentage { tiers, .. } => out.extend(tiers.iter().filter_map(|tier| match &tier.unit {
            Unit::Rate(rate) => Some(format!("{} of {many}", format::percent(&rate.0, &BigDecimal::from(1))?)),
            Unit::UnitAmount(_) => None,
        })),
        Model::Percentage { rate, fixed, .. } => {
            out.extend(format::percent(&rate.0, &BigDecimal::from(1)).map(|share| then(format!("{share} of {many}"))));
            let fixed = fixed.as_ref().and_then(|fixed| fixed.get(currency));
            out.extend(fixed.map(|fixed| format!("{} for each", format::unit_price(fixed, currency))));
        }
        Model::Matrix { dimension, values, default } => {
            let by = dimension.trim_start_matches('/').replace('_', " ");
            out.extend(values.iter().filter_map(|(value, amounts)| Some(format!("{} for {value}", rate(amounts)?))));
            out.extend(default.as_ref().and_then(rate).map(|rate| format!("{rate} for every other {by}")));
        }
        Model::PassThrough => out.push(format!("{many} at cost")),
    }
    out
}

fn steps(tiers: &[Tier], included: &Decimal, started: bool, rate: &dyn Fn(&Amounts) -> Option<String>, many: &str) -> Vec<String> {
    let mut out = Vec::new();
    for tier in tiers {
        let Unit::UnitAmount(amounts) = &tier.unit else { continue };
        let Some(text) = rate(amounts) else { continue };
        let free = amounts.0.values().all(|a| a.0.is_zero());
        // Tiers count from what is left after the included units; a reader counts from the first one.
        let upto = tier.up_to.as_ref().map(|up| format::quantity(&(&up.0 + &included.0)));
        let first = out.is_empty() && !started;
        out.push(match (free, upto) {
            (true, Some(upto)) if first => format!("{upto} {many} included"),
            (_, Some(upto)) if first => format!("{text} up to {upto}"),
            (_, Some(upto)) => format!("then {text} up to {upto}"),
            (_, None) if first => text,
            (_, None) => format!("then {text}"),
        });
    }
    out
}

/// Small prices read better by the thousand: `$0.40 per 1,000 requests`; `$0.09 per egress gb`.
fn each(amount: &BigDecimal, unit: &str, many: &str, currency: Currency) -> String {
    let thousand = (amount * BigDecimal::from(1000)).normalized();
    let cents = BigDecimal::new(1.into(), i64::from(currency.exponent()));
    if !amount.is_zero() && *amount < cents {
        let by_thousand = Money::exact(&thousand, currency).map_or_else(|_| format::unit_price(&thousand, currency), format::money);
        return format!("{by_thousand} per 1,000 {many}");
    }
    format!("{} per {unit}", format::unit_price(amount, currency))
}

fn limits(entitlement: &Entitlement) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(quota) = entitlement.quota.as_ref().filter(|quota| quota.hard) {
        out.push(format!("At most {} {} {}", format::quantity(&quota.limit.0), meter(&quota.meter), per(quota.per)));
    }
    if let Some(rate) = &entitlement.rate {
        out.push(format!("{} requests {}", format::count(rate.limit), per(rate.per)));
    }
    out
}

/// A call by its route, as gateways name it: with its method, or without.
pub fn call(method: &str, route: &str) -> String {
    match route {
        "" => format!("{method} (no route)"),
        _ if route.strip_prefix(method).is_some_and(|rest| rest.starts_with(' ')) => route.to_owned(),
        _ => format!("{method} {route}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_names_its_method_once() {
        assert_eq!(call("GET", "GET /orders"), "GET /orders");
        assert_eq!(call("GET", "/orders"), "GET /orders");
        assert_eq!(call("GET", "GETTING /orders"), "GET GETTING /orders");
        assert_eq!(call("GET", ""), "GET (no route)");
    }

    fn usd() -> Currency {
        "USD".parse().expect("known")
    }

    fn growth() -> PlanDefinition {
        serde_json::from_value(serde_json::json!({
            "name": "growth", "product": "default", "version": 1, "interval": "month", "anchor": "calendar",
            "terms": {"collect": "automatically", "due_days": 14, "proration": "second"}, "trial": {"days": 14, "then": "growth"},
            "prices": [
                {"name": "Platform", "meter": null, "model": "flat", "amount": {"USD": "49"}, "billed": "in_advance"},
                {"name": "Requests", "meter": "requests", "included": "100000", "model": "graduated", "tiers": [
                    {"up_to": "1000000", "unit_amount": {"USD": "0.0004"}}, {"up_to": null, "unit_amount": {"USD": "0.0002"}}]},
                {"name": "Egress", "meter": "egress_gb", "model": "per_unit", "unit_amount": {"USD": "0.09"}},
            ],
            "minimum": null, "spend_cap": null,
            "entitlements": [{"feature": "orders", "routes": [], "quota": {"meter": "requests", "limit": "5000000", "per": "month", "hard": false}, "rate": {"limit": 100, "per": "second", "burst": 200}}],
        }))
        .expect("a plan")
    }

    #[test]
    fn a_plan_reads_like_a_price_list() {
        let definition = growth();
        assert_eq!(headline(&definition, false, usd()), "$49 a month");
        let sentences: Vec<_> = definition.prices.iter().map(|p| price(p, usd(), definition.interval)).collect();
        assert_eq!(
            sentences,
            [
                "$49 a month, in advance",
                "100,000 requests included, then $0.40 per 1,000 requests up to 1,100,000, then $0.20 per 1,000 requests",
                "$0.09 per egress gb",
            ]
        );
        assert_eq!(definition.entitlements.iter().flat_map(limits).collect::<Vec<_>>(), ["100 requests a second"]);
    }

    #[test]
    fn a_promise_reads_as_what_is_given_back() {
        let read = |promise: serde_json::Value| promise_of(&serde_json::from_value(promise).expect("a promise"));
        let availability = serde_json::json!({"name": "Availability", "good": "answered", "of": "calls",
            "credits": [{"below": "0.9995", "share": "0.05"}, {"below": "0.95", "share": "0.15"}]});
        assert_eq!(read(availability), "Availability: 5\u{a0}% back below 99.95\u{a0}%, 15\u{a0}% below 95\u{a0}%");
        let latency = serde_json::json!({"name": "Latency", "meter": "p95_ms", "credits": [{"above": "300", "share": "0.05"}]});
        assert_eq!(read(latency), "Latency: 5\u{a0}% back above 300");
    }

    #[test]
    fn names_read_as_words() {
        assert_eq!(
            (title("pay_as_you_go"), one("requests"), one("queries"), one("egress_gb")),
            ("Pay as you go".into(), "request".into(), "query".into(), "egress gb".into())
        );
    }
}
