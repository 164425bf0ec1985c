//! The provider's side: does it add up, who comes and stays, what is earned, and does everything run.

pub mod alerts;
pub mod close;
pub mod consumers;
pub mod credit_notes;
pub mod dead_letters;
pub mod history;
pub mod invoices;
pub mod kpis;
pub mod margin;
mod months;
pub mod overview;
pub mod pipeline;
pub mod settings;
pub mod webhooks;
pub mod what_if;
