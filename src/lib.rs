//! Farebox turns API traffic into money and insight: every request is counted exactly once, and every number can be
//! traced back to the requests behind it.
//!
//! This package wires the rooms together. [`config`](farebox_core::config) says where the stores are,
//! [`farebox_core::App`] opens them, [`roles`] starts the rooms that this process is to run and stops them in order,
//! [`web`] puts their routes under one address. [`up`] adds the engines, so that everything runs on one machine; and
//! [`demo`] fills that with a business that has lived for three months. [`simulate`] makes traffic whose truth is
//! known, and [`send`] follows a gateway's log file. The other files of [`cli`] are the commands a person types.
#![forbid(unsafe_code)]
// A reader that stops would make it panic: see `say!`.
#![deny(clippy::print_stdout)]

#[macro_use]
mod say;

pub mod cli;
pub mod demo;
pub mod gateway;
pub mod instance;
pub mod progress;
pub mod roles;
pub mod send;
pub mod simulate;
pub mod tls;
pub mod up;
pub mod web;
