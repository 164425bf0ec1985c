//! Whether a promise was kept, and what is given back where it was not: pure.

use bigdecimal::{BigDecimal, Zero};
use farebox_core::money::{Money, plain};

use crate::rating::plan::{Bound, Credit, Measure, Promise};
use crate::rating::words::human;

/// The credit with the greatest share of those that hold. `values`: of the promise's meters, in its order. Nothing was
/// promised of no calls.
pub fn broken<'a>(promise: &'a Promise, values: &[BigDecimal]) -> Option<&'a Credit> {
    let holds = |bound: &Bound| match (&promise.measure, values) {
        (Measure::Share { .. }, [good, of]) => match bound {
            _ if of.is_zero() => false,
            // good / of < bound, without dividing.
            Bound::Below(bound) => *good < &bound.0 * of,
            Bound::Above(bound) => *good > &bound.0 * of,
        },
        (Measure::Value { .. }, [value]) => match bound {
            _ if value.is_zero() => false,
            Bound::Below(bound) => *value < bound.0,
            Bound::Above(bound) => *value > bound.0,
        },
        _ => false,
    };
    promise.credits.iter().filter(|credit| holds(&credit.bound)).max_by(|a, b| a.share.cmp(&b.share))
}

fn percent(share: &BigDecimal) -> String {
    human(&(share * BigDecimal::from(100)))
}

/// The arithmetic, for a person to follow.
pub fn words(promise: &Promise, values: &[BigDecimal], broken: &Credit, cost: Money, back: Money) -> String {
    let is_share = matches!(promise.measure, Measure::Share { .. });
    let bound = |bound: &BigDecimal| if is_share { format!("{} %", percent(bound)) } else { plain(bound) };
    let beyond = match &broken.bound {
        Bound::Below(value) => format!("below {}", bound(&value.0)),
        Bound::Above(value) => format!("above {}", bound(&value.0)),
    };
    let measured = match (&promise.measure, values) {
        (Measure::Share { good, of }, [counted, all]) => {
            let share = (counted * BigDecimal::from(100) / all).with_scale_round(4, bigdecimal::RoundingMode::Down);
            format!("{} {good} of {} {of} are {} %", human(counted), human(all), human(&share))
        }
        (Measure::Value { meter }, [value]) => format!("{meter} is {}", human(value)),
        _ => promise.name.clone(),
    };
    format!("{measured}, {beyond}: {} % of {cost} = {back} given back", percent(&broken.share.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn promise(json: serde_json::Value) -> Promise {
        serde_json::from_value(json).expect("a promise")
    }

    fn availability() -> Promise {
        promise(serde_json::json!({ "name": "Availability", "good": "answered", "of": "calls", "credits": [
            { "below": "0.999", "share": "0.1" }, { "below": "0.99", "share": "0.25" }] }))
    }

    fn dec(text: &str) -> BigDecimal {
        text.parse().expect("a decimal")
    }

    #[test]
    fn the_deepest_step_holds_exactly_at_its_bound() {
        let share = |good: &str, of: &str| broken(&availability(), &[dec(good), dec(of)]).map(|credit| plain(&credit.share.0));
        assert_eq!(share("999", "1000"), None, "as promised");
        assert_eq!(share("998", "1000").as_deref(), Some("0.1"));
        assert_eq!(share("990", "1000").as_deref(), Some("0.1"));
        assert_eq!(share("989", "1000").as_deref(), Some("0.25"));
        assert_eq!(share("0", "0"), None, "nothing was asked");
    }

    #[test]
    fn a_latency_is_above_its_bound() {
        let latency =
            promise(serde_json::json!({ "name": "Latency", "meter": "p95_ms", "credits": [{ "above": "300", "share": "0.05" }] }));
        assert!(broken(&latency, &[dec("300")]).is_none() && broken(&latency, &[dec("300.000000000001")]).is_some());
        let usd = "USD".parse().expect("a currency");
        let credit = &latency.credits[0];
        assert_eq!(
            words(&latency, &[dec("412.5")], credit, Money::new(14_900, usd), Money::new(745, usd)),
            "p95_ms is 412.5, above 300: 5 % of 149.00 = 7.45 given back"
        );
        let credit = &availability().credits[0];
        assert_eq!(
            words(&availability(), &[dec("998200"), dec("1000000")], credit, Money::new(14_900, usd), Money::new(1490, usd)),
            "998,200 answered of 1,000,000 calls are 99.82 %, below 99.9 %: 10 % of 149.00 = 14.90 given back"
        );
    }

    proptest! {
        /// The better the service, the less is given back.
        #[test]
        fn what_is_given_back_falls_with_every_call_that_is_answered(good in 0_u32..10_000, more in 0_u32..100, of in 1_u32..10_000) {
            let share = |good: u32| broken(&availability(), &[good.into(), of.into()]).map_or_else(|| dec("0"), |c| c.share.0.clone());
            prop_assert!(share(good + more) <= share(good));
        }
    }
}
