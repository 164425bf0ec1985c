//! The engines as those who use them see them: started, used, killed, started again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clickhouse::{Client, Row};
use farebox_engines::child::family;
use farebox_engines::{Engines, Error, NAME_CLICKHOUSE, NAME_ENVOY, NAME_KAFKA, NAME_POSTGRES, NAME_STRIPE, Options, Progress, With};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection};

/// The program that has the `engine` subcommand; cargo builds it beside the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    test.ancestors().nth(2).expect("target/debug/deps/test").join("examples/engines")
}

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("farebox-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn options(data: &Path, with: With) -> Options {
    farebox_core::tls::install();
    let mut options = Options::new(data);
    options.program = Some(program());
    options.with = with;
    options.progress = Progress::new(|engine, event| eprintln!("{engine:<12}{event}"));
    options
}

fn clickhouse_only() -> With {
    With { kafka: false, clickhouse: true, postgres: false, stripe: false }
}

fn clickhouse(engines: &Engines) -> Client {
    let addresses = engines.addresses();
    Client::default()
        .with_url(&addresses.clickhouse_url)
        .with_user(&addresses.clickhouse_user)
        .with_password(&addresses.clickhouse_password)
}

#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
struct Event {
    id: u64,
    text: String,
}

async fn insert(client: &Client, ids: std::ops::Range<u64>) {
    let mut insert = client.insert::<Event>("event").await.expect("the table is described");
    for id in ids {
        insert.write(&Event { id, text: format!("line\n{id}") }).await.expect("a row is written");
    }
    insert.end().await.expect("the insert is acknowledged");
}

async fn count(client: &Client) -> u64 {
    client.query("SELECT count() FROM event").fetch_one().await.expect("a count")
}

const CREATE: &str = "CREATE TABLE event (id UInt64, text String) ENGINE = MergeTree ORDER BY id";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_minus_nine() {
    let scratch = Scratch::new("all");
    let engines = Engines::start(options(&scratch.0, With::default())).await.expect("the engines start");
    let addresses = engines.addresses().clone();

    let tables = clickhouse(&engines);
    tables.query(CREATE).execute().await.expect("a table");
    insert(&tables, 0..10_000).await;

    let mut records = PgConnection::connect(&addresses.postgres_url).await.expect("a connection");
    sqlx::raw_sql("CREATE TABLE note (text text)").execute(&mut records).await.expect("a table");
    sqlx::query("INSERT INTO note VALUES ('kept')").execute(&mut records).await.expect("a row");

    let mut kafka = ClientConfig::new();
    kafka.set("bootstrap.servers", &addresses.kafka_brokers);
    let admin: AdminClient<_> = kafka.create().expect("an admin client");
    let topic = NewTopic::new("events", 2, TopicReplication::Fixed(1));
    admin.create_topics([&topic], &AdminOptions::new()).await.expect("an answer")[0].as_ref().expect("a topic");
    let producer: FutureProducer = kafka.clone().set("enable.idempotence", "true").create().expect("a producer");
    for number in 0..100_u32 {
        let payload = number.to_string();
        let record = FutureRecord::to("events").key(&payload).payload(&payload);
        producer.send(record, Duration::from_secs(10)).await.expect("an acknowledgement");
    }

    // A second supervisor on the same directory is told who holds it.
    let refused = Engines::start(options(&scratch.0, With::default())).await.err().expect("refused").to_string();
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");

    let stripe = format!("{}/v1/customers", addresses.stripe_url);
    let http = reqwest::Client::new();
    let customer = http.post(&stripe).bearer_auth("sk_test_engines_1").header("Idempotency-Key", "1").form(&[("name", "Ada")]);
    assert_eq!(customer.send().await.expect("an answer").status(), 200);

    for engine in [NAME_CLICKHOUSE, NAME_KAFKA, NAME_POSTGRES, NAME_STRIPE] {
        let before = engines.pid(engine).expect("it runs");
        engines.kill(engine).await.expect("it is known");
        engines.ready(engine).await.expect("it comes back");
        assert_ne!(engines.pid(engine), Some(before), "{engine} has a new process");
    }

    assert_eq!(count(&tables).await, 10_000);
    let mut records = PgConnection::connect(&addresses.postgres_url).await.expect("a new connection");
    let kept: String = sqlx::query_scalar("SELECT text FROM note").fetch_one(&mut records).await.expect("the row");
    assert_eq!(kept, "kept");
    let customers: serde_json::Value =
        http.get(&stripe).bearer_auth("sk_test_engines_1").send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(customers["data"][0]["name"], "Ada");
    let consumer: BaseConsumer = kafka
        .clone()
        .set("group.id", "test")
        .set("auto.offset.reset", "earliest")
        .set("group.protocol", "consumer")
        .create()
        .expect("a consumer");
    consumer.subscribe(&["events"]).expect("a subscription");
    let mut seen: Vec<u32> = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while seen.len() < 100 && Instant::now() < deadline {
        if let Some(message) = consumer.poll(Duration::from_millis(200)).transpose().ok().flatten() {
            let payload = String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
            seen.push(payload.parse().expect("a number"));
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<u32>>());
    drop((records, consumer, producer, admin));

    engines.stop().await;
    let again = Engines::start(options(&scratch.0, With::default())).await.expect("they start on their old data");
    assert_eq!(again.addresses(), &addresses, "at the same addresses");
    assert_eq!(count(&clickhouse(&again)).await, 10_000);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_speaks_as_its_server_does() {
    let scratch = Scratch::new("front");
    let engines = Engines::start(options(&scratch.0, clickhouse_only())).await.expect("ClickHouse starts");
    let client = clickhouse(&engines);
    client.query(CREATE).execute().await.expect("a table");
    // Compressed blocks, as the crate sends them, and plain ones.
    insert(&client, 0..300_000).await;
    insert(&client.clone().with_compression(clickhouse::Compression::None), 300_000..300_010).await;

    // A result larger than any buffer on the way, with the types checked by the crate.
    let mut rows = client.query("SELECT ?fields FROM event ORDER BY id").fetch::<Event>().expect("a cursor");
    let mut next = 0;
    while let Some(event) = rows.next().await.expect("a row") {
        assert_eq!(event, Event { id: next, text: format!("line\n{next}") });
        next += 1;
    }
    assert_eq!(next, 300_010);

    let bound = client.query("SELECT ?fields FROM event WHERE id = {id:UInt64} AND text = {text:String}");
    let bound = bound.param("id", 7_u64).param("text", "line\n7").fetch_all::<Event>().await.expect("rows");
    assert_eq!(bound.len(), 1);
    assert_eq!(client.query("SELECT ?fields FROM event WHERE id = 999999999").fetch_optional::<Event>().await.expect("no row"), None);

    // A setting lasts for its own query.
    let threads = "SELECT value FROM system.settings WHERE name = 'max_threads'";
    let set: String = client.query(threads).with_setting("max_threads", "1").fetch_one().await.expect("a value");
    let unset: String = client.query(threads).fetch_one().await.expect("a value");
    assert_eq!(set, "1");
    assert_ne!(unset, "1");

    let early = client.query("SELECT * FROM nowhere").execute().await.expect_err("no table").to_string();
    assert!(early.contains("Code: 60") && early.contains("UNKNOWN_TABLE"), "{early}");
    // One that comes when rows are on their way.
    let late =
        client.query("SELECT throwIf(number = 4000000) FROM numbers(5000000)").fetch_all::<u8>().await.expect_err("thrown").to_string();
    assert!(late.contains("Code: 395"), "{late}");

    let pile = (0..32).map(|_| client.query("SELECT sleep(0.2)").fetch_one::<u8>());
    let started = Instant::now();
    futures::future::try_join_all(pile).await.expect("all are answered");
    assert!(started.elapsed() < Duration::from_secs(5), "several at once: {:?}", started.elapsed());

    let wrong = client.clone().with_password("guess").query("SELECT 1").execute().await.expect_err("no entry").to_string();
    assert!(wrong.contains("Code: 516"), "{wrong}");

    let http = reqwest::Client::new();
    let url = &engines.addresses().clickhouse_url;
    let password = &engines.addresses().clickhouse_password;
    let get = http.get(url).query(&[("query", "DROP TABLE event")]).header("X-ClickHouse-Key", password).send().await.expect("an answer");
    assert_eq!(get.headers()["x-clickhouse-exception-code"], "164", "GET only reads");
    let both = http.post(url).header("X-ClickHouse-Key", password).body("SELECT 1; DROP TABLE event").send().await.expect("an answer");
    assert_eq!((both.status().as_u16(), both.headers()["x-clickhouse-exception-code"].as_bytes()), (400, b"62".as_slice()));
    let inline = http
        .post(url)
        .header("X-ClickHouse-Key", password)
        .body("INSERT INTO event FORMAT CSV\n1,a\n2,b\n")
        .send()
        .await
        .expect("an answer");
    let summary: serde_json::Value = serde_json::from_str(inline.headers()["x-clickhouse-summary"].to_str().expect("text")).expect("JSON");
    assert_eq!(summary["written_rows"], "2");
    assert_eq!(count(&client).await, 300_012);

    // Paused, it answers nothing; resumed, it answers what was asked meanwhile.
    engines.pause(NAME_CLICKHOUSE).await.expect("it runs");
    let asked = tokio::spawn(async move { count(&client).await });
    assert!(tokio::time::timeout(Duration::from_millis(300), http.get(format!("{url}/ping")).send()).await.is_err());
    assert!(!asked.is_finished());
    engines.resume(NAME_CLICKHOUSE).expect("it runs");
    assert_eq!(asked.await.expect("a count"), 300_012);

    engines.take_down(NAME_CLICKHOUSE).await.expect("it runs");
    assert_eq!(engines.pid(NAME_CLICKHOUSE), None);
    engines.bring_up(NAME_CLICKHOUSE).await.expect("it comes back");
    engines.restart(NAME_CLICKHOUSE).await.expect("it comes back");
    engines.stop().await;
}

/// Every process that works in the directory.
fn inhabitants(data: &Path) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(data))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_when_the_supervisor_is_killed() {
    let scratch = Scratch::new("orphans");
    let mut supervisor = std::process::Command::new(program());
    supervisor.arg("up").arg("--data").arg(&scratch.0).stdout(std::process::Stdio::piped());
    let mut supervisor = supervisor.spawn().expect("the supervisor starts");
    // It prints the addresses when everything answers.
    let mut line = String::new();
    let output = supervisor.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("a line");
    assert_eq!(line.trim(), "{");
    let pid = i32::try_from(supervisor.id()).expect("a process number");
    assert_eq!(family(pid).len(), 5, "itself, Kafka, ClickHouse, PostgreSQL, the Stripe double");
    assert!(inhabitants(&scratch.0).len() >= 5, "and stripe-mock");

    supervisor.kill().expect("kill -9");
    supervisor.wait().expect("it ends");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !inhabitants(&scratch.0).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", inhabitants(&scratch.0));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // What they left behind does not keep the next ones from starting.
    let leftover = format!("{}\n{}\n", std::process::id(), scratch.0.join("postgres/data").display());
    std::fs::write(scratch.0.join("postgres/data/postmaster.pid"), leftover).expect("a number that now belongs to another");
    let engines = Engines::start(options(&scratch.0, With::default())).await.expect("they start again");
    engines.stop().await;
    assert!(inhabitants(&scratch.0).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_said_in_a_sentence() {
    let sentence = |result: Result<Engines, Error>| result.err().expect("refused").to_string();

    let nowhere = sentence(Engines::start(options(Path::new("/dev/null/data"), clickhouse_only())).await);
    assert!(nowhere.starts_with("/dev/null/data cannot be used as data directory: "), "{nowhere}");

    let scratch = Scratch::new("sentences");
    let mut taken = options(&scratch.0, clickhouse_only());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    taken.ports.clickhouse = Some(port);
    assert_eq!(
        sentence(Engines::start(taken).await),
        format!("port {port} is taken by another program; choose another, or leave it out for a free one")
    );

    let mut missing = options(&scratch.0, clickhouse_only());
    missing.artefacts = Some(scratch.0.join("logs"));
    let missing = sentence(Engines::start(missing).await);
    assert!(missing.starts_with("ClickHouse is missing") && missing.ends_with("Run engines/fetch in the project"), "{missing}");

    // An engine that keeps dying is started again a few times, then given up with its last words.
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut dying = options(&scratch.0, With { kafka: false, clickhouse: false, postgres: false, stripe: false });
    let listener = Arc::clone(&told);
    dying.progress = Progress::new(move |_, event| listener.lock().expect("not poisoned").push(event.to_string()));
    let engines = Engines::start(dying).await.expect("nothing to start");
    let recipe = engines.recipe("sick", "/bin/sh").expect("a directory").args(["-c", "echo my last words; exit 3"]);
    engines.spawn_named("sick", recipe, Box::new(|_| false)).expect("a keeper");
    let given_up = engines.ready("sick").await.expect_err("given up").to_string();
    assert!(given_up.starts_with("sick died 5 times in a row and is given up; it ended with exit status: 3: my last words"), "{given_up}");
    assert_eq!(engines.failed().await.to_string(), given_up);
    let told = told.lock().expect("not poisoned").clone();
    assert_eq!(told.iter().filter(|line| line.contains("starting again in")).count(), 4, "{told:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_runs_with_the_configuration_it_is_given() {
    let scratch = Scratch::new("envoy");
    let engines = Engines::start(options(&scratch.0, With { kafka: false, clickhouse: false, postgres: false, stripe: false })).await;
    let engines = engines.expect("nothing to start");
    let port = farebox_engines::ports::choose(None, None, &mut Vec::new());
    let configuration = scratch.0.join("envoy.yaml");
    std::fs::write(&configuration, ENVOY.replace("PORT", &port.to_string())).expect("a file");
    engines.start_envoy(&configuration, port).expect("Envoy is here");
    engines.ready(NAME_ENVOY).await.expect("it answers");
    let answer = reqwest::get(format!("http://127.0.0.1:{port}/")).await.expect("an answer").text().await.expect("text");
    assert_eq!(answer, "through Envoy");
    engines.stop().await;
}

const ENVOY: &str = r#"
static_resources:
  listeners:
    - address: { socket_address: { address: 127.0.0.1, port_value: PORT } }
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: test
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes:
                        - match: { prefix: "/" }
                          direct_response: { status: 200, body: { inline_string: "through Envoy" } }
"#;
