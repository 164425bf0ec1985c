//! What can go wrong here, and how it is told to the outside.

use farebox_core::money::MoneyError;
use farebox_core::problem::Problem;
use farebox_core::workspace::WorkspaceError;
use farebox_metering::MeteringError;

use crate::rating::RatingError;

#[derive(Debug, thiserror::Error)]
pub enum BillingError {
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The caller's field is wrong: fix it.
    #[error("{field}: {detail}")]
    Invalid { field: String, detail: String },
    /// In conflict with what is there; the detail says the way out.
    #[error("{detail}")]
    Conflict { slug: &'static str, detail: String },
    #[error(transparent)]
    Rating(#[from] RatingError),
    #[error(transparent)]
    Metering(#[from] MeteringError),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// What a store holds cannot be read by this version.
    #[error("{what} cannot be read: {cause}")]
    Unreadable { what: &'static str, cause: String },
    #[error("PostgreSQL: {0}")]
    Database(#[from] sqlx::Error),
}

impl BillingError {
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), detail: detail.into() }
    }

    pub fn conflict(slug: &'static str, detail: impl Into<String>) -> Self {
        Self::Conflict { slug, detail: detail.into() }
    }

    pub(crate) fn unreadable(what: &'static str, cause: impl std::fmt::Display) -> Self {
        Self::Unreadable { what, cause: cause.to_string() }
    }
}

impl From<MoneyError> for BillingError {
    fn from(error: MoneyError) -> Self {
        Self::Rating(error.into())
    }
}

impl From<BillingError> for Problem {
    fn from(error: BillingError) -> Self {
        match error {
            BillingError::NotFound(what) => Self::not_found(what),
            BillingError::Invalid { field, detail } => Self::invalid_field(&field, detail),
            BillingError::Conflict { slug, detail } => Self::conflict(slug, detail),
            BillingError::Rating(e) => Self::conflict("cannot-be-priced", format!("{e}.")),
            BillingError::Metering(e) => e.into(),
            BillingError::Database(e) | BillingError::Workspace(WorkspaceError::Database(e)) => e.into(),
            e @ (BillingError::Unreadable { .. } | BillingError::Workspace(_)) => Self::internal(&e),
        }
    }
}
