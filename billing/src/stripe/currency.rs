//! How amounts are sent to Stripe: mostly ISO 4217's minor units, but not for every currency.
//! Source: <https://docs.stripe.com/currencies> (zero-decimal, three-decimal and special cases).

use farebox_core::money::{Currency, Money, MoneyError};

/// Largest amount Stripe takes: eight digits.
const LARGEST: i64 = 99_999_999;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    #[error("{0} is not collected through Stripe: its special rounding is untested there")]
    Untested(Currency),
    #[error("{amount} {currency} is finer than what Stripe takes: amounts in {currency} are multiples of {step}")]
    TooFine { amount: String, currency: Currency, step: String },
    #[error("{amount} {currency} has more than the eight digits Stripe takes")]
    TooLarge { amount: String, currency: Currency },
}

/// The smallest step, in our minor units, that an amount collected through Stripe can have; lines are rounded to it.
pub fn step(currency: Currency) -> i64 {
    match currency.code() {
        // Three decimals, the last of which must be 0.
        "BHD" | "JOD" | "KWD" | "OMR" | "TND" => 10,
        // Two decimals by ISO, none at Stripe.
        "MGA" => 100,
        _ => 1,
    }
}

/// The integer Stripe expects.
pub fn to_stripe(money: Money) -> Result<i64, AmountError> {
    let Money { minor, currency } = money;
    let step = step(currency);
    let amount = || money.to_string();
    if currency.code() == "UGX" {
        return Err(AmountError::Untested(currency));
    }
    if minor % step != 0 {
        return Err(AmountError::TooFine { amount: amount(), currency, step: Money::new(step, currency).to_string() });
    }
    let sent = match currency.code() {
        "MGA" => Some(minor / 100),
        // No decimals by ISO, but sent with two.
        "ISK" => minor.checked_mul(100),
        _ => Some(minor),
    };
    sent.filter(|sent| sent.unsigned_abs() <= LARGEST.unsigned_abs()).ok_or_else(|| AmountError::TooLarge { amount: amount(), currency })
}

/// What an integer of Stripe's is.
pub fn from_stripe(sent: i64, currency: Currency) -> Result<Money, MoneyError> {
    let minor = match currency.code() {
        "MGA" => sent.checked_mul(100),
        "ISK" => Some(sent / 100),
        _ => Some(sent),
    };
    minor.map(|minor| Money::new(minor, currency)).ok_or(MoneyError::Overflow(currency))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(minor: i64, code: &str) -> Result<i64, AmountError> {
        to_stripe(Money::new(minor, code.parse().expect("a currency")))
    }

    #[test]
    fn each_kind_of_currency() {
        assert_eq!(sent(4912, "USD"), Ok(4912));
        assert_eq!(sent(-548, "EUR"), Ok(-548));
        assert_eq!(sent(1200, "JPY"), Ok(1200));
        assert_eq!(sent(1200, "ISK"), Ok(120_000));
        assert_eq!(sent(1230, "KWD"), Ok(1230));
        assert_eq!(sent(1200, "MGA"), Ok(12));
        for code in ["USD", "EUR", "JPY", "ISK", "KWD", "MGA"] {
            let money = Money::new(1200, code.parse().expect("a currency"));
            assert_eq!(from_stripe(to_stripe(money).expect("sent"), money.currency), Ok(money), "there and back");
        }
    }

    #[test]
    fn what_stripe_would_refuse_is_refused_before() {
        let text = |result: Result<i64, AmountError>| result.expect_err("refused").to_string();
        assert_eq!(text(sent(1235, "KWD")), "1.235 KWD is finer than what Stripe takes: amounts in KWD are multiples of 0.010");
        assert_eq!(text(sent(100, "UGX")), "UGX is not collected through Stripe: its special rounding is untested there");
        assert_eq!(text(sent(100_000_000, "USD")), "1000000.00 USD has more than the eight digits Stripe takes");
        assert!(sent(99_999_999, "USD").is_ok() && sent(i64::MIN, "USD").is_err() && sent(i64::MAX, "ISK").is_err());
    }
}
