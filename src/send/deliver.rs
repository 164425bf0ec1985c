//! One chunk after the other to the collector, each until it is acknowledged.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::bail;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use rand::Rng;
use reqwest::{StatusCode, header};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::follow::Chunk;
use crate::instance::Instance;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// An answer that takes longer is not waited for; the same chunk is sent again.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Where there is no terminal, a line about how it goes.
const REPORT_EVERY: Duration = Duration::from_mins(1);

pub enum Outcome {
    Acknowledged,
    Stopped,
}

/// What became of what was sent.
#[derive(Debug, Default)]
struct Sums {
    accepted: u64,
    duplicates: u64,
    rejected: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Receipt {
    accepted: u64,
    #[serde(default)]
    duplicates_in_batch: u64,
    #[serde(default)]
    rejected: Vec<Rejected>,
}

#[derive(Deserialize)]
struct Rejected {
    reason: String,
    detail: String,
}

enum Failure {
    /// The same again, after a while.
    Passing { why: String, retry_after: Option<Duration> },
    /// A person has to do something.
    Lasting(String),
}

pub struct Delivery {
    instance: Instance,
    path: String,
    source: Option<String>,
    bar: ProgressBar,
    reported: Instant,
    sums: Sums,
}

impl Delivery {
    pub fn new(instance: &Instance, format: &str, source: Option<&str>) -> Self {
        let path = if format == "cloudevents" { "/v1/events".to_owned() } else { format!("/v1/ingest/{format}") };
        let bar = if std::io::stderr().is_terminal() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { instance: instance.clone(), path, source: source.map(str::to_owned), bar, reported: Instant::now(), sums: Sums::default() }
    }

    /// Until the chunk is acknowledged, `stop`, or something that only a person can mend.
    pub async fn send(&mut self, chunk: &Chunk, stop: &CancellationToken) -> anyhow::Result<Outcome> {
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        loop {
            let tried = tokio::select! {
                () = stop.cancelled() => return Ok(Outcome::Stopped),
                tried = self.post(chunk) => tried,
            };
            match tried {
                Ok(receipt) => {
                    if told {
                        self.warn("Farebox takes events again");
                    }
                    self.add(receipt, chunk);
                    return Ok(Outcome::Acknowledged);
                }
                Err(Failure::Lasting(why)) => {
                    bail!("{why}. Nothing is lost: start again once it is mended, and sending goes on where it stopped")
                }
                Err(Failure::Passing { why, retry_after }) => {
                    if !told {
                        self.warn(&format!("{why}; what is written meanwhile is sent when it is back"));
                        told = true;
                    }
                    // Apart from one another, so that many senders do not come back in one moment.
                    let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
                    tokio::select! {
                        () = stop.cancelled() => return Ok(Outcome::Stopped),
                        () = tokio::time::sleep(retry_after.unwrap_or_default().max(jittered)) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn post(&self, chunk: &Chunk) -> Result<Receipt, Failure> {
        let passing = |why: String| Failure::Passing { why, retry_after: None };
        let mut request = self
            .instance
            .ingest(&self.path)
            .timeout(ANSWER_WITHIN)
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .header("x-farebox-file", format!("{}/{}", chunk.file_id, chunk.offset));
        if let Some(source) = &self.source {
            request = request.header("x-farebox-source", source);
        }
        let response = request.body(chunk.bytes.clone()).send().await;
        let response = response.map_err(|_| passing(format!("{} does not answer", self.instance.base_url)))?;
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        let text = response.text().await.map_err(|_| passing("the answer broke off".to_owned()))?;
        if status.is_success() {
            return serde_json::from_str(&text)
                .map_err(|_| Failure::Lasting(format!("{} answers, but it is no Farebox", self.instance.base_url)));
        }
        let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or_default();
        let why = format!("Farebox answered {status}: {detail}");
        let comes_back = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT)
            || status.is_server_error();
        if comes_back {
            let retry_after = retry_after.map(|seconds: u64| Duration::from_secs(seconds.min(60)));
            return Err(Failure::Passing { why: why.trim_end_matches('.').to_owned(), retry_after });
        }
        Err(Failure::Lasting(why.trim_end_matches('.').to_owned()))
    }

    fn add(&mut self, receipt: Receipt, chunk: &Chunk) {
        self.sums.accepted += receipt.accepted;
        self.sums.duplicates += receipt.duplicates_in_batch;
        for rejected in receipt.rejected {
            if !self.sums.rejected.contains_key(&rejected.reason) {
                let at = chunk.offset;
                self.warn(&format!(
                    "a line after byte {at} was rejected ({}): {} It is in the dead letters",
                    rejected.reason, rejected.detail
                ));
            }
            *self.sums.rejected.entry(rejected.reason).or_default() += 1;
        }
        if self.reported.elapsed() >= REPORT_EVERY {
            self.reported = Instant::now();
            if self.bar.is_hidden() {
                say!("{}", self.sums.in_words());
            }
        }
    }

    pub fn behind(&self, bytes: u64) {
        let behind = if bytes == 0 { "up to date".to_owned() } else { format!("{} to go", HumanBytes(bytes)) };
        self.bar.set_message(format!("{}, {behind}", self.sums.in_words()));
    }

    pub fn warn(&self, what: &str) {
        self.bar.suspend(|| eprintln!("farebox send: {what}."));
    }

    /// `left`: bytes that were not sent.
    pub fn finish(self, left: u64) {
        self.bar.finish_and_clear();
        say!("{}", self.sums.in_words());
        if left > 0 {
            say!("{left} bytes are not sent yet: an unfinished line, or what waits for Farebox. They are sent at the next start.");
        }
    }
}

impl Sums {
    fn in_words(&self) -> String {
        let mut words = format!("{} lines accepted", HumanCount(self.accepted));
        if self.duplicates > 0 {
            words.push_str(&format!(", {} copies", HumanCount(self.duplicates)));
        }
        for (reason, n) in &self.rejected {
            words.push_str(&format!(", {} rejected as {reason}", HumanCount(*n)));
        }
        words
    }
}
