//! The engines for development: starts them in a directory, says where they answer, waits for Ctrl-C.
//!
//! `cargo run -p farebox-engines --example engines -- up --data DIR` writes `DIR/engines.json`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use farebox_engines::cli::{self, EngineCommand};
use farebox_engines::{Engines, Options, Ports, Progress};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the engines and wait.
    Up {
        #[arg(long)]
        data: PathBuf,
        #[arg(long)]
        kafka_port: Option<u16>,
        #[arg(long)]
        clickhouse_port: Option<u16>,
        #[arg(long)]
        postgres_port: Option<u16>,
        #[arg(long)]
        stripe_port: Option<u16>,
        /// Ask ClickHouse's clients for no password.
        #[arg(long)]
        open: bool,
    },
    /// Be one engine.
    #[command(subcommand, hide = true)]
    Engine(EngineCommand),
}

#[tokio::main]
async fn main() -> Result<()> {
    farebox_core::tls::install();
    match Arguments::parse().command {
        Command::Engine(command) => cli::run(command).await,
        Command::Up { data, kafka_port, clickhouse_port, postgres_port, stripe_port, open } => {
            let mut options = Options::new(data);
            options.ports =
                Ports { kafka: kafka_port, clickhouse: clickhouse_port, postgres: postgres_port, stripe: stripe_port, ..Ports::default() };
            options.clickhouse_password = open.then(String::new);
            options.progress = Progress::new(|engine, event| eprintln!("{engine:<12}{event}"));
            let engines = Engines::start(options).await?;
            println!("{}", serde_json::to_string_pretty(engines.addresses())?);
            let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            let ended = tokio::select! {
                _ = terminated.recv() => Ok(()),
                _ = tokio::signal::ctrl_c() => Ok(()),
                failure = engines.failed() => Err(failure.into()),
            };
            engines.stop().await;
            ended
        }
    }
}
