//! A real Envoy with the configurations of `deploy/gateways/envoy`: it asks for a decision before each call, strips
//! forged ids, and tells `/v1/logs` of each call after.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use farebox_engines::artefacts::Artefacts;

use crate::gateway::process::{Process, fill, free_port};
use crate::instance::{Credentials, Find};
use crate::up::Running;

/// How it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    Http,
    Grpc,
}

impl Asks {
    /// The configuration, still to be filled in.
    pub fn template(self) -> &'static str {
        match self {
            Self::Http => include_str!("../../deploy/gateways/envoy/envoy.yaml"),
            Self::Grpc => include_str!("../../deploy/gateways/envoy/envoy-grpc.yaml"),
        }
    }
}

/// The source that this Envoy is registered as, in the demo's catalogue and the tests'.
pub const SOURCE: &str = "envoy-1";

/// Starts Envoy as one of the instance's engines; returns its address.
pub async fn start(find: &Find, running: &Running, upstream: SocketAddr) -> anyhow::Result<String> {
    let directory = find.data.join("envoy");
    let (file, port) = configure(Asks::Http.template(), SOURCE, &directory, &running.credentials, upstream)?;
    running.engines.start_envoy(&file, port)?;
    running.engines.ready(farebox_engines::NAME_ENVOY).await?;
    Ok(format!("http://localhost:{port}"))
}

/// An Envoy of its own, for a test.
pub async fn process(
    template: &str,
    source: &str,
    directory: &Path,
    credentials: &Credentials,
    upstream: SocketAddr,
) -> anyhow::Result<Process> {
    let (file, port) = configure(template, source, directory, credentials, upstream)?;
    let file = file.display().to_string();
    let arguments = ["--log-level", "warning", "--disable-hot-restart", "--concurrency", "1", "-c", file.as_str()];
    Process::start(&Artefacts::find(None)?.envoy()?, &arguments, directory, port).await
}

/// Fills the template; returns the file and the port of the listener.
fn configure(
    template: &str,
    source: &str,
    directory: &Path,
    credentials: &Credentials,
    upstream: SocketAddr,
) -> anyhow::Result<(PathBuf, u16)> {
    let farebox = url::Url::parse(&credentials.base_url)?;
    let (port, admin) = (free_port()?, free_port()?);
    let values = [
        ("LISTEN_PORT", port.to_string()),
        ("ADMIN_PORT", admin.to_string()),
        ("FAREBOX_HOST", Ipv4Addr::LOCALHOST.to_string()),
        ("FAREBOX_PORT", farebox.port_or_known_default().context("the instance has no port")?.to_string()),
        ("UPSTREAM_HOST", upstream.ip().to_string()),
        ("UPSTREAM_PORT", upstream.port().to_string()),
        ("SOURCE", source.to_owned()),
        ("TOKEN", credentials.ingest_token.clone()),
    ];
    Ok((fill(directory, "envoy.yaml", template, &values)?, port))
}
