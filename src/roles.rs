//! The roles of a process, and their life: started together, stopped in order, so that what was acknowledged is
//! flushed before the stores close.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use farebox_core::App;
use farebox_metering::erasure::{self, Eraser};
use farebox_metering::history::{self, Chunk, Refused};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::tls::{self, TlsListener};
use crate::web;

/// What a process does. All in one by default; each scales on its own as `farebox serve --roles ingest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Role {
    /// Takes events from gateways.
    Ingest,
    /// Counts them.
    Metering,
    /// Rates, closes, invoices.
    Billing,
    /// Computes KPIs.
    Insights,
    /// Decides on calls.
    Access,
    /// Shows it to people.
    Portal,
}

impl Role {
    pub const ALL: [Self; 6] = [Self::Ingest, Self::Metering, Self::Billing, Self::Insights, Self::Access, Self::Portal];
}

/// How long a room may take to flush after it was told to stop.
const FLUSH: Duration = Duration::from_secs(20);

/// Runs `roles` until `stop`, or until one of them fails, which stops the others and is returned.
pub async fn run(app: App, roles: &[Role], listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    introduce();
    let mut rooms: JoinSet<(&'static str, anyhow::Result<()>)> = JoinSet::new();
    let rooms_stop = stop.child_token();
    for role in roles {
        match role {
            Role::Ingest => start(&mut rooms, "ingest", farebox_ingest::run(app.clone(), rooms_stop.clone())),
            Role::Metering => start(&mut rooms, "metering", farebox_metering::run(app.clone(), rooms_stop.clone())),
            Role::Billing => start(&mut rooms, "billing", farebox_billing::run(app.clone(), rooms_stop.clone())),
            Role::Insights => {} // answers from the tables of others; nothing runs in the background
            Role::Access => start(&mut rooms, "access", farebox_access::run(app.clone(), rooms_stop.clone())),
            Role::Portal => start(&mut rooms, "housekeeping", housekeeping(app.clone(), rooms_stop.clone())),
        }
    }
    let address = listener.local_addr()?;
    let router = web::router(&app, roles);
    if let Some(tls) = &app.config.http.tls {
        let listener = TlsListener::bind(tls, rooms_stop.clone()).await?;
        info!(address = %tls.listen, "listening with TLS, {} client certificates", if tls.client_ca_file.is_some() { "and" } else { "without" });
        let service = router.clone().layer(axum::middleware::from_fn(tls::introduce)).into_make_service_with_connect_info::<tls::Peer>();
        let stop = rooms_stop.clone();
        start(&mut rooms, "web with TLS", async move {
            axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await.context("the HTTPS server failed")
        });
    }
    let web_stop = rooms_stop.clone();
    start(&mut rooms, "web", async move {
        let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
        axum::serve(listener, service).with_graceful_shutdown(web_stop.cancelled_owned()).await.context("the HTTP server failed")
    });
    info!(%address, "ready, with {} of {} roles", roles.len(), Role::ALL.len());

    let mut failure = None;
    let mut deadline = None;
    loop {
        let ended = tokio::select! {
            () = rooms_stop.cancelled(), if deadline.is_none() => {
                deadline = Some(tokio::time::Instant::now() + FLUSH);
                continue;
            }
            () = async { tokio::time::sleep_until(deadline.expect("checked by the guard")).await }, if deadline.is_some() => {
                error!("some rooms did not stop within {} seconds; what they had not acknowledged will come again", FLUSH.as_secs());
                break;
            }
            ended = rooms.join_next() => ended,
        };
        match ended {
            None => break,
            Some(Ok((_, Ok(())))) => {}
            Some(Ok((room, Err(cause)))) => {
                error!("{room} failed: {cause:#}");
                failure.get_or_insert(cause.context(format!("{room} failed")));
                rooms_stop.cancel();
            }
            Some(Err(panic)) => {
                failure.get_or_insert(anyhow::anyhow!("a room panicked: {panic}"));
                rooms_stop.cancel();
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

fn start(
    rooms: &mut JoinSet<(&'static str, anyhow::Result<()>)>,
    name: &'static str,
    room: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    rooms.spawn(async move { (name, room.await) });
}

/// What metering asks of rooms that it does not know: what usage is worth, and to erase what they have of a person.
fn introduce() {
    farebox_billing::effect::install();
    let letters: Eraser = Arc::new(|app, workspace, _, words| {
        Box::pin(async move { Ok(("dead_letters", farebox_ingest::erasure::erase(&app, &workspace, &words).await?)) })
    });
    let people: Eraser = Arc::new(|app, workspace, consumer, _| {
        Box::pin(async move {
            let mut conn = app.pg.acquire().await?;
            Ok(("people", farebox_portal::people::erasure::erase(&mut conn, &workspace, &consumer).await?))
        })
    });
    erasure::also_in(vec![letters, people]);
    history::read_with(Arc::new(|app, workspace, chunk: Chunk| {
        Box::pin(async move {
            let Chunk { source, format, received_at, pieces } = chunk;
            let read = farebox_ingest::history::read(&app, &workspace, &source, &format, received_at, &pieces).await?;
            let refused = |(place, detail)| Refused { place, detail };
            Ok(read.map(|all| all.into_iter().map(|one| one.map_err(refused)).collect()).ok_or(format!("there is no format `{format}`")))
        })
    }));
}

/// Forgets what has had its time.
async fn housekeeping(app: App, stop: CancellationToken) -> anyhow::Result<()> {
    let mut every = tokio::time::interval(Duration::from_mins(10));
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = every.tick() => {
                if let Err(cause) = farebox_core::idempotency::prune(&app.pg).await {
                    tracing::warn!("old idempotency keys stay for now: {cause}");
                }
                if let Err(cause) = farebox_core::auth::signature::prune(&app.pg).await {
                    tracing::warn!("old signatures stay for now: {cause}");
                }
            }
        }
    }
}

/// Cancelled at Ctrl-C or SIGTERM.
pub fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            stop.cancel();
        }
    });
    Ok(stop)
}
