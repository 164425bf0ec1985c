//! What can go wrong here, and how it is told to the outside.

use farebox_core::problem::Problem;

#[derive(Debug, thiserror::Error)]
pub enum MeteringError {
    /// The caller's field is wrong: fix it.
    #[error("{field}: {detail}")]
    Invalid { field: String, detail: String },
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// In conflict with what is there.
    #[error("{detail}")]
    Conflict { slug: &'static str, detail: String },
    /// What a store holds cannot be read by this version.
    #[error("{what} cannot be read: {cause}")]
    Unreadable { what: &'static str, cause: String },
    #[error("PostgreSQL: {0}")]
    Database(#[from] sqlx::Error),
    #[error("ClickHouse: {0}")]
    ClickHouse(#[from] clickhouse::error::Error),
}

impl MeteringError {
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), detail: detail.into() }
    }

    pub fn unreadable(what: &'static str, cause: impl std::fmt::Display) -> Self {
        Self::Unreadable { what, cause: cause.to_string() }
    }

    /// A violated constraint as a conflict; any other error of the database as it is.
    pub(crate) fn on_constraint(error: sqlx::Error, constraint: &str, slug: &'static str, detail: impl FnOnce() -> String) -> Self {
        if error.as_database_error().and_then(|e| e.constraint()) == Some(constraint) {
            return Self::Conflict { slug, detail: detail() };
        }
        error.into()
    }
}

impl From<MeteringError> for Problem {
    fn from(error: MeteringError) -> Self {
        match error {
            MeteringError::Invalid { field, detail } => Self::invalid_field(&field, detail),
            MeteringError::NotFound(what) => Self::not_found(what),
            MeteringError::Conflict { slug, detail } => Self::conflict(slug, detail),
            MeteringError::Database(e) => e.into(),
            MeteringError::ClickHouse(e) if is_too_much(&e) => Self::invalid_field(
                "from",
                "the question takes more time or memory than one may take; ask for a shorter range, wider windows or fewer groups",
            ),
            MeteringError::ClickHouse(e) => e.into(),
            e @ MeteringError::Unreadable { .. } => Self::internal(&e),
        }
    }
}

/// ClickHouse gave up at the limits set for a question.
fn is_too_much(error: &clickhouse::error::Error) -> bool {
    let text = error.to_string();
    ["MEMORY_LIMIT_EXCEEDED", "TIMEOUT_EXCEEDED", "TOO_MANY_ROWS_OR_BYTES"].iter().any(|name| text.contains(name))
}
