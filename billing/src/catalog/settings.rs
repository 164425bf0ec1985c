//! How the workspace of the file takes events in, and bills.

use farebox_core::intake_settings::IntakeSettings;

use super::check::instant;
use super::errors::Errors;
use super::plan::{LATE_USAGE, Reader};
use super::raw::{At, RawBilling, RawIntake};
use crate::settings::BillingSettings;

pub fn billing(raw: &RawBilling, errors: &mut Errors) -> BillingSettings {
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
pub fn intake(raw: &RawIntake, errors: &mut Errors) -> IntakeSettings {
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
