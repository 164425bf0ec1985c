//! A plan of the file, checked, as a [`PlanDefinition`].

use std::collections::BTreeMap;
use std::fmt;

use farebox_core::money::{BigDecimal, Currency, Money, decimal};

use super::errors::Errors;
use super::raw::{At, RawAmounts, RawEntitlement, RawPlan, RawPrice, RawTerms, RawTier};
use crate::rating::models::zero;
use crate::rating::plan::{
    Amounts, Anchor, Billed, Collect, Decimal, Entitlement, Interval, LateUsage, Model, Per, PlanDefinition, Price, Proration, Quota,
    RateLimit, Terms, Tier, Trial, Unit,
};
use crate::rating::tax::{TaxPer, TaxRate};

pub struct Reader<'a> {
    /// The currency of amounts written without one.
    pub currency: Currency,
    pub errors: &'a mut Errors,
}

/// What `late_usage` may say, of a workspace or a plan.
pub const LATE_USAGE: &[(&str, LateUsage)] =
    &[("next_invoice", LateUsage::NextInvoice), ("own_invoice", LateUsage::OwnInvoice), ("credit_note", LateUsage::CreditNote)];

impl Reader<'_> {
    pub fn plan(&mut self, raw: &RawPlan, path: &str) -> Option<(PlanDefinition, Option<TaxRate>)> {
        let interval = match &raw.interval {
            None => Some(Interval::Month),
            Some(word) => self.word(word, &format!("{path}.interval"), INTERVALS),
        };
        let anchor = match &raw.anchor {
            None => Some(Anchor::Calendar),
            Some(word) => {
                self.word(word, &format!("{path}.anchor"), &[("calendar", Anchor::Calendar), ("subscription", Anchor::Subscription)])
            }
        };
        if let Some(name) = raw.name.as_ref().filter(|name| name.value.is_empty()) {
            self.errors.at(name, &format!("{path}.name"), "a plan needs a name");
        }
        if let Some(version) = raw.version.as_ref().filter(|version| version.value < 1) {
            self.errors.at(version, &format!("{path}.version"), "versions count from 1");
        }
        let trial = raw.trial.as_ref().map(|trial| {
            if !(1..=730).contains(&trial.days.value) {
                self.errors.at(&trial.days, &format!("{path}.trial.days"), "a trial lasts 1 to 730 days");
            }
            Trial { days: trial.days.value, then: trial.then.as_ref().map(|then| then.value.clone()) }
        });
        let mut prices = Vec::new();
        for (n, price) in raw.prices.iter().enumerate() {
            let path = format!("{path}.prices[{n}]");
            let carry_over = raw.terms.as_ref().is_some_and(|terms| terms.carry_over == Some(true));
            if raw.prices[..n].iter().any(|p| p.name.value == price.name.value) {
                self.errors.at(&price.name, &format!("{path}.name"), format!("the plan has another price named `{}`", price.name.value));
            }
            prices.push(self.price(price, carry_over, &path));
        }
        let minimum = self.money(raw.minimum.as_ref(), &format!("{path}.minimum"));
        let spend_cap = self.money(raw.spend_cap.as_ref(), &format!("{path}.spend_cap"));
        let entitlements: Vec<_> = (raw.entitlements.iter().enumerate())
            .map(|(n, entitlement)| self.entitlement(entitlement, &format!("{path}.entitlements[{n}]")))
            .collect();
        let sla: Vec<_> =
            raw.sla.iter().enumerate().map(|(n, promise)| super::sla::read(self, promise, &format!("{path}.sla[{n}]"))).collect();
        let tax = raw.tax.as_ref().map(|tax| self.tax(tax, path));
        super::included::fit(self, raw, path);
        let definition = PlanDefinition {
            name: raw.name.as_ref().map_or_else(|| "plan".to_owned(), |name| name.value.clone()),
            product: raw.product.as_ref().map_or_else(|| "default".to_owned(), |product| product.value.clone()),
            version: raw.version.as_ref().map_or(1, |version| version.value),
            interval: interval?,
            anchor: anchor?,
            terms: self.terms(raw.terms.as_ref(), &format!("{path}.terms")),
            trial,
            prices: prices.into_iter().collect::<Option<_>>()?,
            minimum: minimum?,
            spend_cap: spend_cap?,
            entitlements: entitlements.into_iter().collect::<Option<_>>()?,
            sla: sla.into_iter().collect::<Option<_>>()?,
        };
        Some((definition, tax.flatten()))
    }

    fn tax(&mut self, tax: &At<super::raw::RawPlanTax>, path: &str) -> Option<TaxRate> {
        let rate = self.rate(&tax.value.rate, &format!("{path}.tax.rate"))?;
        Some(TaxRate {
            name: tax.value.name.clone().unwrap_or_else(|| "Tax".to_owned()),
            rate,
            inclusive: tax.value.inclusive,
            per: TaxPer::Line,
            note: None,
        })
    }

    fn terms(&mut self, raw: Option<&RawTerms>, path: &str) -> Terms {
        let mut terms = Terms::default();
        let Some(raw) = raw else { return terms };
        if let Some(word) = &raw.collect {
            let words = &[("automatically", Collect::Automatically), ("send_invoice", Collect::SendInvoice)];
            terms.collect = self.word(word, &format!("{path}.collect"), words).unwrap_or(terms.collect);
        }
        if let Some(days) = &raw.due_days {
            if !(0..=365).contains(&days.value) {
                self.errors.at(days, &format!("{path}.due_days"), "must be 0 to 365 days");
            }
            terms.due_days = days.value;
        }
        if let Some(word) = &raw.proration {
            let words = &[("second", Proration::Second), ("day", Proration::Day), ("none", Proration::None)];
            terms.proration = self.word(word, &format!("{path}.proration"), words).unwrap_or(terms.proration);
        }
        terms.threshold = self.money(raw.threshold.as_ref(), &format!("{path}.threshold")).flatten();
        if let Some(word) = &raw.late_usage {
            terms.late_usage = self.word(word, &format!("{path}.late_usage"), LATE_USAGE);
        }
        terms.credits = super::included::read(self, &raw.credits, &format!("{path}.credits"));
        terms
    }

    pub fn price(&mut self, raw: &RawPrice, all_carry_over: bool, path: &str) -> Option<Price> {
        let model = self.model(raw, path);
        let flat = raw.model.value == "flat";
        let interval = raw.interval.as_ref().map(|word| self.word(word, &format!("{path}.interval"), INTERVALS));
        let has_tiers = matches!(raw.model.value.as_str(), "per_unit" | "package" | "graduated" | "volume" | "graduated_percentage");
        if let Some(carry_over) = raw.carry_over.as_ref().filter(|flag| flag.value && !has_tiers) {
            let message = format!("the model `{}` has no position in a period to carry over; remove it", raw.model.value);
            self.errors.at(carry_over, &format!("{path}.carry_over"), message);
        }
        if let Some(per_seat) = raw.per_seat.as_ref().filter(|flag| flag.value && !flat) {
            self.errors.at(per_seat, &format!("{path}.per_seat"), "only a flat fee is charged per seat; usage has its own quantity");
        }
        match &raw.meter {
            // Of what is no model at all that is said below, and nothing else.
            None if !flat && MODELS.split(", ").any(|model| model == raw.model.value) => {
                self.errors.at(&raw.model, path, format!("`{}` follows usage: name its `meter`", raw.model.value));
            }
            Some(meter) if flat => self.errors.at(meter, path, "a flat fee has no meter; leave it out, or choose another model"),
            _ => {}
        }
        let included = raw.included.as_ref().map(|text| self.not_negative(text, &format!("{path}.included")));
        if flat && let Some(included) = &raw.included {
            self.errors.at(included, path, "a flat fee has no included units");
        }
        let (minimum, maximum) =
            (self.money(raw.minimum.as_ref(), &format!("{path}.minimum")), self.money(raw.maximum.as_ref(), &format!("{path}.maximum")));
        if flat && let Some(bound) = raw.minimum.as_ref().or(raw.maximum.as_ref()) {
            self.errors.at(bound, path, "a flat fee is its own bound; leave `minimum` and `maximum` out");
        }
        if let (Some(low), Some(high), Some(place)) =
            (minimum.as_ref().and_then(Option::as_ref), maximum.as_ref().and_then(Option::as_ref), &raw.maximum)
            && low.0.iter().any(|(currency, low)| high.0.get(currency).is_some_and(|high| high < low))
        {
            self.errors.at(place, &format!("{path}.maximum"), "is below the `minimum`");
        }
        Some(Price {
            name: raw.name.value.clone(),
            meter: raw.meter.as_ref().map(|meter| meter.value.clone()),
            included: included.map_or(Some(Decimal::default()), |d| d)?,
            minimum: minimum?,
            maximum: maximum?,
            counts_to_minimum: raw.counts_to_minimum.unwrap_or(true),
            interval: interval.map_or(Some(None), |i| i.map(Some))?,
            carry_over: raw.carry_over.as_ref().map_or(all_carry_over && has_tiers, |flag| flag.value),
            per_seat: raw.per_seat.as_ref().is_some_and(|flag| flag.value),
            model: model?,
        })
    }

    fn model(&mut self, raw: &RawPrice, path: &str) -> Option<Model> {
        let name = raw.model.value.as_str();
        let allowed: &[&str] = match name {
            "flat" => &["amount", "billed"],
            "per_unit" => &["unit_amount"],
            "package" => &["amount", "package_size"],
            "graduated" | "volume" | "graduated_percentage" => &["tiers", "flat_at_zero"],
            "pass_through" => &[],
            "percentage" => &["rate", "fixed", "included_events", "min_per_event", "max_per_event"],
            "matrix" => &["dimension", "values", "default"],
            name => {
                self.errors.at(&raw.model, &format!("{path}.model"), format!("`{name}` is not a model; use one of {MODELS}"));
                return None;
            }
        };
        self.refuse(raw.amount.as_ref(), "amount", name, allowed, path);
        self.refuse(raw.billed.as_ref(), "billed", name, allowed, path);
        self.refuse(raw.unit_amount.as_ref(), "unit_amount", name, allowed, path);
        self.refuse(raw.package_size.as_ref(), "package_size", name, allowed, path);
        self.refuse(raw.tiers.as_ref(), "tiers", name, allowed, path);
        self.refuse(raw.flat_at_zero.as_ref(), "flat_at_zero", name, allowed, path);
        self.refuse(raw.rate.as_ref(), "rate", name, allowed, path);
        self.refuse(raw.fixed.as_ref(), "fixed", name, allowed, path);
        self.refuse(raw.included_events.as_ref(), "included_events", name, allowed, path);
        self.refuse(raw.min_per_event.as_ref(), "min_per_event", name, allowed, path);
        self.refuse(raw.max_per_event.as_ref(), "max_per_event", name, allowed, path);
        self.refuse(raw.dimension.as_ref(), "dimension", name, allowed, path);
        self.refuse(raw.values.as_ref(), "values", name, allowed, path);
        self.refuse(raw.default.as_ref(), "default", name, allowed, path);
        let flat_at_zero = raw.flat_at_zero.as_ref().is_some_and(|flag| flag.value);
        match name {
            "flat" => {
                let billed = raw.billed.as_ref().map_or(Some(Billed::InAdvance), |word| {
                    self.word(word, &format!("{path}.billed"), &[("in_advance", Billed::InAdvance), ("in_arrears", Billed::InArrears)])
                });
                let amount = self.needed(raw.amount.as_ref(), "amount", raw, path);
                let amount = amount.and_then(|amount| self.whole_money(amount, &format!("{path}.amount")));
                Some(Model::Flat { amount: amount?, billed: billed? })
            }
            "per_unit" => {
                let unit = self.needed(raw.unit_amount.as_ref(), "unit_amount", raw, path)?;
                Some(Model::PerUnit { unit_amount: self.amounts(unit, &format!("{path}.unit_amount"))? })
            }
            "package" => {
                let amount = self.needed(raw.amount.as_ref(), "amount", raw, path);
                let amount = amount.and_then(|amount| self.amounts(amount, &format!("{path}.amount")));
                let size = self.needed(raw.package_size.as_ref(), "package_size", raw, path)?;
                let package_size = self.decimal(size, &format!("{path}.package_size"))?;
                if package_size.0 <= zero() {
                    self.errors.at(size, &format!("{path}.package_size"), "a package holds more than nothing");
                    return None;
                }
                Some(Model::Package { amount: amount?, package_size })
            }
            "pass_through" => Some(Model::PassThrough),
            "percentage" => self.percentage(raw, path),
            "matrix" => self.matrix(raw, path),
            _ => {
                let raw_tiers = self.needed(raw.tiers.as_ref(), "tiers", raw, path)?;
                let tiers = self.tiers(raw_tiers, name == "graduated_percentage", &format!("{path}.tiers"))?;
                Some(match name {
                    "graduated" => Model::Graduated { tiers, flat_at_zero },
                    "volume" => Model::Volume { tiers, flat_at_zero },
                    _ => Model::GraduatedPercentage { tiers, flat_at_zero },
                })
            }
        }
    }

    fn percentage(&mut self, raw: &RawPrice, path: &str) -> Option<Model> {
        let rate = self.needed(raw.rate.as_ref(), "rate", raw, path).and_then(|rate| self.not_negative(rate, &format!("{path}.rate")));
        let mut amount = |field: &Option<At<RawAmounts>>, name: &str| {
            field.as_ref().map_or(Some(None), |amounts| self.amounts(amounts, &format!("{path}.{name}")).map(Some))
        };
        let (fixed, min_per_event, max_per_event) =
            (amount(&raw.fixed, "fixed"), amount(&raw.min_per_event, "min_per_event"), amount(&raw.max_per_event, "max_per_event"));
        let included_events = raw
            .included_events
            .as_ref()
            .map_or(Some(Decimal::default()), |text| self.not_negative(text, &format!("{path}.included_events")));
        let bounded = raw.min_per_event.is_some() || raw.max_per_event.is_some();
        if let Some(included) = raw.included.as_ref().filter(|_| bounded) {
            let message = "with bounds for each event a part of the sum cannot be free; use `included_events`";
            self.errors.at(included, &format!("{path}.included"), message);
        }
        if let (Some(Some(low)), Some(Some(high)), Some(place)) = (&min_per_event, &max_per_event, &raw.max_per_event)
            && low.0.iter().any(|(currency, low)| high.0.get(currency).is_some_and(|high| high < low))
        {
            self.errors.at(place, &format!("{path}.max_per_event"), "is below `min_per_event`");
        }
        Some(Model::Percentage {
            rate: rate?,
            fixed: fixed?,
            included_events: included_events?,
            min_per_event: min_per_event?,
            max_per_event: max_per_event?,
        })
    }

    fn matrix(&mut self, raw: &RawPrice, path: &str) -> Option<Model> {
        let dimension = self.needed(raw.dimension.as_ref(), "dimension", raw, path)?;
        if let Err(error) = dimension.value.parse::<farebox_metering::Dimension>() {
            self.errors.at(dimension, &format!("{path}.dimension"), error.to_string());
        }
        if let Some(included) = &raw.included {
            let message = "a matrix has no included units: give the values that are free the amount 0";
            self.errors.at(included, &format!("{path}.included"), message);
        }
        let listed = self.needed(raw.values.as_ref(), "values", raw, path)?;
        let mut values = BTreeMap::new();
        for (value, amounts) in &listed.value {
            values.insert(value.clone(), self.amounts(amounts, &format!("{path}.values.{value}"))?);
        }
        if values.is_empty() {
            self.errors.at(listed, &format!("{path}.values"), "give a unit price for at least one value");
        }
        let default = raw.default.as_ref().map_or(Some(None), |amounts| self.amounts(amounts, &format!("{path}.default")).map(Some));
        Some(Model::Matrix { dimension: dimension.value.clone(), values, default: default? })
    }

    fn tiers(&mut self, raw: &At<Vec<RawTier>>, percentage: bool, path: &str) -> Option<Vec<Tier>> {
        if raw.value.is_empty() {
            self.errors.at(raw, path, "give at least one tier");
            return None;
        }
        let (mut tiers, mut lower, last) = (Vec::new(), BigDecimal::from(0), raw.value.len() - 1);
        for (n, tier) in raw.value.iter().enumerate() {
            let path = format!("{path}[{n}]");
            let up_to = match &tier.up_to {
                None if n < last => {
                    self.errors.at(raw, &path, "only the last tier may be open; give this one its `up_to`");
                    None
                }
                None => Some(None),
                Some(text) => self.decimal(text, &format!("{path}.up_to")).and_then(|upper| {
                    if upper.0 <= lower {
                        self.errors.at(text, &format!("{path}.up_to"), "must be above the tier before it; list tiers from low to high");
                        return None;
                    }
                    lower = upper.0.clone();
                    Some(Some(upper))
                }),
            };
            let unit = match (&tier.unit_amount, &tier.rate, percentage) {
                (Some(amounts), None, false) => self.amounts(amounts, &format!("{path}.unit_amount")).map(Unit::UnitAmount),
                (None, Some(rate), true) => self.decimal(rate, &format!("{path}.rate")).map(Unit::Rate),
                (None, None, false) if tier.flat_amount.is_some() => {
                    Some(Unit::UnitAmount(Amounts::of(self.currency, BigDecimal::from(0))))
                }
                _ => {
                    let wanted = if percentage { "a `rate`, such as \"0.01\" for 1 %" } else { "a `unit_amount`" };
                    self.errors.at(raw, &path, format!("a tier of this model has {wanted}, and a `flat_amount` if wanted"));
                    None
                }
            };
            let flat_amount = tier.flat_amount.as_ref().map(|amounts| self.amounts(amounts, &format!("{path}.flat_amount")));
            tiers.push((up_to, unit, flat_amount));
        }
        tiers
            .into_iter()
            .map(|(up_to, unit, flat)| Some(Tier { up_to: up_to?, unit: unit?, flat_amount: flat.map_or(Some(None), |f| f.map(Some))? }))
            .collect()
    }

    fn entitlement(&mut self, raw: &RawEntitlement, path: &str) -> Option<Entitlement> {
        for (n, route) in raw.routes.iter().enumerate() {
            let valid = route.value.split_once(' ').is_some_and(|(method, route)| {
                (method == "*" || method.bytes().all(|b| b.is_ascii_uppercase())) && !method.is_empty() && route.starts_with('/')
            });
            if !valid {
                let message = format!("`{}` is not a route; write a method and a path, such as \"GET /orders*\"", route.value);
                self.errors.at(route, &format!("{path}.routes[{n}]"), message);
            }
        }
        let quota = raw.quota.as_ref().map(|quota| {
            let limit = self.not_negative(&quota.limit, &format!("{path}.quota.limit"));
            let per = self.word(&quota.per, &format!("{path}.quota.per"), PERS);
            Some(Quota { meter: quota.meter.value.clone(), limit: limit?, per: per?, hard: quota.hard })
        });
        let rate = raw.rate.as_ref().map(|rate| {
            if rate.limit.value == 0 {
                self.errors.at(&rate.limit, &format!("{path}.rate.limit"), "must be at least 1");
            }
            let per = self.word(&rate.per, &format!("{path}.rate.per"), PERS);
            Some(RateLimit { limit: rate.limit.value, per: per?, burst: rate.burst.as_ref().map(|b| b.value) })
        });
        Some(Entitlement {
            feature: raw.feature.value.clone(),
            routes: raw.routes.iter().map(|r| r.value.clone()).collect(),
            quota: quota.map_or(Some(None), |q| q.map(Some))?,
            rate: rate.map_or(Some(None), |r| r.map(Some))?,
        })
    }

    fn needed<'r, T>(&mut self, field: Option<&'r At<T>>, name: &str, price: &RawPrice, path: &str) -> Option<&'r At<T>> {
        if field.is_none() {
            self.errors.at(&price.model, path, format!("the model `{}` needs `{name}`", price.model.value));
        }
        field
    }

    fn refuse<T>(&mut self, field: Option<&At<T>>, name: &str, model: &str, allowed: &[&str], path: &str) {
        if let Some(field) = field
            && !allowed.contains(&name)
        {
            self.errors.at(
                field,
                &format!("{path}.{name}"),
                format!("the model `{model}` has no `{name}`; remove it, or choose the model that has it"),
            );
        }
    }

    pub fn decimal(&mut self, text: &At<String>, path: &str) -> Option<Decimal> {
        self.errors.keep(decimal(&text.value), text, path).map(Decimal)
    }

    pub fn not_negative(&mut self, text: &At<String>, path: &str) -> Option<Decimal> {
        let value = self.decimal(text, path)?;
        if value.0 < zero() {
            self.errors.at(text, path, "must not be negative");
            return None;
        }
        Some(value)
    }

    /// A tax rate: a fraction from 0 to below 1.
    pub fn rate(&mut self, text: &At<String>, path: &str) -> Option<Decimal> {
        let value = self.not_negative(text, path)?;
        let whole = BigDecimal::from(1);
        if value.0 >= whole {
            self.errors.at(text, path, "a rate is a fraction: write 19 % as \"0.19\"");
            return None;
        }
        Some(value)
    }

    fn amounts(&mut self, raw: &At<RawAmounts>, path: &str) -> Option<Amounts> {
        let mut amounts = BTreeMap::new();
        match &raw.value {
            RawAmounts::One(text) => {
                amounts.insert(self.currency.code().to_owned(), Decimal(self.errors.keep(decimal(text), raw, path)?));
            }
            RawAmounts::ByCurrency(map) => {
                if map.is_empty() {
                    self.errors.at(raw, path, "give the amount in at least one currency");
                    return None;
                }
                for (code, text) in map {
                    self.errors.keep(code.parse::<Currency>(), raw, path)?;
                    amounts.insert(code.clone(), Decimal(self.errors.keep(decimal(&text.0), raw, path)?));
                }
            }
        }
        if amounts.values().any(|amount| amount.0 < zero()) {
            self.errors.at(raw, path, "a price is not negative; give discounts as credits or coupons");
            return None;
        }
        Some(Amounts(amounts))
    }

    /// Amounts that are charged as they stand, so they must be whole minor units.
    fn whole_money(&mut self, raw: &At<RawAmounts>, path: &str) -> Option<Amounts> {
        let amounts = self.amounts(raw, path)?;
        for (code, amount) in &amounts.0 {
            let currency = code.parse::<Currency>().ok()?;
            self.errors.keep(Money::exact(&amount.0, currency), raw, path)?;
        }
        Some(amounts)
    }

    /// None when it is wrong, None within when it is not given.
    #[allow(clippy::option_option)] // three cases: wrong, not given, given
    pub(super) fn money(&mut self, raw: Option<&At<RawAmounts>>, path: &str) -> Option<Option<Amounts>> {
        raw.map_or(Some(None), |raw| self.whole_money(raw, path).map(Some))
    }

    pub fn word<T: Copy>(&mut self, word: &At<String>, path: &str, words: &[(&str, T)]) -> Option<T> {
        let found = words.iter().find(|(name, _)| *name == word.value).map(|(_, value)| *value);
        if found.is_none() {
            self.errors.at(word, path, format!("`{}` is not one of {}", word.value, OneOf(words)));
        }
        found
    }
}

const MODELS: &str = "flat, per_unit, package, graduated, volume, percentage, graduated_percentage, matrix, pass_through";

pub const INTERVALS: &[(&str, Interval)] = &[
    ("hour", Interval::Hour),
    ("day", Interval::Day),
    ("week", Interval::Week),
    ("month", Interval::Month),
    ("quarter", Interval::Quarter),
    ("half_year", Interval::HalfYear),
    ("year", Interval::Year),
];

pub(super) const PERS: &[(&str, Per)] =
    &[("second", Per::Second), ("minute", Per::Minute), ("hour", Per::Hour), ("day", Per::Day), ("week", Per::Week), ("month", Per::Month)];

struct OneOf<'a, T>(&'a [(&'a str, T)]);

impl<T> fmt::Display for OneOf<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (word, _)) in self.0.iter().enumerate() {
            write!(f, "{}{word}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
