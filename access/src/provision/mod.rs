//! For gateways that check keys themselves: consumers, keys and plans are brought to their Admin APIs.
//!
//! A change writes a row of the outbox in its own transaction (triggers of migration 0402). [`worker`] takes due rows,
//! compares what should be there ([`desired`]) with what is, and makes up the difference ([`sync`]); doing so twice
//! changes nothing. Every ten minutes everything is compared, so that what was changed by hand over there is set
//! right. [`apisix`] and [`kong`] speak the two Admin APIs. Keys are only kept as hashes here: an issued key waits
//! sealed for its delivery ([`targets::keep`]) and is then forgotten, so a key that was issued before its gateway was
//! registered cannot be brought there; the state says how many there are, and the consumer takes a new one.

mod apisix;
mod desired;
pub mod http;
mod kong;
mod remote;
mod sync;
pub mod targets;
mod worker;

pub use worker::run;
