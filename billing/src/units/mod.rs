//! Prepaid units of a meter: grants, and a double-entry ledger of what became of them. They cover usage before it is priced, in
//! the order of the ledger: priority, soonest expiry, oldest. A balance is never below zero: the database refuses it.
//!
//! [`store`] keeps grants, [`purse`] is what may be used of them on an invoice and what was, by [`crate::rating::units`].

mod http;
mod purse;
mod store;

pub(crate) use http::router;
pub(crate) use purse::{Covers, Purse, covers, give_back, load, post};
pub use store::{NewUnitGrant, UnitEntry, UnitGrant, UnitRollover, entries, get, grant, list, void};
pub(crate) use store::{Origin, expire, insert, withdraw};
