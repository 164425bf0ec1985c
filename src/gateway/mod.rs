//! Real gateways with the configurations of `deploy/gateways`, in front of a small API: the demo's Envoy, and those of
//! the tests. Each asks Farebox before each call and tells it of each one after.

pub mod envoy;
pub mod nginx;
pub mod process;
pub mod traefik;
pub mod upstream;
