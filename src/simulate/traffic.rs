//! Made-up requests as CloudEvents, and the truth about them.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::lateness;
use super::truth::{Call, Truth};

/// Percent of events of each kind.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    pub duplicates: u32,
    pub late: u32,
    pub malformed: u32,
}

const ROUTES: [(&str, &str, &str); 5] = [
    ("orders", "GET", "GET /orders"),
    ("orders", "GET", "GET /orders/{id}"),
    ("orders", "POST", "POST /orders"),
    ("customers", "GET", "GET /customers/{id}"),
    ("reports", "GET", "GET /reports/daily"),
];
const STATUSES: [(u16, u32); 7] = [(200, 80), (201, 6), (304, 4), (400, 4), (404, 3), (429, 1), (500, 2)];

/// A stream of batches. Deterministic for a seed, but for the times.
pub struct Traffic {
    run: String,
    consumers: u32,
    shares: Shares,
    rng: StdRng,
    number: u64,
    /// Copies that wait for a later batch.
    again: Vec<Value>,
    pub truth: Truth,
}

impl Traffic {
    pub fn new(run: &str, consumers: u32, shares: Shares, seed: u64) -> Self {
        Self {
            run: run.to_owned(),
            consumers,
            shares,
            rng: StdRng::seed_from_u64(seed),
            number: 0,
            again: Vec::new(),
            truth: Truth::new(run),
        }
    }

    pub fn subjects(&self) -> Vec<String> {
        (0..self.consumers).map(|n| self.subject(n)).collect()
    }

    fn subject(&self, n: u32) -> String {
        format!("{}-{n:04}", self.run)
    }

    /// `size` new events in disorder, with copies of earlier ones and malformed ones mixed in.
    pub fn batch(&mut self, size: usize, now: DateTime<Utc>) -> Vec<Value> {
        let mut events = std::mem::take(&mut self.again);
        for _ in 0..size {
            if self.percent(self.shares.malformed) {
                let event = self.malformed(now);
                events.push(event);
                continue;
            }
            let event = self.request(now);
            if self.percent(self.shares.duplicates) {
                self.truth.duplicates += 1;
                // Half of the copies come in the same batch, half in the next one.
                if self.rng.random_bool(0.5) { events.push(event.clone()) } else { self.again.push(event.clone()) }
            }
            events.push(event);
        }
        events.shuffle(&mut self.rng);
        self.truth.sent += events.len() as u64;
        events
    }

    /// What is still to be sent a second time.
    pub fn rest(&mut self) -> Vec<Value> {
        let rest = std::mem::take(&mut self.again);
        self.truth.sent += rest.len() as u64;
        rest
    }

    fn percent(&mut self, share: u32) -> bool {
        self.rng.random_range(0..100) < share
    }

    fn request(&mut self, now: DateTime<Utc>) -> Value {
        // Few consumers make most calls, as in life.
        let skewed = self.rng.random::<f64>().powi(3) * f64::from(self.consumers);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 <= skewed < consumers
        let subject = self.subject(skewed as u32);
        let (api, method, route) = ROUTES[self.rng.random_range(0..ROUTES.len())];
        let status = self.status();
        let mut time = now - TimeDelta::milliseconds(self.rng.random_range(0..2000));
        if self.percent(self.shares.late) {
            let hours = self.rng.random_range(2..480);
            time -= lateness(hours);
            self.truth.late += 1;
        }
        self.truth.count(Call { subject: subject.clone(), route: route.to_owned(), status, time });
        let id = self.next_id();
        json!({
            "specversion": "1.0", "type": "farebox.request.v1", "source": self.run, "id": id, "subject": subject,
            "time": time.to_rfc3339_opts(SecondsFormat::Micros, true),
            "data": {
                "api": api, "api_version": "v2", "route": route, "method": method, "status": status,
                "latency_us": self.rng.random_range(500..400_000), "request_bytes": self.rng.random_range(0..4000),
                "response_bytes": self.rng.random_range(50..60_000), "gateway": "simulate", "answered_by": if status == 429 { "gateway" } else { "upstream" },
            }
        })
    }

    fn status(&mut self) -> u16 {
        let mut at = self.rng.random_range(0..STATUSES.iter().map(|(_, weight)| weight).sum());
        for (status, weight) in STATUSES {
            if at < weight {
                return status;
            }
            at -= weight;
        }
        200
    }

    fn next_id(&mut self) -> String {
        self.number += 1;
        format!("{}", self.number)
    }

    /// One of the ways in which senders get events wrong; each must end in the dead letters with a reason.
    fn malformed(&mut self, now: DateTime<Utc>) -> Value {
        self.truth.malformed += 1;
        let mut event = json!({
            "specversion": "1.0", "type": "farebox.request.v1", "source": self.run, "id": format!("bad-{}", self.next_id()),
            "subject": self.subject(0), "time": now.to_rfc3339_opts(SecondsFormat::Micros, true),
            "data": { "route": "GET /orders", "method": "GET", "status": 200 }
        });
        match self.rng.random_range(0..6) {
            0 => event["data"]["status"] = json!("two hundred"),
            1 => event["data"]["status"] = json!(99_999),
            2 => event["time"] = json!("yesterday"),
            3 => event["time"] = json!((now + TimeDelta::days(400)).to_rfc3339()),
            4 => {
                event.as_object_mut().expect("made above").remove("id");
            }
            _ => event["specversion"] = json!("0.3"),
        }
        event
    }
}
