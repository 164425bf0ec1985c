//! An amount over what it came from: exact, by largest remainder, so that the parts add up to the whole.

use bigdecimal::{BigDecimal, RoundingMode, ToPrimitive, Zero};
use farebox_core::money::{Money, MoneyError};

/// In proportion to `weights`, none of which is negative; none where they add up to nothing.
pub fn spread(total: Money, weights: &[BigDecimal]) -> Result<Option<Vec<Money>>, MoneyError> {
    let whole: BigDecimal = weights.iter().sum();
    if whole <= BigDecimal::zero() {
        return Ok(None);
    }
    let minor = |value: &BigDecimal| value.to_i64().ok_or(MoneyError::Overflow(total.currency));
    // total * weight = quotient * whole + remainder, without any division that could go on for ever.
    let mut parts = Vec::with_capacity(weights.len());
    let mut remainders = Vec::with_capacity(weights.len());
    for weight in weights {
        let product = BigDecimal::from(total.minor) * weight;
        let guess = (&product / &whole).with_scale_round(0, RoundingMode::Floor);
        // Division has a hundred digits: at an exact whole it may end just below.
        let quotient = if (&guess + 1) * &whole <= product { guess + 1 } else { guess };
        remainders.push(&product - &quotient * &whole);
        parts.push(minor(&quotient)?);
    }
    let missing = total.minor - parts.iter().sum::<i64>();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by(|a, b| remainders[*b].cmp(&remainders[*a]).then(a.cmp(b)));
    for n in by_remainder.into_iter().take(usize::try_from(missing).unwrap_or(0)) {
        parts[n] += 1;
    }
    Ok(Some(parts.into_iter().map(|minor| Money::new(minor, total.currency)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn money(minor: i64) -> Money {
        Money::new(minor, "USD".parse().expect("a currency"))
    }

    fn minors(total: i64, weights: &[&str]) -> Option<Vec<i64>> {
        let weights: Vec<BigDecimal> = weights.iter().map(|w| w.parse().expect("a decimal")).collect();
        spread(money(total), &weights).expect("no overflow").map(|parts| parts.iter().map(|m| m.minor).collect())
    }

    #[test]
    fn the_parts_are_the_nearest_that_add_up() {
        assert_eq!(minors(100, &["1", "1", "1"]), Some(vec![34, 33, 33]));
        assert_eq!(minors(-100, &["1", "1", "1"]), Some(vec![-33, -33, -34]));
        assert_eq!(minors(7, &["0.5", "0", "0.25"]), Some(vec![5, 0, 2]));
        assert_eq!(minors(5, &["0", "0"]), None);
    }

    proptest! {
        #[test]
        fn parts_add_up_and_none_is_off_by_a_unit(total in -1_000_000_000_i64..1_000_000_000, weights in prop::collection::vec(0_u64..10_u64.pow(15), 1..20)) {
            let decimals: Vec<_> = weights.iter().map(|w| BigDecimal::new((*w).into(), 6)).collect();
            let whole: i128 = weights.iter().copied().map(i128::from).sum();
            match spread(money(total), &decimals).expect("no overflow") {
                None => prop_assert_eq!(whole, 0),
                Some(parts) => {
                    prop_assert_eq!(parts.iter().map(|m| m.minor).sum::<i64>(), total);
                    for (part, weight) in parts.iter().zip(&weights) {
                        let off = i128::from(part.minor) * whole - i128::from(total) * i128::from(*weight);
                        prop_assert!(off.abs() < whole);
                    }
                }
            }
        }
    }
}
