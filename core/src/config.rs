//! Configuration: `farebox.toml`, overridden by `FAREBOX_*` variables (`FAREBOX_POSTGRES__URL` sets `postgres.url`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

/// Everything a role needs to start. Durations are in the unit their name ends with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub http: Http,
    pub postgres: Postgres,
    pub clickhouse: ClickHouse,
    pub kafka: Kafka,
    pub ingest: Ingest,
    pub metering: Metering,
    pub billing: Billing,
    pub mail: Mail,
    pub webhooks: Webhooks,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    pub listen: SocketAddr,
    /// The address people and Stripe reach this instance at, without a trailing slash.
    pub public_url: String,
    /// A second listener, with TLS.
    pub tls: Option<Tls>,
}

/// Where Farebox ends TLS itself. With `client_ca_file` a client must show a certificate that one of these authorities
/// signed; which source it is, the tokens of kind `certificate` say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub listen: SocketAddr,
    /// PEM: the certificate, then those that signed it.
    pub certificate_file: PathBuf,
    /// PEM.
    pub key_file: PathBuf,
    /// PEM.
    pub client_ca_file: Option<PathBuf>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Postgres {
    pub url: String,
    pub max_connections: u32,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClickHouse {
    pub url: String,
    pub database: String,
    pub user: String,
    pub password: String,
    /// The name of a cluster in ClickHouse's configuration: tables are then replicated and sharded over it. Empty: one
    /// server. Decided before the first migration.
    pub cluster: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// Put before every topic and group name, so that several instances can share a cluster.
    pub prefix: String,
    pub partitions: i32,
    pub replication: i32,
    /// Connect by TLS.
    pub tls: bool,
    /// PEM of the authorities that sign the brokers' certificates; the system's where empty.
    pub ca: String,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`; empty: no sign-in.
    pub sasl_mechanism: String,
    pub sasl_username: String,
    pub sasl_password: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ingest {
    /// Largest body, after decompression.
    pub max_body_bytes: usize,
    /// Largest single event.
    pub max_event_bytes: usize,
    pub max_events_per_batch: usize,
    /// A directory on a local disk where events are kept when Kafka does not take them, until it does. Empty: such events
    /// are refused with 503.
    pub spool_dir: String,
    /// Bytes kept there at most.
    pub spool_max_bytes: u64,
    /// Whether a source may name Kafka brokers of its own. Turn it off where workspaces belong to people who should not
    /// reach the network that Farebox is in.
    pub source_brokers: bool,
    /// Where to listen for syslog.
    pub syslog: Vec<Syslog>,
}

/// A listener for the syslog messages of one source, which are taken from the source's networks only.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Syslog {
    pub listen: SocketAddr,
    #[serde(default)]
    pub protocol: SyslogProtocol,
    /// `provider/environment`.
    pub workspace: String,
    pub source: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyslogProtocol {
    #[default]
    Udp,
    Tcp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metering {
    /// Rows per insert, at most; fewer after `insert_wait_ms`.
    pub insert_rows: usize,
    pub insert_wait_ms: u64,
    /// How often dirty minutes are recomputed.
    pub recompute_every_ms: u64,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Billing {
    /// Time after a period's end before its invoices are issued.
    pub grace_minutes: i64,
    pub stripe_url: String,
    /// Calls to Stripe per second and workspace, at most; 0: what Stripe documents (live 25, test 8) where `stripe_url` is
    /// Stripe's own, no limit elsewhere.
    pub stripe_calls_per_second: u32,
    /// 32 bytes in hex; encrypts the workspaces' Stripe keys at rest.
    pub encryption_key: String,
}

/// Without a server no e-mail is sent.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mail {
    /// `smtps://user:password@host`, or `smtp://user:password@host:587?tls=required`; empty: no e-mail.
    pub smtp_url: String,
    /// `Acme Billing <billing@acme.example>`.
    pub from: String,
}

/// What is told to addresses that a workspace names.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// Networks (CIDR) that may be called although they are not public; without TLS, too. Empty: only public addresses,
    /// over HTTPS. Leave it so where workspaces belong to people who should not reach the network that Farebox is in.
    pub networks: Vec<String>,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)), public_url: "http://localhost:8080".to_owned(), tls: None }
    }
}

impl Default for Postgres {
    fn default() -> Self {
        Self { url: String::new(), max_connections: 20 }
    }
}

impl Default for ClickHouse {
    fn default() -> Self {
        Self { url: String::new(), database: "farebox".to_owned(), user: String::new(), password: String::new(), cluster: String::new() }
    }
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            prefix: String::new(),
            partitions: 4,
            replication: 1,
            tls: false,
            ca: String::new(),
            sasl_mechanism: String::new(),
            sasl_username: String::new(),
            sasl_password: String::new(),
        }
    }
}

impl Default for Ingest {
    fn default() -> Self {
        Self {
            max_body_bytes: 8 << 20,
            max_event_bytes: 256 << 10,
            max_events_per_batch: 10_000,
            spool_dir: String::new(),
            spool_max_bytes: 1 << 30,
            source_brokers: true,
            syslog: Vec::new(),
        }
    }
}

impl Default for Metering {
    fn default() -> Self {
        Self { insert_rows: 100_000, insert_wait_ms: 250, recompute_every_ms: 1000 }
    }
}

impl Default for Billing {
    fn default() -> Self {
        Self {
            grace_minutes: 60,
            stripe_url: "https://api.stripe.com/".to_owned(),
            stripe_calls_per_second: 0,
            encryption_key: String::new(),
        }
    }
}

/// Written by hand where a value is secret, so that no log ever shows one.
macro_rules! debug_without {
    ($type:ident: $($shown:ident),*; $($hidden:ident),*) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type))$(.field(stringify!($shown), &self.$shown))*$(.field(stringify!($hidden), &"…"))*.finish()
            }
        }
    };
}
debug_without!(Postgres: max_connections; url);
debug_without!(Kafka: brokers, prefix, partitions, replication, tls, sasl_mechanism, sasl_username; sasl_password);
debug_without!(ClickHouse: url, database, user, cluster; password);
debug_without!(Mail: from; smtp_url);
debug_without!(Billing: grace_minutes, stripe_url, stripe_calls_per_second; encryption_key);

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration cannot be read: {0}")]
    Unreadable(#[from] Box<figment::Error>),
    #[error("the configuration is incomplete:\n{}", .0.iter().map(|m| format!("  - {m}")).collect::<Vec<_>>().join("\n"))]
    Incomplete(Vec<String>),
}

/// Variables with a section, such as `FAREBOX_POSTGRES__URL`.
fn environment() -> Env {
    Env::prefixed("FAREBOX_").filter(|name| name.as_str().contains("__")).split("__")
}

impl Config {
    /// Reads `file` (when it exists) and the environment.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let config: Self = Figment::from(Serialized::defaults(Self::default()))
            .merge(Toml::file(file))
            .merge(environment())
            .extract()
            .map_err(Box::new)?;
        config.validate()?;
        Ok(config)
    }

    /// What the environment says, over this. For instances whose file is written by the program.
    pub fn with_environment(self) -> Result<Self, ConfigError> {
        let config: Self = Figment::from(Serialized::defaults(self)).merge(environment()).extract().map_err(Box::new)?;
        config.validate()?;
        Ok(config)
    }

    /// Refuses to start half-wired: names everything that is missing at once.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut missing = Vec::new();
        let mut need = |present: bool, what: &str| {
            if !present {
                missing.push(what.to_owned());
            }
        };
        need(
            !self.postgres.url.is_empty(),
            "postgres.url (FAREBOX_POSTGRES__URL): where PostgreSQL is, such as postgres://user:password@host/farebox",
        );
        need(
            !self.clickhouse.url.is_empty(),
            "clickhouse.url (FAREBOX_CLICKHOUSE__URL): ClickHouse's HTTP address, such as http://host:8123",
        );
        need(
            self.clickhouse.cluster.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'),
            "clickhouse.cluster (FAREBOX_CLICKHOUSE__CLUSTER): a name of letters, digits, `_` and `-`, as in ClickHouse's remote_servers",
        );
        need(!self.kafka.brokers.is_empty(), "kafka.brokers (FAREBOX_KAFKA__BROKERS): such as host:9092");
        need(
            hex::decode(&self.billing.encryption_key).is_ok_and(|key| key.len() == 32),
            "billing.encryption_key (FAREBOX_BILLING__ENCRYPTION_KEY): 64 hexadecimal digits, such as `openssl rand -hex 32` prints",
        );
        need(
            url::Url::parse(&self.http.public_url).is_ok() && !self.http.public_url.ends_with('/'),
            "http.public_url (FAREBOX_HTTP__PUBLIC_URL): an address without a trailing slash",
        );
        let mechanism = self.kafka.sasl_mechanism.as_str();
        need(
            mechanism.is_empty() || crate::kafka::MECHANISMS.contains(&mechanism),
            "kafka.sasl_mechanism must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, or empty",
        );
        need(
            mechanism.is_empty() || !(self.kafka.sasl_username.is_empty() || self.kafka.sasl_password.is_empty()),
            "kafka.sasl_username and kafka.sasl_password (FAREBOX_KAFKA__SASL_PASSWORD): who signs in by kafka.sasl_mechanism",
        );
        need(
            crate::mail::Mailer::new(&self.mail).is_ok(),
            "mail.smtp_url (FAREBOX_MAIL__SMTP_URL) and mail.from (FAREBOX_MAIL__FROM): such as smtps://user:password@host and Acme Billing <billing@acme.example>",
        );
        need(
            self.webhooks.networks.iter().all(|network| network.parse::<ipnet::IpNet>().is_ok()),
            "webhooks.networks (FAREBOX_WEBHOOKS__NETWORKS) must be networks such as 10.20.0.0/16",
        );
        need(self.kafka.partitions > 0, "kafka.partitions must be at least 1");
        need(self.metering.insert_rows > 0, "metering.insert_rows must be at least 1");
        if missing.is_empty() { Ok(()) } else { Err(ConfigError::Incomplete(missing)) }
    }
}
