//! ClickHouse: the client and the migrations (plain `.sql` files, statements separated by `;` at a line's end).

mod cluster;

use std::time::Duration;

use anyhow::{Context, bail};
use clickhouse::Client;

use crate::config;

const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_metering.sql", include_str!("../../migrations/clickhouse/0001_metering.sql")),
    ("0002_access.sql", include_str!("../../migrations/clickhouse/0002_access.sql")),
    ("0003_ingest.sql", include_str!("../../migrations/clickhouse/0003_ingest.sql")),
    ("0101_meters.sql", include_str!("../../migrations/clickhouse/0101_meters.sql")),
    ("0102_tiers.sql", include_str!("../../migrations/clickhouse/0102_tiers.sql")),
    ("0350_dead_letters.sql", include_str!("../../migrations/clickhouse/0350_dead_letters.sql")),
    ("0401_decisions.sql", include_str!("../../migrations/clickhouse/0401_decisions.sql")),
    ("0402_decision_ids.sql", include_str!("../../migrations/clickhouse/0402_decision_ids.sql")),
];

pub fn client(config: &config::ClickHouse) -> Client {
    let client = without_database(config).with_database(&config.database);
    if config.cluster.is_empty() {
        return client;
    }
    cluster::SETTINGS.iter().fold(client, |client, (name, value)| client.with_setting(*name, *value))
}

/// What `ALTER TABLE` changes: the table, or on a cluster the local one of every shard.
pub fn altered(config: &config::ClickHouse, table: &str) -> String {
    if config.cluster.is_empty() { table.to_owned() } else { format!("{table}_local ON CLUSTER '{}'", config.cluster) }
}

/// Makes a table of the shape and keys of `events`.
pub fn like_events(config: &config::ClickHouse, table: &str) -> Vec<String> {
    let create = format!(
        "CREATE TABLE {table} AS events ENGINE = ReplacingMergeTree(version, is_deleted) PARTITION BY toYYYYMM(time) \
         ORDER BY (workspace, toStartOfMinute(time), id)"
    );
    for_cluster(config, &create)
}

/// Drops a table, if it is there.
pub fn dropped(config: &config::ClickHouse, table: &str) -> Vec<String> {
    if config.cluster.is_empty() {
        return vec![format!("DROP TABLE IF EXISTS {table}")];
    }
    [table.to_owned(), format!("{table}_local")]
        .map(|table| format!("DROP TABLE IF EXISTS {table} ON CLUSTER '{}'", config.cluster))
        .to_vec()
}

/// Everything that [`migrate`] runs on an empty database, in its order.
pub fn ddl(config: &config::ClickHouse) -> Vec<String> {
    let all = MIGRATIONS.iter().flat_map(|(_, sql)| statements(sql));
    [LEDGER.to_owned()].into_iter().chain(all).flat_map(|statement| for_cluster(config, &statement)).collect()
}

fn for_cluster(config: &config::ClickHouse, statement: &str) -> Vec<String> {
    if config.cluster.is_empty() { vec![statement.to_owned()] } else { cluster::statements(statement, &config.cluster, &config.database) }
}

/// Which migrations were applied.
const LEDGER: &str =
    "CREATE TABLE IF NOT EXISTS migrations (name String, hash UInt64, applied_at DateTime DEFAULT now()) ENGINE = MergeTree ORDER BY name";

fn without_database(config: &config::ClickHouse) -> Client {
    let mut client = Client::default().with_url(&config.url);
    if !config.user.is_empty() {
        client = client.with_user(&config.user).with_password(&config.password);
    }
    client
}

/// Creates the database and applies what is not yet applied. A file is recorded by name and content; a changed file
/// is refused, because the tables it made would not change with it.
pub async fn migrate(config: &config::ClickHouse) -> anyhow::Result<()> {
    let named = |what: &str| format!("ClickHouse at {}: {what}", config.url);
    let everywhere = if config.cluster.is_empty() { String::new() } else { format!(" ON CLUSTER '{}'", config.cluster) };
    without_database(config)
        .query(&format!("CREATE DATABASE IF NOT EXISTS ?{everywhere}"))
        .bind(clickhouse::sql::Identifier(&config.database))
        .execute()
        .await
        .with_context(|| named("the database cannot be created; check clickhouse.url and that the server runs"))?;
    let client = client(config);
    for statement in for_cluster(config, LEDGER) {
        client.query_raw(&statement).execute().await?;
    }
    for (name, sql) in MIGRATIONS {
        let applied = client
            .query("SELECT hash = sipHash64(?) FROM migrations WHERE name = ? LIMIT 1")
            .bind(*sql)
            .bind(*name)
            .fetch_optional::<u8>()
            .await?;
        match applied {
            Some(1) => continue,
            Some(_) => bail!(named(&format!(
                "migration {name} was applied with another content; migrations are never edited once applied, add a new one"
            ))),
            None => {}
        }
        for statement in statements(sql).iter().flat_map(|statement| for_cluster(config, statement)) {
            client
                .query_raw(&statement)
                .execute()
                .await
                .with_context(|| named(&format!("migration {name} failed at: {}", first_line(&statement))))?;
        }
        client.query("INSERT INTO migrations (name, hash) SELECT ?, sipHash64(?)").bind(*name).bind(*sql).execute().await?;
    }
    Ok(())
}

fn statements(sql: &str) -> Vec<String> {
    let code: Vec<_> = sql.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    format!("{}\n", code.join("\n")).split(";\n").map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

fn first_line(statement: &str) -> &str {
    statement.lines().next().unwrap_or_default()
}

/// Whether it answers, within a second.
pub async fn is_ready(client: &Client) -> bool {
    let ping = client.query("SELECT 1").fetch_one::<u8>();
    matches!(tokio::time::timeout(Duration::from_secs(1), ping).await, Ok(Ok(1)))
}
