//! Money and billable quantities. Exact decimals until the end of a line, integer minor units after it; no float
//! ever comes near either, and overflow is an error.

use std::fmt;
use std::str::FromStr;

pub use bigdecimal::BigDecimal;
use bigdecimal::{RoundingMode, ToPrimitive};
use serde::{Deserialize, Serialize};

/// A quantity or unit price has at most this many decimals.
pub const MAX_DECIMALS: i64 = 12;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("`{0}` is not an ISO 4217 currency code")]
    UnknownCurrency(String),
    #[error("`{0}` is not a decimal number such as \"12.50\"")]
    NotADecimal(String),
    #[error("`{0}` has more than 12 decimals")]
    TooManyDecimals(String),
    #[error("the amount is too large for {0}'s minor units in 64 bits")]
    Overflow(Currency),
    #[error("{0} and {1} cannot be added")]
    MixedCurrencies(Currency, Currency),
    #[error("`{amount}` has more decimals than {currency} has")]
    FinerThanMinorUnit { amount: String, currency: Currency },
}

/// An ISO 4217 currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency(iso_currency::Currency);

impl Currency {
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// Decimals of the minor unit by ISO 4217: USD 2, JPY 0, KWD 3.
    pub fn exponent(self) -> u32 {
        self.0.exponent().map_or(0, u32::from)
    }

    pub fn symbol(self) -> String {
        self.0.symbol().to_string()
    }
}

impl FromStr for Currency {
    type Err = MoneyError;
    fn from_str(code: &str) -> Result<Self, MoneyError> {
        iso_currency::Currency::from_code(code).map(Self).ok_or_else(|| MoneyError::UnknownCurrency(code.to_owned()))
    }
}

impl TryFrom<String> for Currency {
    type Error = MoneyError;
    fn try_from(code: String) -> Result<Self, MoneyError> {
        code.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> String {
        currency.code().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// An amount in integer minor units. Shown and serialised as a decimal string with the currency's own decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    pub minor: i64,
    pub currency: Currency,
}

impl Money {
    pub fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    pub fn zero(currency: Currency) -> Self {
        Self { minor: 0, currency }
    }

    /// Rounds an exact amount in major units to the minor unit, half away from zero.
    pub fn round(amount: &BigDecimal, currency: Currency) -> Result<Self, MoneyError> {
        let minor = (amount * BigDecimal::from(10_i64.pow(currency.exponent())))
            .with_scale_round(0, RoundingMode::HalfUp) // bigdecimal's HalfUp rounds half away from zero
            .to_i64()
            .ok_or(MoneyError::Overflow(currency))?;
        Ok(Self { minor, currency })
    }

    /// An amount that must already be whole minor units, such as a fixed fee in a catalogue.
    pub fn exact(amount: &BigDecimal, currency: Currency) -> Result<Self, MoneyError> {
        let money = Self::round(amount, currency)?;
        if money.to_decimal() == *amount {
            return Ok(money);
        }
        Err(MoneyError::FinerThanMinorUnit { amount: plain(amount), currency })
    }

    pub fn to_decimal(self) -> BigDecimal {
        BigDecimal::new(self.minor.into(), i64::from(self.currency.exponent()))
    }

    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::MixedCurrencies(self.currency, other.currency));
        }
        let minor = self.minor.checked_add(other.minor).ok_or(MoneyError::Overflow(self.currency))?;
        Ok(Self { minor, ..self })
    }

    pub fn checked_sub(self, other: Self) -> Result<Self, MoneyError> {
        let negated = other.minor.checked_neg().ok_or(MoneyError::Overflow(self.currency))?;
        self.checked_add(Self { minor: negated, ..other })
    }

    /// The sum, or zero of `currency` when there is nothing to add.
    pub fn sum(amounts: impl IntoIterator<Item = Self>, currency: Currency) -> Result<Self, MoneyError> {
        amounts.into_iter().try_fold(Self::zero(currency), Self::checked_add)
    }

    pub fn is_zero(self) -> bool {
        self.minor == 0
    }
}

impl fmt::Display for Money {
    /// The number alone, with the currency's decimals: `12.50`, `-5.48`, `1200` (JPY).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exponent = self.currency.exponent();
        let (sign, digits) = (if self.minor < 0 { "-" } else { "" }, self.minor.unsigned_abs());
        if exponent == 0 {
            return write!(f, "{sign}{digits}");
        }
        let unit = 10_u64.pow(exponent);
        write!(f, "{sign}{}.{:0width$}", digits / unit, digits % unit, width = exponent as usize)
    }
}

impl Serialize for Money {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads a decimal string of at most 12 decimals; exponents (`1e3`) are refused because people mistype them.
pub fn decimal(text: &str) -> Result<BigDecimal, MoneyError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |s: &str| !s.is_empty() && s.len() <= 60 && s.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return Err(MoneyError::NotADecimal(text.chars().take(80).collect()));
    }
    if fraction.trim_end_matches('0').len() > usize::try_from(MAX_DECIMALS).unwrap_or(12) {
        return Err(MoneyError::TooManyDecimals(text.to_owned()));
    }
    BigDecimal::from_str(text).map_err(|_| MoneyError::NotADecimal(text.to_owned()))
}

/// A decimal without trailing zeros or exponent: `0.0004`, `100000`.
pub fn plain(value: &BigDecimal) -> String {
    value.normalized().to_plain_string()
}

/// Serde for decimals as strings: `#[serde(with = "farebox_core::money::decimal_string")]`.
pub mod decimal_string {
    use super::{BigDecimal, decimal, plain};
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(value: &BigDecimal, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&plain(value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BigDecimal, D::Error> {
        let text = String::deserialize(deserializer)?;
        decimal(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn money(text: &str, code: &str) -> Result<String, MoneyError> {
        Money::round(&decimal(text)?, code.parse()?).map(|m| m.to_string())
    }

    #[test]
    fn rounds_half_away_from_zero_with_the_currencys_own_exponent() {
        for (amount, currency, expected) in [
            ("0.005", "USD", "0.01"),
            ("-0.005", "USD", "-0.01"),
            ("0.0049", "USD", "0.00"),
            ("2.5", "JPY", "3"),
            ("-2.5", "JPY", "-3"),
            ("1.0005", "KWD", "1.001"),
            ("-0.1", "USD", "-0.10"),
        ] {
            assert_eq!(money(amount, currency).as_deref(), Ok(expected), "{amount} {currency}");
        }
    }

    #[test]
    fn overflow_and_bad_input_are_errors() {
        assert!(matches!(money("92233720368547758.08", "USD"), Err(MoneyError::Overflow(_))));
        assert_eq!(money("92233720368547758.07", "USD").as_deref(), Ok("92233720368547758.07"));
        for bad in ["", "1e3", "1.", ".5", "NaN", "1_000", "--1", "0.0000000000001"] {
            assert!(decimal(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(minor in any::<i64>(), code in prop::sample::select(vec!["USD", "JPY", "KWD"])) {
            let money = Money::new(minor, code.parse().expect("known"));
            prop_assert_eq!(Money::exact(&decimal(&money.to_string()).expect("decimal"), money.currency), Ok(money));
        }
    }
}
