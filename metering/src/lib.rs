//! Kafka -> ClickHouse -> usage per consumer, plan and meter: every request counted exactly once.
//!
//! [`consumer`] takes accepted events from Kafka and hands them to [`store`], which writes them to ClickHouse and
//! *touches* their minutes; a copy of an event replaces itself there. [`recompute`] rebuilds the rollups of touched
//! minutes from the deduplicated events and publishes them by generation, so that nothing is ever incremented and
//! nothing can be counted twice. Whose an event is stays open until then: [`attribution`] joins it with the timelines
//! of [`links`] and [`timelines`] by event time, and the [`rule`] says whether it counts. [`usage`] answers from the
//! rollups plus the raw events of minutes not yet recomputed: exact, and fresh at once. [`proof`] names the events
//! behind a number, [`activity`] feeds insights, and [`repair`] removes copies that came with another time.
//!
//! Records (consumers, credentials, sources, apis, meters, timelines) live in PostgreSQL and are written through this
//! room's functions, which take an open connection so that rooms share a transaction.
#![forbid(unsafe_code)]

pub mod activity;
pub mod apis;
mod attribution;
pub mod audit;
pub mod backfill;
pub mod block;
pub mod completeness;
pub mod consumer;
pub mod consumers;
pub mod corrections;
pub mod credentials;
pub mod decided;
pub mod derived;
pub mod dimension;
pub mod duplicates;
pub mod erasure;
mod error;
pub mod events;
mod facts;
pub mod faults;
mod fence;
pub mod filter;
pub mod formats;
mod hints;
pub mod history;
mod http;
pub mod latest;
pub mod links;
mod measure;
pub mod meters;
pub mod pipeline;
mod plan;
mod poison;
pub mod proof;
pub mod quality;
mod ranges;
pub mod recompute;
pub mod repair;
pub mod retention;
pub mod rule;
pub mod rule_preview;
mod run;
mod selection;
pub mod sources;
pub mod store;
pub mod stored;
mod sync;
pub mod tail;
pub mod tiers;
pub mod timelines;
mod together;
pub mod unattributed;
pub mod usage;

pub use dimension::Dimension;
pub use error::MeteringError;
pub use filter::{Condition, Filter, Test};
pub use http::router;
#[doc(hidden)] // for tests: a process that has just started
pub use plan::forget as forget_plans;
pub use run::run;
