//! Prefixed ids: `con_`, `sub_`, `inv_`, ... A consumer's id cannot be passed where an invoice's is expected, and a
//! person who finds one in a log knows what it names. The part after the prefix is a UUIDv7 in hex, so ids of one
//! kind sort by the time they were made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A string that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not an id of this kind: expected `{prefix}` followed by 32 hexadecimal digits")]
pub struct InvalidId {
    pub prefix: &'static str,
    pub found: String,
}

fn parse(prefix: &'static str, text: &str) -> Result<String, InvalidId> {
    let hex = text.strip_prefix(prefix).unwrap_or_default();
    if hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(text.to_owned());
    }
    Err(InvalidId { prefix, found: text.chars().take(64).collect() })
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[sqlx(transparent)]
        #[schema(value_type = String)]
        pub struct $name(String);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            /// A fresh id; later ones sort after earlier ones.
            #[allow(clippy::new_without_default)] // every call gives another value
            pub fn new() -> Self {
                Self(format!(concat!($prefix, "{}"), uuid::Uuid::now_v7().simple()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse($prefix, text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                parse($prefix, &text).map(Self)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )*};
}

ids! {
    /// An environment of a provider, such as `acme/live`.
    WorkspaceId = "ws_";
    /// A program's token towards Farebox.
    TokenId = "tok_";
    /// A gateway or other sender of events.
    SourceId = "src_";
    /// An API whose calls are metered.
    ApiId = "api_";
    MeterId = "mtr_";
    /// Who calls the APIs: the account that signs up, subscribes and pays.
    ConsumerId = "con_";
    /// An API key of a consumer.
    CredentialId = "cred_";
    PlanId = "plan_";
    /// A published version of a plan: what a subscription pins.
    PlanVersionId = "plv_";
    PriceId = "price_";
    SubscriptionId = "sub_";
    /// A price attached to a subscription for a time.
    AddOnId = "addon_";
    CouponId = "coupon_";
    /// A grant of prepaid credits.
    GrantId = "grant_";
    InvoiceId = "inv_";
    InvoiceLineId = "line_";
    /// A correction of an issued invoice.
    CreditNoteId = "cn_";
    /// A person who signs in: a member of the workspace, or a consumer's user.
    PersonId = "per_";
    /// A rejected event kept for a later replay.
    DeadLetterId = "dl_";
    /// A background job.
    JobId = "job_";
    /// A correction of events.
    CorrectionId = "cor_";
    /// An erasure of a consumer's personal data.
    ErasureId = "era_";
    /// A rule that raises alerts.
    AlertId = "alr_";
    /// A time that an alert was raised.
    FiringId = "fir_";
    /// An address of the provider's that is told what happens.
    WebhookId = "wh_";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let consumer = ConsumerId::new();
        assert_eq!(consumer.as_str().parse::<ConsumerId>().as_ref(), Ok(&consumer));
        let error = consumer.as_str().parse::<InvoiceId>().expect_err("a consumer is no invoice");
        assert_eq!(error.prefix, "inv_");
        assert!("con_'; DROP".parse::<ConsumerId>().is_err());
    }

    #[test]
    fn ids_sort_by_birth() {
        let ids: Vec<_> = (0..100).map(|_| SubscriptionId::new()).collect();
        assert!(ids.is_sorted());
    }
}
