//! What is done with raw events as a whole: how long they are kept, and whose names they carry.

use anyhow::bail;
use reqwest::Method;
use serde_json::json;

use super::print_json;
use crate::instance::Instance;

#[derive(Debug, clap::Args)]
pub struct Retention {
    /// Days, at least 62; whole months expire.
    #[arg(long, conflicts_with = "forever")]
    keep_days: Option<u32>,
    #[arg(long)]
    forever: bool,
}

#[derive(Debug, clap::Args)]
pub struct Erase {
    /// Its id.
    consumer: String,
    /// Without it nothing is erased.
    #[arg(long)]
    yes: bool,
}

pub async fn retention(instance: &Instance, command: &Retention) -> anyhow::Result<()> {
    let answer = if command.forever || command.keep_days.is_some() {
        instance.json(instance.request(Method::PUT, "/api/v1/retention").json(&json!({ "keep_days": command.keep_days }))).await?
    } else {
        instance.get("/api/v1/retention").await?
    };
    print_json(&answer)
}

pub async fn erase(instance: &Instance, command: &Erase) -> anyhow::Result<()> {
    let path = format!("/api/v1/consumers/{}", command.consumer);
    let consumer = instance.get(&path).await?;
    if !command.yes {
        bail!("{} would be erased, which cannot be undone; repeat with --yes", consumer["name"].as_str().unwrap_or(&command.consumer));
    }
    let erasure = instance.json(instance.request(Method::POST, &format!("{path}/erasures"))).await?;
    print_json(&erasure)
}
