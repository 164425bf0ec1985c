//! PostgreSQL: the pool and the migrations.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::config;

/// Tests and tools that need the schema without a running instance use it too.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/postgres");

pub async fn connect(config: &config::Postgres) -> anyhow::Result<PgPool> {
    let options = PgConnectOptions::from_str(&config.url).context("postgres.url is not a PostgreSQL address")?;
    PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(options.application_name("farebox"))
        .await
        .context("PostgreSQL cannot be reached; check postgres.url and that the server runs")
}

pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    MIGRATIONS.run(pool).await.context("a PostgreSQL migration failed")
}
