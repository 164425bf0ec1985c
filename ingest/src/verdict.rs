//! The verdict on an event: accepted, a copy within its batch, or rejected for one of these reasons. The names are
//! stable: they are in receipts, dead letters, metrics and the console.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why an event was rejected.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// Not JSON, or not UTF-8.
    InvalidJson = "invalid_json",
    /// JSON, but no object.
    NotAnObject = "not_an_object",
    /// A name stands twice in one object: which value holds would be a guess.
    DuplicateKey = "duplicate_key",
    /// Objects or arrays within one another beyond the limit.
    TooDeep = "too_deep",
    /// Longer than one event may be.
    TooLarge = "too_large",
    /// A field that the format requires is absent, null or empty.
    MissingField = "missing_field",
    /// A field is not of the type that the format says.
    WrongType = "wrong_type",
    /// A number or text outside what can be kept.
    OutOfRange = "out_of_range",
    /// A time that cannot be read.
    InvalidTime = "invalid_time",
    /// Further back than the window, from a source without permission to backfill.
    TimeTooOld = "time_too_old",
    /// Further ahead than clocks differ.
    TimeInFuture = "time_in_future",
    /// A CloudEvents version other than 1.0.
    UnsupportedSpecversion = "unsupported_specversion",
    /// Data in an encoding that is not read, such as binary.
    UnsupportedData = "unsupported_data",
}

impl Reason {
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }
}

/// A rejection, and what could be read of the event all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: Reason,
    /// JSON pointer to what is wrong; empty for the whole event.
    pub pointer: String,
    /// What is wrong and what to do about it. Never the value itself: it may be a secret.
    pub detail: String,
    /// The event's id, as far as it could be read.
    pub id: String,
    /// The event's source, as far as it could be read.
    pub source: String,
}

impl Rejection {
    pub fn new(reason: Reason, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { reason, pointer: pointer.into(), detail: detail.into(), id: String::new(), source: String::new() }
    }

    pub fn missing(pointer: impl Into<String>) -> Self {
        let pointer = pointer.into();
        let detail = format!("{pointer} is missing. Send it.");
        Self::new(Reason::MissingField, pointer, detail)
    }

    pub fn wrong_type(pointer: impl Into<String>, expected: &str) -> Self {
        let pointer = pointer.into();
        let detail = format!("{pointer} must be {expected}.");
        Self::new(Reason::WrongType, pointer, detail)
    }

    pub fn out_of_range(pointer: impl Into<String>, expected: &str) -> Self {
        let pointer = pointer.into();
        let detail = format!("{pointer} must be {expected}.");
        Self::new(Reason::OutOfRange, pointer, detail)
    }

    /// With what names the event, for the receipt.
    #[must_use]
    pub fn of_event(mut self, source: &str, id: &str) -> Self {
        id.clone_into(&mut self.id);
        source.clone_into(&mut self.source);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_serialised_ones() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).expect("a unit variant"), reason.as_str());
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
    }
}
