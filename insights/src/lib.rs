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
mod error;
mod http;
pub mod kpis;
mod params;
mod query;
pub mod ratio;

pub use error::KpiError;
pub use http::router;

/// Nothing here runs by itself: every answer is computed when it is asked for.
pub async fn run(_app: farebox_core::App, stop: tokio_util::sync::CancellationToken) -> anyhow::Result<()> {
    stop.cancelled().await;
    Ok(())
}
