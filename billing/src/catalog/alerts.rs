//! Alerts of the file, read with the line of what is wrong.

use farebox_core::money::decimal;

use super::errors::Errors;
use super::plan::Reader;
use super::raw::{At, RawAlert, RawCatalog};
use crate::BillingError;
use crate::alerts::{Kind, NewAlert, check_of_catalogue};

/// As the API has it, but that the consumer is given by name.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertEntry {
    pub alert: NewAlert,
    pub consumer: Option<String>,
}

pub fn read(raw: &RawCatalog, errors: &mut Errors) -> Vec<AlertEntry> {
    let entries = raw.alerts.iter().enumerate().filter_map(|(n, alert)| one(alert, &format!("alerts[{n}]"), errors));
    entries.collect()
}

fn one(raw: &RawAlert, path: &str, errors: &mut Errors) -> Option<AlertEntry> {
    let kinds = &[("allowance", Kind::Allowance), ("usage", Kind::Usage), ("spend", Kind::Spend), ("anomaly", Kind::Anomaly)];
    let kind = Reader { currency: "USD".parse().expect("USD is a currency"), errors }.word(&raw.kind, &format!("{path}.kind"), kinds);
    let threshold = errors.keep(decimal(&raw.threshold.value), &raw.threshold, &format!("{path}.threshold"));
    let at_least = match &raw.at_least {
        Some(least) => Some(errors.keep(decimal(&least.value), least, &format!("{path}.at_least"))?),
        None => None,
    };
    let word = |at: &Option<At<String>>| at.as_ref().map(|at| at.value.clone());
    let alert = NewAlert {
        name: raw.name.value.clone(),
        kind: kind?,
        meter: word(&raw.meter),
        threshold: threshold?,
        currency: word(&raw.currency),
        at_least,
        consumer: None,
        plan: word(&raw.plan),
        emails: raw.emails.iter().map(|email| email.value.clone()).collect(),
        mail_consumer: raw.mail_consumer,
    };
    if let Err(error) = check_of_catalogue(&alert) {
        let (field, detail) = match error {
            BillingError::Invalid { field, detail } => (field.replace('/', "."), detail),
            other => (String::new(), other.to_string()),
        };
        let place = match field.as_str() {
            ".threshold" => &raw.threshold,
            ".meter" => raw.meter.as_ref().unwrap_or(&raw.kind),
            ".currency" => raw.currency.as_ref().unwrap_or(&raw.kind),
            ".at_least" => raw.at_least.as_ref().unwrap_or(&raw.kind),
            ".emails" => raw.emails.first().unwrap_or(&raw.name),
            _ => &raw.name,
        };
        errors.at(place, &format!("{path}{field}"), detail);
        return None;
    }
    Some(AlertEntry { alert, consumer: word(&raw.consumer) })
}
