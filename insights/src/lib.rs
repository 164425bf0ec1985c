//! KPIs from the same tables the invoices come from.
//!
//! A KPI is asked for with typed parameters ([`kpis`]). The room gathers who did what and when (sign-ups and keys
//! from metering's records, qualifying calls by day from its rollups and raw tail, paid invoices from billing), puts
//! it through plain arithmetic over sets and instants ([`arithmetic`]), and answers with rows that say of themselves
//! whether they are complete, under a definition with version, formula, unit and time zone.
#![forbid(unsafe_code)]

pub mod action;
pub mod arithmetic;
pub mod calendar;
pub mod ratio;
