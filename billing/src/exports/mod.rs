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
mod focus;
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

use futures::stream::BoxStream;
use serde::Serialize;
use sqlx::PgConnection;

use crate::BillingError;

pub use codes::Codes;
pub use http::router;
pub use manifest::{Manifest, Total};
pub use scope::{By, Params, Scope};
pub use stream::respond;

use table::{Column, Row};

/// What can be exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    Invoices,
    Lines,
    #[serde(rename = "credit-notes")]
    CreditNotes,
    Journal,
    Revenue,
    Waterfall,
    Ageing,
    Reconciliation,
    Xero,
    Quickbooks,
    Netsuite,
    Focus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Csv,
    Parquet,
    Xlsx,
}

impl Report {
    pub const ALL: [Self; 12] = [
        Self::Invoices,
        Self::Lines,
        Self::CreditNotes,
        Self::Journal,
        Self::Revenue,
        Self::Waterfall,
        Self::Ageing,
        Self::Reconciliation,
        Self::Xero,
        Self::Quickbooks,
        Self::Netsuite,
        Self::Focus,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invoices => "invoices",
            Self::Lines => "lines",
            Self::CreditNotes => "credit-notes",
            Self::Journal => "journal",
            Self::Revenue => "revenue",
            Self::Waterfall => "waterfall",
            Self::Ageing => "ageing",
            Self::Reconciliation => "reconciliation",
            Self::Xero => "xero",
            Self::Quickbooks => "quickbooks",
            Self::Netsuite => "netsuite",
            Self::Focus => "focus",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|report| report.as_str() == name)
    }

    pub fn about(self) -> &'static str {
        match self {
            Self::Invoices => "issued invoices, one a row, with who owes what",
            Self::Lines => "their lines, with tax, arithmetic and the proof of what was counted",
            Self::CreditNotes => "lines of credit notes, each with the invoice that it corrects",
            Self::Journal => "postings of the revenue ledger, by the day they are booked on",
            Self::Revenue => "revenue earned, by line and month",
            Self::Waterfall => "what was issued, by the month it was issued and the months it is earned in, those ahead too",
            Self::Ageing => "receivables at the end of the period, by how long they have been due",
            Self::Reconciliation => "every invoice here against Stripe, as last compared; not by period",
            Self::Xero => "lines as Xero imports sales invoices",
            Self::Quickbooks => "lines as QuickBooks Online imports invoices",
            Self::Netsuite => "lines as NetSuite imports invoices",
            Self::Focus => "charges as FOCUS 1.2 wants them, for the consumers' cost tools",
        }
    }

    /// An accounting system reads its own CSV and nothing else.
    pub fn formats(self) -> &'static [Format] {
        if self.is_of_accounting() { &[Format::Csv] } else { &Format::ALL }
    }

    /// Whether what it says depends on what an accounting system calls things.
    fn is_of_accounting(self) -> bool {
        matches!(self, Self::Xero | Self::Quickbooks | Self::Netsuite)
    }

    /// Whether it is taken from the ledger, which then must have caught up.
    fn is_of_ledger(self) -> bool {
        matches!(self, Self::Journal | Self::Revenue | Self::Waterfall | Self::Ageing)
    }

    fn columns(self) -> &'static [Column] {
        match self {
            Self::Invoices => invoices::COLUMNS,
            Self::Lines => lines::COLUMNS,
            Self::CreditNotes => credit_notes::COLUMNS,
            Self::Journal => journal::COLUMNS,
            Self::Revenue => revenue::COLUMNS,
            Self::Waterfall => waterfall::COLUMNS,
            Self::Ageing => ageing::COLUMNS,
            Self::Reconciliation => reconciliation::COLUMNS,
            Self::Xero => sold::XERO,
            Self::Quickbooks => sold::QUICKBOOKS,
            Self::Netsuite => sold::NETSUITE,
            Self::Focus => focus::COLUMNS,
        }
    }

    fn rows<'c>(self, conn: &'c mut PgConnection, scope: &Scope) -> BoxStream<'c, Result<Row, BillingError>> {
        match self {
            Self::Invoices => invoices::rows(conn, scope),
            Self::Lines => lines::rows(conn, scope),
            Self::CreditNotes => credit_notes::rows(conn, scope),
            Self::Journal => journal::rows(conn, scope),
            Self::Revenue => revenue::rows(conn, scope),
            Self::Waterfall => waterfall::rows(conn, scope),
            Self::Ageing => ageing::rows(conn, scope),
            Self::Reconciliation => reconciliation::rows(conn, scope),
            Self::Xero | Self::Quickbooks | Self::Netsuite | Self::Focus => sold::rows(conn, scope, self),
        }
    }

    /// Added up by the database.
    async fn totals(self, conn: &mut PgConnection, scope: &Scope) -> Result<Vec<Total>, BillingError> {
        match self {
            Self::Invoices => invoices::totals(conn, scope).await,
            Self::Lines => lines::totals(conn, scope).await,
            Self::CreditNotes => credit_notes::totals(conn, scope).await,
            Self::Journal => journal::totals(conn, scope).await,
            Self::Revenue => revenue::totals(conn, scope).await,
            Self::Waterfall => waterfall::totals(conn, scope).await,
            Self::Ageing => ageing::totals(conn, scope).await,
            Self::Reconciliation => reconciliation::totals(conn, scope).await,
            Self::Xero | Self::Quickbooks | Self::Netsuite | Self::Focus => sold::totals(conn, scope, self).await,
        }
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
