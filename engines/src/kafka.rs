//! Apache Kafka: one node that is broker and controller (KRaft), with bounded memory and threads.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine as _;

use crate::artefacts::{Artefacts, program};
use crate::child::{Recipe, read_log};
use crate::datadir::DataDir;
use crate::keeper::Ready;
use crate::progress::{Event, Progress};
use crate::{Error, NAME_KAFKA as NAME};

const LOG4J: &str = "\
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
# Says when the broker has started.
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
";

/// Defaults are for a cluster: fifty partitions for offsets, gigabyte segments, a cleaner of 128 MB.
/// The timeouts are short, so that a consumer killed a moment ago is soon replaced.
fn properties(logs: &Path, port: u16, controller: u16) -> String {
    format!(
        "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={logs}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms=10000
group.consumer.min.heartbeat.interval.ms=1000
group.consumer.heartbeat.interval.ms=2000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=4
background.threads=2
num.recovery.threads.per.data.dir=1
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=8388608
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
log.retention.hours=168
log.retention.bytes=1073741824
",
        logs = logs.display()
    )
}

/// Writes the configuration and formats the log directory, the first time.
pub fn prepare(data: &DataDir, artefacts: &Artefacts, progress: &Progress, port: u16, controller: u16) -> Result<(Recipe, Ready), Error> {
    let directory = data.engine(NAME).map_err(|source| Error::prepare(NAME, &source))?;
    let (logs, settings, log4j) = (directory.join("log"), directory.join("server.properties"), directory.join("log4j2.properties"));
    let write = || -> io::Result<()> {
        fs::write(&settings, properties(&logs, port, controller))?;
        fs::write(&log4j, LOG4J)
    };
    write().map_err(|source| Error::prepare(NAME, &source))?;

    let java = program("java", "Java 17 or newer", "default-jre-headless")?;
    let jars = artefacts.kafka_jars()?.join("*");
    let recipe = |heap: &str| {
        Recipe::new(&java, &directory, &data.log(NAME))
            .args([
                heap,
                "-Xms64m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-XX:+ExitOnOutOfMemoryError",
                "-Djava.awt.headless=true",
            ])
            .arg(format!("-Dlog4j2.configurationFile={}", log4j.display()))
            .arg("-cp")
            .arg(&jars)
    };
    if !logs.join("meta.properties").exists() {
        progress.send(NAME, Event::Preparing);
        let id = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());
        // An identifier that begins with a dash would be read as an option.
        let format = recipe("-Xmx128m").args(["kafka.tools.StorageTool", "format", "--cluster-id"]).arg(format!("F{}", &id[1..]));
        format.arg("--config").arg(&settings).run().map_err(|source| Error::prepare(NAME, &source))?;
    }
    let serve = recipe("-Xmx512m").arg("kafka.Kafka").arg(&settings);
    // The port opens before the broker takes requests; the line is written once it does.
    let ready: Ready = Box::new(|started| read_log(&started.recipe.log, started.log_from).contains("Kafka Server started"));
    Ok((serve, ready))
}
