//! The Stripe double: Stripe's API with state, strict about requests, and faulty on demand.
//!
//! A request passes two walls before it reaches state. The first is a strict walk of its parameters
//! along Stripe's published OpenAPI ([`walk`], [`limits`]), for stripe-mock lets nested ones pass; the
//! second is the official stripe-mock itself ([`mock`]), whose answer is the shape our state is laid
//! over. State is JSON objects per account ([`state`]), journalled before the answer leaves
//! ([`journal`]); an idempotency key keeps its answer in the same entry ([`idempotency`]). Every change
//! emits events, delivered as signed webhooks ([`webhooks`], [`clockwork`]). People enter cards on
//! hosted pages ([`pages`]). `/_double/` injects faults, moves the clock, and shows what was asked
//! ([`control`], [`faults`]).
//!
//! Keys are `sk_test_<account>_<random>`; each account has a state of its own.

mod account;
mod answers;
mod checkout;
mod clockwork;
mod control;
mod credit_notes;
mod customers;
mod cut;
mod dispatch;
mod errors;
mod faults;
mod form;
mod idempotency;
mod ids;
mod invoices;
mod journal;
mod limits;
mod lines;
mod mock;
mod pages;
mod payment_methods;
mod payments;
mod refunds;
mod server;
mod setup_intents;
mod spec;
mod state;
mod walk;
mod webhooks;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::artefacts::{Artefacts, Missing};

pub use mock::Place;
pub use server::{Config, Serving, serve, start};
pub use spec::Spec;

/// `farebox engine stripe`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:12111")]
    pub listen: SocketAddr,
    /// Directory for the journal.
    #[arg(long)]
    pub data: PathBuf,
    /// The official stripe-mock; found where engines/fetch puts it unless given.
    #[arg(long)]
    pub stripe_mock: Option<PathBuf>,
    /// A stripe-mock that already runs, instead of starting one.
    #[arg(long)]
    pub stripe_mock_url: Option<String>,
    /// Stripe's OpenAPI document; beside stripe-mock unless given.
    #[arg(long)]
    pub spec: Option<PathBuf>,
    /// Where browsers find the hosted pages, if not at the listening address.
    #[arg(long)]
    pub public_url: Option<String>,
    /// Seconds between finalising an invoice and its automatic charge.
    #[arg(long, default_value_t = 1)]
    pub charge_delay: i64,
}

impl Args {
    /// The configuration, with what was not given found where engines/fetch puts it.
    pub fn config(self) -> Result<Config, Missing> {
        let binary = match (self.stripe_mock, &self.stripe_mock_url, &self.spec) {
            (Some(binary), ..) => binary,
            // Nothing of what was fetched is needed.
            (None, Some(_), Some(_)) => PathBuf::new(),
            (None, ..) => Artefacts::find(None)?.stripe_mock()?,
        };
        Ok(Config {
            listen: self.listen,
            spec: self.spec.unwrap_or_else(|| binary.with_file_name("spec3.json")),
            mock: self.stripe_mock_url.map_or(Place::Binary(binary), Place::Running),
            data_dir: self.data,
            public_url: self.public_url,
            charge_delay: self.charge_delay,
        })
    }
}

/// Serves until it fails.
pub async fn run(args: Args) -> anyhow::Result<()> {
    serve(args.config()?).await
}
