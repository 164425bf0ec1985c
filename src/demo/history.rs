//! Three months of calls, as APISIX's kafka-logger writes them: arrays of log entries on a Kafka topic, with copies,
//! retries, late ones and disorder. What was sent is counted here, to be compared with what Farebox counts.

use chrono::{DateTime, NaiveDate, TimeDelta, Timelike, Utc};
use farebox_core::kafka::Kafka;
use futures::future::try_join_all;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Poisson};
use rdkafka::producer::FutureRecord;
use serde_json::{Value, json};

use super::population::Resident;

/// One route of the demo's API: its id at the gateway, method, path below the version, how often it is called, and
/// the usual latency in milliseconds.
struct Route {
    id: &'static str,
    api: &'static str,
    method: &'static str,
    path: &'static str,
    weight: u32,
    latency_ms: f64,
}

const ROUTES: [Route; 5] = [
    Route { id: "GET /orders", api: "orders", method: "GET", path: "/orders", weight: 38, latency_ms: 45.0 },
    Route { id: "GET /orders/{id}", api: "orders", method: "GET", path: "/orders/o-17", weight: 30, latency_ms: 18.0 },
    Route { id: "POST /orders", api: "orders", method: "POST", path: "/orders", weight: 12, latency_ms: 80.0 },
    Route { id: "GET /customers/{id}", api: "customers", method: "GET", path: "/customers/c-4", weight: 14, latency_ms: 22.0 },
    Route { id: "GET /reports/daily", api: "reports", method: "GET", path: "/reports/daily", weight: 6, latency_ms: 260.0 },
];
const STATUSES: [(u16, u32); 8] = [(200, 900), (304, 25), (400, 22), (404, 18), (401, 4), (429, 8), (500, 9), (503, 14)];

/// The topic on which the demo's APISIX logs.
pub const TOPIC: &str = "apisix-logs";
const ENTRIES_PER_MESSAGE: usize = 20;

/// What went over the wire.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    /// Calls that were made: what must be counted.
    pub calls: u64,
    /// Log entries sent a second time.
    pub copies: u64,
}

pub struct Historian {
    rng: StdRng,
    number: u64,
    run: String,
    pub sent: Sent,
    /// Entries that come days later than they happened, or a second time.
    held_back: Vec<Value>,
}

impl Historian {
    pub fn new(seed: u64, run: &str) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), number: 0, run: run.to_owned(), sent: Sent::default(), held_back: Vec::new() }
    }

    /// All calls of `day` that began before `until`, in the order in which a gateway's batches arrive.
    pub fn day(&mut self, residents: &[Resident], day: NaiveDate, until: DateTime<Utc>) -> Vec<Value> {
        let mut entries = Vec::new();
        for resident in residents {
            let expected = resident.expected_calls(day);
            if expected <= 0.0 {
                continue;
            }
            let Ok(chance) = Poisson::new(expected) else { continue };
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a small count
            let calls = chance.sample(&mut self.rng) as u32;
            // The first day has its first call, whatever chance says.
            let calls = if resident.first_call == Some(day) { calls.max(1) } else { calls };
            for _ in 0..calls {
                let time = self.time_of_day(day, resident);
                if time < resident.signed_up || time >= until {
                    continue;
                }
                let entry = self.entry(resident, time);
                self.sent.calls += 1;
                if self.rng.random_bool(0.012) {
                    self.sent.copies += 1;
                    self.held_back.push(entry.clone());
                }
                if self.rng.random_bool(0.01) { self.held_back.push(entry) } else { entries.push((time, entry)) }
            }
        }
        entries.sort_by_key(|(time, _)| *time);
        let mut entries: Vec<_> = entries.into_iter().map(|(_, entry)| entry).collect();
        // What was held back on earlier days arrives now, somewhere in between.
        for late in std::mem::take(&mut self.held_back) {
            let at = self.rng.random_range(0..=entries.len());
            entries.insert(at, late);
        }
        entries
    }

    /// What is still held back at the end.
    pub fn rest(&mut self) -> Vec<Value> {
        let mut rest = std::mem::take(&mut self.held_back);
        rest.shuffle(&mut self.rng);
        rest
    }

    fn time_of_day(&mut self, day: NaiveDate, resident: &Resident) -> DateTime<Utc> {
        let midnight = day.and_time(chrono::NaiveTime::MIN).and_utc();
        let second = if resident.machine {
            self.rng.random_range(0.0..86_400.0)
        } else {
            // The sum of three is bell-shaped: most calls around two in the afternoon.
            (0..3).map(|_| self.rng.random_range(5.0 * 3600.0..23.0 * 3600.0)).sum::<f64>() / 3.0
        };
        #[allow(clippy::cast_possible_truncation)] // under a day
        let time = midnight + TimeDelta::milliseconds((second * 1000.0) as i64);
        // The gateway logs whole milliseconds.
        time.with_nanosecond(time.timestamp_subsec_millis() * 1_000_000).unwrap_or(time)
    }

    fn entry(&mut self, resident: &Resident, time: DateTime<Utc>) -> Value {
        let route = self.weighted(&ROUTES.each_ref().map(|r| (r, r.weight)));
        let status = self.weighted(&STATUSES);
        // Moving off the deprecated version takes weeks.
        let since = (time.date_naive() - NaiveDate::from_ymd_opt(2026, 9, 1).unwrap_or_default()).num_days();
        let left = if since > 0 { (-f64::from(i32::try_from(since).unwrap_or(i32::MAX)) / 40.0).exp() } else { 1.0 };
        let version = match route.api {
            "orders" if self.rng.random_bool((resident.on_v1 * left).clamp(0.0, 1.0)) => "v1",
            "reports" => "v1",
            _ => "v2",
        };
        self.number += 1;
        let refused = matches!(status, 401 | 429);
        let latency = if refused { 0.4 } else { route.latency_ms * self.rng.random_range(0.5..2.2) };
        json!({
            "request_id": format!("{}-{:08}", self.run, self.number),
            "start_time": time.timestamp_millis(),
            "latency": latency,
            "upstream_latency": if refused { Value::Null } else { json!(latency * 0.9) },
            "apisix_latency": latency * 0.1,
            "route_id": route.id,
            "service_id": route.api,
            "consumer": { "username": resident.subject },
            "client_ip": "192.0.2.10",
            "server": { "hostname": "edge-eu-1", "version": "3.16.0" },
            "upstream": if refused { Value::Null } else { json!("10.0.0.7:80") },
            "request": { "method": route.method, "uri": format!("/{version}{}", route.path), "url": format!("https://api.acme.example/{version}{}", route.path), "size": self.rng.random_range(180..900), "headers": {}, "querystring": {} },
            "response": { "status": status, "size": self.rng.random_range(220..9_000), "headers": {} },
        })
    }

    fn weighted<T: Copy>(&mut self, choices: &[(T, u32)]) -> T {
        let mut at = self.rng.random_range(0..choices.iter().map(|(_, weight)| weight).sum());
        for (choice, weight) in choices {
            if at < *weight {
                return *choice;
            }
            at -= weight;
        }
        choices[0].0
    }
}

/// Writes log entries to the topic, several a message as the gateway batches them, and waits until Kafka has them.
pub async fn write(kafka: &Kafka, topic: &str, entries: &[Value]) -> anyhow::Result<()> {
    let payloads = entries.chunks(ENTRIES_PER_MESSAGE).map(serde_json::to_vec).collect::<Result<Vec<_>, _>>()?;
    let sends = payloads.iter().map(|payload| {
        let record = FutureRecord::<(), _>::to(topic).payload(payload);
        let delivery = kafka.producer.send_result(record);
        async move {
            match delivery {
                Ok(delivery) => delivery.await?.map_err(|(error, _)| anyhow::Error::from(error)),
                Err((error, _)) => Err(error.into()),
            }
        }
    });
    try_join_all(sends).await?;
    Ok(())
}
