//! Files for finance: every report as CSV, Parquet and XLSX, exact to the last decimal.
//!
//! A [`Report`] is a table ([`table`]) over a half-open period of the workspace's calendar ([`scope`]). Its rows flow
//! from one snapshot of PostgreSQL through a writer ([`csv`], [`parquet`], [`xlsx`]) to the caller ([`stream`]), so that a
//! file of any length needs little memory. Before the first byte the database adds everything up by itself
//! ([`manifest`]); the rows are added up again as they pass, and a file whose sums differ is broken off rather than ended.
//!
//! Amounts keep their currency's decimals in CSV, are `DECIMAL(38, 4)` in Parquet, and numbers in XLSX as long as
//! Excel shows all their digits (15), text beyond: numbers, because people add them up there.

mod ageing;
mod codes;
mod credit_notes;
pub(crate) mod csv;
mod http;
mod invoices;
mod journal;
mod lines;
mod manifest;
mod parquet;
mod reconciliation;
mod revenue;
mod scope;
mod sold;
mod stream;
mod table;
mod waterfall;
mod xlsx;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Serialize, Serializer};
use sqlx::PgConnection;

use crate::BillingError;

pub use codes::Codes;
pub use http::router;
pub use manifest::{Manifest, Total};
pub use scope::{By, Params, Scope};
pub use stream::respond;

use table::{Column, Row};

type Rows<'c> = BoxStream<'c, Result<Row, BillingError>>;
type Totals<'c> = BoxFuture<'c, Result<Vec<Total>, BillingError>>;

/// What can be exported, with everything that is particular to it.
pub struct Report {
    pub name: &'static str,
    pub about: &'static str,
    source: Source,
    columns: &'static [Column],
    rows: for<'c> fn(&'c mut PgConnection, &Scope) -> Rows<'c>,
    /// Added up by the database.
    totals: for<'c> fn(&'c mut PgConnection, &'c Scope) -> Totals<'c>,
}

/// What a report is taken from, or for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Documents,
    /// Which then must have caught up.
    Ledger,
    /// For an accounting system, by its name: what it says depends on what that calls things, and it reads its own CSV and nothing
    /// else.
    System(&'static str),
}

/// In the order in which they are offered.
pub const ALL: [&Report; 15] = [
    &invoices::REPORT,
    &lines::REPORT,
    &credit_notes::REPORT,
    &journal::REPORT,
    &revenue::REPORT,
    &waterfall::REPORT,
    &ageing::REPORT,
    &reconciliation::REPORT,
    &sold::xero::REPORT,
    &sold::xero::CREDIT_NOTES,
    &sold::quickbooks::REPORT,
    &sold::quickbooks::CREDIT_MEMOS,
    &sold::netsuite::REPORT,
    &sold::netsuite::CREDIT_MEMOS,
    &sold::focus::REPORT,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Csv,
    Parquet,
    Xlsx,
}

impl Report {
    pub fn find(name: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|report| report.name == name)
    }

    pub fn formats(&self) -> &'static [Format] {
        if self.system().is_some() { &[Format::Csv] } else { &Format::ALL }
    }

    fn system(&self) -> Option<&'static str> {
        if let Source::System(system) = self.source { Some(system) } else { None }
    }
}

/// As its name.
impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl Format {
    pub const ALL: [Self; 3] = [Self::Csv, Self::Parquet, Self::Xlsx];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Xlsx => "xlsx",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == name)
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Xlsx => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        }
    }
}
