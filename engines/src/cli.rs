//! `farebox engine ...`: the engines that are this program itself, run as child processes.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::{clickhouse, stripe};

/// An engine to be in the foreground.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum EngineCommand {
    /// The ClickHouse engine behind its HTTP interface.
    Clickhouse {
        /// The directory of the tables.
        #[arg(long)]
        data: PathBuf,
        #[arg(long, default_value = "127.0.0.1:8123")]
        listen: SocketAddr,
        /// libchdb.so; found where engines/fetch puts it unless given.
        #[arg(long)]
        library: Option<PathBuf>,
        /// Asked of every client unless empty.
        #[arg(long, env = "FAREBOX_CLICKHOUSE_PASSWORD", default_value = "", hide_env_values = true)]
        password: String,
    },
    /// The Stripe double, with the official stripe-mock behind it.
    Stripe(stripe::Args),
}

/// Runs an engine until it is told to end. The process ends with its parent.
pub async fn run(command: EngineCommand) -> anyhow::Result<()> {
    match command {
        EngineCommand::Clickhouse { data, listen, library, password } => {
            let library = match library {
                Some(library) => library,
                None => crate::artefacts::Artefacts::find(None)?.libchdb()?,
            };
            clickhouse::serve(clickhouse::Options { library, data, listen, password }).await?;
        }
        EngineCommand::Stripe(args) => stripe::run(args).await?,
    }
    Ok(())
}
