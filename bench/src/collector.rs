//! `POST /v1/events` against the bare loop, in turns, for small and large batches.

use std::time::Duration;

use axum::Router;
use farebox_core::kafka::{EVENTS, Kafka};
use tokio::net::TcpListener;

use crate::engines::{self, Bench};
use crate::report::{Line, Report};
use crate::{bare, load};

/// Events a request, connections, and the least ratio to keep.
const CASES: [(usize, usize, f64); 3] = [(1, 32, 0.8), (100, 8, 0.8), (1000, 4, 0.8)];
const TURNS: usize = 3;

pub async fn measure(bench: &Bench, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let app = &bench.app;
    let (_, token) = engines::sender(bench, "bench/live").await?;
    let (collector, _) = farebox_ingest::router(app).split_for_parts();
    let ours = format!("{}/v1/events", serve(collector).await?);
    // A producer of its own with the same settings, so that neither rides on the other's batches.
    let producer = Kafka::connect(&app.config.kafka)?.producer;
    let yardstick = format!("{}/events", serve(bare::router(producer, app.kafka.name(EVENTS))).await?);

    for (batch, connections, least) in CASES {
        let bodies = load::bodies(batch);
        let warm_up = time / 4;
        load::run(&yardstick, "", &bodies, batch, connections, warm_up).await?;
        load::run(&ours, token.reveal(), &bodies, batch, connections, warm_up).await?;
        let (mut bare, mut farebox) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            bare.push(load::run(&yardstick, "", &bodies, batch, connections, time).await?);
            farebox.push(load::run(&ours, token.reveal(), &bodies, batch, connections, time).await?);
        }
        let events = if batch == 1 { "1 event".to_owned() } else { format!("{batch} events") };
        report.add(Line {
            what: format!("collector, {events} a request"),
            unit: "events/s",
            ours: crate::report::median(&mut farebox),
            yardstick: crate::report::median(&mut bare),
            yardstick_name: "bare axum + serde + rdkafka",
            least,
            less_is_better: false,
        });
    }
    Ok(())
}

async fn serve(router: Router) -> anyhow::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(format!("http://{address}"))
}
