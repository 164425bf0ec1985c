//! The consumers of the file, read with the line of what is wrong.

use chrono::{DateTime, Utc};
use farebox_core::money::Currency;
use serde_json::{Value, json};

use super::check::{instant, unique};
use super::errors::Errors;
use super::plan::Reader;
use super::raw::{RawCatalog, RawConsumer, RawConsumerBilling};
use super::seller::address;
use crate::settings::{ConsumerBilling, TaxStatus, check_billing};

#[derive(Debug, Clone, PartialEq)]
pub struct ConsumerEntry {
    pub name: String,
    pub email: Option<String>,
    /// The moment of the first application when the file does not say.
    pub signed_up: Option<DateTime<Utc>>,
    pub address: Value,
    /// None: as it is.
    pub billing: Option<ConsumerBilling>,
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

pub fn read(raw: &RawCatalog, errors: &mut Errors) -> Vec<ConsumerEntry> {
    unique(raw.consumers.iter().enumerate().map(|(n, c)| (&c.name, format!("consumers[{n}].name"))), "consumer", errors);
    let all_subjects = raw.consumers.iter().enumerate();
    let all_subjects =
        all_subjects.flat_map(|(n, c)| c.subjects.iter().enumerate().map(move |(k, s)| (s, format!("consumers[{n}].subjects[{k}]"))));
    unique(all_subjects, "subject", errors);
    raw.consumers.iter().enumerate().map(|(n, consumer)| one(consumer, &format!("consumers[{n}]"), errors)).collect()
}

fn one(raw: &RawConsumer, path: &str, errors: &mut Errors) -> ConsumerEntry {
    if let Some(email) = raw.email.as_ref().filter(|email| !email.value.contains('@')) {
        errors.at(email, &format!("{path}.email"), format!("`{}` is not an e-mail address", email.value));
    }
    let signed_up = raw.signed_up.as_ref().and_then(|text| instant(text, &format!("{path}.signed_up"), errors));
    let address = raw.address.as_ref().map_or_else(|| json!({}), |raw| address(raw, &format!("{path}.address"), errors));
    let billing = raw.billing.as_ref().map(|billing| self::billing(billing, &format!("{path}.billing"), errors));
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
        billing,
        subjects: raw.subjects.iter().map(|subject| subject.value.clone()).collect(),
        subscriptions,
    }
}

const TAX_STATUS: &[(&str, TaxStatus)] =
    &[("taxable", TaxStatus::Taxable), ("exempt", TaxStatus::Exempt), ("reverse_charge", TaxStatus::ReverseCharge)];

/// As the API has it; what is left out is the default.
fn billing(raw: &RawConsumerBilling, path: &str, errors: &mut Errors) -> ConsumerBilling {
    let currency = raw.currency.as_ref().and_then(|code| errors.keep(code.value.parse::<Currency>(), code, &format!("{path}.currency")));
    let mut reader = Reader { currency: currency.unwrap_or_else(|| "USD".parse().expect("USD is a currency")), errors };
    let tax_status = raw.tax_status.as_ref().and_then(|word| reader.word(word, &format!("{path}.tax_status"), TAX_STATUS));
    let billing = ConsumerBilling {
        currency,
        tax_status: tax_status.unwrap_or_default(),
        tax_reason: raw.tax_reason.clone(),
        tax_id: raw.tax_id.clone(),
        consolidated: raw.consolidated,
    };
    if let (Err((field, detail)), Some(word)) = (check_billing(&billing), &raw.tax_status) {
        errors.at(word, &format!("{path}{}", field.replace('/', ".")), detail);
    }
    billing
}
