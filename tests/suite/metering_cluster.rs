//! Counting over distributed tables: the statements that a cluster gets, on one shard that is the engine itself. Replicas
//! and `ON CLUSTER` need a Keeper and are left out.

use farebox_core::App;

use crate::harness::Suite;
use crate::metering;

/// Of the embedded engine's own configuration.
const CLUSTER: &str = "here";
const DATABASE: &str = "distributed";
/// Among these some fill hours and days.
const SEEDS: std::ops::Range<u64> = 8..20;

/// A statement as it is without replicas.
fn alone(statement: &str) -> String {
    let replicated = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'";
    statement
        .replace(&format!(" ON CLUSTER '{CLUSTER}'"), "")
        .replace("ENGINE = Replicated", "ENGINE = ")
        .replace(&format!("({replicated}, "), "(")
        .replace(&format!("({replicated})"), "")
}

/// With stores of its own, so that what runs beside it does not take its timelines to other tables.
async fn distributed(app: &App) -> App {
    let run = async |client: &clickhouse::Client, statement: &str| {
        client.query_raw(statement).execute().await.unwrap_or_else(|error| panic!("{error}: {statement}"));
    };
    run(&app.clickhouse, &format!("CREATE DATABASE {DATABASE}")).await;
    sqlx::query("CREATE DATABASE distributed").execute(&app.pg).await.expect("a database");
    let mut config = (*app.config).clone();
    // `postgres://user@host/database?host=socket`
    let url = config.postgres.url.clone();
    let (address, parameters) = url.split_at(url.find('?').unwrap_or(url.len()));
    let (server, _) = address.rsplit_once('/').expect("a database in the address");
    config.postgres.url = format!("{server}/{DATABASE}{parameters}");
    config.clickhouse.cluster = CLUSTER.to_owned();
    config.clickhouse.database = DATABASE.to_owned();
    let distributed = App::connect(config).await.expect("connected");
    farebox_core::postgres::migrate(&distributed.pg).await.expect("migrated");
    for statement in farebox_core::clickhouse::ddl(&distributed.config.clickhouse) {
        run(&distributed.clickhouse, &alone(&statement)).await;
    }
    distributed
}

pub async fn answers_equal_the_model_over_distributed_tables(suite: &Suite) {
    let app = distributed(&suite.app).await;
    metering::play(&app, SEEDS).await;
    for table in ["events", "billing_minute", "routes_hour", "meter_minute"] {
        let rows: u64 = app.clickhouse.query_raw(&format!("SELECT count() FROM {table}_local")).fetch_one().await.expect("a count");
        assert!(rows > 0, "{table}_local");
    }
}
