//! `farebox replay`: dead letters back through ingest.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::json;

use super::print_json;
use crate::instance::Instance;

#[derive(Debug, clap::Args)]
pub struct Replay {
    /// Only those rejected for this reason.
    #[arg(long)]
    reason: Option<String>,
    /// Only those that came through this source.
    #[arg(long)]
    source: Option<String>,
    /// Only those with this text in the event as it came, its id, source or origin, or the detail.
    #[arg(long)]
    text: Option<String>,
    /// Only those rejected at or after this time, RFC 3339.
    #[arg(long)]
    since: Option<DateTime<Utc>>,
    /// Only those rejected before this time, RFC 3339.
    #[arg(long)]
    until: Option<DateTime<Utc>>,
}

pub async fn replay(instance: &Instance, command: &Replay) -> anyhow::Result<()> {
    let Replay { reason, source, text, since, until } = command;
    let body = json!({ "reason": reason, "source": source, "text": text, "since": since, "until": until });
    let report = instance.json(instance.request(Method::POST, "/api/v1/dead-letters/replay").json(&body)).await?;
    print_json(&report)
}
