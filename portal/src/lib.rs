//! What people see: the developer portal at `/`, where consumers sign up, take keys, watch usage and pay, and the
//! provider console at `/console`, where the provider sees whether everything adds up.
//!
//! A request meets [`context::guard`] first, which finds the workspace by host name, the [`people::session`] by its
//! cookie, and in the table of [`routes`] whether this role may see this route. A handler in [`pages`] then asks the
//! other rooms, lets [`format`] make their answers readable, and fills a page made of the parts in [`view`]. Pages are
//! rendered here, work without script, and carry nothing inline ([`security`]); style, script and charts come from
//! [`assets`], inside the binary. What cannot be done is a [`failure::Failure`], told as a page too.
#![forbid(unsafe_code)]

mod account;
mod activity;
pub mod assets;
mod bill;
pub mod context;
mod csv;
mod done;
pub mod entry;
pub mod failure;
pub mod format;
pub mod pages;
pub mod people;
pub mod routes;
pub mod security;
pub mod settings;
pub mod view;
mod words;

use farebox_core::App;

/// What every handler is given.
#[derive(Clone)]
pub struct Portal {
    pub app: App,
    /// Whether people reach this instance over TLS: decides how cookies are bound.
    pub secure: bool,
}

impl Portal {
    pub fn new(app: App) -> Self {
        let secure = app.config.http.public_url.starts_with("https://");
        Self { app, secure }
    }
}

/// The portal and the console, to be mounted at the root.
pub fn router(app: App) -> axum::Router {
    routes::router(Portal::new(app))
}
