//! Benchmarks that mean something on any machine: each measures Farebox and a bare yardstick in the same run, on the
//! same engines, and holds the ratio of the two against what must be kept.
//!
//! 1. [`collector`]: `POST /v1/events` against a loop of axum, serde and rdkafka that promises the same (202 only after
//!    all brokers acknowledged).
//! 2. [`decide`]: `/v1/decide` against a bare axum handler that hashes the key and looks it up.
//! 3. [`pipeline`]: from Kafka until every row can be seen in ClickHouse, against inserting the same rows directly.
//! 4. [`decode`]: a record of each gateway's format, against parsing it into `serde_json::Value`. Needs no engines.
//! 5. [`memory`]: what ingest, metering and access take under load as processes of their own, against 200 MiB.
//! 6. [`scale`]: questions over three months of events, against a scan of them and against raw JSON aggregated when
//!    asked; only by name (`--only scale`), since it takes minutes and disk.
//! 7. [`billing`]: a month of many subscriptions of ten prices, rated against a loop of the rating functions in memory and
//!    drafted against PostgreSQL's insert of the same rows; only by name (`--only billing`).
//!
//! `make bench` builds both sides optimised. Engines are started for this alone: roles that run beside would take from
//! one side more than from the other.
#![forbid(unsafe_code)]

mod bare;
mod billing;
mod collector;
mod decide;
mod decode;
mod engines;
mod load;
mod memory;
mod pipeline;
mod report;
mod scale;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::engines::Bench;
use crate::report::Report;

#[derive(Debug, Parser)]
#[command(name = "farebox-bench", about = "Ratios to limits measured in the same run")]
struct Arguments {
    /// Data directory of the engines, made when it is not there.
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
    /// Seconds for each measurement of the collector; each is made three times on both sides, in turns.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Events through the pipeline.
    #[arg(long, default_value_t = 200_000)]
    events: usize,
    #[command(flatten)]
    scale: scale::Options,
    /// Subscriptions, of ten prices each, whose month is billed.
    #[arg(long, default_value_t = 100_000)]
    invoices: usize,
    /// The binary that runs the engines and whose memory is measured; beside this one unless given.
    #[arg(long)]
    farebox: Option<PathBuf>,
    /// Only these: decode, decide, pipeline, collector, memory, scale, billing. All but the last two unless given.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Exit with 1 when a ratio is below what must be kept.
    #[arg(long)]
    check: bool,
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        (self.only.is_empty() && !["scale", "billing"].contains(&name)) || self.only.iter().any(|only| only == name)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    farebox_core::tls::install();
    let arguments = Arguments::parse();
    let mut report = Report::default();
    if arguments.wants("decode") {
        decode::measure(Duration::from_secs(arguments.seconds.max(1)), &mut report)?;
    }
    if ["pipeline", "collector", "decide", "memory", "scale", "billing"].iter().any(|name| arguments.wants(name)) {
        let beside = std::env::current_exe()?.with_file_name("farebox");
        let farebox = arguments.farebox.as_deref().unwrap_or(&beside);
        let bench = Bench::start(&arguments.data, farebox).await?;
        let measured = measure(&bench, farebox, &arguments, &mut report).await;
        bench.remove().await?;
        measured?;
    }
    println!("{report}");
    Ok(if arguments.check && !report.holds() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn measure(bench: &Bench, farebox: &Path, arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let time = Duration::from_secs(arguments.seconds.max(1));
    // First, while the topic holds nothing else.
    if arguments.wants("pipeline") {
        pipeline::measure(bench, arguments.events.max(1000), report).await?;
    }
    if arguments.wants("scale") {
        scale::measure(bench, &arguments.scale, report).await?;
    }
    if arguments.wants("billing") {
        billing::measure(bench, arguments.invoices.max(1), report).await?;
    }
    // Before the bare loop fills the topic with what is no event of ours.
    if arguments.wants("memory") {
        memory::measure(bench, farebox, time * 3, report).await?;
    }
    if arguments.wants("collector") {
        collector::measure(bench, time, report).await?;
    }
    if arguments.wants("decide") {
        decide::measure(bench, time, report).await?;
    }
    Ok(())
}
