//! Kafka: topics, an idempotent producer, consumers that never commit by themselves.

use std::time::Duration;

use anyhow::Context;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::FutureProducer;

use crate::config;

/// Accepted usage events, as CloudEvents JSON (see [`crate::event`]).
pub const EVENTS: &str = "farebox.events.v1";
/// What was rejected, with its original bytes and the reason.
pub const DEAD_LETTERS: &str = "farebox.dead-letters.v1";
/// Counts of gateway decisions: the second witness.
pub const DECISIONS: &str = "farebox.decisions.v1";

/// Ways to sign in.
pub const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// A cluster. Cheap to clone; clones share the producer.
#[derive(Clone)]
pub struct Kafka {
    config: config::Kafka,
    pub producer: FutureProducer,
}

impl Kafka {
    pub fn connect(config: &config::Kafka) -> anyhow::Result<Self> {
        let producer = client_config(config)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .set("batch.num.messages", "50000")
            .set("queue.buffering.max.kbytes", "65536")
            // An event that Kafka did not take within this time is answered with 503, never with 202.
            .set("message.timeout.ms", "10000")
            .create()
            .context("the Kafka producer cannot be created; check kafka.brokers")?;
        Ok(Self { config: config.clone(), producer })
    }

    /// A topic's or group's name in this cluster.
    pub fn name(&self, base: &str) -> String {
        format!("{}{base}", self.config.prefix)
    }

    /// A consumer that commits only when told, and starts at the earliest offset when it has none.
    pub fn consumer<C: ConsumerContext + 'static>(&self, group: &str, context: C) -> Result<StreamConsumer<C>, KafkaError> {
        // What is fetched ahead, of each partition; unless said, 64 MiB.
        consumer_config(&self.config, &self.name(group)).set("queued.max.messages.kbytes", "8192").create_with_context(context)
    }

    /// A consumer at another cluster, for the sources that have their own.
    pub fn consumer_at<C: ConsumerContext + 'static>(
        &self,
        cluster: &config::Kafka,
        group: &str,
        context: C,
    ) -> Result<StreamConsumer<C>, KafkaError> {
        // Which protocol a foreign cluster speaks is not known; every one speaks the classic one.
        consumer_config(cluster, &self.name(group)).set("group.protocol", "classic").create_with_context(context)
    }

    /// As [`Self::consumer`], polled by hand on a thread of its own, where rebalances may be waited for.
    pub fn base_consumer<C: ConsumerContext + 'static>(&self, group: &str, context: C) -> Result<BaseConsumer<C>, KafkaError> {
        consumer_config(&self.config, &self.name(group)).create_with_context(context)
    }

    /// Creates what is missing of `topics` (base names).
    pub async fn create_topics(&self, topics: &[&str]) -> anyhow::Result<()> {
        let names: Vec<_> = topics.iter().map(|t| self.name(t)).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        self.create_exact_topics(&names).await
    }

    /// As [`Self::create_topics`], for topics that are not ours and carry no prefix.
    pub async fn create_exact_topics(&self, topics: &[&str]) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> = client_config(&self.config).create()?;
        let new: Vec<_> = topics
            .iter()
            .map(|name| NewTopic::new(name, self.config.partitions, TopicReplication::Fixed(self.config.replication)))
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10))).request_timeout(Some(Duration::from_secs(15)));
        let results = admin
            .create_topics(&new, &options)
            .await
            .with_context(|| format!("Kafka at {} cannot be reached; check kafka.brokers and that it runs", self.config.brokers))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => anyhow::bail!("Kafka did not create topic {topic}: {code}"),
            }
        }
        Ok(())
    }

    /// Whether a broker answers, within a second.
    pub async fn is_ready(&self) -> bool {
        use rdkafka::producer::Producer;
        let producer = self.producer.clone();
        tokio::task::spawn_blocking(move || producer.client().fetch_metadata(None, Duration::from_secs(1)).is_ok()).await.unwrap_or(false)
    }
}

/// What every client of a cluster needs: where it is, and how to sign in.
fn client_config(cluster: &config::Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &cluster.brokers);
    let protocol = match (cluster.tls, cluster.sasl_mechanism.is_empty()) {
        (false, true) => "plaintext",
        (true, true) => "ssl",
        (false, false) => "sasl_plaintext",
        (true, false) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if cluster.tls && !cluster.ca.is_empty() {
        config.set("ssl.ca.pem", &cluster.ca);
    }
    if !cluster.sasl_mechanism.is_empty() {
        config
            .set("sasl.mechanism", &cluster.sasl_mechanism)
            .set("sasl.username", &cluster.sasl_username)
            .set("sasl.password", &cluster.sasl_password);
    }
    config
}

fn consumer_config(cluster: &config::Kafka, group: &str) -> ClientConfig {
    let mut config = client_config(cluster);
    config
        .set("group.id", group)
        .set("group.protocol", "consumer")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        // Memory stays bounded however far behind a consumer is.
        .set("queued.max.messages.kbytes", "32768")
        .set("fetch.message.max.bytes", "4194304")
        .set("enable.partition.eof", "false");
    config
}
