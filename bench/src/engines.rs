//! Engines that nobody else uses, with databases and topics of this run's own, removed at its end.

use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use farebox_core::App;
use farebox_core::auth::{self, Scope};
use farebox_core::config::Config;
use farebox_core::ids::WorkspaceId;
use farebox_core::kafka::{DEAD_LETTERS, DECISIONS, EVENTS};
use farebox_core::secret::Secret;
use farebox_core::workspace::{self, NewWorkspace, Workspace};
use farebox_engines::{Engines, Options, With};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

pub struct Bench {
    pub app: App,
    name: String,
    postgres: PgConnectOptions,
    engines: Engines,
}

impl Bench {
    /// `farebox`: the binary that runs engines.
    pub async fn start(data: &Path, farebox: &Path) -> anyhow::Result<Self> {
        // Engines are run from the data directory.
        let program =
            farebox.canonicalize().with_context(|| format!("{} is not there; build it, or name it with --farebox", farebox.display()))?;
        let options = Options { with: With { stripe: false, ..With::default() }, program: Some(program), ..Options::new(data) };
        let engines = Engines::start(options).await?;
        let found = engines.addresses().clone();
        let name = format!("farebox_bench_{}", std::process::id());
        let postgres = PgConnectOptions::from_str(&found.postgres_url)?;
        // The name is ours and has only letters, digits and underscores.
        let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::query(create).execute(&mut PgConnection::connect_with(&postgres).await?).await?;

        let mut config = Config::default();
        config.postgres.url = postgres.clone().database(&name).to_url_lossy().to_string();
        config.clickhouse.url = found.clickhouse_url;
        config.clickhouse.user = found.clickhouse_user;
        config.clickhouse.password = found.clickhouse_password;
        config.clickhouse.database.clone_from(&name);
        config.kafka.brokers = found.kafka_brokers;
        config.kafka.prefix = format!("{name}.");
        config.kafka.replication = 1;
        let app = App::connect(config).await?;
        app.migrate().await?;
        Ok(Self { app, name, postgres, engines })
    }

    pub async fn remove(self) -> anyhow::Result<()> {
        let kafka = &self.app.kafka;
        let topics = [EVENTS, DEAD_LETTERS, DECISIONS].map(|topic| kafka.name(topic));
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.app.config.kafka.brokers).create()?;
        admin.delete_topics(&topics.each_ref().map(String::as_str), &AdminOptions::new()).await?;
        self.app.clickhouse.query("DROP DATABASE ?").bind(clickhouse::sql::Identifier(&self.name)).execute().await?;
        self.app.pg.close().await;
        let drop = AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", self.name));
        sqlx::query(drop).execute(&mut PgConnection::connect_with(&self.postgres).await?).await?;
        self.engines.stop().await;
        Ok(())
    }
}

pub async fn workspace(conn: &mut PgConnection, name: &str, currency: &str) -> anyhow::Result<Workspace> {
    let new = NewWorkspace {
        name,
        display_name: "Bench",
        currency: currency.parse()?,
        time_zone: chrono_tz::UTC,
        test_mode: false,
        is_default: false,
    };
    Ok(workspace::create(conn, new).await?)
}

/// A workspace that events are sent to, and the token for it.
pub async fn sender(bench: &Bench, name: &str) -> anyhow::Result<(WorkspaceId, Secret)> {
    let mut conn = bench.app.pg.acquire().await?;
    let workspace = workspace(&mut conn, name, "EUR").await?.id;
    let token = auth::create_token(&mut conn, &workspace, "bench", &[Scope::Ingest], false, None).await?.1;
    Ok((workspace, token))
}
