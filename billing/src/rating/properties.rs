//! What must hold for all quantities, prices and cuts.

use bigdecimal::BigDecimal;
use chrono::{DateTime, TimeDelta};
use farebox_core::money::{Currency, Money};
use farebox_core::period::Period;
use proptest::prelude::*;

use super::models::price_quantity;
use super::plan::{Amounts, Decimal, Model, Price, Proration, Tier, Unit};
use super::proration::fraction;
use super::tax::{TaxPer, TaxRate, on};

fn usd() -> Currency {
    "USD".parse().expect("a currency")
}

fn price(model: Model) -> Price {
    Price {
        name: "p".to_owned(),
        meter: Some("requests".to_owned()),
        included: Decimal::default(),
        minimum: None,
        maximum: None,
        counts_to_minimum: true,
        interval: None,
        carry_over: false,
        per_seat: false,
        model,
    }
}

/// Up to 10^12 with up to 12 decimals: with the prices below it, still within 64 bits of minor units.
fn quantity() -> impl Strategy<Value = BigDecimal> {
    (0_i64..1_000_000_000_000_000, 3_i64..=12).prop_map(|(digits, scale)| BigDecimal::new(digits.into(), scale))
}

fn amounts() -> impl Strategy<Value = Amounts> {
    (0_i64..1_000_000, 2_i64..=12).prop_map(|(digits, scale)| Amounts::of(usd(), BigDecimal::new(digits.into(), scale)))
}

fn tiers() -> impl Strategy<Value = Vec<Tier>> {
    prop::collection::vec((1_i64..1_000_000, amounts(), prop::option::of(amounts())), 1..6).prop_map(|steps| {
        let (mut upper, last) = (0, steps.len() - 1);
        let mut tiers = Vec::new();
        for (n, (step, unit, flat_amount)) in steps.into_iter().enumerate() {
            upper += step;
            let up_to = (n < last).then(|| Decimal(BigDecimal::from(upper)));
            tiers.push(Tier { up_to, unit: Unit::UnitAmount(unit), flat_amount });
        }
        tiers
    })
}

fn amount(price: &Price, q: &BigDecimal) -> BigDecimal {
    price_quantity(price, q, usd()).expect("an open last tier").amount
}

proptest! {
    #[test]
    fn more_usage_never_costs_less(tiers in tiers(), a in quantity(), b in quantity(), unit in amounts()) {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        for model in [Model::Graduated { tiers, flat_at_zero: false }, Model::PerUnit { unit_amount: unit }] {
            let price = price(model);
            prop_assert!(amount(&price, &low) <= amount(&price, &high));
        }
    }

    #[test]
    fn graduated_tiers_add_up(tiers in tiers(), q in quantity()) {
        // Straight from the definition: what of q lies in (lower, upper], priced, plus the flats of tiers reached.
        let (mut sum, mut lower) = (BigDecimal::from(0), BigDecimal::from(0));
        for tier in &tiers {
            let upper = tier.up_to.as_ref().map_or_else(|| q.clone(), |d| d.0.clone());
            let inside = (q.clone().min(upper.clone()) - &lower).max(BigDecimal::from(0));
            let Unit::UnitAmount(unit) = &tier.unit else { unreachable!("made with unit amounts") };
            sum += inside * unit.get(usd()).expect("usd");
            if q > lower {
                sum += tier.flat_amount.as_ref().map_or(BigDecimal::from(0), |flat| flat.get(usd()).expect("usd").clone());
            }
            lower = upper;
        }
        prop_assert_eq!(amount(&price(Model::Graduated { tiers, flat_at_zero: false }), &q), sum);
    }

    #[test]
    fn continuing_a_period_comes_to_the_same_as_rating_it_whole(tiers in tiers(), a in quantity(), b in quantity()) {
        let price = price(Model::Graduated { tiers, flat_at_zero: false });
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        let first = Money::round(&amount(&price, &low), usd()).expect("small");
        let whole = Money::round(&amount(&price, &high), usd()).expect("small");
        prop_assert_eq!(first.checked_add(whole.checked_sub(first).expect("fits")).expect("fits"), whole);
        prop_assert!(whole.minor >= first.minor);
    }

    #[test]
    fn packages_hold_the_quantity_and_none_is_empty(q in quantity(), size in 1_i64..100_000, scale in 0_i64..=12) {
        let size = BigDecimal::new(size.into(), scale);
        let one = Amounts::of(usd(), BigDecimal::from(1));
        let packages = amount(&price(Model::Package { amount: one, package_size: Decimal(size.clone()) }), &q);
        prop_assert!(&packages * &size >= q);
        prop_assert!((&packages - BigDecimal::from(1)) * &size < q);
    }

    #[test]
    fn cutting_a_fee_loses_at_most_half_a_minor_unit_a_part(
        fee_minor in 0_i64..100_000_000, cuts in prop::collection::vec(1_i64..44_640, 0..5),
        by in prop::sample::select(vec![Proration::Second, Proration::Day]),
    ) {
        let start = DateTime::from_timestamp(1_767_225_600, 0).expect("1 January 2026");
        let period = Period { start, end: start + TimeDelta::days(31) };
        let mut bounds: Vec<_> = cuts.into_iter().map(|minute| start + TimeDelta::minutes(minute)).chain([period.start, period.end]).collect();
        bounds.sort();
        bounds.dedup();
        let fee = BigDecimal::new(fee_minor.into(), 2);
        let parts: Vec<_> = bounds.windows(2).map(|pair| Period { start: pair[0], end: pair[1] }).collect();
        let fractions: Vec<_> = parts.iter().map(|part| fraction(period, *part, by, chrono_tz::Europe::Berlin).expect("not empty")).collect();
        prop_assert_eq!(fractions.iter().map(|f| f.part).sum::<i64>(), fractions[0].whole);
        let sum: i64 = fractions.iter().map(|f| f.round(&fee, usd()).expect("small").minor).sum();
        let parts = i64::try_from(parts.len()).expect("few");
        prop_assert!((sum - fee_minor).abs() * 2 <= parts);
    }

    #[test]
    fn net_and_tax_make_the_gross(minor in -1_000_000_000_i64..1_000_000_000, rate in 0_i64..10_000, inclusive: bool) {
        let amount = Money::new(minor, usd());
        let rate = TaxRate { name: "VAT".to_owned(), rate: Decimal(BigDecimal::new(rate.into(), 4)), inclusive, per: TaxPer::Line, note: None };
        let split = on(amount, &rate).expect("fits");
        let gross = split.net.checked_add(split.tax).expect("fits");
        if inclusive {
            prop_assert_eq!(gross, amount);
        } else {
            prop_assert_eq!(split.net, amount);
        }
        prop_assert!((i128::from(split.net.minor) >= 0) == (minor >= 0) || split.net.minor == 0);
    }
}
