//! Logs and metrics. Logs are a readable sentence plus fields; never bodies or secrets.

use std::io::{IsTerminal, stderr};
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Buckets in seconds, for histograms whose name ends in `_seconds`.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Installs the log subscriber (`FAREBOX_LOG`, default `info`), to standard error: JSON lines when `json`.
pub fn init_logs(default_filter: &str, json: bool) {
    let filter = EnvFilter::try_from_env("FAREBOX_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    // A second call (tests that share a process) keeps the first subscriber.
    let _ = if json { builder.json().try_init() } else { builder.with_target(false).try_init() };
}

/// The Prometheus recorder, installed once per process.
pub fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
            .and_then(PrometheusBuilder::install_recorder)
            .expect("the recorder is installed once, with at least one bucket")
    })
}
