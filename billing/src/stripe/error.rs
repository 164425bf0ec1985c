//! What can go wrong towards Stripe, and who has to act.

use std::time::Duration;

use axum::http::StatusCode;
use farebox_core::money::MoneyError;
use farebox_core::problem::Problem;
use farebox_core::workspace::WorkspaceError;
use farebox_metering::MeteringError;

use super::currency::AmountError;
use crate::BillingError;
use farebox_core::seal::SealError;

#[derive(Debug, thiserror::Error)]
pub enum StripeError {
    #[error("this workspace has no Stripe keys yet")]
    NotConfigured,
    #[error("Stripe gave no answer: {0}")]
    Unreachable(String),
    #[error("Stripe answered {status} and asks to try later")]
    Busy { status: u16, after: Option<Duration> },
    #[error("Stripe refused ({status} {code}): {message} [request {request_id}]")]
    Refused { status: u16, code: String, message: String, request_id: String },
    #[error("Stripe's answer cannot be read: {0}")]
    Unreadable(String),
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("{0}")]
    BadKey(&'static str),
    #[error(transparent)]
    Amount(#[from] AmountError),
    #[error(transparent)]
    Sealed(#[from] SealError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Money(#[from] MoneyError),
    #[error(transparent)]
    Billing(#[from] BillingError),
    #[error(transparent)]
    Metering(#[from] MeteringError),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// Our records and Stripe's do not fit together.
    #[error("{0}")]
    Record(String),
    #[error("a defect in Farebox: {0}")]
    Bug(&'static str),
}

impl StripeError {
    /// Whether Stripe says that the key itself is wrong, revoked or lacks a permission.
    pub fn is_about_the_key(&self) -> bool {
        matches!(self, Self::Refused { status: 401 | 403, .. })
    }
}

impl From<StripeError> for Problem {
    fn from(error: StripeError) -> Self {
        match error {
            StripeError::NotConfigured => {
                Self::conflict("stripe-not-configured", "Payments are not set up in this workspace yet. Set the Stripe keys first.")
            }
            StripeError::Unreachable(_) | StripeError::Busy { .. } => {
                tracing::warn!("a caller was sent away: {error}");
                Self::unavailable("Stripe does not answer right now. Nothing was charged; try again.", 5)
            }
            StripeError::Refused { message, code, .. } => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "refused-by-stripe",
                "Stripe refused",
                format!("Stripe says: {message}{}", if code.is_empty() { String::new() } else { format!(" ({code})") }),
            ),
            StripeError::NotFound(what) => Self::not_found(what),
            StripeError::BadKey(detail) => Self::invalid_field("/secret_key", detail),
            StripeError::Amount(error) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "not-collectable", "Stripe cannot collect this amount", error.to_string())
            }
            StripeError::Database(error) => error.into(),
            StripeError::Billing(error) => error.into(),
            StripeError::Metering(error) => error.into(),
            other => Self::internal(&other),
        }
    }
}
