//! A report as a table: columns with their kinds, rows of values.

use bigdecimal::BigDecimal;
use chrono::{DateTime, NaiveDate, Utc};
use farebox_core::money::Money;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    /// An amount with its currency's decimals, four at most.
    Money,
    /// A decimal with at most twelve decimals.
    Quantity,
    Instant,
    /// By the workspace's calendar.
    Date,
    Boolean,
}

/// What a column means for the sums in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Plain,
    /// Sums are kept for each currency,
    Currency,
    /// and for each value of this column,
    Group,
    /// of these.
    Sum,
}

#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
    pub role: Role,
}

pub const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, role: Role::Plain }
}

pub const fn text(name: &'static str) -> Column {
    column(name, Kind::Text)
}

pub const fn currency() -> Column {
    Column { name: "currency", kind: Kind::Text, role: Role::Currency }
}

pub const fn group(name: &'static str) -> Column {
    Column { name, kind: Kind::Text, role: Role::Group }
}

/// An amount that is added up.
pub const fn sum(name: &'static str) -> Column {
    Column { name, kind: Kind::Money, role: Role::Sum }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Nothing,
    Text(String),
    Integer(i64),
    Money(Money),
    Quantity(BigDecimal),
    Instant(DateTime<Utc>),
    Date(NaiveDate),
    Boolean(bool),
}

pub type Row = Vec<Value>;

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<Money> for Value {
    fn from(amount: Money) -> Self {
        Self::Money(amount)
    }
}

impl From<BigDecimal> for Value {
    fn from(quantity: BigDecimal) -> Self {
        Self::Quantity(quantity)
    }
}

impl From<DateTime<Utc>> for Value {
    fn from(instant: DateTime<Utc>) -> Self {
        Self::Instant(instant)
    }
}

impl From<NaiveDate> for Value {
    fn from(date: NaiveDate) -> Self {
        Self::Date(date)
    }
}

impl From<bool> for Value {
    fn from(is: bool) -> Self {
        Self::Boolean(is)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nothing, Into::into)
    }
}
