//! `farebox backfill`: history from a file or a topic, previewed before it counts.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::each;
use crate::instance::Instance;
use crate::progress::Step;

/// Records sent together.
const LINES: usize = 2000;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Records, one a line.
    #[arg(required_unless_present_any = ["topic", "resume"])]
    file: Option<PathBuf>,
    /// The topic of a source instead of a file: for what was too old when it came.
    #[arg(long, conflicts_with = "file")]
    topic: Option<String>,
    /// Whose events they are.
    #[arg(long, default_value = "backfill")]
    source: String,
    #[arg(long, default_value = "cloudevents")]
    format: String,
    /// Go on with a job that was interrupted: its id, with the same file.
    #[arg(long)]
    resume: Option<String>,
    /// Take it over after the preview. Without it the preview is shown and the job stays open.
    #[arg(long)]
    commit: bool,
}

pub async fn run(instance: &Instance, options: &Options) -> anyhow::Result<()> {
    let mut job = match &options.resume {
        Some(id) => instance.get(&format!("/api/v1/backfills/{id}")).await?,
        None => {
            let known_by = options.file.as_deref().map(hash).transpose()?;
            let new = json!({ "source": options.source, "format": options.format, "file": known_by, "topic": options.topic });
            instance.json(instance.request(Method::POST, "/api/v1/backfills").json(&new)).await?
        }
    };
    let id = job["id"].as_str().context("the job has no id")?.to_owned();
    let path = format!("/api/v1/backfills/{id}");
    say!("Job {id}");
    if let (Some(file), Some("open")) = (&options.file, job["state"].as_str()) {
        send(instance, &path, file, job["next_chunk"].as_u64().unwrap_or(0)).await?;
    }
    job = wait(instance, &path, "reading", "Reading the topic").await?;
    if job["state"] == json!("open") {
        let preview = instance.get(&format!("{path}/preview")).await?;
        show(&preview);
        if !options.commit {
            say!("\nNothing counts yet. Take it over: farebox backfill --resume {id} --commit");
            return Ok(());
        }
        let expected = json!({ "expected_events": preview["new"] });
        instance.json(instance.request(Method::POST, &format!("{path}/commit")).json(&expected)).await?;
    }
    let job = wait(instance, &path, "committing", "Taking over").await?;
    if job["state"] != json!("done") {
        bail!("the job is {}", job["state"]);
    }
    say!("Done: {} minutes taken over.", job["minutes"]);
    Ok(())
}

fn hash(file: &Path) -> anyhow::Result<String> {
    let mut reader = open(file)?;
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            return Ok(hex::encode(&digest.finalize()[..16]));
        }
        digest.update(&buffer[..n]);
    }
}

fn open(file: &Path) -> anyhow::Result<std::fs::File> {
    std::fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))
}

async fn send(instance: &Instance, path: &str, file: &Path, first: u64) -> anyhow::Result<()> {
    let mut lines = BufReader::new(open(file)?).split(b'\n');
    let (mut number, mut accepted, mut rejected) = (0, 0, 0);
    let step = Step::start("Sending");
    loop {
        let mut body = Vec::new();
        let mut any = false;
        for line in lines.by_ref().take(LINES) {
            any = true;
            body.extend(line?);
            body.push(b'\n');
        }
        if !any {
            step.done(&format!("{accepted} events, {rejected} records that are none"));
            return Ok(());
        }
        if number >= first {
            let request = instance.request(Method::PUT, &format!("{path}/chunks/{number}")).header("content-type", "application/x-ndjson");
            let taken = instance.json(request.body(body)).await?;
            accepted += taken["accepted"].as_u64().unwrap_or(0);
            for refused in each(&taken, "rejected") {
                rejected += 1;
                if rejected <= 10 {
                    eprintln!("  {}: {}", text(&refused["place"]), text(&refused["detail"]));
                }
            }
        }
        number += 1;
    }
}

async fn wait(instance: &Instance, path: &str, state: &str, what: &'static str) -> anyhow::Result<Value> {
    let step = Step::start(what);
    loop {
        let job = instance.get(path).await?;
        if job["state"] != json!(state) {
            step.done(&format!("{} of {} minutes", job["minutes_done"], job["minutes"]));
            return Ok(job);
        }
        step.say(format!("{} events, {} of {} minutes", job["accepted"], job["minutes_done"], job["minutes"]));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn show(preview: &Value) {
    say!("\n{:>12}  events", preview["events"]);
    say!("{:>12}  would be new", preview["new"]);
    say!("{:>12}  are there already", preview["already_there"]);
    say!("{:>12}  of months that have expired", preview["frozen"]);
    say!("from {} to {}\n", text(&preview["first"]), text(&preview["last"]));
    for day in each(preview, "days").take(20) {
        say!("{:>12}  {}  {}", day["events"], text(&day["day"]), text(&day["consumer"]));
    }
    for meter in each(preview, "meters").take(20) {
        let [after, name, month, subscription] = ["after", "meter", "month", "subscription"].map(|field| text(&meter[field]));
        say!("{after:>12}  {name} more in {month}  {subscription}");
    }
    for money in each(preview, "money").take(20) {
        let [before, after, month, subscription] = ["before", "after", "month", "subscription"].map(|field| text(&money[field]));
        say!("{before:>12} -> {after}  in {month}  {subscription}");
    }
}
