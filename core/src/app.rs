//! The stores, held open, and the configuration: what every room is handed.

use std::sync::Arc;

use sqlx::PgPool;

use crate::auth::Tokens;
use crate::config::Config;
use crate::kafka::Kafka;

/// Cheap to clone; all clones share the same connections.
#[derive(Clone)]
pub struct App {
    pub config: Arc<Config>,
    pub pg: PgPool,
    pub clickhouse: clickhouse::Client,
    pub kafka: Kafka,
    pub tokens: Tokens,
}

impl App {
    /// Opens the stores. Fails with the store's name when one cannot be reached.
    pub async fn connect(config: Config) -> anyhow::Result<Self> {
        let pg = crate::postgres::connect(&config.postgres).await?;
        Ok(Self {
            clickhouse: crate::clickhouse::client(&config.clickhouse),
            kafka: Kafka::connect(&config.kafka)?,
            tokens: Tokens::new(pg.clone()),
            pg,
            config: Arc::new(config),
        })
    }

    /// Applies all migrations, of PostgreSQL and ClickHouse, and creates the topics. Safe to repeat.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        crate::postgres::migrate(&self.pg).await?;
        crate::clickhouse::migrate(&self.config.clickhouse).await?;
        self.kafka.create_topics(&[crate::kafka::EVENTS, crate::kafka::DEAD_LETTERS, crate::kafka::DECISIONS]).await?;
        Ok(())
    }
}
