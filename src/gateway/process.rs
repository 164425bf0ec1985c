//! A gateway as a child process of a test or the demo: its configuration filled in, started, and its port awaited.

use std::ffi::OsStr;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use farebox_engines::ports;
use tokio::process::{Child, Command};

const START: Duration = Duration::from_secs(30);

/// A running gateway; stopped when dropped.
pub struct Process {
    pub url: String,
    /// Where its files are.
    pub directory: PathBuf,
    child: Child,
}

impl Process {
    /// Returns once it listens.
    pub async fn start<A: AsRef<OsStr>>(program: &Path, arguments: &[A], directory: &Path, port: u16) -> anyhow::Result<Self> {
        let log = directory.join("gateway.log");
        let out = std::fs::File::create(&log)?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be run", program.display()))?;
        let deadline = tokio::time::Instant::now() + START;
        while !ports::answers(port) {
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status}:\n{}", program.display(), std::fs::read_to_string(&log).unwrap_or_default());
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "{} does not listen", program.display());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { url: format!("http://127.0.0.1:{port}"), directory: directory.to_owned(), child })
    }

    pub async fn stop(mut self) {
        let _ = self.child.kill().await;
    }
}

/// Writes `template` to `directory/name` with each `${NAME}` replaced. Nobody else may read it: it holds a token.
pub fn fill(directory: &Path, name: &str, template: &str, values: &[(&str, String)]) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let text = values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value));
    let file = directory.join(name);
    let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file)?;
    out.write_all(text.as_bytes())?;
    Ok(file)
}

pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
