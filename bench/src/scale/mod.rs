//! Many events: what questions cost over three months of them, against a scan of the events themselves and against the
//! scheme that aggregates raw JSON when asked; what rolling up costs; how fresh answers are; how large all of it is.

mod fresh;
mod generate;
mod questions;

use std::path::Path;
use std::time::{Duration, Instant};

use farebox_metering::{recompute, tiers};

use crate::engines::Bench;
use crate::report::{Line, Report};

/// At a scale like this the ratios must hold; below it the events' own scan is too quick to tell.
const FULL: u64 = 100_000_000;

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Events of the scale benchmark, over three months; 100000000 is what its limits are for.
    #[arg(long, default_value_t = 5_000_000)]
    scale_events: u64,
    /// Events a second of the live minutes whose recomputation is timed.
    #[arg(long, value_delimiter = ',', default_values_t = [12_500])]
    live: Vec<u64>,
    /// Seconds of live traffic for freshness, at 12500 events/s; 0 leaves it out.
    #[arg(long, default_value_t = 10)]
    fresh_seconds: u64,
}

pub async fn measure(bench: &Bench, options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let app = &bench.app;
    let made = generate::months(app, options.scale_events).await?;
    report.note(format!("{} events of {} consumers made in {:.0} s", made.events, generate::CONSUMERS, made.took.as_secs_f64()));
    let start = Instant::now();
    let minutes = recompute::workspace(app, &made.workspace).await?;
    report.note(format!(
        "{minutes} minutes of 2 rollups computed in {:.0} s: {}",
        start.elapsed().as_secs_f64(),
        rate(2 * made.events, start.elapsed())
    ));
    let start = Instant::now();
    let buckets = tiers::workspace(app, &made.workspace).await?;
    report.note(format!("{buckets} hours and days filled in {:.0} s", start.elapsed().as_secs_f64()));

    let yardsticks = questions::consumer_months(app, &made, report).await?;
    let least = if made.events >= FULL { 50.0 } else { 1.0 };
    report.add(Line {
        what: "a consumer's month by day, p99".to_owned(),
        unit: "1/s",
        ours: yardsticks.ours.as_secs_f64().recip(),
        yardstick: yardsticks.json.as_secs_f64().recip(),
        yardstick_name: "raw JSON aggregated when asked",
        least,
        less_is_better: false,
    });
    report.add(Line {
        what: "a consumer's month by day, p99".to_owned(),
        unit: "1/s",
        ours: yardsticks.ours.as_secs_f64().recip(),
        yardstick: yardsticks.events.as_secs_f64().recip(),
        yardstick_name: "a scan of the events",
        least: 1.0,
        less_is_better: false,
    });
    questions::totals(app, &made, report).await?;
    generate::sizes(app, &made, report).await?;
    for per_second in &options.live {
        let live = generate::minute(app, &made.workspace, *per_second).await?;
        let start = Instant::now();
        recompute::workspace(app, &made.workspace).await?;
        report.note(format!(
            "a live minute of {per_second} events/s ({live} events): 2 rollups computed in {:.2} s",
            start.elapsed().as_secs_f64()
        ));
    }
    if options.fresh_seconds > 0 {
        fresh::measure(bench, Duration::from_secs(options.fresh_seconds), report).await?;
    }
    report.note(format!("this process, metering included, took {} at most", peak_memory()));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a rate to look at; nothing is billed by it")]
fn rate(n: u64, time: Duration) -> String {
    format!("{:.0} events/s", n as f64 / time.as_secs_f64())
}

/// The value below which so many percent lie.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .map_or_else(|| "an unknown amount".to_owned(), |size| size.trim().to_owned())
}
