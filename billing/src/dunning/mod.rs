//! What is done about unpaid invoices: when the payer is reminded ([`mails`]), and when not
//! ([`policy`]).

mod http;
pub mod mails;
mod policy;

pub use http::router;
pub use policy::{Policy, pause, policy, resume, set_policy};
