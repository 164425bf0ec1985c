use farebox_core::money::{Currency, MoneyError};

/// Why something cannot be priced. Each names the price and says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RatingError {
    #[error("price `{price}` has no amount in {currency}; add one to the plan, or bill this consumer in another currency")]
    NoAmount { price: String, currency: Currency },
    #[error("price `{price}`: {quantity} is beyond its last tier, which ends at {last}; leave the last tier's `up_to` out to make it open")]
    BeyondLastTier { price: String, quantity: String, last: String },
    #[error("price `{price}` has no unit price for the {dimension} `{value}`; list it, or give a `default`")]
    NoPriceForValue { price: String, dimension: String, value: String },
    #[error("price `{price}` is charged by event: its events must be given one by one")]
    NeedsEvents { price: String },
    #[error("price `{price}` is charged by {dimension}: its usage must be given by value")]
    NeedsValues { price: String, dimension: String },
    #[error("the period is empty; nothing can be rated over it")]
    EmptyPeriod,
    #[error("the period is beyond the calendar")]
    BeyondCalendar,
    #[error(transparent)]
    Money(#[from] MoneyError),
}
