//! The commands. Exit codes: 0 done, 1 failed, 2 usage.

mod audit;
mod backfill;
pub mod catalog;
pub mod closing;
mod correct;
mod events;
mod export;
mod letters;
mod records;
mod what_if;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use farebox_core::config::Config;
use farebox_core::{App, telemetry};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::instance::Find;
use crate::roles::{self, Role};
use crate::{demo, send, simulate, up};

/// API monetization and analytics: every request counted exactly once, every number traced back to the requests
/// behind it.
#[derive(Debug, Parser)]
#[command(name = "farebox", version)]
struct Cli {
    #[command(flatten)]
    find: Find,
    /// Configuration file; `FAREBOX_*` variables override it.
    #[arg(long, env = "FAREBOX_CONFIG", default_value = "farebox.toml", global = true)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything on this machine: engines and all roles.
    Up(up::Options),
    /// Roles of this process, with external engines from the configuration.
    Serve {
        /// Which roles; all unless given.
        #[arg(long, value_delimiter = ',')]
        roles: Vec<Role>,
    },
    /// Apply the migrations of PostgreSQL and ClickHouse and create the topics.
    Migrate {
        /// Only print the statements for ClickHouse, as they would be run on an empty database.
        #[arg(long)]
        print: bool,
    },
    /// Verify the configuration and that every engine answers.
    Check,
    /// `up`, then a business that has lived for three months, and live traffic through a real gateway.
    Demo(demo::Options),
    /// Meters, plans and APIs as code.
    #[command(subcommand)]
    Catalog(catalog::Command),
    /// A gateway's log file into Farebox, through rotations, restarts and outages.
    Send(send::Options),
    /// History from a file or a topic, as a job: previewed, then taken over.
    Backfill(backfill::Options),
    /// Traffic whose truth is known, with duplicates, late and malformed events at given shares.
    Simulate(simulate::Options),
    /// Send dead letters through ingest again, after a fix. Harmless to repeat.
    Replay(letters::Replay),
    /// Rate usage offline: lines as JSON.
    Rate(closing::Rate),
    /// Plans and drafts side by side on what was really used: who would have paid less and more, and what in all.
    WhatIf(what_if::WhatIf),
    /// Derive numbers again from the raw events and name every difference.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Void or amend events, by id or by filter; first tells what would change, in units and money.
    Correct(correct::Correct),
    /// How long raw events are kept; with an option, from now on.
    Retention(events::Retention),
    /// Erase a consumer's personal data. No total changes; cannot be undone.
    Erase(events::Erase),
    /// Close every subscription period that ended in a month.
    Close(closing::Close),
    /// A test workspace's clock: what it says, or move it ahead, and trials end, periods close, invoices issue.
    Clock(closing::Clock),
    /// Credit an issued invoice, in whole or in part; or void a credit note.
    Credit(closing::Credit),
    /// Finance's files: invoices, lines, ... as CSV, Parquet or XLSX, with what they add up to.
    Export(export::Export),
    /// A fresh one-time sign-in link for the owner.
    LoginLink,
    /// Engine processes that `up` starts.
    #[command(subcommand, hide = true)]
    Engine(farebox_engines::cli::EngineCommand),
}

pub fn main() -> ExitCode {
    farebox_core::tls::install();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("farebox: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The members of a list in an answer; none where there is no list.
fn each<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

/// A name as part of a path: nothing in it leads elsewhere.
fn encoded(name: &str) -> String {
    // What stands for a space in a form does not in a path.
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}

/// For programs and people.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

fn run(cli: Cli) -> anyhow::Result<()> {
    // A command tells a person what fails, once and in its own words; Kafka's library would tell of each try, and
    // PostgreSQL's of each statement that waited for its turn.
    let filter = if matches!(cli.command, Command::Serve { .. }) { "info" } else { "warn,librdkafka=off,rdkafka=off,sqlx=error" };
    telemetry::init_logs(filter, false);
    telemetry::metrics();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(dispatch(cli))
}

async fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let find = &cli.find;
    match cli.command {
        Command::Engine(engine) => farebox_engines::cli::run(engine).await,
        Command::Up(options) => up::run(find, &options).await,
        Command::Demo(options) => demo::run(find, &options).await,
        Command::Serve { roles } => serve(&cli.config, &roles).await,
        Command::Migrate { print: true } => {
            for statement in farebox_core::clickhouse::ddl(&Config::load(&cli.config)?.clickhouse) {
                say!("{statement};\n");
            }
            Ok(())
        }
        Command::Migrate { print: false } => {
            App::connect(Config::load(&cli.config)?).await?.migrate().await?;
            say!("The schema is current.");
            Ok(())
        }
        Command::Check => check(&cli.config).await,
        Command::Catalog(command) => catalog::run(&find.instance()?, command).await,
        Command::Send(options) => send::run(&find.instance()?, &options, roles::stop_on_signal()?).await,
        Command::Backfill(options) => backfill::run(&find.instance()?, &options).await,
        Command::Simulate(options) => simulate::run(&find.instance()?, &options).await,
        Command::Replay(command) => letters::replay(&find.instance()?, &command).await,
        Command::Rate(command) => closing::rate(&command),
        Command::WhatIf(command) => what_if::run(&find.instance()?, &command).await,
        Command::Audit(command) => audit::audit(&find.instance()?, command).await,
        Command::Correct(command) => correct::run(&find.instance()?, &command).await,
        Command::Retention(command) => events::retention(&find.instance()?, &command).await,
        Command::Erase(command) => events::erase(&find.instance()?, &command).await,
        Command::Close(command) => closing::close(&find.instance()?, &command).await,
        Command::Clock(command) => closing::clock(&find.instance()?, &command).await,
        Command::Credit(command) => closing::credit(&find.instance()?, &command).await,
        Command::Export(command) => export::export(&find.instance()?, &command).await,
        Command::LoginLink => records::login_link(find).await,
    }
}

async fn serve(config: &std::path::Path, roles: &[Role]) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    let roles = if roles.is_empty() { &Role::ALL } else { roles };
    let stop = roles::stop_on_signal()?;
    let listener =
        TcpListener::bind(config.http.listen).await.map_err(|e| anyhow::anyhow!("{} cannot be listened on: {e}", config.http.listen))?;
    let app = App::connect(config).await?;
    roles::run(app, roles, listener, stop).await
}

async fn check(config: &std::path::Path) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    say!("The configuration is complete.");
    let app = App::connect(config).await?;
    say!("PostgreSQL answers.");
    anyhow::ensure!(app.kafka.is_ready().await, "Kafka at {} does not answer; check kafka.brokers", app.config.kafka.brokers);
    say!("Kafka answers.");
    anyhow::ensure!(
        farebox_core::clickhouse::is_ready(&app.clickhouse).await,
        "ClickHouse at {} does not answer, or has no database {}: check clickhouse.url, and run `farebox migrate`",
        app.config.clickhouse.url,
        app.config.clickhouse.database
    );
    say!("ClickHouse answers. All is well.");
    Ok(())
}
