//! The developers' side: from the first look at the prices to a paid invoice.

pub mod account;
pub mod alerts;
pub mod credit_notes;
pub mod invoices;
pub mod keys;
pub mod landing;
pub mod payment;
pub mod plan;
pub mod rules;
pub mod sign_in;
pub mod sign_up;
pub mod start;
pub mod usage;
