//! From the brokers' acknowledgement until usage counts an event, under steady load.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use farebox_core::ids::WorkspaceId;
use farebox_core::kafka::EVENTS;
use farebox_core::period::Period;
use farebox_metering::usage::{self, UsageQuery};
use futures::future::join_all;
use rdkafka::producer::FutureRecord;
use tokio_util::sync::CancellationToken;

use super::percentile;
use crate::engines::Bench;
use crate::pipeline;
use crate::report::Report;

const PER_TICK: usize = 1000;
/// 12,500 events a second.
const TICK: Duration = Duration::from_millis(80);
const GIVE_UP: Duration = Duration::from_mins(2);

pub async fn measure(bench: &Bench, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let workspace = WorkspaceId::new();
    let stop = CancellationToken::new();
    let metering = tokio::spawn(farebox_metering::run(bench.app.clone(), stop.clone()));
    // (events acknowledged by then, when)
    let acknowledged: Arc<Mutex<Vec<(usize, Instant)>>> = Arc::default();
    let started = farebox_core::clock::now();
    let producer = {
        let (app, workspace, acknowledged) = (bench.app.clone(), workspace.clone(), acknowledged.clone());
        tokio::spawn(async move {
            let (topic, start) = (app.kafka.name(EVENTS), Instant::now());
            let mut ticks = tokio::time::interval(TICK);
            let mut sent = 0;
            while start.elapsed() < time {
                ticks.tick().await;
                let now = farebox_core::clock::now();
                let mut deliveries = Vec::with_capacity(PER_TICK);
                for n in 0..PER_TICK {
                    let mut event = pipeline::event(&workspace, sent + n, now);
                    event.time = now;
                    let (key, payload) = (farebox_core::event::kafka_key(&event), serde_json::to_vec(&event)?);
                    let record = FutureRecord::to(&topic).key(&key).payload(&payload);
                    deliveries.push(app.kafka.producer.send_result(record).map_err(|(error, _)| error)?);
                }
                for delivered in join_all(deliveries).await {
                    delivered?.map_err(|(error, _)| error)?;
                }
                sent += PER_TICK;
                acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push((sent, Instant::now()));
            }
            anyhow::Ok((sent, start.elapsed()))
        })
    };
    let mut seen: Vec<(usize, Instant)> = Vec::new();
    let begun = Instant::now();
    let (sent, took) = loop {
        let period = Period { start: started - chrono::TimeDelta::minutes(1), end: started + chrono::TimeDelta::hours(1) };
        let answer = usage::query(&bench.app, &UsageQuery::new(&workspace, "calls", period)).await?;
        let count = answer.rows.first().and_then(|row| row.value.to_plain_string().parse().ok()).unwrap_or(0);
        seen.push((count, Instant::now()));
        let all = acknowledged.lock().unwrap_or_else(PoisonError::into_inner).last().map_or(0, |(n, _)| *n);
        if producer.is_finished() && count >= all {
            break producer.await.context("the producer panicked")??;
        }
        ensure!(begun.elapsed() < time + GIVE_UP, "after {} s usage counts {count} of {all} events", begun.elapsed().as_secs());
    };
    stop.cancel();
    metering.await.context("metering panicked")??;
    let acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // Until metering has joined its group everything waits; that is a start, not the steady state.
    let joined = seen.iter().find(|(count, _)| *count > 0).map_or(begun, |(_, when)| *when);
    let mut late: Vec<Duration> = acknowledged
        .iter()
        .filter(|(_, at)| *at > joined)
        .filter_map(|(n, at)| seen.iter().find(|(count, when)| count >= n && when >= at).map(|(_, when)| *when - *at))
        .collect();
    report.note(format!(
        "{} events after the start, at {}: from acknowledged to counted p50 {:.0} ms, p99 {:.0} ms ({} looks)",
        late.len() * PER_TICK,
        super::rate(sent as u64, took),
        percentile(&mut late, 50).as_secs_f64() * 1e3,
        percentile(&mut late, 99).as_secs_f64() * 1e3,
        seen.len()
    ));
    Ok(())
}
