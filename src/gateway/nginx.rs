//! A real nginx with the configuration of `deploy/gateways/nginx`. It writes its calls to `access.jsonl`.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use farebox_engines::artefacts;

use crate::gateway::process::{Process, fill, free_port};
use crate::instance::Credentials;

/// The source that it is registered as.
pub const SOURCE: &str = "nginx-1";

pub async fn process(directory: &Path, credentials: &Credentials, upstream: SocketAddr) -> anyhow::Result<Process> {
    let port = free_port()?;
    let farebox = url::Url::parse(&credentials.base_url)?;
    let values = [
        ("LISTEN", format!("127.0.0.1:{port}")),
        ("DIRECTORY", directory.display().to_string()),
        ("FAREBOX_ADDRESS", format!("127.0.0.1:{}", farebox.port_or_known_default().context("the instance has no port")?)),
        ("UPSTREAM_ADDRESS", upstream.to_string()),
        ("SOURCE", SOURCE.to_owned()),
        ("TOKEN", credentials.ingest_token.clone()),
    ];
    let file = fill(directory, "nginx.conf", include_str!("../../deploy/gateways/nginx/nginx.conf"), &values)?;
    fill(directory, "farebox.conf", include_str!("../../deploy/gateways/nginx/farebox.conf"), &values)?;
    let file = file.display().to_string();
    let error_log = directory.join("error.log").display().to_string();
    let arguments = ["-c", file.as_str(), "-e", error_log.as_str(), "-g", "daemon off; master_process off;"];
    Process::start(&artefacts::nginx()?, &arguments, directory, port).await
}
