//! `farebox simulate`: traffic whose truth is known. Requests of made-up consumers, with given shares of duplicates,
//! late and malformed events and in disorder, sent to the collector until it acknowledged each; the ground truth is
//! kept beside it and can be compared with what Farebox answers, to the last request.

mod send;
mod traffic;
mod truth;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::TimeDelta;
use farebox_core::clock;
use indicatif::{ProgressBar, ProgressStyle};

use crate::instance::Instance;
pub use traffic::{Shares, Traffic};
pub use truth::{Difference, Truth};

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Requests per second.
    #[arg(long, default_value_t = 500)]
    pub rate: u32,
    /// How long, such as 30s or 5m.
    #[arg(long = "for", default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// How many consumers call.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub consumers: u32,
    /// Percent of events that are sent twice.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub duplicates: u32,
    /// Percent of events that come days after they happened.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub late: u32,
    /// Percent of events that no decoder can accept.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub malformed: u32,
    /// The same seed makes the same traffic.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where to write the ground truth, as JSON.
    #[arg(long)]
    pub truth: Option<PathBuf>,
    /// Afterwards compare what Farebox counted with the truth, and fail on any difference.
    #[arg(long)]
    pub verify: bool,
    /// How many requests were acknowledged so far, for whoever watches.
    #[arg(skip)]
    pub acknowledged: Arc<AtomicU64>,
}

/// How long counting may lag behind the last acknowledgement before a difference is called one.
const SETTLE: Duration = Duration::from_mins(2);

pub async fn run(instance: &Instance, options: &Options) -> anyhow::Result<()> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let shares = Shares { duplicates: options.duplicates, late: options.late, malformed: options.malformed };
    let total = u64::from(options.rate) * options.duration.as_secs().max(1);
    let run = format!("sim-{}", &uuid::Uuid::now_v7().simple().to_string()[..12]);
    let mut traffic = Traffic::new(&run, options.consumers, shares, seed);
    for subject in traffic.subjects() {
        let id = send::create_consumer(instance, &subject).await?;
        traffic.truth.consumers.insert(subject, id);
    }

    let bar = ProgressBar::new(total).with_style(ProgressStyle::with_template("{msg:22} {wide_bar} {pos}/{len} {per_sec}")?);
    bar.set_message("Sending requests");
    let started = tokio::time::Instant::now();
    let mut sent = 0_u64;
    while sent < total {
        let size = u64::from((options.rate / 20).clamp(1, 1000)).min(total - sent);
        let batch = traffic.batch(usize::try_from(size)?, clock::now());
        send::batch(instance, &batch).await?;
        sent += size;
        options.acknowledged.store(sent, Ordering::Relaxed);
        bar.inc(size);
        // Paced by the plan, not by the answers: a slow collector makes it catch up.
        tokio::time::sleep_until(started + Duration::from_secs_f64(f64::from(u32::try_from(sent)?) / f64::from(options.rate))).await;
    }
    send::batch(instance, &traffic.rest()).await?;
    bar.finish_and_clear();

    let truth = traffic.truth;
    if let Some(file) = &options.truth {
        std::fs::write(file, serde_json::to_vec_pretty(&truth)?).with_context(|| format!("{} cannot be written", file.display()))?;
        say!("The truth is in {}.", file.display());
    }
    say!("{} events sent: {} requests, {} sent again, {} malformed.", truth.sent, truth.distinct, truth.duplicates, truth.malformed);
    if options.verify {
        verify(instance, &truth, SETTLE).await?;
    }
    Ok(())
}

/// Waits until every answer equals the truth; past `settle`, names the differences.
pub async fn verify(instance: &Instance, truth: &Truth, settle: Duration) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + settle;
    loop {
        let differences = truth.compare(instance).await;
        match differences {
            Ok(differences) if differences.is_empty() => {
                say!(
                    "Counted: {} requests by consumer, route and status, and {} dead letters with a reason. Equal to what was sent.",
                    truth.distinct,
                    truth.malformed
                );
                return Ok(());
            }
            Ok(differences) if tokio::time::Instant::now() >= deadline => {
                let shown: Vec<_> = differences.iter().take(20).map(ToString::to_string).collect();
                bail!("{} numbers differ from the truth:\n  {}", differences.len(), shown.join("\n  "));
            }
            Err(cause) if tokio::time::Instant::now() >= deadline => return Err(cause),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
        }
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let explain = || format!("`{text}` is not a duration; write for example 30s, 5m or 1h");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(explain)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| explain())?;
    let seconds = match unit {
        "s" => number,
        "m" => number * 60,
        "h" => number * 3600,
        _ => return Err(explain()),
    };
    if seconds == 0 { Err(explain()) } else { Ok(Duration::from_secs(seconds)) }
}

/// How far back a late event is dated: hours to 20 days, inside the window every source accepts.
fn lateness(hours: i64) -> TimeDelta {
    TimeDelta::hours(hours)
}
