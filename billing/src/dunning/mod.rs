//! What is done about unpaid invoices: when the payer is told what ([`mails`]) and when not ([`policy`]), and what begins by
//! itself when a payment fails ([`failed`]).

pub mod failed;
mod http;
pub mod mails;
mod policy;

pub use http::router;
pub use policy::{Policy, pause, policy, resume, set_policy};
