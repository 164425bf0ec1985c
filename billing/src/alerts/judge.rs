//! Whether a threshold is reached: pure.

use bigdecimal::{BigDecimal, Zero};
use serde::{Deserialize, Serialize};

/// What a threshold is a threshold of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = AlertKind)]
pub enum Kind {
    /// Percent of what the plan holds in a period before it costs more, or is refused.
    Allowance,
    /// Units of a meter in a period.
    Usage,
    /// What the invoice that is gathering comes to, without tax.
    Spend,
    /// So many times what the same hour of the past weeks had, or as little.
    Anomaly,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowance => "allowance",
            Self::Usage => "usage",
            Self::Spend => "spend",
            Self::Anomaly => "anomaly",
        }
    }
}

/// `percent` of the allowance is used.
pub fn allowance(used: &BigDecimal, allowance: &BigDecimal, percent: &BigDecimal) -> bool {
    used * BigDecimal::from(100) >= allowance * percent
}

/// The same hour of past weeks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usual {
    pub sum: BigDecimal,
    /// Weeks that are known.
    pub weeks: u32,
}

impl Usual {
    /// Fewer tell nothing.
    pub const LEAST_WEEKS: u32 = 2;

    /// To two decimals, for people; judged by is the sum.
    pub fn mean(&self) -> BigDecimal {
        (&self.sum / BigDecimal::from(self.weeks.max(1))).with_scale_round(2, bigdecimal::RoundingMode::HalfUp).normalized()
    }
}

/// `factor` times what is usual; or, where the hour is over, as many times less. Neither where both are below `at_least`.
pub fn anomaly(used: &BigDecimal, usual: &Usual, factor: &BigDecimal, at_least: &BigDecimal, over: bool) -> bool {
    if usual.weeks < Usual::LEAST_WEEKS {
        return false;
    }
    let all_weeks = used * BigDecimal::from(usual.weeks);
    let enough = |sum: &BigDecimal| *sum >= at_least * BigDecimal::from(usual.weeks);
    let more = enough(&all_weeks) && !used.is_zero() && all_weeks >= &usual.sum * factor;
    let less = over && enough(&usual.sum) && !usual.sum.is_zero() && &all_weeks * factor <= usual.sum;
    more || less
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dec(text: &str) -> BigDecimal {
        text.parse().expect("a decimal")
    }

    #[test]
    fn percent_is_exact_to_the_last_unit() {
        assert!(!allowance(&dec("79999.999999999999"), &dec("100000"), &dec("80")));
        assert!(allowance(&dec("80000"), &dec("100000"), &dec("80")));
        // A third of three: no rounding in between.
        assert!(allowance(&dec("1"), &dec("3"), &dec("33.333333333333")) && !allowance(&dec("1"), &dec("3"), &dec("33.333333333334")));
        assert!(allowance(&dec("0"), &dec("0"), &dec("80")), "nothing of nothing is all of it");
    }

    #[test]
    fn an_hour_is_unusual_by_more_and_when_over_by_less() {
        let usual = Usual { sum: dec("4000"), weeks: 4 };
        let judge = |used: &str, over| anomaly(&dec(used), &usual, &dec("3"), &dec("100"), over);
        assert!(!judge("2999", false) && judge("3000", false), "three times a thousand");
        assert!(!judge("333", false), "the hour may still bring it");
        assert!(judge("333", true) && !judge("334", true), "a third of a thousand");
        assert!(judge("0", true), "silence");
        assert_eq!(usual.mean(), dec("1000"));
    }

    #[test]
    fn too_little_and_too_short_is_not_judged() {
        let few = Usual { sum: dec("40"), weeks: 4 };
        assert!(!anomaly(&dec("99"), &few, &dec("3"), &dec("100"), true) && anomaly(&dec("100"), &few, &dec("3"), &dec("100"), true));
        let new = Usual { sum: dec("10"), weeks: 1 };
        assert!(!anomaly(&dec("100000"), &new, &dec("3"), &dec("100"), true));
        let never = Usual { sum: dec("0"), weeks: 4 };
        assert!(!anomaly(&dec("0"), &never, &dec("3"), &dec("0"), true), "nothing after nothing is usual");
        assert!(anomaly(&dec("500"), &never, &dec("3"), &dec("100"), true), "from nothing to something");
    }
}
