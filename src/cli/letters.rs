//! `farebox replay`: dead letters back through ingest.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::json;

use crate::instance::Instance;

#[derive(Debug, clap::Args)]
pub struct Replay {
    /// Only those rejected for this reason.
    #[arg(long)]
    reason: Option<String>,
    /// Only those rejected since this time, RFC 3339.
    #[arg(long)]
    since: Option<DateTime<Utc>>,
}

pub async fn replay(instance: &Instance, command: &Replay) -> anyhow::Result<()> {
    let body = json!({ "reason": command.reason, "since": command.since });
    let report = instance.json(instance.request(Method::POST, "/api/v1/dead-letters/replay").json(&body)).await?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
