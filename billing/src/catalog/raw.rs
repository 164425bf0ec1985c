//! The catalogue file as it is written: every value that can be wrong keeps its line and column.

use std::collections::BTreeMap;
use std::fmt;

use farebox_metering::Test;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_saphyr::Spanned;

pub type At<T> = Spanned<T>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCatalog {
    pub workspace: At<String>,
    pub currency: At<String>,
    pub time_zone: At<String>,
    pub seller: Option<RawSeller>,
    #[serde(default)]
    pub taxes: Vec<RawTax>,
    pub billing: Option<RawBilling>,
    pub intake: Option<RawIntake>,
    pub decisions: Option<RawDecisions>,
    #[serde(default)]
    pub formats: Vec<RawFormat>,
    #[serde(default)]
    pub sources: Vec<RawSource>,
    #[serde(default)]
    pub apis: Vec<RawApi>,
    #[serde(default)]
    pub meters: Vec<RawMeter>,
    #[serde(default)]
    pub plans: Vec<RawPlan>,
    #[serde(default)]
    pub consumers: Vec<RawConsumer>,
    #[serde(default)]
    pub coupons: Vec<RawCoupon>,
    #[serde(default)]
    pub alerts: Vec<RawAlert>,
    pub costs: Option<Vec<RawCost>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSeller {
    pub name: At<String>,
    pub address: Option<RawAddress>,
    pub tax_id: Option<At<String>>,
    pub invoice_number_prefix: Option<At<String>>,
    pub credit_note_number_prefix: Option<At<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAddress {
    pub line1: Option<String>,
    pub line2: Option<String>,
    pub city: Option<String>,
    pub postal_code: Option<String>,
    pub state: Option<String>,
    pub country: At<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTax {
    pub name: At<String>,
    pub rate: At<String>,
    #[serde(default)]
    pub inclusive: bool,
    pub per: Option<At<String>>,
    #[serde(default)]
    pub countries: Vec<At<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIntake {
    pub back_days: Option<At<i32>>,
    pub ahead_minutes: Option<At<i32>>,
    pub keep_rejected_days: Option<At<i32>>,
}

/// See [`crate::decision_policy::Policy`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDecisions {
    pub unpaid_grace_days: Option<At<u32>>,
    pub trust_seconds: Option<At<u32>>,
    pub proxies: Option<At<u8>>,
    pub key_header: Option<At<String>>,
    #[serde(default)]
    pub mirrors: Vec<At<String>>,
    #[serde(default)]
    pub apis: BTreeMap<String, RawDecisionsOfApi>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDecisionsOfApi {
    pub when_stale: Option<At<String>>,
    pub anonymous: Option<RawAnonymous>,
    pub version_header: Option<At<String>>,
    pub default_version: Option<At<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAnonymous {
    pub limit: At<u32>,
    pub per: At<String>,
    #[serde(default)]
    pub routes: Vec<At<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFormat {
    pub name: At<String>,
    pub event: Option<At<String>>,
    pub fields: BTreeMap<String, RawReading>,
    #[serde(default)]
    pub properties: Vec<At<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawReading {
    pub pointer: At<String>,
    pub r#type: Option<At<String>>,
    pub unit: Option<At<String>>,
    #[serde(default)]
    pub unset: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawBilling {
    #[serde(default)]
    pub close_by_hand: bool,
    pub close_from: Option<At<String>>,
    pub late_usage: Option<At<String>>,
    pub late_days: Option<At<i32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSource {
    pub name: At<String>,
    pub format: At<String>,
    pub kafka_topic: Option<At<String>>,
    #[serde(default)]
    pub backfill: bool,
    #[serde(default)]
    pub networks: Vec<At<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawApi {
    pub name: At<String>,
    pub product: Option<At<String>>,
    #[serde(default)]
    pub versions: Vec<RawApiVersion>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawApiVersion {
    pub name: At<String>,
    pub deprecated: Option<At<String>>,
    pub sunset: Option<At<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawMeter {
    pub name: At<String>,
    pub event: At<String>,
    pub aggregate: At<String>,
    pub value: Option<At<String>>,
    pub unit: Option<At<String>>,
    pub divide_by: Option<At<String>>,
    pub percentile: Option<At<String>>,
    #[serde(default)]
    pub filter: BTreeMap<String, Test>,
    #[serde(default)]
    pub group_by: Vec<At<String>>,
    pub counted: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPlan {
    /// Name and version may only be left out for `farebox rate`.
    pub name: Option<At<String>>,
    pub product: Option<At<String>>,
    pub version: Option<At<i32>>,
    pub interval: Option<At<String>>,
    pub anchor: Option<At<String>>,
    pub terms: Option<RawTerms>,
    pub trial: Option<RawTrial>,
    #[serde(default)]
    pub prices: Vec<RawPrice>,
    #[serde(alias = "minimum_commitment")]
    pub minimum: Option<At<RawAmounts>>,
    pub spend_cap: Option<At<RawAmounts>>,
    #[serde(default)]
    pub entitlements: Vec<RawEntitlement>,
    #[serde(default)]
    pub sla: Vec<RawPromise>,
    /// No longer offered; those who have it keep it.
    #[serde(default)]
    pub retired: bool,
    /// Only for `farebox rate`: taxes the lines; in a workspace, taxes are its own.
    pub tax: Option<At<RawPlanTax>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPlanTax {
    pub rate: At<String>,
    #[serde(default)]
    pub inclusive: bool,
    pub name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTerms {
    pub collect: Option<At<String>>,
    pub due_days: Option<At<i32>>,
    pub proration: Option<At<String>>,
    /// For all prices that can: see [`RawPrice::carry_over`].
    pub carry_over: Option<bool>,
    pub threshold: Option<At<RawAmounts>>,
    pub late_usage: Option<At<String>>,
    #[serde(default)]
    pub credits: Vec<RawIncluded>,
}

/// See [`crate::rating::plan::Included`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIncluded {
    pub name: At<String>,
    pub amount: Option<At<RawAmounts>>,
    pub meter: Option<At<String>>,
    pub units: Option<At<String>>,
    #[serde(default)]
    pub priority: i32,
    pub periods: Option<At<i32>>,
    pub expires: Option<At<bool>>,
    pub rollover: Option<RawRollsOver>,
    #[serde(default)]
    pub prices: Vec<At<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRollsOver {
    pub most: At<RawAmounts>,
    pub periods: Option<At<i32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTrial {
    pub days: At<i32>,
    pub then: Option<At<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPrice {
    pub name: At<String>,
    pub model: At<String>,
    pub meter: Option<At<String>>,
    pub amount: Option<At<RawAmounts>>,
    pub billed: Option<At<String>>,
    pub unit_amount: Option<At<RawAmounts>>,
    pub package_size: Option<At<String>>,
    pub tiers: Option<At<Vec<RawTier>>>,
    pub flat_at_zero: Option<At<bool>>,
    pub included: Option<At<String>>,
    pub minimum: Option<At<RawAmounts>>,
    pub maximum: Option<At<RawAmounts>>,
    pub counts_to_minimum: Option<bool>,
    pub interval: Option<At<String>>,
    pub carry_over: Option<At<bool>>,
    pub per_seat: Option<At<bool>>,
    pub rate: Option<At<String>>,
    pub fixed: Option<At<RawAmounts>>,
    pub included_events: Option<At<String>>,
    pub min_per_event: Option<At<RawAmounts>>,
    pub max_per_event: Option<At<RawAmounts>>,
    pub dimension: Option<At<String>>,
    #[serde(alias = "prices", alias = "unit_amounts")]
    pub values: Option<At<BTreeMap<String, At<RawAmounts>>>>,
    #[serde(alias = "default_unit_amount")]
    pub default: Option<At<RawAmounts>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTier {
    pub up_to: Option<At<String>>,
    pub unit_amount: Option<At<RawAmounts>>,
    pub rate: Option<At<String>>,
    pub flat_amount: Option<At<RawAmounts>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawEntitlement {
    pub feature: At<String>,
    #[serde(default)]
    pub routes: Vec<At<String>>,
    pub quota: Option<RawQuota>,
    pub rate: Option<RawRate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPromise {
    pub name: At<String>,
    pub good: Option<At<String>>,
    pub of: Option<At<String>>,
    pub meter: Option<At<String>>,
    pub credits: Vec<RawCredit>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCredit {
    pub below: Option<At<String>>,
    pub above: Option<At<String>>,
    pub share: At<String>,
}

/// See [`crate::coupons::NewCoupon`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCoupon {
    pub code: At<String>,
    pub name: Option<String>,
    pub share: Option<At<String>>,
    pub amount: Option<At<RawAmounts>>,
    pub periods: Option<At<i32>>,
    #[serde(default)]
    pub prices: Vec<String>,
    #[serde(default)]
    pub plans: Vec<At<String>>,
    pub redeem_by: Option<At<String>>,
    pub max_redemptions: Option<At<i32>>,
    #[serde(default)]
    pub retired: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawQuota {
    pub meter: At<String>,
    pub limit: At<String>,
    pub per: At<String>,
    #[serde(default)]
    pub hard: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRate {
    pub limit: At<u32>,
    pub per: At<String>,
    pub burst: Option<At<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConsumer {
    pub name: At<String>,
    pub email: Option<At<String>>,
    pub signed_up: Option<At<String>>,
    pub address: Option<RawAddress>,
    pub billing: Option<RawConsumerBilling>,
    #[serde(default)]
    pub subjects: Vec<At<String>>,
    #[serde(default)]
    pub subscriptions: Vec<RawSubscription>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConsumerBilling {
    pub currency: Option<At<String>>,
    pub tax_status: Option<At<String>>,
    pub tax_reason: Option<String>,
    pub tax_id: Option<String>,
    #[serde(default)]
    pub consolidated: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSubscription {
    pub plan: At<String>,
    pub version: Option<At<i32>>,
    pub from: At<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCost {
    pub api: Option<At<String>>,
    pub route: At<String>,
    pub per_call: At<String>,
    pub from: Option<At<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAlert {
    pub name: At<String>,
    pub kind: At<String>,
    pub threshold: At<String>,
    pub meter: Option<At<String>>,
    pub currency: Option<At<String>>,
    pub at_least: Option<At<String>>,
    pub consumer: Option<At<String>>,
    pub plan: Option<At<String>>,
    #[serde(default)]
    pub emails: Vec<At<String>>,
    #[serde(default)]
    pub mail_consumer: bool,
}

/// `"49"`, in the file's currency; or `{USD: "49", EUR: "45"}`.
#[derive(Debug, Clone)]
pub enum RawAmounts {
    One(String),
    ByCurrency(BTreeMap<String, RawAmount>),
}

/// A decimal in quotes; whole numbers may go without.
#[derive(Debug, Clone)]
pub struct RawAmount(pub String);

struct AmountsVisitor {
    maps: bool,
}

const FLOAT: &str = "an unquoted decimal is read as a binary fraction and loses digits: put it in quotes, such as \"49.10\"";

impl<'de> Visitor<'de> for AmountsVisitor {
    type Value = RawAmounts;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.maps {
            "an amount such as \"49.00\", or one for each currency, {USD: \"49\"}"
        } else {
            "an amount such as \"49.00\""
        })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<RawAmounts, E> {
        Ok(RawAmounts::One(text.to_owned()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<RawAmounts, E> {
        Ok(RawAmounts::One(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<RawAmounts, E> {
        Ok(RawAmounts::One(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<RawAmounts, E> {
        Err(E::custom(FLOAT))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawAmounts, A::Error> {
        if !self.maps {
            return Err(de::Error::invalid_type(de::Unexpected::Map, &self));
        }
        let mut amounts = BTreeMap::new();
        while let Some((currency, amount)) = map.next_entry::<String, RawAmount>()? {
            amounts.insert(currency, amount);
        }
        Ok(RawAmounts::ByCurrency(amounts))
    }
}

impl<'de> Deserialize<'de> for RawAmounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AmountsVisitor { maps: true })
    }
}

impl<'de> Deserialize<'de> for RawAmount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(AmountsVisitor { maps: false })? {
            RawAmounts::One(text) => Ok(Self(text)),
            RawAmounts::ByCurrency(_) => Err(de::Error::custom("an amount was expected")),
        }
    }
}
