//! The revenue ledger: double entry, in each currency on its own.
//!
//! Journals are derived, never typed ([`derive`], pure): from an issued invoice, from its payment, its write-off, its
//! voiding, its credit notes, refunds and disputes, and from what becomes of prepaid credits ([`prepaid`]). Each has a key that names its origin, so deriving it again changes nothing, and the database refuses a
//! journal that does not balance or an edit of one that is there. Whatever moves an invoice notes it, in the same
//! transaction, in a queue that [`post`] empties.
//!
//! **When revenue is earned.** A line is earned evenly over its own period, by calendar month: what lies before the
//! issue is booked back into its month against `unbilled`, what lies after is `deferred_revenue` and booked ahead, on
//! the last day of each part. So a balance is always as of a day, the schedule of what is still to be earned is in the
//! ledger itself, and voiding takes back both. A credit note takes back of each line what was earned until its day at once,
//! and what is still to be earned on the days it would have been.
//!
//! | account | holds |
//! |---|---|
//! | `receivable` | issued and not paid |
//! | `cash` | paid, by whatever way |
//! | `unbilled` | earned and not yet issued |
//! | `deferred_revenue` | issued and not yet earned |
//! | `revenue` | earned |
//! | `tax_payable` | tax charged |
//! | `customer_credit` | owed to customers: credits that a later invoice takes off, and what is to be paid back |
//! | `bad_debt` | given up, and lost in disputes |
//! | `disputed` | taken by banks until disputes are decided |

pub mod derive;
pub mod post;
mod prepaid;
pub mod slices;

#[cfg(test)]
mod histories;
#[cfg(test)]
mod properties;

use serde::Serialize;

pub use post::{run, settle};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Account {
    Receivable,
    Cash,
    Unbilled,
    DeferredRevenue,
    Revenue,
    TaxPayable,
    CustomerCredit,
    BadDebt,
    Disputed,
}

impl Account {
    pub const ALL: [Self; 9] = [
        Self::Receivable,
        Self::Cash,
        Self::Unbilled,
        Self::DeferredRevenue,
        Self::Revenue,
        Self::TaxPayable,
        Self::CustomerCredit,
        Self::BadDebt,
        Self::Disputed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Receivable => "receivable",
            Self::Cash => "cash",
            Self::Unbilled => "unbilled",
            Self::DeferredRevenue => "deferred_revenue",
            Self::Revenue => "revenue",
            Self::TaxPayable => "tax_payable",
            Self::CustomerCredit => "customer_credit",
            Self::BadDebt => "bad_debt",
            Self::Disputed => "disputed",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|account| account.as_str() == name)
    }
}
