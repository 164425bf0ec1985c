//! What every room speaks.
//!
//! A usage event travels through Farebox in one shape ([`event`]), every amount is a [`money::Money`], every
//! stretch of time a half-open [`period::Period`], every thing has a prefixed id ([`ids`]), every refusal towards
//! the outside is a [`problem::Problem`], and every caller a [`auth::Principal`]. The three stores are reached
//! through [`kafka`], [`clickhouse`] and [`postgres`]; [`App`] holds them open and is handed to every room.
#![forbid(unsafe_code)]

pub mod api_path;
pub mod app;
pub mod audit_log;
pub mod auth;
pub mod clickhouse;
pub mod clock;
pub mod config;
pub mod decision;
pub mod event;
pub mod field_map;
pub mod http;
pub mod idempotency;
pub mod ids;
pub mod intake_settings;
pub mod kafka;
pub mod mail;
pub mod money;
pub mod period;
pub mod postgres;
pub mod problem;
pub mod readiness;
pub mod seal;
pub mod secret;
pub mod source;
pub mod telemetry;
pub mod tls;
pub mod workspace;

pub use app::App;
