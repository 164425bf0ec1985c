//! What people see.
#![forbid(unsafe_code)]

pub mod assets;
pub mod format;
pub mod pages;
pub mod security;
pub mod view;
