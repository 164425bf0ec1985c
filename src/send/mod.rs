//! `farebox send`: a gateway's log file, line by line, into Farebox, through rotations, restarts and outages.
//!
//! [`follow`] finds the lines that are not acknowledged, [`deliver`] sends them until they are, [`checkpoint`] keeps how
//! far that is. Nothing is lost, because only what was acknowledged moves the checkpoint; nothing counts twice, because
//! a line that carries no id of its own gets one from its file, its offset and its hash, whenever it is sent again.

mod checkpoint;
mod deliver;
mod follow;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio_util::sync::CancellationToken;

use crate::instance::Instance;
use checkpoint::Checkpoint;
use deliver::{Delivery, Outcome};
use follow::Follower;

/// How often the file is looked at when there is nothing to send.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How the lines are written: `nginx`, `envoy`, `traefik`, `apisix`, `cloudevents` and so on, or the name of a mapped
    /// format.
    #[arg(long)]
    pub format: String,
    /// The log file. Its rotated names (`.1`, `-20261128`, ...) beside it are read as far as they were not yet sent.
    #[arg(long)]
    pub file: PathBuf,
    /// The source that the events come from; the token's name unless given.
    #[arg(long)]
    pub source: Option<String>,
    /// Where to keep how far the file has been sent; `.<file>.farebox` beside the file unless given.
    #[arg(long)]
    pub checkpoint: Option<PathBuf>,
    /// Stop at the end of the file instead of following it.
    #[arg(long)]
    pub once: bool,
}

pub async fn run(instance: &Instance, options: &Options, stop: CancellationToken) -> anyhow::Result<()> {
    let name = options.file.file_name().context("--file must name a file")?;
    let directory = options.file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    let directory = directory.canonicalize().with_context(|| format!("{} is no directory that can be read", directory.display()))?;
    let file = directory.join(name);
    ensure!(!options.once || file.exists(), "{} is not there", file.display());
    let path = options.checkpoint.clone().unwrap_or_else(|| Checkpoint::default_path(&file));
    let (checkpoint, known) = Checkpoint::open(&path, &file, &options.format)?;
    let mut follower = Follower::new(&file, known);
    let mut delivery = Delivery::new(instance, &options.format, options.source.as_deref());
    let mut first_time = checkpoint.is_new;
    loop {
        for notice in follower.look(first_time)? {
            delivery.warn(&notice);
        }
        if first_time || follower.must_be_saved {
            checkpoint.save(follower.states())?;
            (first_time, follower.must_be_saved) = (false, false);
        }
        while let Some(chunk) = follower.next_chunk()? {
            delivery.behind(follower.behind());
            match delivery.send(&chunk, &stop).await? {
                Outcome::Acknowledged => {
                    follower.acknowledge(&chunk);
                    checkpoint.save(follower.states())?;
                }
                Outcome::Stopped => return finish(&checkpoint, &follower, delivery),
            }
        }
        delivery.behind(0);
        if options.once && !follower.is_unsettled {
            return finish(&checkpoint, &follower, delivery);
        }
        tokio::select! {
            () = stop.cancelled() => return finish(&checkpoint, &follower, delivery),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn finish(checkpoint: &Checkpoint, follower: &Follower, delivery: Delivery) -> anyhow::Result<()> {
    checkpoint.save(follower.states())?;
    delivery.finish(follower.behind());
    Ok(())
}
