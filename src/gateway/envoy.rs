//! A real Envoy with the configuration of `deploy/gateways/envoy`: it asks `/v1/decide` before each call, strips forged
//! ids, and tells `/v1/logs` of each call after.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use farebox_engines::artefacts::Artefacts;
use farebox_engines::ports;
use tokio::process::{Child, Command};

use crate::instance::{Credentials, Find};
use crate::up::Running;

const TEMPLATE: &str = include_str!("../../deploy/gateways/envoy/envoy.yaml");
/// The source that this Envoy is registered as, in the demo's catalogue and the tests'.
const SOURCE: &str = "envoy-1";
const START: Duration = Duration::from_secs(30);

/// Starts Envoy as one of the instance's engines; returns its address.
pub async fn start(find: &Find, running: &Running, upstream: SocketAddr) -> anyhow::Result<String> {
    let directory = find.data.join("envoy");
    let (file, port) = configure(&directory, &running.credentials, upstream)?;
    running.engines.start_envoy(&file, port)?;
    running.engines.ready(farebox_engines::NAME_ENVOY).await?;
    Ok(format!("http://localhost:{port}"))
}

/// An Envoy of its own, for a test.
pub struct Process {
    pub url: String,
    child: Child,
}

impl Process {
    pub async fn start(directory: &Path, credentials: &Credentials, upstream: SocketAddr) -> anyhow::Result<Self> {
        let (file, port) = configure(directory, credentials, upstream)?;
        let log = std::fs::File::create(directory.join("envoy.log"))?;
        let mut child = Command::new(Artefacts::find(None)?.envoy()?)
            .args(["--log-level", "warning", "--disable-hot-restart", "--concurrency", "1", "-c"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("Envoy cannot be run")?;
        let deadline = tokio::time::Instant::now() + START;
        while !ports::answers(port) {
            if let Some(status) = child.try_wait()? {
                bail!("Envoy ended with {status}:\n{}", std::fs::read_to_string(directory.join("envoy.log")).unwrap_or_default());
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "Envoy does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { url: format!("http://127.0.0.1:{port}"), child })
    }

    pub async fn stop(mut self) {
        let _ = self.child.kill().await;
    }
}

/// Fills the template; returns the file and the port of the listener.
fn configure(directory: &Path, credentials: &Credentials, upstream: SocketAddr) -> anyhow::Result<(PathBuf, u16)> {
    use std::io::Write;
    std::fs::create_dir_all(directory)?;
    let farebox = url::Url::parse(&credentials.base_url)?;
    let (port, admin) = (free_port()?, free_port()?);
    let values = [
        ("LISTEN_PORT", port.to_string()),
        ("ADMIN_PORT", admin.to_string()),
        ("FAREBOX_HOST", Ipv4Addr::LOCALHOST.to_string()),
        ("FAREBOX_PORT", farebox.port_or_known_default().context("the instance has no port")?.to_string()),
        ("UPSTREAM_HOST", upstream.ip().to_string()),
        ("UPSTREAM_PORT", upstream.port().to_string()),
        ("SOURCE", SOURCE.to_owned()),
        ("TOKEN", credentials.ingest_token.clone()),
    ];
    let text = values.iter().fold(TEMPLATE.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value));
    let file = directory.join("envoy.yaml");
    // It holds the source's token.
    let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file)?;
    out.write_all(text.as_bytes())?;
    Ok((file, port))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
