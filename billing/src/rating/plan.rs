//! What a plan version says, in the form that is stored and rated: parsed, valid, immutable.

use std::collections::BTreeMap;

use bigdecimal::Zero;
use farebox_core::money::{BigDecimal, Currency, decimal_string};
use serde::{Deserialize, Serialize};

/// An exact decimal, written as a string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Decimal(#[serde(with = "decimal_string")] pub BigDecimal);

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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl Default for Terms {
    fn default() -> Self {
        Self { collect: Collect::Automatically, due_days: 14, proration: Proration::Second }
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
    #[serde(flatten)]
    pub model: Model,
}

fn yes() -> bool {
    true
}

/// How a quantity becomes an amount. The catalogue refuses by name the models that are not here yet.
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
    PassThrough,
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

impl PlanDefinition {
    /// The meters its prices count with, each once.
    pub fn meters(&self) -> Vec<&str> {
        let mut meters: Vec<_> = self.prices.iter().filter_map(|p| p.meter.as_deref()).collect();
        meters.sort_unstable();
        meters.dedup();
        meters
    }

    /// Whether it can cost anything in this currency: a plan whose amounts are all zero is free.
    pub fn is_free(&self) -> bool {
        let zero = |amounts: &Amounts| amounts.0.values().all(|a| a.0.is_zero());
        let free_tier = |tier: &Tier| {
            tier.flat_amount.as_ref().is_none_or(zero)
                && match &tier.unit {
                    Unit::UnitAmount(amounts) => zero(amounts),
                    Unit::Rate(rate) => rate.0.is_zero(),
                }
        };
        self.minimum.as_ref().is_none_or(zero)
            && self.prices.iter().all(|price| {
                price.minimum.as_ref().is_none_or(zero)
                    && match &price.model {
                        Model::Flat { amount, .. } | Model::Package { amount, .. } => zero(amount),
                        Model::PerUnit { unit_amount } => zero(unit_amount),
                        Model::Graduated { tiers, .. } | Model::Volume { tiers, .. } | Model::GraduatedPercentage { tiers, .. } => {
                            tiers.iter().all(free_tier)
                        }
                        Model::PassThrough => false,
                    }
            })
    }
}
