//! Bytes from gateways -> one verdict per event -> Kafka.
//!
//! Events come as bodies ([`events`], [`gateways`], [`logs`], [`grpc`], read within bounds by [`body`]), as messages of a
//! topic that a gateway writes to itself ([`topics`]), or by syslog ([`syslog`]); [`records`] takes apart what came
//! together. A decoder of [`formats`], chosen by the catalogue ([`known`]), reads each record, [`admit`] decides whether
//! it may come in and gives it its identity, and [`intake`] writes what was decided: accepted events to the event topic,
//! rejected ones ([`verdict`]) as they came, but for secrets ([`mask`]), to the dead-letter topic. Only when Kafka has acknowledged
//! both is the sender told, or the offset committed. [`dead_letters`] copies rejected events to ClickHouse, where they
//! can be seen and counted, and [`replay`] brings them in after a fix. [`tally`] counts verdicts for people. [`limits`]
//! bound what one token sends, and a [`spool`] on a local disk, where one is configured, takes what Kafka does not.
#![forbid(unsafe_code)]

pub mod admit;
mod binary;
mod body;
mod console;
pub mod dead_letter;
pub mod dead_letters;
pub mod erasure;
mod events;
mod fields;
pub mod formats;
mod gateways;
mod grpc;
pub mod history;
pub mod intake;
mod known;
mod limits;
mod logs;
mod mask;
mod place;
pub mod records;
pub mod replay;
mod settings;
pub mod source_kafka;
pub mod spool;
pub mod syslog;
pub mod tally;
mod topics;
pub mod verdict;

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use farebox_core::App;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::intake::Intake;

pub use crate::replay::{Report, replay};

/// The routes for gateways, with their own limits on bodies, and those for people.
pub fn router(app: &App) -> OpenApiRouter {
    let management = OpenApiRouter::new()
        .routes(routes!(console::list))
        .routes(routes!(console::counts))
        .routes(routes!(console::replay))
        .routes(routes!(console::verdicts))
        .routes(routes!(settings::show, settings::change))
        .routes(routes!(source_kafka::show, source_kafka::connect, source_kafka::disconnect))
        .layer(from_fn_with_state(app.clone(), farebox_core::idempotency::middleware));
    let intake = Arc::new(Intake::new(app).with_spool());
    OpenApiRouter::new()
        .routes(routes!(events::post))
        .routes(routes!(gateways::post))
        .routes(routes!(logs::post))
        .layer(DefaultBodyLimit::disable())
        .layer(Extension(intake.clone()))
        .merge(grpc::router(app, intake))
        .layer(from_fn_with_state(app.clone(), limits::middleware))
        .merge(management)
        .with_state(app.clone())
}

/// Reads the topics of sources, listens for syslog, copies dead letters, and keeps the counts. After `stop`, returns once what was under
/// way is safe.
pub async fn run(app: App, stop: CancellationToken) -> anyhow::Result<()> {
    let spool = spool::open(&app.config.ingest)?.map(|spool| tokio::spawn(spool::run(spool, app.clone(), stop.clone())));
    let intake = Arc::new(Intake::new(&app));
    let topics = tokio::spawn(topics::run(intake.clone(), stop.clone()));
    let syslog = syslog::run(intake, &stop).await?;
    let letters = tokio::spawn(dead_letters::run(app.clone(), stop.clone()));
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    let mut failing = false;
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = every_second.tick() => {
                let flushed = tally::flush(&app).await;
                if let (Err(error), false) = (&flushed, failing) {
                    tracing::warn!("counts of verdicts are kept in memory until ClickHouse takes them: {error}");
                }
                failing = flushed.is_err();
            }
        }
    }
    topics.await?;
    syslog.await?;
    letters.await?;
    if let Some(spool) = spool {
        spool.await?;
    }
    tally::flush(&app).await?;
    Ok(())
}
