//! What finance types: rate, close, audit.

use std::path::PathBuf;

use anyhow::{Context, bail};
use farebox_billing::rating::cli;
use reqwest::Method;
use serde_json::{Value, json};

use crate::instance::Instance;

#[derive(Debug, clap::Args)]
pub struct Rate {
    /// One entry of a catalogue's `plans`, as YAML.
    #[arg(long)]
    plan: PathBuf,
    /// Currency, period and meter values, as JSON.
    #[arg(long)]
    usage: PathBuf,
    /// A change to preview, as JSON: `at`, and `to_plan` (the entry of the new plan; null to leave). The usage is then
    /// what was counted before it.
    #[arg(long)]
    change: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
pub enum Audit {
    /// Derive every line of an invoice again and compare.
    Invoice { id: String },
}

#[derive(Debug, clap::Args)]
pub struct Close {
    /// A month, such as 2026-10.
    #[arg(long)]
    period: String,
}

pub fn rate(command: &Rate) -> anyhow::Result<()> {
    let read = |file: &PathBuf| std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()));
    let (plan, usage) = (read(&command.plan)?, read(&command.usage)?);
    let lines = match &command.change {
        None => cli::rate(&plan, &usage)?,
        Some(change) => cli::change(&plan, &usage, &read(change)?)?,
    };
    println!("{}", serde_json::to_string_pretty(&lines)?);
    Ok(())
}

pub async fn close(instance: &Instance, command: &Close) -> anyhow::Result<()> {
    let answer = close_period(instance, &command.period).await?;
    println!("{}", serde_json::to_string_pretty(&answer)?);
    Ok(())
}

pub async fn close_period(instance: &Instance, period: &str) -> anyhow::Result<Value> {
    instance.json(instance.request(Method::POST, "/api/v1/close").json(&json!({ "period": period }))).await
}

pub async fn audit(instance: &Instance, command: Audit) -> anyhow::Result<()> {
    match command {
        Audit::Invoice { id } => {
            let report = instance.get(&format!("/api/v1/invoices/{id}/audit")).await?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            if report["equal"] != json!(true) {
                bail!("invoice {id} differs from what its events give today; the differences are named above");
            }
            Ok(())
        }
    }
}
