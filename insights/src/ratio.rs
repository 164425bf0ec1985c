//! Shares without floats: kept as the two counts they came from, written as a decimal string.

use std::fmt;

use serde::{Serialize, Serializer};

const DECIMALS: usize = 6;
const SCALE: u128 = 1_000_000;
/// Working precision of a mean of ratios, far finer than what is shown.
const FINE: u128 = 1_000_000_000_000;

/// A share such as 1 of 3, shown with at most six decimals, rounded half up: `0.333333`.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    part: u128,
    whole: u128,
}

impl Ratio {
    /// None when there is no whole to take a share of.
    pub fn of(part: u64, whole: u64) -> Option<Self> {
        (whole > 0).then(|| Self { part: part.into(), whole: whole.into() })
    }

    /// The mean of the ratios, each weighing the same.
    pub fn mean(ratios: &[Self]) -> Option<Self> {
        let count = ratios.len() as u128;
        let part = ratios.iter().map(|r| (r.part * FINE + r.whole / 2) / r.whole).sum();
        (count > 0).then(|| Self { part, whole: count * FINE })
    }

    /// In per cent with one decimal at most: `33.3`.
    pub fn percent(&self) -> String {
        decimal(rounded(self.part * 1000, self.whole), 1)
    }

    /// With one decimal at most, for a mean that is no share: `3.4`.
    pub fn one_decimal(&self) -> String {
        decimal(rounded(self.part * 10, self.whole), 1)
    }

    /// In whole millionths, for drawing.
    pub fn millionths(&self) -> u128 {
        rounded(self.part * SCALE, self.whole)
    }
}

/// Of what can be negative, such as a net change, with at most six decimals: `-0.083333`. None when there is no whole.
pub fn signed(part: i128, whole: i128) -> Option<String> {
    let size = (whole > 0).then(|| Ratio { part: part.unsigned_abs(), whole: whole.unsigned_abs() })?;
    let text = size.to_string();
    Some(if part < 0 && text != "0" { format!("-{text}") } else { text })
}

/// The nearest whole number, halves away from zero.
pub fn half_up(part: i128, whole: i128) -> i128 {
    let size = i128::try_from(rounded(part.unsigned_abs(), whole.unsigned_abs())).unwrap_or(i128::MAX);
    if (part < 0) == (whole < 0) { size } else { -size }
}

fn rounded(part: u128, whole: u128) -> u128 {
    (2 * part + whole) / (2 * whole)
}

fn decimal(units: u128, decimals: usize) -> String {
    let scale = 10_u128.pow(u32::try_from(decimals).unwrap_or(0));
    let text = format!("{}.{:0decimals$}", units / scale, units % scale);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl PartialEq for Ratio {
    fn eq(&self, other: &Self) -> bool {
        self.millionths() == other.millionths()
    }
}

impl Eq for Ratio {}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&decimal(self.millionths(), DECIMALS))
    }
}

impl utoipa::PartialSchema for Ratio {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("A share as a decimal, at most six decimals, rounded half up."))
            .examples([serde_json::json!("0.333333")])
            .into()
    }
}

impl utoipa::ToSchema for Ratio {}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_as_a_decimal_without_needless_zeros() {
        let shown = |part, whole| Ratio::of(part, whole).map(|r| (r.to_string(), r.percent()));
        assert_eq!(shown(1, 3), Some(("0.333333".to_owned(), "33.3".to_owned())));
        assert_eq!(shown(2, 3), Some(("0.666667".to_owned(), "66.7".to_owned())));
        assert_eq!(shown(3, 3), Some(("1".to_owned(), "100".to_owned())));
        assert_eq!(shown(0, 3), Some(("0".to_owned(), "0".to_owned())));
        assert_eq!(shown(1, 0), None);
    }

    #[test]
    fn a_simple_mean_weighs_each_the_same() {
        let ratios = [Ratio::of(1, 3), Ratio::of(2, 3), Ratio::of(1, 1)].map(|r| r.expect("a whole"));
        assert_eq!(Ratio::mean(&ratios).map(|r| r.to_string()), Some("0.666667".to_owned()));
        assert_eq!(Ratio::mean(&[]), None);
    }
}
