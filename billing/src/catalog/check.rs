//! The file as a whole, checked: what it names exists, nothing is named twice, everything parses.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use farebox_core::field_map::FieldMap;
use farebox_core::intake_settings::IntakeSettings;
use farebox_core::money::Currency;
use farebox_metering::meters::Definition;
use serde_json::{Value, json};

use super::alerts::{self, AlertEntry};
use super::apis::{self, ApiEntry, SourceEntry};
use super::consumers::{self, ConsumerEntry};
use super::coupons::{self, CouponEntry};
use super::errors::{CatalogError, Errors};
use super::plan::Reader;
use super::raw::{At, RawCatalog, RawPlan};
use super::{costs, meters, seller, settings};
use crate::decision_policy::Policy;
use crate::margin::costs::Cost;
use crate::rating::PlanDefinition;
use crate::revenue::missing_amounts;
use crate::settings::BillingSettings;

/// A catalogue that is right in itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalog {
    /// `provider/environment`.
    pub workspace: String,
    pub currency: Currency,
    pub time_zone: Tz,
    /// As stored with the workspace: name, address, tax_id, and the prefixes of its numbers.
    pub seller: Value,
    pub taxes: Value,
    /// None: as it is.
    pub intake: Option<IntakeSettings>,
    /// None: as it is.
    pub decisions: Option<Policy>,
    pub formats: Vec<FieldMap>,
    /// As they are unless given.
    pub billing: Option<BillingSettings>,
    pub sources: Vec<SourceEntry>,
    pub apis: Vec<ApiEntry>,
    pub meters: Vec<Definition>,
    pub plans: Vec<PlanDefinition>,
    /// Names of plans that are no longer offered.
    pub retired: BTreeSet<String>,
    pub consumers: Vec<ConsumerEntry>,
    pub coupons: Vec<CouponEntry>,
    pub alerts: Vec<AlertEntry>,
    /// What calls cost: the whole list. None: as it is.
    pub costs: Option<Vec<Cost>>,
}

pub fn check(raw: &RawCatalog) -> Result<Catalog, Vec<CatalogError>> {
    let mut errors = Errors::default();
    let name_is_right =
        raw.workspace.value.split_once('/').is_some_and(|(provider, environment)| is_slug(provider) && is_slug(environment));
    if !name_is_right {
        errors.at(
            &raw.workspace,
            "workspace",
            "a workspace is named provider/environment in small letters, digits and `-`, such as acme/live",
        );
    }
    let currency = errors.keep(raw.currency.value.parse::<Currency>(), &raw.currency, "currency");
    let zone =
        raw.time_zone.value.parse::<Tz>().map_err(|_| format!("`{}` is not an IANA time zone such as Europe/Berlin", raw.time_zone.value));
    let time_zone = errors.keep(zone, &raw.time_zone, "time_zone");
    let seller = raw.seller.as_ref().map_or_else(|| json!({}), |seller| seller::read(seller, &mut errors));
    let taxes = seller::taxes(raw, &mut errors);
    let intake = raw.intake.as_ref().map(|raw| settings::intake(raw, &mut errors));
    let decisions = super::decisions::read(raw, &mut errors);
    let formats = super::formats::read(raw, &mut errors);
    let billing = raw.billing.as_ref().map(|billing| settings::billing(billing, &mut errors));
    let sources = apis::sources(raw, &mut errors);
    let apis = apis::read(raw, &mut errors);
    let meters = meters::read(raw, &mut errors);
    // Amounts cannot be read without knowing the currency; the rest still is.
    let assumed = currency.unwrap_or_else(|| "USD".parse().expect("USD is a currency"));
    let plans = plans(raw, assumed, &mut errors);
    let coupons = coupons::read(raw, assumed, &mut errors);
    unique(raw.coupons.iter().enumerate().map(|(n, coupon)| (&coupon.code, format!("coupons[{n}].code"))), "coupon", &mut errors);
    // A plan is retired as a whole: the newest version in the file says so.
    let newest = |name: &str| {
        raw.plans.iter().filter(|p| p.name.as_ref().is_some_and(|n| n.value == name)).max_by_key(|p| p.version.as_ref().map(|v| v.value))
    };
    let retired = plans.iter().filter(|plan| newest(&plan.name).is_some_and(|raw| raw.retired)).map(|plan| plan.name.clone()).collect();
    let consumers = consumers::read(raw, &mut errors);
    let alerts = alerts::read(raw, &mut errors);
    unique(raw.alerts.iter().enumerate().map(|(n, alert)| (&alert.name, format!("alerts[{n}].name"))), "alert", &mut errors);
    let costs = raw.costs.as_ref().map(|costs| costs::read(costs, &mut errors));
    if let (Some(currency), Some(time_zone), true) = (currency, time_zone, errors.is_empty()) {
        return Ok(Catalog {
            workspace: raw.workspace.value.clone(),
            currency,
            time_zone,
            seller,
            taxes,
            intake,
            decisions,
            formats,
            billing,
            sources,
            apis,
            meters,
            plans,
            retired,
            consumers,
            coupons,
            alerts,
            costs,
        });
    }
    Err(errors.into_sorted())
}

fn is_slug(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') && !text.is_empty() && !text.starts_with('-')
}

pub(super) fn unique<'a>(names: impl Iterator<Item = (&'a At<String>, String)>, what: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (name, path) in names {
        if name.value.trim().is_empty() {
            errors.at(name, &path, format!("a {what} needs a name"));
        } else if !seen.insert(&name.value) {
            errors.at(name, &path, format!("there is another {what} named `{}` above", name.value));
        }
    }
}

fn plans(raw: &RawCatalog, currency: Currency, errors: &mut Errors) -> Vec<PlanDefinition> {
    let meters: BTreeSet<_> =
        raw.meters.iter().map(|meter| meter.name.value.clone()).chain(["calls", "requests"].map(str::to_owned)).collect();
    let mut seen = BTreeSet::new();
    let mut plans = Vec::new();
    for (n, plan) in raw.plans.iter().enumerate() {
        let path = format!("plans[{n}]");
        meters_exist(plan, &path, &meters, errors);
        let definition = Reader { currency, errors }.plan(plan, &path);
        let (Some(name), Some(version)) = (&plan.name, &plan.version) else {
            let place = At::new((), first_place(plan), first_place(plan));
            errors.at(&place, &path, "a plan has a `name` and a `version`, such as version: 1");
            continue;
        };
        if !seen.insert((name.value.clone(), version.value)) {
            errors.at(version, &format!("{path}.version"), format!("version {} of `{}` is in the file twice", version.value, name.value));
        }
        if let Some(tax) = &plan.tax {
            errors.at(tax, &format!("{path}.tax"), "in a workspace, taxes are in `taxes`, by country; this is for farebox rate only");
        }
        let Some((definition, _)) = definition else { continue };
        let missing = missing_amounts(&definition, currency);
        if !missing.is_empty() {
            let message = format!("has no amount in the workspace's currency {currency} for: {}", missing.join(", "));
            errors.at(name, &path, message);
        }
        if let Some(then) = plan.trial.as_ref().and_then(|trial| trial.then.as_ref())
            && !raw.plans.iter().any(|p| p.name.as_ref().is_some_and(|name| name.value == then.value))
        {
            errors.at(then, &format!("{path}.trial.then"), format!("there is no plan named `{}` in the file", then.value));
        }
        plans.push(definition);
    }
    // Versions are published in their order.
    plans.sort_by(|a: &PlanDefinition, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
    plans
}

fn first_place(plan: &RawPlan) -> serde_saphyr::Location {
    let named = plan.name.as_ref().map(|n| n.referenced).or_else(|| plan.version.as_ref().map(|v| v.referenced));
    named.or_else(|| plan.prices.first().map(|p| p.name.referenced)).unwrap_or(serde_saphyr::Location::UNKNOWN)
}

pub(super) fn meters_exist(plan: &RawPlan, path: &str, meters: &BTreeSet<String>, errors: &mut Errors) {
    let prices = plan.prices.iter().enumerate().filter_map(|(n, p)| Some((p.meter.as_ref()?, format!("{path}.prices[{n}].meter"))));
    let quotas = plan.entitlements.iter().enumerate();
    let quotas = quotas.filter_map(|(n, e)| Some((&e.quota.as_ref()?.meter, format!("{path}.entitlements[{n}].quota.meter"))));
    let promises = plan.sla.iter().enumerate();
    let promises = promises.flat_map(|(n, p)| {
        [("good", &p.good), ("of", &p.of), ("meter", &p.meter)]
            .into_iter()
            .filter_map(move |(field, meter)| Some((n, field, meter.as_ref()?)))
    });
    let promises = promises.map(|(n, field, meter)| (meter, format!("{path}.sla[{n}].{field}")));
    let included = plan.terms.iter().flat_map(|terms| terms.credits.iter().enumerate());
    let included = included.filter_map(|(n, credits)| Some((credits.meter.as_ref()?, format!("{path}.terms.credits[{n}].meter"))));
    for (meter, path) in prices.chain(quotas).chain(promises).chain(included) {
        if !meters.contains(meter.value.as_str()) {
            let known: Vec<_> = meters.iter().map(String::as_str).collect();
            errors.at(meter, &path, format!("there is no meter named `{}`; there are {}", meter.value, known.join(", ")));
        }
    }
}

pub(super) fn instant(text: &At<String>, path: &str, errors: &mut Errors) -> Option<DateTime<Utc>> {
    let parsed = text.value.parse::<DateTime<Utc>>();
    let parsed = parsed.map_err(|_| format!("`{}` is not an instant; write it as 2026-08-15T00:00:00Z", text.value));
    errors.keep(parsed, text, path)
}
