//! A running instance, as commands find it: `credentials.json` in its data directory, or `FAREBOX_URL` and
//! `FAREBOX_TOKEN`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use reqwest::{Method, RequestBuilder};
use serde::{Deserialize, Serialize};

/// What `farebox up` leaves for scripts, readable by its user only.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    pub base_url: String,
    /// `provider/environment`.
    pub workspace: String,
    pub admin_token: String,
    pub ingest_token: String,
    pub engines: farebox_engines::Addresses,
}

/// Writes `value` as JSON to a file that only this user can read, replacing it whole.
pub fn write_private<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(|| format!("{} cannot be written", fresh.display()))?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path).with_context(|| format!("{} cannot be replaced", path.display()))
}

/// Where to find the instance: options that every command has.
#[derive(Debug, Clone, clap::Args)]
pub struct Find {
    /// Data directory of a running `farebox up`.
    // Absolute, since engines run in directories of their own.
    #[arg(long, env = "FAREBOX_DATA", default_value = "data", global = true, value_parser = |text: &str| std::path::absolute(text))]
    pub data: PathBuf,
    /// Address of a running instance, instead of the data directory.
    #[arg(long, env = "FAREBOX_URL", global = true)]
    pub url: Option<String>,
    /// A workspace token for that instance.
    #[arg(long, env = "FAREBOX_TOKEN", hide_env_values = true, global = true)]
    pub token: Option<String>,
}

/// A client of one instance's API.
#[derive(Clone)]
pub struct Instance {
    http: reqwest::Client,
    pub base_url: String,
    token: String,
    pub ingest_token: String,
}

impl Find {
    pub fn credentials_file(&self) -> PathBuf {
        self.data.join("credentials.json")
    }

    pub fn credentials(&self) -> anyhow::Result<Credentials> {
        let file = self.credentials_file();
        let text = std::fs::read(&file).with_context(|| {
            format!("no running instance was found: {} cannot be read. Start one with `farebox up`, point --data at its directory, or set FAREBOX_URL and FAREBOX_TOKEN", file.display())
        })?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not what `farebox up` writes", file.display()))
    }

    pub fn instance(&self) -> anyhow::Result<Instance> {
        if let Some(url) = &self.url {
            let token = self.token.clone().context("FAREBOX_URL is given but not FAREBOX_TOKEN: set it to a workspace token")?;
            return Ok(Instance::new(url, &token, &token));
        }
        let found = self.credentials()?;
        Ok(Instance::new(&found.base_url, &found.admin_token, &found.ingest_token))
    }
}

impl Instance {
    pub fn new(base_url: &str, token: &str, ingest_token: &str) -> Self {
        Self {
            http: reqwest::Client::new(),
            base_url: base_url.trim_end_matches('/').to_owned(),
            token: token.to_owned(),
            ingest_token: ingest_token.to_owned(),
        }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base_url)).bearer_auth(&self.token)
    }

    pub fn ingest(&self, path: &str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.base_url)).bearer_auth(&self.ingest_token)
    }

    /// Sends, and turns a problem into an error that reads like one.
    pub async fn json(&self, request: RequestBuilder) -> anyhow::Result<serde_json::Value> {
        let response = request.send().await.with_context(|| format!("{} does not answer", self.base_url))?;
        if response.status().is_success() {
            let text = response.text().await?;
            return Ok(serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text)));
        }
        self.problem(response).await
    }

    /// A refusal, as an error that reads like one.
    pub async fn problem<T>(&self, response: reqwest::Response) -> anyhow::Result<T> {
        let status = response.status();
        let text = response.text().await?;
        let body: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| serde_json::Value::String(text.clone()));
        let title = body["title"].as_str().map_or_else(|| status.to_string(), str::to_owned);
        let detail = body["detail"].as_str().unwrap_or_default();
        let fields = body["errors"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .map(|error| (error["pointer"].as_str().unwrap_or_default(), error["detail"].as_str().unwrap_or_default()))
            // The detail may have said it already.
            .filter_map(|(pointer, said)| match (detail.contains(pointer), detail.contains(said)) {
                (true, true) => None,
                (false, true) => Some(format!("\n  at {pointer}")),
                (_, false) => Some(format!("\n  {pointer}: {said}")),
            });
        bail!("{title}. {detail}{}", fields.collect::<String>())
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        self.json(self.request(Method::GET, path)).await
    }
}
