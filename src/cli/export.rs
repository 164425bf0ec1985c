//! `farebox export`: a report as a file, with a manifest of what it adds up to beside it.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{each, encoded};
use crate::instance::Instance;

#[derive(Debug, clap::Args)]
pub struct Export {
    /// invoices, lines, ...; what there is stands in `GET /api/v1/exports`.
    report: String,
    /// csv, parquet or xlsx.
    #[arg(long, default_value = "csv")]
    format: String,
    /// From here, inclusive: a day (2026-10-01) or month (2026-10) of the workspace's calendar, or an RFC 3339 instant.
    #[arg(long)]
    from: String,
    /// To here, exclusive: October is `--from 2026-10 --to 2026-11`.
    #[arg(long)]
    to: String,
    /// What places an invoice in the period: `issued`, or `period` for when the period it bills began.
    #[arg(long, default_value = "issued")]
    by: String,
    /// Where to; a name of its own in this directory unless given, `-` for standard output.
    #[arg(long, short)]
    out: Option<PathBuf>,
}

pub async fn export(instance: &Instance, command: &Export) -> anyhow::Result<()> {
    let request = instance.request(Method::GET, &format!("/api/v1/exports/{}", encoded(&command.report)));
    let query = [("format", &command.format), ("from", &command.from), ("to", &command.to), ("by", &command.by)];
    let response = request.query(&query).send().await.with_context(|| format!("{} does not answer", instance.base_url))?;
    if !response.status().is_success() {
        return instance.problem(response).await;
    }
    match command.out.as_deref() {
        Some(out) if out == Path::new("-") => copy(response, &mut std::io::stdout().lock()).await.map(drop),
        out => save(response, out, command).await,
    }
}

/// Under its final name only when it is whole.
async fn save(response: Response, out: Option<&Path>, command: &Export) -> anyhow::Result<()> {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut manifest: Value = serde_json::from_str(&header("x-farebox-manifest")).unwrap_or_else(|_| json!({}));
    let named = header("content-disposition").split('"').nth(1).and_then(|name| Path::new(name).file_name().map(PathBuf::from));
    let out = out.map(Path::to_path_buf).or(named).context("the answer has no file name; give one with --out")?;
    let part = out.with_added_extension("part");
    let mut file = std::fs::File::create(&part).with_context(|| format!("{} cannot be written", part.display()))?;
    let (bytes, hash) = match copy(response, &mut file).await {
        Ok(done) => done,
        Err(error) => {
            let _ = std::fs::remove_file(&part);
            return Err(error);
        }
    };
    file.sync_all()?;
    std::fs::rename(&part, &out).with_context(|| format!("{} cannot be replaced", out.display()))?;
    manifest["file"] = json!(out.file_name().map(|name| name.to_string_lossy()));
    manifest["bytes"] = json!(bytes);
    manifest["sha256"] = json!(hash);
    let beside = out.with_added_extension("manifest.json");
    std::fs::write(&beside, serde_json::to_vec_pretty(&manifest)?).with_context(|| format!("{} cannot be written", beside.display()))?;
    say!("{}: {} rows, {bytes} bytes, sha256 {hash}", out.display(), manifest["rows"]);
    if manifest["rows"] == json!(0) && command.by == "issued" {
        say!("  Nothing of it was issued in this time; `--by period` asks for what began in it, whenever it was issued.");
    }
    for total in each(&manifest, "totals") {
        let sums = total["sums"].as_object().into_iter().flatten();
        let sums: Vec<_> = sums.map(|(name, sum)| format!("{name} {}", sum.as_str().unwrap_or_default())).collect();
        let text = |key: &str| total[key].as_str().unwrap_or_default();
        say!("  {} {}: {} rows, {}", text("currency"), text("group"), total["rows"], sums.join(", "));
    }
    Ok(())
}

/// An answer that was broken off is an error, not a short file.
async fn copy(mut response: Response, to: &mut impl Write) -> anyhow::Result<(u64, String)> {
    let (mut bytes, mut hash) = (0, Sha256::new());
    loop {
        let piece = response.chunk().await.context("the export was broken off; nothing was kept. The server's log says why")?;
        let Some(piece) = piece else { break };
        to.write_all(&piece)?;
        hash.update(&piece);
        bytes += piece.len() as u64;
    }
    if bytes == 0 {
        bail!("the answer was empty");
    }
    Ok((bytes, hex::encode(hash.finalize())))
}
