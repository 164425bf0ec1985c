//! What can go wrong when a KPI is asked for.

use farebox_core::ids::WorkspaceId;
use farebox_core::money::Currency;
use farebox_core::problem::{FieldError, Problem};

#[derive(Debug, thiserror::Error)]
pub enum KpiError {
    /// The asker: correct these and ask again.
    #[error("some parameters are not right: {}", .0.iter().map(|e| format!("{}: {}", e.pointer, e.detail)).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<FieldError>),
    #[error("there is no workspace {0}")]
    NoWorkspace(WorkspaceId),
    #[error("a sum is too large for {0}'s minor units in 64 bits")]
    Overflow(Currency),
    #[error(transparent)]
    Workspace(#[from] farebox_core::workspace::WorkspaceError),
    #[error(transparent)]
    Records(#[from] sqlx::Error),
    #[error(transparent)]
    Metering(#[from] farebox_metering::MeteringError),
    #[error(transparent)]
    Billing(#[from] farebox_billing::BillingError),
}

impl KpiError {
    pub(crate) fn field(name: &str, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError::new(name, detail)])
    }
}

impl From<KpiError> for Problem {
    fn from(error: KpiError) -> Self {
        match error {
            KpiError::Invalid(errors) => Self::invalid(errors),
            KpiError::NoWorkspace(_) => Self::not_found("workspace"),
            KpiError::Records(error) => error.into(),
            KpiError::Metering(error) => error.into(),
            KpiError::Billing(error) => error.into(),
            error @ (KpiError::Workspace(_) | KpiError::Overflow(_)) => Self::internal(&error),
        }
    }
}
