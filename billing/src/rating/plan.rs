//! What a plan version says, in the form that is stored and rated: parsed, valid, immutable.

use std::collections::BTreeMap;

use bigdecimal::Zero;
use farebox_core::money::{BigDecimal, Currency, decimal_string};
use serde::{Deserialize, Serialize};

/// An exact decimal, written as a string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Decimal(#[serde(with = "decimal_string")] pub BigDecimal);

impl Decimal {
    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

/// An amount for each currency it is offered in, by ISO 4217 code.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amounts(pub BTreeMap<String, Decimal>);

impl Amounts {
    pub fn of(currency: Currency, amount: BigDecimal) -> Self {
        Self(BTreeMap::from([(currency.code().to_owned(), Decimal(amount))]))
    }

    pub fn get(&self, currency: Currency) -> Option<&BigDecimal> {
        self.0.get(currency.code()).map(|amount| &amount.0)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanDefinition {
    pub name: String,
    pub product: String,
    pub version: i32,
    pub interval: Interval,
    pub anchor: Anchor,
    pub terms: Terms,
    pub trial: Option<Trial>,
    pub prices: Vec<Price>,
    /// What a period costs at least; the difference is a line of its own.
    pub minimum: Option<Amounts>,
    /// What a period's usage costs at most; the excess is taken off by a line of its own.
    pub spend_cap: Option<Amounts>,
    pub entitlements: Vec<Entitlement>,
    /// What is promised of the service: where it is not kept, a share of what the period costs is given back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sla: Vec<Promise>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    HalfYear,
    Year,
}

/// Where periods begin: at the calendar's (the first of the month), or at the subscription's own start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    Calendar,
    Subscription,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub collect: Collect,
    pub due_days: i32,
    pub proration: Proration,
    /// Once the unbilled usage of a period reaches it, an invoice is issued before the period is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Amounts>,
    /// What becomes of usage that arrives after its period was invoiced; as in the workspace unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_usage: Option<LateUsage>,
    /// Prepaid credits that every period comes with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credits: Vec<Included>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            collect: Collect::Automatically,
            due_days: 14,
            proration: Proration::Second,
            threshold: None,
            late_usage: None,
            credits: Vec::new(),
        }
    }
}

/// Credits that a period comes with: granted once, as it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Included {
    pub name: String,
    #[serde(flatten)]
    pub of: IncludedOf,
    /// Lower is used first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// How many periods they serve, beginning with the one they come with.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub periods: i32,
    /// Else they serve periods for ever.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub expires: bool,
    /// Only for lines of prices of these names; for all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prices: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IncludedOf {
    Money {
        amount: Amounts,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollover: Option<RollsOver<Amounts>>,
    },
    Units {
        meter: String,
        units: Decimal,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollover: Option<RollsOver<Decimal>>,
    },
}

/// At the expiry at most so much of what is left goes on, for so many periods more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollsOver<T> {
    pub most: T,
    pub periods: i32,
}

const fn one() -> i32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_one(value: &i32) -> bool {
    *value == 1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_zero(value: &i32) -> bool {
    *value == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_yes(flag: &bool) -> bool {
    *flag
}

/// What becomes of usage that arrives after its period was invoiced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum LateUsage {
    /// A line on the next invoice; an invoice of its own only where no other will follow.
    #[default]
    NextInvoice,
    /// An invoice of its own, at once.
    OwnInvoice,
    /// At once: what was too much is credited on the invoice that charged it, what was too little has an invoice of its own.
    CreditNote,
}

impl LateUsage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NextInvoice => "next_invoice",
            Self::OwnInvoice => "own_invoice",
            Self::CreditNote => "credit_note",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Collect {
    /// The stored payment method is charged.
    Automatically,
    /// The invoice is sent, and paid by its due date.
    SendInvoice,
}

impl Collect {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Automatically => "automatically",
            Self::SendInvoice => "send_invoice",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proration {
    /// Seconds in force / seconds of the period.
    Second,
    /// Calendar days in the workspace's zone; the day of a change belongs to the new plan.
    Day,
    None,
}

/// Nothing is charged for `days`; then another plan, or nothing, follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub days: i32,
    pub then: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Price {
    pub name: String,
    /// What is counted; none for a flat fee.
    pub meter: Option<String>,
    /// Units taken off before the model sees them.
    #[serde(default)]
    pub included: Decimal,
    pub minimum: Option<Amounts>,
    pub maximum: Option<Amounts>,
    #[serde(default = "yes")]
    pub counts_to_minimum: bool,
    /// How often it is billed; as the plan, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// After a change within a period its tiers go on from what the plan before had counted; else they start from zero.
    #[serde(default, skip_serializing_if = "no")]
    pub carry_over: bool,
    /// A fee for each unit of the subscription's quantity (seats).
    #[serde(default, skip_serializing_if = "no")]
    pub per_seat: bool,
    #[serde(flatten)]
    pub model: Model,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn no(flag: &bool) -> bool {
    !flag
}

/// How a quantity becomes an amount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "snake_case")]
pub enum Model {
    Flat {
        amount: Amounts,
        billed: Billed,
    },
    PerUnit {
        unit_amount: Amounts,
    },
    Package {
        amount: Amounts,
        package_size: Decimal,
    },
    Graduated {
        tiers: Vec<Tier>,
        #[serde(default)]
        flat_at_zero: bool,
    },
    Volume {
        tiers: Vec<Tier>,
        #[serde(default)]
        flat_at_zero: bool,
    },
    /// Graduated over a sum of money: a tier's unit amount is its rate.
    GraduatedPercentage {
        tiers: Vec<Tier>,
        #[serde(default)]
        flat_at_zero: bool,
    },
    /// A share of a sum of money, and a fee for each event.
    Percentage {
        rate: Decimal,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fixed: Option<Amounts>,
        /// Events without a fee: as many of them, or the first in time where each event's fee has bounds.
        #[serde(default, skip_serializing_if = "Decimal::is_zero")]
        included_events: Decimal,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min_per_event: Option<Amounts>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_per_event: Option<Amounts>,
    },
    /// A unit price for each value of a dimension; one line for each.
    Matrix {
        /// A dimension of usage (`route`), or the JSON pointer of a property (`/model`).
        dimension: String,
        values: BTreeMap<String, Amounts>,
        /// For values that are not listed; without it their usage is an error that names them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        default: Option<Amounts>,
    },
    PassThrough,
}

impl Model {
    /// Every amount it names.
    pub fn amounts(&self) -> Vec<&Amounts> {
        match self {
            Self::Flat { amount, .. } | Self::Package { amount, .. } => vec![amount],
            Self::PerUnit { unit_amount } => vec![unit_amount],
            Self::Graduated { tiers, .. } | Self::Volume { tiers, .. } | Self::GraduatedPercentage { tiers, .. } => {
                let units = tiers.iter().filter_map(|tier| match &tier.unit {
                    Unit::UnitAmount(amounts) => Some(amounts),
                    Unit::Rate(_) => None,
                });
                units.chain(tiers.iter().filter_map(|tier| tier.flat_amount.as_ref())).collect()
            }
            Self::Percentage { fixed, min_per_event, max_per_event, .. } => {
                [fixed, min_per_event, max_per_event].into_iter().flatten().collect()
            }
            Self::Matrix { values, default, .. } => values.values().chain(default).collect(),
            Self::PassThrough => Vec::new(),
        }
    }

    /// Whether it takes a share of what its meter counts, whatever its amounts.
    fn takes_a_share(&self) -> bool {
        match self {
            Self::PassThrough => true,
            Self::Percentage { rate, .. } => !rate.0.is_zero(),
            Self::GraduatedPercentage { tiers, .. } => tiers.iter().any(|tier| matches!(&tier.unit, Unit::Rate(rate) if !rate.0.is_zero())),
            _ => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Billed {
    InAdvance,
    InArrears,
}

/// `up_to` is inclusive; the last tier may be open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tier {
    pub up_to: Option<Decimal>,
    #[serde(flatten)]
    pub unit: Unit,
    pub flat_amount: Option<Amounts>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    UnitAmount(Amounts),
    Rate(Decimal),
}

/// What a subscription allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Entitlement {
    pub feature: String,
    /// `METHOD /path` patterns; none means all routes of the product.
    #[serde(default)]
    pub routes: Vec<String>,
    pub quota: Option<Quota>,
    pub rate: Option<RateLimit>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Quota {
    pub meter: String,
    #[schema(value_type = String)]
    pub limit: Decimal,
    pub per: Per,
    /// Hard: calls beyond it are refused. Soft: they go through and are charged.
    #[serde(default)]
    pub hard: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RateLimit {
    pub limit: u32,
    pub per: Per,
    pub burst: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
}

/// Something promised of the service in each period, measured by meters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub name: String,
    #[serde(flatten)]
    pub measure: Measure,
    /// Of those that are met, the one with the greatest share holds.
    pub credits: Vec<Credit>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Measure {
    /// A share of calls, such as those answered: what the meter `good` counts of what `of` counts.
    Share { good: String, of: String },
    /// The value of a meter, such as a percentile of latency.
    Value { meter: String },
}

/// Where what was measured is below, or above, the promise: the share that is given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    #[serde(flatten)]
    pub bound: Bound,
    /// 0.1 is 10 %.
    pub share: Decimal,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    Below(Decimal),
    Above(Decimal),
}

impl PlanDefinition {
    /// A price by itself, on this plan's periods and terms.
    #[must_use]
    pub fn of_one_price(&self, price: Price) -> Self {
        let terms = Terms { threshold: None, credits: Vec::new(), ..self.terms.clone() };
        Self {
            prices: vec![price],
            minimum: None,
            spend_cap: None,
            trial: None,
            entitlements: Vec::new(),
            sla: Vec::new(),
            terms,
            ..self.clone()
        }
    }

    /// The meters its prices count with, each once.
    pub fn meters(&self) -> Vec<&str> {
        let mut meters: Vec<_> = self.prices.iter().filter_map(|p| p.meter.as_deref()).collect();
        meters.sort_unstable();
        meters.dedup();
        meters
    }

    /// Whether it can cost anything: a plan whose amounts are all zero is free.
    pub fn is_free(&self) -> bool {
        let zero = |amounts: &Amounts| amounts.0.values().all(|a| a.0.is_zero());
        self.minimum.as_ref().is_none_or(zero)
            && self.prices.iter().all(|price| {
                price.minimum.as_ref().is_none_or(zero) && !price.model.takes_a_share() && price.model.amounts().into_iter().all(zero)
            })
    }
}
