//! Stripe collects what Farebox bills.
//!
//! A workspace gives its keys ([`settings`], sealed by [`farebox_core::seal`]). From then on every issued invoice with an amount to
//! collect is pushed by [`workers`]: [`customers`] makes the consumer a customer there and keeps it so ([`details`]), [`push`] creates a draft, adds all
//! lines at once ([`bill`], in the units of [`currency`]), compares the totals ([`compare`]), and finalises it only when
//! they are equal. Each request is first stored with its bytes and key and then sent through the [`client`] ([`outbox`]);
//! what an answer means is decided in [`verdict`]. So one invoice of ours is one invoice there, whatever crashes.
//!
//! Payment methods are given on Stripe's own page ([`checkout`]). What happens there comes back by webhook ([`http`],
//! [`signature`], registered by [`endpoint`]) or, failing that, by a [`poll`]; either way an event is only a note that an
//! object changed, which [`events`] then fetches, and [`state`] applies. With a test key Stripe's clocks can go with the
//! workspace's ([`test_clocks`]).

pub mod bill;
pub mod checkout;
pub mod client;
pub mod compare;
pub mod currency;
pub mod customers;
mod details;
pub mod endpoint;
pub mod error;
pub mod events;
pub mod http;
pub mod outbox;
pub mod poll;
pub mod push;
pub mod settings;
pub mod signature;
pub mod state;
pub mod test_clocks;
pub mod verdict;
pub mod view;
pub mod workers;

use farebox_core::App;
use tokio_util::sync::CancellationToken;

pub use checkout::{checkout_setup_url, complete_setup, has_payment_method};
pub use customers::ensure_customer;
pub use endpoint::register_webhook;
pub use error::StripeError;
pub use http::router;

/// The push workers, the events with their endpoints, the poll, and the test clocks, until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> anyhow::Result<()> {
    tokio::join!(
        workers::run(app.clone(), stop.clone()),
        events::run(app.clone(), stop.clone()),
        endpoint::run(app.clone(), stop.clone()),
        poll::run(app.clone(), stop.clone()),
        test_clocks::run(app, stop)
    );
    Ok(())
}
