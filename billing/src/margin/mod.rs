//! Margin: what routes and consumers bring, and what their calls cost.
//!
//! [`costs`] says what a call of a route costs the provider. The [`report`] sets what was invoiced beside it: each usage
//! line is spread over the routes that its units came from, exactly, so that the parts add up to the line; fees and what
//! else is of no route stands in a row of its own.

pub mod costs;
mod http;
mod report;
mod spread;

pub use http::router;
pub use report::{By, Margin, MarginConsumer, MarginRow, margin};
