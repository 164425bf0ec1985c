//! Mean, median and quantiles of durations in whole seconds.

/// Rounded half up; None of nothing.
pub fn mean(seconds: &[u64]) -> Option<u64> {
    let count = seconds.len() as u128;
    let sum: u128 = seconds.iter().map(|s| u128::from(*s)).sum();
    if count == 0 {
        return None;
    }
    u64::try_from((2 * sum + count) / (2 * count)).ok()
}

pub fn median(seconds: &mut [u64]) -> Option<u64> {
    quantile(seconds, 50)
}

/// The `percent` quantile (0 to 100), between neighbours interpolated linearly (Hyndman and Fan's type 7) and rounded
/// half up, so that the median of an even number is the middle of the two in the middle.
pub fn quantile(seconds: &mut [u64], percent: u8) -> Option<u64> {
    seconds.sort_unstable();
    let last = seconds.len().checked_sub(1)? as u64;
    let position = last * u64::from(percent.min(100));
    let at = |index: u64| usize::try_from(index).ok().and_then(|i| seconds.get(i)).copied();
    let (below, beyond) = (position / 100, position % 100);
    let lower = at(below)?;
    let upper = at(below + 1).unwrap_or(lower);
    Some(lower + ((upper - lower) * beyond * 2 + 100) / 200)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(median(&mut [7200, 3600]), Some(5400));
        assert_eq!(median(&mut [7200, 3600, 7200]), Some(7200));
        assert_eq!(quantile(&mut [10, 20, 30, 40, 50, 60, 70, 80, 90, 100], 90), Some(91));
        assert_eq!(median(&mut []), None);
        assert_eq!(mean(&[3600, 7200, 7200]), Some(6000));
    }

    proptest! {
        #[test]
        fn quantiles_grow_with_the_percentage_and_stay_within(mut seconds in prop::collection::vec(0_u64..10_000_000, 1..40), a in 0_u8..=100, b in 0_u8..=100) {
            let (low, high) = (quantile(&mut seconds, a.min(b)), quantile(&mut seconds, a.max(b)));
            prop_assert!(low <= high);
            prop_assert_eq!(quantile(&mut seconds, 0), seconds.first().copied());
            prop_assert_eq!(quantile(&mut seconds, 100), seconds.last().copied());
            let mean = mean(&seconds).expect("not empty");
            prop_assert!(seconds[0] <= mean && mean <= seconds[seconds.len() - 1]);
        }
    }
}
