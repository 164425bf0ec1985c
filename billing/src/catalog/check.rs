//! The file as a whole, checked: what it names exists, nothing is named twice, everything parses.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use farebox_core::event;
use farebox_core::field_map::FieldMap;
use farebox_core::intake_settings::IntakeSettings;
use farebox_core::money::{Currency, decimal};
use farebox_core::source::FORMATS;
use farebox_metering::MeteringError;
use farebox_metering::apis::ApiVersion;
use farebox_metering::meters::{self, Aggregate, Definition, Meter};
use serde_json::{Value, json};

use super::alerts::{self, AlertEntry};
use super::coupons::{self, CouponEntry};
use super::errors::{CatalogError, Errors};
use super::plan::{LATE_USAGE, Reader};
use super::raw::{At, RawAddress, RawBilling, RawCatalog, RawConsumer, RawCost, RawIntake, RawMeter, RawPlan, RawSeller};
use crate::close::numbers::PREFIX_MOST;
use crate::decision_policy::Policy;
use crate::margin::costs::{Cost, ever};
use crate::rating::PlanDefinition;
use crate::rating::models::zero;
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

#[derive(Debug, Clone, PartialEq)]
pub struct SourceEntry {
    pub name: String,
    pub format: String,
    pub kafka_topic: Option<String>,
    pub backfill: bool,
    /// From where (CIDR) it may ask for decisions without a token.
    pub networks: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ApiEntry {
    pub name: String,
    pub product: String,
    pub versions: Vec<ApiVersion>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ConsumerEntry {
    pub name: String,
    pub email: Option<String>,
    /// The moment of the first application when the file does not say.
    pub signed_up: Option<DateTime<Utc>>,
    pub address: Value,
    pub subjects: Vec<String>,
    pub subscriptions: Vec<SubscriptionEntry>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SubscriptionEntry {
    pub plan: String,
    /// The newest unless given.
    pub version: Option<i32>,
    pub from: DateTime<Utc>,
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
    let seller = raw.seller.as_ref().map_or_else(|| json!({}), |seller| self::seller(seller, &mut errors));
    let taxes = taxes(raw, &mut errors);
    let intake = raw.intake.as_ref().map(|raw| intake(raw, &mut errors));
    let decisions = super::decisions::read(raw, &mut errors);
    let formats = super::formats::read(raw, &mut errors);
    let billing = raw.billing.as_ref().map(|billing| self::billing(billing, &mut errors));
    let sources = sources(raw, &mut errors);
    let apis = apis(raw, &mut errors);
    let meters = meters(raw, &mut errors);
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
    let consumers = consumers(raw, &mut errors);
    let alerts = alerts::read(raw, &mut errors);
    unique(raw.alerts.iter().enumerate().map(|(n, alert)| (&alert.name, format!("alerts[{n}].name"))), "alert", &mut errors);
    let costs = raw.costs.as_ref().map(|costs| self::costs(costs, &mut errors));
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

fn unique<'a>(names: impl Iterator<Item = (&'a At<String>, String)>, what: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (name, path) in names {
        if name.value.trim().is_empty() {
            errors.at(name, &path, format!("a {what} needs a name"));
        } else if !seen.insert(&name.value) {
            errors.at(name, &path, format!("there is another {what} named `{}` above", name.value));
        }
    }
}

fn seller(raw: &RawSeller, errors: &mut Errors) -> Value {
    let mut seller = json!({ "name": raw.name.value });
    let prefixes = [("invoice_number_prefix", &raw.invoice_number_prefix), ("credit_note_number_prefix", &raw.credit_note_number_prefix)];
    for (name, prefix) in prefixes.into_iter().filter_map(|(name, prefix)| Some((name, prefix.as_ref()?))) {
        let fits = prefix.value.len() <= PREFIX_MOST && prefix.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-/_.".contains(&b));
        if !fits {
            let message = format!("has at most {PREFIX_MOST} letters, digits and `-`, `/`, `_`, `.`");
            errors.at(prefix, &format!("seller.{name}"), message);
        }
        seller[name] = json!(prefix.value);
    }
    if let Some(tax_id) = &raw.tax_id {
        seller["tax_id"] = json!(tax_id.value);
    }
    if let Some(address) = &raw.address {
        seller["address"] = self::address(address, "seller.address", errors);
    }
    seller
}

fn address(raw: &RawAddress, path: &str, errors: &mut Errors) -> Value {
    country(&raw.country, &format!("{path}.country"), errors);
    let mut address = json!({ "country": raw.country.value });
    for (key, value) in
        [("line1", &raw.line1), ("line2", &raw.line2), ("city", &raw.city), ("postal_code", &raw.postal_code), ("state", &raw.state)]
    {
        if let Some(value) = value {
            address[key] = json!(value);
        }
    }
    address
}

fn country(code: &At<String>, path: &str, errors: &mut Errors) {
    if code.value.len() != 2 || !code.value.bytes().all(|b| b.is_ascii_uppercase()) {
        errors.at(code, path, format!("`{}` is not a country code; write two capital letters (ISO 3166-1), such as DE", code.value));
    }
}

fn taxes(raw: &RawCatalog, errors: &mut Errors) -> Value {
    let mut taxes = Vec::new();
    for (n, tax) in raw.taxes.iter().enumerate() {
        let path = format!("taxes[{n}]");
        for (k, code) in tax.countries.iter().enumerate() {
            country(code, &format!("{path}.countries[{k}]"), errors);
        }
        let mut reader = Reader { currency: "USD".parse().expect("USD is a currency"), errors };
        let per = tax.per.as_ref().and_then(|per| reader.word(per, &format!("{path}.per"), &[("line", "line"), ("document", "document")]));
        if let Some(rate) = reader.rate(&tax.rate, &format!("{path}.rate")) {
            let countries: Vec<_> = tax.countries.iter().map(|c| &c.value).collect();
            let mut shown = json!({ "name": tax.name.value, "rate": rate, "inclusive": tax.inclusive, "countries": countries });
            if let Some(per) = per {
                shown["per"] = json!(per);
            }
            taxes.push(shown);
        }
    }
    Value::Array(taxes)
}

fn billing(raw: &RawBilling, errors: &mut Errors) -> BillingSettings {
    let close_from = raw.close_from.as_ref().and_then(|at| instant(at, "billing.close_from", errors));
    let mut settings = BillingSettings { close_from, close_by_hand: raw.close_by_hand, ..BillingSettings::default() };
    if let Some(word) = &raw.late_usage {
        let mut reader = Reader { currency: "USD".parse().expect("USD is a currency"), errors };
        settings.late_usage = reader.word(word, "billing.late_usage", LATE_USAGE).unwrap_or_default();
    }
    if let Some(days) = &raw.late_days {
        if !(0..=400).contains(&days.value) {
            errors.at(days, "billing.late_days", "is 0 to 400");
        }
        settings.late_days = days.value;
    }
    settings
}

/// What is left out is the default.
fn intake(raw: &RawIntake, errors: &mut Errors) -> IntakeSettings {
    let default = IntakeSettings::default();
    let value = |given: &Option<At<i32>>, default: i32| given.as_ref().map_or(default, |given| given.value);
    let settings = IntakeSettings {
        back_days: value(&raw.back_days, default.back_days),
        ahead_minutes: value(&raw.ahead_minutes, default.ahead_minutes),
        keep_rejected_days: value(&raw.keep_rejected_days, default.keep_rejected_days),
    };
    for error in settings.errors() {
        let name = error.pointer.trim_start_matches('/').to_owned();
        let given = [("back_days", &raw.back_days), ("ahead_minutes", &raw.ahead_minutes), ("keep_rejected_days", &raw.keep_rejected_days)];
        if let Some(given) = given.iter().find(|(field, _)| *field == name).and_then(|(_, given)| given.as_ref()) {
            errors.at(given, &format!("intake.{name}"), error.detail);
        }
    }
    settings
}

fn sources(raw: &RawCatalog, errors: &mut Errors) -> Vec<SourceEntry> {
    unique(raw.sources.iter().enumerate().map(|(n, s)| (&s.name, format!("sources[{n}].name"))), "source", errors);
    unique(raw.formats.iter().enumerate().map(|(n, f)| (&f.name, format!("formats[{n}].name"))), "format", errors);
    for (n, source) in raw.sources.iter().enumerate() {
        let format = &source.format.value;
        if !FORMATS.contains(&format.as_str()) && !raw.formats.iter().any(|own| own.name.value == *format) {
            let message =
                format!("there is no format `{format}`; write one of {}, or one that this file has under `formats`", FORMATS.join(", "));
            errors.at(&source.format, &format!("sources[{n}].format"), message);
        }
        for (m, network) in source.networks.iter().enumerate().filter(|(_, network)| !farebox_core::source::is_network(&network.value)) {
            errors.at(network, &format!("sources[{n}].networks[{m}]"), "is no network; write it as 10.0.0.0/8 or as an address");
        }
    }
    raw.sources
        .iter()
        .map(|source| SourceEntry {
            name: source.name.value.clone(),
            format: source.format.value.clone(),
            kafka_topic: source.kafka_topic.as_ref().map(|topic| topic.value.clone()),
            backfill: source.backfill,
            networks: source.networks.iter().map(|network| network.value.clone()).collect(),
        })
        .collect()
}

fn apis(raw: &RawCatalog, errors: &mut Errors) -> Vec<ApiEntry> {
    unique(raw.apis.iter().enumerate().map(|(n, a)| (&a.name, format!("apis[{n}].name"))), "api", errors);
    let mut apis = Vec::new();
    for (n, api) in raw.apis.iter().enumerate() {
        unique(
            api.versions.iter().enumerate().map(|(k, v)| (&v.name, format!("apis[{n}].versions[{k}].name"))),
            "version of the api",
            errors,
        );
        let mut versions = Vec::new();
        for (k, version) in api.versions.iter().enumerate() {
            let path = format!("apis[{n}].versions[{k}]");
            let mut date = |text: &Option<At<String>>, field: &str| {
                let text = text.as_ref()?;
                let parsed = text.value.parse::<NaiveDate>().map_err(|_| format!("`{}` is not a date such as 2026-09-01", text.value));
                errors.keep(parsed, text, &format!("{path}.{field}"))
            };
            let (deprecated, sunset) = (date(&version.deprecated, "deprecated"), date(&version.sunset, "sunset"));
            if let (Some(from), Some(until), Some(place)) = (deprecated, sunset, &version.sunset)
                && until < from
            {
                errors.at(place, &format!("{path}.sunset"), "is before the version is deprecated");
            }
            versions.push(ApiVersion { name: version.name.value.clone(), deprecated, sunset });
        }
        versions.sort_by(|a, b| a.name.cmp(&b.name));
        let product = api.product.as_ref().map_or_else(|| "default".to_owned(), |product| product.value.clone());
        apis.push(ApiEntry { name: api.name.value.clone(), product, versions });
    }
    apis
}

fn meters(raw: &RawCatalog, errors: &mut Errors) -> Vec<Definition> {
    unique(raw.meters.iter().enumerate().map(|(n, m)| (&m.name, format!("meters[{n}].name"))), "meter", errors);
    raw.meters.iter().enumerate().filter_map(|(n, meter)| self::meter(meter, &format!("meters[{n}]"), errors)).collect()
}

fn meter(raw: &RawMeter, path: &str, errors: &mut Errors) -> Option<Definition> {
    if Meter::builtin(&raw.name.value).is_some() {
        errors.at(&raw.name, &format!("{path}.name"), format!("`{}` exists everywhere; choose another name", raw.name.value));
        return None;
    }
    let aggregate = Aggregate::ALL.into_iter().find(|aggregate| aggregate.name() == raw.aggregate.value);
    let Some(aggregate) = aggregate else {
        let names: Vec<_> = Aggregate::ALL.iter().map(|aggregate| aggregate.name()).collect();
        let detail = format!("`{}` is not an aggregate; there are {}", raw.aggregate.value, names.join(", "));
        errors.at(&raw.aggregate, &format!("{path}.aggregate"), detail);
        return None;
    };
    let divide_by = match &raw.divide_by {
        None => None,
        Some(text) => {
            let by = errors.keep(decimal(&text.value), text, &format!("{path}.divide_by"))?;
            if by <= zero() {
                errors.at(text, &format!("{path}.divide_by"), "must be above 0");
                return None;
            }
            Some(by)
        }
    };
    let percentile = match &raw.percentile {
        None => None,
        Some(text) => Some(errors.keep(decimal(&text.value), text, &format!("{path}.percentile"))?),
    };
    let definition = Definition {
        name: raw.name.value.clone(),
        event: raw.event.value.clone(),
        aggregate,
        value: raw.value.as_ref().map(|v| v.value.clone()),
        percentile,
        unit: raw.unit.as_ref().map(|u| u.value.clone()),
        divide_by,
        filter: raw.filter.clone(),
        // What the counting rule leaves out is not billed, unless the meter says so; other events have no such rule.
        counted: raw.counted.unwrap_or(raw.event.value == event::REQUEST),
        group_by: raw.group_by.iter().map(|g| g.value.clone()).collect(),
    };
    // What stands in one field is told there; everything else of the meter at its name.
    match meters::check(&definition) {
        Ok(()) => Some(definition),
        Err(MeteringError::Invalid { field, detail }) => {
            let part = field.rsplit('/').next().unwrap_or_default();
            let at = match part {
                "value" => raw.value.as_ref().unwrap_or(&raw.aggregate),
                "aggregate" => &raw.aggregate,
                "percentile" => raw.percentile.as_ref().unwrap_or(&raw.aggregate),
                _ => &raw.name,
            };
            errors.at(at, &format!("{path}.{part}"), detail);
            None
        }
        Err(other) => {
            errors.at(&raw.name, path, other.to_string());
            None
        }
    }
}

fn plans(raw: &RawCatalog, currency: Currency, errors: &mut Errors) -> Vec<PlanDefinition> {
    let meters: BTreeSet<_> = raw.meters.iter().map(|meter| meter.name.value.as_str()).chain(["calls", "requests"]).collect();
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

fn meters_exist(plan: &RawPlan, path: &str, meters: &BTreeSet<&str>, errors: &mut Errors) {
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
            let known: Vec<_> = meters.iter().copied().collect();
            errors.at(meter, &path, format!("there is no meter named `{}`; there are {}", meter.value, known.join(", ")));
        }
    }
}

fn consumers(raw: &RawCatalog, errors: &mut Errors) -> Vec<ConsumerEntry> {
    unique(raw.consumers.iter().enumerate().map(|(n, c)| (&c.name, format!("consumers[{n}].name"))), "consumer", errors);
    let all_subjects = raw.consumers.iter().enumerate();
    let all_subjects =
        all_subjects.flat_map(|(n, c)| c.subjects.iter().enumerate().map(move |(k, s)| (s, format!("consumers[{n}].subjects[{k}]"))));
    unique(all_subjects, "subject", errors);
    raw.consumers.iter().enumerate().map(|(n, consumer)| self::consumer(consumer, &format!("consumers[{n}]"), errors)).collect()
}

/// What else may be wrong with them is told when they are applied.
fn costs(raw: &[RawCost], errors: &mut Errors) -> Vec<Cost> {
    let cost = |(n, raw): (usize, &RawCost)| {
        let path = format!("costs[{n}]");
        let from = match &raw.from {
            Some(from) => instant(from, &format!("{path}.from"), errors)?,
            None => ever(),
        };
        let per_call = errors.keep(decimal(&raw.per_call.value), &raw.per_call, &format!("{path}.per_call"))?;
        let api = raw.api.as_ref().map(|api| api.value.clone()).unwrap_or_default();
        Some(Cost { api, route: raw.route.value.clone(), per_call, from })
    };
    raw.iter().enumerate().filter_map(cost).collect()
}

pub(super) fn instant(text: &At<String>, path: &str, errors: &mut Errors) -> Option<DateTime<Utc>> {
    let parsed = text.value.parse::<DateTime<Utc>>();
    let parsed = parsed.map_err(|_| format!("`{}` is not an instant; write it as 2026-08-15T00:00:00Z", text.value));
    errors.keep(parsed, text, path)
}

fn consumer(raw: &RawConsumer, path: &str, errors: &mut Errors) -> ConsumerEntry {
    if let Some(email) = raw.email.as_ref().filter(|email| !email.value.contains('@')) {
        errors.at(email, &format!("{path}.email"), format!("`{}` is not an e-mail address", email.value));
    }
    let signed_up = raw.signed_up.as_ref().and_then(|text| instant(text, &format!("{path}.signed_up"), errors));
    let address = raw.address.as_ref().map_or_else(|| json!({}), |raw| address(raw, &format!("{path}.address"), errors));
    let mut subscriptions = Vec::new();
    for (n, subscription) in raw.subscriptions.iter().enumerate() {
        let from = instant(&subscription.from, &format!("{path}.subscriptions[{n}].from"), errors);
        let version = subscription.version.as_ref().map(|version| version.value);
        subscriptions.extend(from.map(|from| SubscriptionEntry { plan: subscription.plan.value.clone(), version, from }));
    }
    ConsumerEntry {
        name: raw.name.value.clone(),
        email: raw.email.as_ref().map(|email| email.value.clone()),
        signed_up,
        address,
        subjects: raw.subjects.iter().map(|subject| subject.value.clone()).collect(),
        subscriptions,
    }
}
