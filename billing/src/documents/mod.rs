//! An invoice or a credit note as a document: one [`model`], as PDF ([`pdf`]), HTML, JSON, and e-invoice ([`ubl`]).
//!
//! A document says what was sealed when the invoice was issued, never how it is paid, so it never changes: its bytes are
//! kept when it is first made ([`store`]) and are served from then on, whatever later versions of Farebox would print.
//! Drafts and void invoices say so across the page.

mod http;
mod model;
mod pdf;
mod store;
mod ubl;
mod view;

pub use http::{Wanted, router};
pub use model::{Document, EU, document};
pub use store::{Medium, get, of_credit_note};
