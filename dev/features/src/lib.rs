//! Holds no code: see its Cargo.toml.
#![forbid(unsafe_code)]
