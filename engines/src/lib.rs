//! The engines: real Kafka, ClickHouse, PostgreSQL, Envoy and a Stripe double, as child processes.
//!
//! Farebox speaks only the protocols of these engines and never to this room; in production they are
//! clusters of their own. [`Engines::start`] takes a data directory for itself ([`datadir`]), finds what
//! `engines/fetch` brought ([`artefacts`]), prepares each engine ([`kafka`], [`postgres`]) and gives it
//! a [`keeper`], a thread that starts its process ([`child`]), watches it and starts it again. However
//! this process ends, its engines end with it. [`clickhouse`] is the one engine that has to be given a
//! server: the real ClickHouse is used as a library.
#![deny(unsafe_code)] // allowed in `clickhouse/library.rs` alone, which says why it is sound

pub mod artefacts;
pub mod child;
pub mod cli;
pub mod clickhouse;
pub mod datadir;
mod engines;
mod kafka;
mod keeper;
pub mod ports;
mod postgres;
pub mod progress;
pub mod stripe;

pub use engines::{Addresses, Engines, Options, With};
pub use keeper::{Ready, Started};
pub use ports::Ports;
pub use progress::{Event, Progress};

pub const NAME_KAFKA: &str = "kafka";
pub const NAME_CLICKHOUSE: &str = "clickhouse";
pub const NAME_POSTGRES: &str = "postgres";
pub const NAME_STRIPE: &str = "stripe";
pub const NAME_ENVOY: &str = "envoy";

/// Why the engines do not run; each is a sentence for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Missing(#[from] artefacts::Missing),
    #[error(transparent)]
    Data(#[from] datadir::Unusable),
    #[error("{engine} cannot be prepared: {reason}")]
    Prepare { engine: String, reason: String },
    #[error("port {0} is taken by another program; choose another, or leave it out for a free one")]
    PortTaken(u16),
    #[error("{0}")]
    GivenUp(String),
    #[error("no engine is called {0}")]
    Unknown(String),
    #[error("the engines were not started: {0}")]
    Thread(String),
}

impl Error {
    fn prepare(engine: &str, source: &std::io::Error) -> Self {
        Self::Prepare { engine: engine.to_owned(), reason: source.to_string() }
    }
}
