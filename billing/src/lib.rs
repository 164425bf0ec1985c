//! Plans, subscriptions, rating, invoices: from usage to money.
//!
//! [`catalog`] reads what a provider sells from a file. A [`plans`] version never changes once published; a
//! [`subscriptions`] pins a consumer to one from an instant on, and may backdate. When a period is over, [`close`]
//! waits until its events are there, takes each subscription's usage with its proof from metering, lets the pure
//! functions of [`rating`] price it, and writes one invoice with sealed proofs in one transaction; [`invoices`] then
//! moves along its states, and [`stripe`] pushes it. [`audit`] re-derives every line from raw events. [`preview`] shows
//! the invoice that is gathering, [`entitlements`] tells access what is allowed, [`decision_policy`] what the provider chose, and [`overdue`] who owes,
//! [`revenue`] tells insights who pays. What all that means for the books is derived in [`ledger`]. Finance takes files
//! from [`exports`] and an invoice as a document from [`documents`]; what is done about unpaid invoices is in [`dunning`]. What
//! corrects an issued invoice is a document of its own, in [`credit_notes`]; payments that go back are recorded in
//! [`reversals`]. [`what_if`] sets plans side by side on what really happened, [`sla`] gives back what was promised and not kept, and [`margin`] sets what calls cost beside what they
//! bring. Who wants to know of thresholds has [`alerts`], and whose programs want to know what happens, [`webhooks`]; e-mails
//! leave by [`mails`].
#![forbid(unsafe_code)]

pub mod alerts;
pub mod allowance;
pub mod audit;
pub mod calendar;
pub mod catalog;
pub mod close;
pub mod contracts;
pub mod coupons;
pub mod credit_notes;
pub mod credits;
pub mod decision_policy;
pub mod documents;
pub mod dunning;
pub mod effect;
pub mod entitlements;
mod error;
pub mod exports;
mod gather;
mod http;
mod included;
pub mod invoices;
pub mod ledger;
pub mod left_out;
pub mod mails;
pub mod margin;
pub mod overdue;
pub mod plans;
pub mod preview;
mod proofs;
pub mod rating;
pub mod reconcile;
pub mod revenue;
pub mod reversals;
pub mod settings;
pub mod settle;
pub mod sla;
pub mod stripe;
pub mod subscriptions;
pub mod summary;
pub mod units;
pub mod webhooks;
pub mod what_if;

pub use error::BillingError;
// Points at which a test may kill the process.
use farebox_metering::faults;

use farebox_core::App;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

/// The management routes and Stripe's webhooks.
pub fn router(app: &App) -> OpenApiRouter {
    http::router(app)
        .merge(stripe::router(app))
        .merge(documents::router(app))
        .merge(exports::router(app))
        .merge(dunning::router(app))
        .merge(settle::router(app))
        .merge(reconcile::router(app))
        .merge(credit_notes::router(app))
        .merge(reversals::router(app))
        .merge(alerts::router(app))
        .merge(margin::router(app))
        .merge(units::router(app))
        .merge(webhooks::router(app))
        .merge(what_if::router(app))
}

/// The background loops: the scheduled close, Stripe's push, events and poll, credit notes that wait for Stripe, the
/// ledger, the comparison with Stripe, e-mails, alerts and webhooks. Ends soon after `stop`.
pub async fn run(app: App, stop: CancellationToken) -> anyhow::Result<()> {
    let (closed, pushed, (), (), (), (), (), ()) = tokio::join!(
        close::run(app.clone(), stop.clone()),
        stripe::run(app.clone(), stop.clone()),
        ledger::run(app.clone(), stop.clone()),
        reconcile::run(app.clone(), stop.clone()),
        credit_notes::run(app.clone(), stop.clone()),
        mails::run(app.clone(), stop.clone()),
        alerts::run(app.clone(), stop.clone()),
        webhooks::run(app, stop)
    );
    closed.and(pushed)
}
