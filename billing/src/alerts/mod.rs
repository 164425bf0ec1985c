//! Alerts: someone wants to know when usage or money reaches a threshold.
//!
//! [`store`] keeps the rules: of the provider, for everybody or narrowed to a plan or a consumer, and of consumers
//! themselves, for their own. [`measure`] asks metering and the preview where each subscription stands, [`judge`] says
//! whether a threshold is reached, and [`fire`] writes that down, with the e-mails and webhooks that tell of it, in one
//! transaction: once in a period by a constraint of the database, however many workers look and whatever crashes. A
//! threshold that is raised is armed again; one that is lowered is not.

mod fire;
mod http;
mod judge;
mod measure;
mod store;
mod words;

use std::time::Duration;

use farebox_core::{App, workspace};
use tokio_util::sync::CancellationToken;

pub use fire::{Firing, FiringFilter, For, firings};
pub use http::router;
pub use judge::Kind;
pub use measure::{Memory, evaluate};
pub use store::{Alert, NewAlert, create, create_own, get, list, list_own, remove, remove_own, update};
pub(crate) use store::{check_of_catalogue, put_named};

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks at every workspace that has alerts, until `stop`.
pub async fn run(app: App, stop: CancellationToken) {
    let mut memory = Memory::default();
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = look(&app, &mut memory) => {}
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn look(app: &App, memory: &mut Memory) {
    let workspaces = match app.pg.acquire().await {
        Ok(mut conn) => workspace::all(&mut conn).await,
        Err(error) => Err(error.into()),
    };
    match workspaces {
        Ok(workspaces) => {
            for workspace in workspaces {
                if let Err(error) = evaluate(app, &workspace, memory).await {
                    tracing::warn!(workspace = workspace.name, "alerts cannot be judged: {error}");
                }
            }
        }
        Err(error) => tracing::warn!("alerts wait: {error}"),
    }
}
