//! Whether the engines answer: what `/readyz` says and the console shows.

use std::time::{Duration, Instant};

use crate::App;

#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub ready: bool,
    pub took: Duration,
}

/// Each engine, asked just now.
#[derive(Debug, Clone, Copy)]
pub struct Readiness {
    pub kafka: Answer,
    pub clickhouse: Answer,
    pub postgres: Answer,
}

impl Readiness {
    /// Asks all at once; one that is slower than a second or so counts as away.
    pub async fn of(app: &App) -> Self {
        let postgres = async { sqlx::query("SELECT 1").execute(&app.pg).await.is_ok() };
        let (kafka, clickhouse, postgres) =
            tokio::join!(timed(app.kafka.is_ready()), timed(crate::clickhouse::is_ready(&app.clickhouse)), timed(postgres));
        Self { kafka, clickhouse, postgres }
    }
}

async fn timed(asked: impl Future<Output = bool>) -> Answer {
    let start = Instant::now();
    let ready = asked.await;
    Answer { ready, took: start.elapsed() }
}
