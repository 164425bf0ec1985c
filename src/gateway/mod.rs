//! The demo's and the tests' gateway: a real Envoy in front of a small API, asking Farebox before each call and
//! telling it of each one after.

pub mod envoy;
pub mod upstream;
