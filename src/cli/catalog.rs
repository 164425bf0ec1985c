//! `farebox catalog`: meters, plans and APIs as code.

use std::path::PathBuf;

use anyhow::Context;
use reqwest::{Method, header};
use serde_json::Value;

use crate::instance::Instance;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Apply the file in one transaction. Safe to repeat.
    Apply { file: PathBuf },
    /// Show what `apply` would change.
    Diff { file: PathBuf },
    /// Print what is in force, as a file that `apply` takes.
    Export,
}

pub async fn run(instance: &Instance, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Apply { file } => {
            print_changes(&send(instance, &file, false).await?, "Nothing to change: the catalogue is as the file says.", "Applied");
        }
        Command::Diff { file } => print_changes(&send(instance, &file, true).await?, "No difference.", "Would change"),
        Command::Export => {
            let response = instance.request(Method::GET, "/api/v1/catalog").send().await?.error_for_status()?;
            say!("{}", response.text().await?.trim_end());
        }
    }
    Ok(())
}

async fn send(instance: &Instance, file: &std::path::Path, dry_run: bool) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    apply(instance, text, dry_run).await.with_context(|| format!("{} was not applied", file.display()))
}

/// Sends a catalogue to a running instance.
pub async fn apply(instance: &Instance, text: String, dry_run: bool) -> anyhow::Result<Value> {
    let request = instance
        .request(Method::POST, &format!("/api/v1/catalog?dry_run={dry_run}"))
        .header(header::CONTENT_TYPE, "application/yaml")
        .body(text);
    instance.json(request).await
}

fn print_changes(answer: &Value, none: &str, some: &str) {
    let changes = answer["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if changes.is_empty() {
        say!("{none}");
        return;
    }
    say!("{some}:");
    for change in changes {
        say!("  {}", change.as_str().map_or_else(|| change.to_string(), str::to_owned));
    }
}
