//! A real Traefik with the configuration of `deploy/gateways/traefik`. It writes its calls to `access.jsonl`.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use farebox_engines::artefacts::Artefacts;

use crate::gateway::process::{Process, fill, free_port};
use crate::instance::Credentials;

/// The source that it is registered as.
pub const SOURCE: &str = "traefik-1";

pub async fn process(directory: &Path, credentials: &Credentials, upstream: SocketAddr) -> anyhow::Result<Process> {
    let port = free_port()?;
    let values = [
        ("LISTEN", format!("127.0.0.1:{port}")),
        ("DECIDE_LISTEN", format!("127.0.0.1:{}", free_port()?)),
        ("DIRECTORY", directory.display().to_string()),
        ("FAREBOX", credentials.base_url.clone()),
        ("UPSTREAM", format!("http://{upstream}")),
        ("SOURCE", SOURCE.to_owned()),
        ("TOKEN", credentials.ingest_token.clone()),
    ];
    let file = fill(directory, "traefik.yaml", include_str!("../../deploy/gateways/traefik/traefik.yaml"), &values)?;
    fill(directory, "routes.yaml", include_str!("../../deploy/gateways/traefik/routes.yaml"), &values)?;
    let argument = format!("--configFile={}", file.display());
    let process = Process::start(&Artefacts::find(None)?.traefik()?, &[argument], directory, port).await?;
    // It listens before it has read its routes.
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while client.get(format!("{}/orders", process.url)).send().await?.status() != reqwest::StatusCode::MOVED_PERMANENTLY {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "Traefik does not know its routes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(process)
}
