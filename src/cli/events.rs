//! What is done with raw events as a whole: how long they are kept, and whose names they carry.

use anyhow::bail;
use reqwest::Method;
use serde_json::{Value, json};

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
    say!("{}", kept(&answer));
    Ok(())
}

fn kept(answer: &Value) -> String {
    let day = |value: &Value| value.as_str().and_then(|at| at.get(..10)).unwrap_or("-").to_owned();
    let mut lines = vec![match answer["keep_days"].as_u64() {
        Some(days) => format!("Raw events are kept for {days} days; whole months (UTC) expire, some minutes after they are due."),
        None => "Raw events are kept for ever.".to_owned(),
    }];
    let (closing, frozen) = (day(&answer["closing_until"]), day(&answer["frozen_until"]));
    if closing > frozen {
        lines.push(format!("Events before {closing} are not taken any more; they are about to be deleted."));
    }
    let months = answer["frozen"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !months.is_empty() {
        lines.push(format!("Events before {frozen} are deleted. Their numbers stay, and this is what proves them:"));
        lines.push(format!("\n{:<8} {:>14}  {:<32}  frozen on", "month", "events", "hash over their ids"));
    }
    for month in months {
        let hash = month["hash"].as_str().unwrap_or_default();
        let name = day(&month["month"]);
        lines.push(format!(
            "{:<8} {:>14}  {hash:<32}  {}",
            &name[..name.len().min(7)],
            month["events"].to_string(),
            day(&month["frozen_at"])
        ));
    }
    lines.join("\n")
}

pub async fn erase(instance: &Instance, command: &Erase) -> anyhow::Result<()> {
    let path = format!("/api/v1/consumers/{}", command.consumer);
    let consumer = instance.get(&path).await?;
    if !command.yes {
        bail!("{} would be erased, which cannot be undone; repeat with --yes", consumer["name"].as_str().unwrap_or(&command.consumer));
    }
    let erasure = instance.json(instance.request(Method::POST, &format!("{path}/erasures"))).await?;
    let name = consumer["name"].as_str().unwrap_or(&command.consumer);
    say!("{name} is erased: what named it is a pseudonym now or gone, and no total has changed. Replaced or removed:");
    for (what, n) in erasure["report"].as_object().into_iter().flatten() {
        say!("{:>12}  {}", n.to_string(), what.replace('_', " "));
    }
    Ok(())
}
