//! For each format and each way in: what was called equals what is counted, redelivery included.

mod calls;
mod ways;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Suite, eventually};
use crate::tenant::Tenant;
use calls::{CALLS, Call, OWN, formats};
use ways::{Source, Way};

const SOON: Duration = Duration::from_secs(40);

/// What usage is grouped by here.
type Seen = (String, String, String, String, String);

/// The truth of the traffic of every source equals usage: calls by subject, route, method and status, and bytes.
pub async fn every_format_counts_the_truth_whichever_way_it_comes(suite: &Suite) {
    let tenant = Tenant::named(suite, crate::harness::SYSLOG_WORKSPACE).await;
    let calls = Call::all();
    let mut sources = Vec::new();
    for way in [
        Way::Array,
        Way::Lines,
        Way::Topic,
        Way::Batch,
        Way::Binary,
        Way::BinaryTopic,
        Way::OtlpProtobuf,
        Way::OtlpJson,
        Way::OtlpGrpc,
        Way::Udp,
        Way::Tcp,
    ] {
        for format in formats().into_iter().filter(|format| Way::of(format).contains(&way)) {
            let name = format!("{}-{way:?}", format.name).to_lowercase();
            let topic = format!("{name}-{}", tenant.workspace.id);
            sources.push(Source { format, way, name, topic });
        }
    }
    let listed: String = sources
        .iter()
        .map(|source| {
            let topic = if matches!(source.way, Way::Topic | Way::BinaryTopic) {
                format!(", kafka_topic: {}", source.topic)
            } else {
                String::new()
            };
            format!("  - {{name: {}, format: {}{topic}, networks: [127.0.0.1]}}\n", source.name, source.format.name)
        })
        .collect();
    let head = format!("workspace: {}\ncurrency: USD\ntime_zone: UTC\n", tenant.workspace.name);
    let meter = "meters: [{name: bytes, event: farebox.request.v1, aggregate: sum, value: response_bytes, counted: false}]\n";
    let catalogue = format!("{head}{meter}{OWN}sources:\n{listed}");
    for changes in [true, false] {
        let answer = tenant.call(Method::POST, "/api/v1/catalog").body(catalogue.clone()).send().await.expect("an answer");
        let (status, answer): (_, Value) = (answer.status(), answer.json().await.expect("JSON"));
        assert_eq!((status.as_u16(), answer["changes"].as_array().is_some_and(|c| !c.is_empty())), (200, changes), "{answer}");
    }

    join_all(sources.iter().map(|source| source.send(suite, &tenant, &calls))).await;

    let mut truth: BTreeMap<Seen, u64> = BTreeMap::new();
    let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
    for source in &sources {
        for call in &calls {
            let seen = (
                source.name.clone(),
                (source.format.subject)(call),
                call.route.to_owned(),
                call.method.to_owned(),
                call.status.to_string(),
            );
            *truth.entry(seen).or_default() += 1;
            *bytes.entry(source.name.clone()).or_default() += if source.format.has_response_bytes { call.bytes } else { 0 };
        }
    }
    until_equal("calls", &truth, || usage(&tenant)).await;
    until_equal("bytes", &bytes, || async {
        let answer = tenant.get("/api/v1/usage?meter=bytes&group_by=source").await;
        rows(&answer).map(|row| (text(row, "source"), value(row))).collect()
    })
    .await;
    let counts = tenant.get("/api/v1/dead-letters/counts").await;
    assert_eq!(counts["data"], json!([]), "nothing was rejected");
    read_again(suite, &tenant, &sources).await;
    until_equal("calls, after every message of a topic was read again", &truth, || usage(&tenant)).await;
}

async fn until_equal<K: Ord + std::fmt::Debug, F: Future<Output = BTreeMap<K, u64>>>(
    what: &str,
    truth: &BTreeMap<K, u64>,
    ask: impl Fn() -> F,
) {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let found = ask().await;
        if found == *truth {
            return;
        }
        if tokio::time::Instant::now() >= deadline {
            let off: Vec<_> = truth
                .keys()
                .chain(found.keys())
                .filter(|key| truth.get(key) != found.get(key))
                .map(|key| format!("{key:?}: {} in truth, {} counted", truth.get(key).unwrap_or(&0), found.get(key).unwrap_or(&0)))
                .take(20)
                .collect();
            panic!("{what} are not the truth:\n{}", off.join("\n"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn usage(tenant: &Tenant) -> BTreeMap<Seen, u64> {
    let by = ["source", "subject", "route", "method", "status"].map(|dimension| format!("&group_by={dimension}")).concat();
    let answer = tenant.get(&format!("/api/v1/usage?meter=calls&window=none{by}")).await;
    let seen = |row| (text(row, "source"), text(row, "subject"), text(row, "route"), text(row, "method"), text(row, "status"));
    rows(&answer).map(|row| (seen(row), value(row))).collect()
}

fn rows(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["data"].as_array().expect("rows").iter()
}

fn text(row: &Value, dimension: &str) -> String {
    row["group"][dimension].as_str().expect("a text").to_owned()
}

fn value(row: &Value) -> u64 {
    row["value"].as_str().expect("a decimal").parse().expect("a whole number")
}

/// Takes away what was committed of every topic, so that all of it is delivered again.
async fn read_again(suite: &Suite, tenant: &Tenant, sources: &[Source]) {
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL answers");
    let with_topics: Vec<&Source> = sources.iter().filter(|source| matches!(source.way, Way::Topic | Way::BinaryTopic)).collect();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &suite.app.config.kafka.brokers).create().expect("a client");
    let mut groups = Vec::new();
    for source in &with_topics {
        let registered =
            farebox_metering::sources::upsert(&mut conn, &tenant.workspace.id, &source.name, source.format.name, None, false).await;
        groups.push(suite.app.kafka.name(&format!("farebox.source.{}", registered.expect("a source").id)));
    }
    let names: Vec<&str> = groups.iter().map(String::as_str).collect();
    // A group can be forgotten once its reader has left it.
    eventually("every reader has left its group", SOON, || async {
        let results = admin.delete_groups(&names, &rdkafka::admin::AdminOptions::new()).await.expect("Kafka answers");
        let gone = |result: &Result<String, (String, rdkafka::error::RDKafkaErrorCode)>| match result {
            Ok(_) => true,
            Err((_, code)) => *code == rdkafka::error::RDKafkaErrorCode::GroupIdNotFound,
        };
        results.iter().all(gone).then_some(())
    })
    .await;
    let sent: u64 = with_topics.iter().map(|source| u64::from(CALLS) * if source.format.has_id { 2 } else { 1 }).sum();
    for source in &with_topics {
        farebox_metering::sources::upsert(&mut conn, &tenant.workspace.id, &source.name, source.format.name, Some(&source.topic), false)
            .await
            .expect("a source");
    }
    // As many verdicts again as there were: then everything was read a second time.
    eventually("every message was read again", SOON, || async { (verdicts(tenant, &with_topics).await >= 2 * sent).then_some(()) }).await;
}

async fn verdicts(tenant: &Tenant, sources: &[&Source]) -> u64 {
    let answer = tenant.get("/api/v1/verdicts").await;
    let ours = |row: &&Value| sources.iter().any(|source| row["source"] == json!(source.name));
    rows(&answer).filter(ours).map(|row| row["n"].as_u64().expect("a number")).sum()
}
