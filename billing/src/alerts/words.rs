//! What is told, as sentences.

use bigdecimal::BigDecimal;
use chrono_tz::Tz;
use farebox_core::money::Money;
use farebox_core::period::Period;

use crate::allowance::Allowance;
use crate::rating::words::{human, instant};

/// `egress_gb` -> `egress gb`.
fn meter_name(meter: &str) -> String {
    meter.replace('_', " ")
}

pub fn allowance(used: &BigDecimal, held: &Allowance) -> String {
    let whole = BigDecimal::from(100);
    let share = match held.units.sign() {
        bigdecimal::num_bigint::Sign::Plus => (used * whole / &held.units).with_scale_round(1, bigdecimal::RoundingMode::Down).normalized(),
        _ => whole,
    };
    let beyond = if held.refused_beyond {
        "beyond it calls are refused"
    } else if held.charged_beyond {
        "beyond it calls are charged by the plan's prices"
    } else {
        "calls keep working beyond it"
    };
    format!(
        "{} of {} {} are used, {} % of what the plan holds; {beyond}",
        human(used),
        human(&held.units),
        meter_name(&held.meter),
        human(&share)
    )
}

pub fn usage(used: &BigDecimal, meter: &str, threshold: &BigDecimal) -> String {
    format!("{} {} are used in this period, and {} was to be told", human(used), meter_name(meter), human(threshold))
}

pub fn spend(spent: Money, threshold: &BigDecimal) -> String {
    let currency = spent.currency;
    let threshold = Money::round(threshold, currency).map_or_else(|_| human(threshold), |threshold| threshold.to_string());
    format!("the next invoice comes to {currency} {spent} so far, without tax, and {currency} {threshold} was to be told")
}

pub fn anomaly(used: &BigDecimal, usual: &BigDecimal, meter: &str, hour: Period, zone: Tz) -> String {
    format!(
        "{} {} in the hour from {}, where the same hour of past weeks had {} on average",
        human(used),
        meter_name(meter),
        instant(hour.start, zone),
        human(usual)
    )
}

/// Subject and text of an e-mail.
pub struct Mail {
    pub subject: String,
    pub text: String,
}

/// To the provider: who, and where to look.
pub fn to_provider(alert: &str, consumer: &str, detail: &str, link: &str) -> Mail {
    Mail {
        subject: format!("Alert {alert}: {consumer}"),
        text: format!("{consumer}: {detail}.\n\nThe alert is named `{alert}`, and tells this once in a period.\n{link}\n"),
    }
}

/// To the consumer itself.
pub fn to_consumer(provider: &str, detail: &str, link: &str) -> Mail {
    let mut letters = detail.chars();
    let sentence = letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect());
    Mail { subject: format!("Your usage of {provider}"), text: format!("{sentence}.\n\nSee your usage, and what you are told: {link}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_read_well() {
        let dec = |text: &str| text.parse::<BigDecimal>().expect("a decimal");
        let held = Allowance {
            meter: "requests".to_owned(),
            units: dec("100000"),
            refused_beyond: false,
            charged_beyond: true,
            by_calendar: false,
        };
        assert_eq!(
            allowance(&dec("85049"), &held),
            "85,049 of 100,000 requests are used, 85 % of what the plan holds; beyond it calls are charged by the plan's prices"
        );
        let spent = Money::new(50_110, "USD".parse().expect("a currency"));
        assert_eq!(spend(spent, &dec("500")), "the next invoice comes to USD 501.10 so far, without tax, and USD 500.00 was to be told");
    }
}
