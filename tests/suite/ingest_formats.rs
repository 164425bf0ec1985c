//! For each format and each way in: what was called equals what is counted, redelivery included.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use farebox_core::clock;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::future::join_all;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use prost::Message;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::harness::{Suite, eventually};
use crate::tenant::Tenant;

const SOON: Duration = Duration::from_secs(40);
/// Calls of one source.
const CALLS: u32 = 120;

/// One call, as it was.
struct Call {
    n: u32,
    start: DateTime<Utc>,
    subject: &'static str,
    route: &'static str,
    method: &'static str,
    status: u16,
    latency_ms: u32,
    bytes: u64,
}

impl Call {
    fn all() -> Vec<Self> {
        let now = clock::now();
        let pick = |n: u32, of: &[&'static str]| of[n as usize % of.len()];
        let call = |n: u32| Self {
            n,
            // Whole milliseconds, some minutes back and out of order.
            start: DateTime::from_timestamp_millis((now - TimeDelta::seconds(i64::from(n * 7919 % 600))).timestamp_millis())
                .expect("a time"),
            subject: pick(n, &["initech", "umbrella", "initech", ""]),
            route: pick(n / 3, &["orders", "users"]),
            method: pick(n / 5, &["GET", "POST"]),
            status: [200, 201, 404, 429, 503][(n / 7) as usize % 5],
            latency_ms: n % 900,
            bytes: u64::from(n) * 31,
        };
        (0..CALLS).map(call).collect()
    }

    fn end(&self) -> DateTime<Utc> {
        self.start + TimeDelta::milliseconds(i64::from(self.latency_ms))
    }

    fn path(&self) -> String {
        format!("/v1/{}/{}?token=s3cret", self.route, self.n)
    }

    fn id(&self, name: &str) -> String {
        hex::encode(&Sha256::digest(format!("{name}/{}", self.n))[..16])
    }
}

fn iso(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// What usage is grouped by here.
type Seen = (String, String, String, String, String);

/// A format, and how this call looks in it.
struct Format {
    name: &'static str,
    write: fn(&Call, &str) -> Value,
    /// The subject as it is kept.
    subject: fn(&Call) -> String,
    has_response_bytes: bool,
    /// The calls' own ids make them one however often a message is written.
    has_id: bool,
}

fn as_given(call: &Call) -> String {
    call.subject.to_owned()
}

fn unset(text: &str, word: &str) -> String {
    if text.is_empty() { word.to_owned() } else { text.to_owned() }
}

fn apisix(call: &Call, name: &str) -> Value {
    let mut log = json!({
        "latency": f64::from(call.latency_ms) + 0.000_013, "start_time": call.start.timestamp_millis(), "route_id": call.route, "service_id": "",
        "request": { "method": call.method, "size": 83, "uri": call.path(), "headers": { "apikey": "s3cret" } },
        "response": { "status": call.status, "size": call.bytes }, "upstream": "192.0.2.80:8080", "request_id": call.id(name),
    });
    if !call.subject.is_empty() {
        log["consumer"] = json!({ "username": call.subject });
    }
    log
}

fn aws(call: &Call, name: &str) -> Value {
    json!({
        "requestId": "the-clients", "extendedRequestId": call.id(name), "requestTimeEpoch": call.start.timestamp_millis().to_string(),
        "httpMethod": call.method, "resourcePath": call.route, "status": call.status.to_string(), "responseLength": call.bytes.to_string(),
        "responseLatency": call.latency_ms.to_string(), "integrationLatency": "-", "apiKeyId": unset(call.subject, "-"),
    })
}

fn cloudevents(call: &Call, name: &str) -> Value {
    json!({
        "specversion": "1.0", "id": call.id(name), "source": name, "type": "farebox.request.v1", "time": iso(call.start), "subject": call.subject,
        "data": { "api": "a", "route": call.route, "method": call.method, "status": call.status, "latency_us": call.latency_ms * 1000, "response_bytes": call.bytes },
    })
}

fn envoy(call: &Call, name: &str) -> Value {
    json!({
        "start_time": iso(call.start), "duration": call.latency_ms, "x-request-id": call.id(name), "consumer": unset(call.subject, "-"),
        "route_name": call.route, "method": call.method, "path": call.path(), "response_code": call.status, "bytes_sent": call.bytes, "response_flags": "-",
    })
}

fn kong(call: &Call, name: &str) -> Value {
    let mut log = json!({
        "request": { "id": call.id(name), "method": call.method, "uri": call.path(), "size": 139, "headers": { "apikey": "s3cret" } },
        "response": { "status": call.status, "size": call.bytes }, "route": { "id": call.route, "name": "other" }, "started_at": call.start.timestamp_millis(),
        "latencies": { "kong": 1, "proxy": -1, "request": call.latency_ms }, "upstream_status": "500, 200 : 200, 200",
    });
    if !call.subject.is_empty() {
        log["consumer"] = json!({ "id": "c-1", "username": call.subject, "custom_id": null });
    }
    log
}

fn nginx(call: &Call, name: &str) -> Value {
    json!({
        "id": call.id(name), "msec": format!("{}.{:03}", call.end().timestamp(), call.end().timestamp_subsec_millis()), "remote_user": unset(call.subject, "-"),
        "method": call.method, "path": call.path(), "route": call.route, "status": call.status, "bytes_out": call.bytes,
        "request_time": format!("{}.{:03}", call.latency_ms / 1000, call.latency_ms % 1000),
    })
}

fn traefik(call: &Call, name: &str) -> Value {
    json!({
        "StartUTC": iso(call.start), "Duration": u64::from(call.latency_ms) * 1_000_000, "request_X-Request-Id": call.id(name),
        "ClientUsername": unset(call.subject, "-"), "RouterName": call.route, "RequestMethod": call.method, "RequestPath": call.path(),
        "DownstreamStatus": call.status, "OriginStatus": call.status, "DownstreamContentSize": call.bytes,
    })
}

fn tyk(call: &Call, name: &str) -> Value {
    json!({
        "timestamp": iso(call.end()), "request_time_ms": call.latency_ms, "api_key": unset(call.subject, "00000000"), "api_id": "a", "path": call.route,
        "method": call.method, "response_code": call.status, "content_length": -1, "tags": [format!("n-{}", call.id(name))],
    })
}

fn wso2(call: &Call, name: &str) -> Value {
    json!({
        "requestTimestamp": iso(call.start), "responseLatency": call.latency_ms, "correlationId": call.id(name), "applicationId": unset(call.subject, "UNKNOWN"),
        "apiId": "a", "apiVersion": "1", "apiResourceTemplate": call.route, "apiMethod": call.method, "proxyResponseCode": call.status, "targetResponseCode": -1,
    })
}

/// Read by the field map below: numbers as texts, the end in seconds.
fn own(call: &Call, name: &str) -> Value {
    json!({
        "@timestamp": format!("{}.{:03}", call.end().timestamp(), call.end().timestamp_subsec_millis()), "took": call.latency_ms.to_string(),
        "http": { "verb": call.method, "code": call.status.to_string() }, "route": call.route, "who": unset(call.subject, "nobody"),
        "kilobytes": format!("{}.{:03}", call.bytes / 1000, call.bytes % 1000), "rid": call.id(name),
    })
}

const OWN: &str = "
formats:
  - name: edge-log
    fields:
      end_time: {pointer: /@timestamp, type: epoch, unit: s}
      latency: {pointer: /took, unit: ms}
      method: {pointer: /http/verb}
      status: {pointer: /http/code}
      route: {pointer: /route}
      subject: {pointer: /who, unset: [nobody]}
      response_bytes: {pointer: /kilobytes, unit: kB}
      request_id: {pointer: /rid}
";

fn formats() -> Vec<Format> {
    let of = |name, write| Format { name, write, subject: as_given, has_response_bytes: true, has_id: true };
    vec![
        of("apisix", apisix),
        of("aws", aws),
        of("cloudevents", cloudevents),
        of("envoy", envoy),
        of("kong", kong),
        of("nginx", nginx),
        of("traefik", traefik),
        Format { subject: hashed, has_response_bytes: false, has_id: false, ..of("tyk", tyk) },
        Format { has_response_bytes: false, ..of("wso2", wso2) },
        of("edge-log", own),
    ]
}

/// A raw key is kept as its hash.
fn hashed(call: &Call) -> String {
    if call.subject.is_empty() { String::new() } else { format!("sha256:{}", hex::encode(Sha256::digest(call.subject))) }
}

/// How the records of a source get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `POST /v1/ingest/{format}`: an array, gzip.
    Array,
    /// One record a line, and one by itself.
    Lines,
    /// Single objects and arrays in a topic of the source's own.
    Topic,
    OtlpProtobuf,
    OtlpJson,
    OtlpGrpc,
    Udp,
    Tcp,
    /// `POST /v1/events`.
    Batch,
    Binary,
    BinaryTopic,
}

impl Way {
    fn of(format: &Format) -> Vec<Self> {
        let mut ways = vec![Self::Array, Self::Lines, Self::Topic];
        match format.name {
            "cloudevents" => ways.extend([Self::Batch, Self::Binary, Self::BinaryTopic]),
            "envoy" | "traefik" | "edge-log" => ways.extend([Self::OtlpProtobuf, Self::OtlpJson, Self::OtlpGrpc]),
            "nginx" => ways.extend([Self::Udp, Self::Tcp]),
            _ => {}
        }
        ways
    }
}

/// A source of its own for each format and way.
struct Source {
    format: Format,
    way: Way,
    name: String,
    topic: String,
}

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

impl Source {
    fn records(&self, calls: &[Call]) -> Vec<Value> {
        calls.iter().map(|call| (self.format.write)(call, &self.name)).collect()
    }

    /// Sends everything twice where a second sending is a redelivery.
    async fn send(&self, suite: &Suite, tenant: &Tenant, calls: &[Call]) {
        let records = self.records(calls);
        for _ in 0..2 {
            match self.way {
                Way::Array => {
                    for part in records.chunks(50) {
                        self.post(
                            tenant,
                            &format!("/v1/ingest/{}", self.format.name),
                            "application/json",
                            json!(part).to_string().into_bytes(),
                            true,
                        )
                        .await;
                    }
                }
                Way::Lines => {
                    let (first, rest) = records.split_first().expect("records");
                    let lines: Vec<String> = rest.iter().map(|record| self.line(record)).collect();
                    for body in [serde_json::to_string_pretty(first).expect("JSON"), lines.join("\n")] {
                        self.post(tenant, &format!("/v1/ingest/{}", self.format.name), "application/x-ndjson", body.into_bytes(), false)
                            .await;
                    }
                }
                Way::Batch => {
                    let body = json!(records).to_string().into_bytes();
                    self.post(tenant, "/v1/events", "application/cloudevents-batch+json", body, true).await;
                }
                Way::Binary => join_all(records.iter().map(|record| self.post_binary(tenant, record))).await.into_iter().collect(),
                Way::Topic => self.produce(suite, &records).await,
                Way::BinaryTopic => self.produce_binary(suite, &records).await,
                Way::OtlpProtobuf | Way::OtlpJson | Way::OtlpGrpc => self.export(suite, tenant, &records).await,
                Way::Udp | Way::Tcp => self.syslog(suite, &records).await,
            }
            if matches!(self.way, Way::Topic) && !self.format.has_id {
                // The same entry as a new message is another call to a format without an id: see `read_again`.
                return;
            }
        }
    }

    /// WSO2's lines have a prefix.
    fn line(&self, record: &Value) -> String {
        if self.format.name == "wso2" { format!("apimMetrics: apim:response, properties :{record}") } else { record.to_string() }
    }

    async fn post(&self, tenant: &Tenant, path: &str, content_type: &str, body: Vec<u8>, packed: bool) {
        let request = tenant.call(Method::POST, path).header("x-farebox-source", &self.name).header("content-type", content_type);
        let request = if packed { request.header("content-encoding", "gzip").body(gzip(&body)) } else { request.body(body) };
        let answer = request.send().await.expect("an answer");
        let (status, receipt): (_, Value) = (answer.status(), answer.json().await.expect("JSON"));
        assert_eq!((status.as_u16(), &receipt["rejected"]), (202, &json!([])), "{}: {receipt}", self.name);
    }

    async fn post_binary(&self, tenant: &Tenant, event: &Value) {
        let request = tenant.call(Method::POST, "/v1/events").header("content-type", "application/json").body(event["data"].to_string());
        let named = ["specversion", "id", "source", "type", "time", "subject"].into_iter();
        let request = named.fold(request, |request, name| request.header(format!("ce-{name}"), event[name].as_str().expect("a text")));
        assert_eq!(request.send().await.expect("an answer").status(), 202);
    }

    /// Single objects, and arrays as a gateway's batches.
    async fn produce(&self, suite: &Suite, records: &[Value]) {
        let (single, batched) = records.split_at(records.len() / 3);
        let messages = single.iter().map(|record| self.line(record)).chain(batched.chunks(7).map(|batch| json!(batch).to_string()));
        let producer = &suite.app.kafka.producer;
        let sent: Vec<_> = messages
            .map(|message| {
                producer.send_result(FutureRecord::<str, str>::to(&self.topic).payload(&message)).map_err(|(error, _)| error).expect("room")
            })
            .collect();
        for delivered in join_all(sent).await {
            delivered.expect("the producer lives").expect("Kafka acknowledged");
        }
    }

    async fn produce_binary(&self, suite: &Suite, events: &[Value]) {
        for event in events {
            let named = ["specversion", "id", "source", "type", "time", "subject"].into_iter();
            let headers = named.fold(OwnedHeaders::new(), |headers, name| {
                headers.insert(Header { key: &format!("ce_{name}"), value: Some(event[name].as_str().expect("a text")) })
            });
            let headers = headers.insert(Header { key: "content-type", value: Some("application/json") });
            let data = event["data"].to_string();
            let record = FutureRecord::<str, str>::to(&self.topic).payload(&data).headers(headers);
            suite
                .app
                .kafka
                .producer
                .send_result(record)
                .map_err(|(error, _)| error)
                .expect("room")
                .await
                .expect("it lives")
                .expect("acknowledged");
        }
    }

    async fn export(&self, suite: &Suite, tenant: &Tenant, records: &[Value]) {
        for part in records.chunks(50) {
            let body = otlp(part);
            match self.way {
                Way::OtlpGrpc => {
                    let mut client = LogsServiceClient::connect(suite.credentials.base_url.clone()).await.expect("it connects");
                    let mut request = tonic::Request::new(body);
                    request.metadata_mut().insert("x-farebox-token", tenant.token.parse().expect("ASCII"));
                    request.metadata_mut().insert("x-farebox-source", self.name.parse().expect("ASCII"));
                    let answer = client.export(request).await.expect("success").into_inner();
                    assert_eq!(answer.partial_success, None);
                }
                Way::OtlpJson => {
                    let request = tenant.call(Method::POST, "/v1/logs").header("x-farebox-source", &self.name).json(&body);
                    let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
                    assert_eq!(answer, json!({ "partialSuccess": null }), "full success");
                }
                _ => {
                    let request = tenant.call(Method::POST, "/v1/logs").header("x-farebox-source", &self.name);
                    let request = request.header("content-type", "application/x-protobuf").header("content-encoding", "gzip");
                    let answer = request.body(gzip(&body.encode_to_vec())).send().await.expect("an answer");
                    assert_eq!((answer.status().as_u16(), answer.bytes().await.expect("a body").len()), (200, 0), "full success");
                }
            }
        }
    }

    async fn syslog(&self, suite: &Suite, records: &[Value]) {
        let lines = records.iter().map(|record| format!("<190>Nov 21 13:40:53 gw-1 nginx: {record}"));
        let (udp, tcp) = suite.syslog;
        if self.way == Way::Udp {
            let socket = tokio::net::UdpSocket::bind(("127.0.0.1", 0)).await.expect("a socket");
            for line in lines {
                socket.send_to(line.as_bytes(), udp).await.expect("it is sent");
            }
            return;
        }
        let mut stream = tokio::net::TcpStream::connect(tcp).await.expect("it connects");
        for (n, line) in lines.enumerate() {
            let framed = if n % 2 == 0 { format!("{line}\n") } else { format!("{} {line}", line.len()) };
            stream.write_all(framed.as_bytes()).await.expect("it is sent");
        }
        stream.shutdown().await.expect("it closes");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// As attributes: texts as texts, numbers as numbers, `StartUTC` in nanoseconds, as Traefik does it.
fn otlp(records: &[Value]) -> ExportLogsServiceRequest {
    let attribute = |(key, value): (&String, &Value)| {
        let value = match value {
            Value::Number(number) => json!({ "intValue": number.to_string() }),
            Value::Object(members) => {
                let values: Vec<Value> =
                    members.iter().map(|(key, value)| json!({ "key": key, "value": { "stringValue": value } })).collect();
                json!({ "kvlistValue": { "values": values } })
            }
            Value::String(text) if key == "StartUTC" => {
                let nanos = DateTime::parse_from_rfc3339(text).expect("a time").timestamp_nanos_opt().expect("this century");
                json!({ "intValue": nanos.to_string() })
            }
            other => json!({ "stringValue": other }),
        };
        json!({ "key": key, "value": value })
    };
    let record = |record: &Value| {
        let start =
            record["start_time"].as_str().map_or(0, |text| DateTime::parse_from_rfc3339(text).expect("a time").timestamp_micros() * 1000);
        let attributes: Vec<Value> = record.as_object().expect("an object").iter().map(attribute).collect();
        json!({ "timeUnixNano": start.to_string(), "attributes": attributes })
    };
    let records: Vec<Value> = records.iter().map(record).collect();
    serde_json::from_value(json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": records }] }] })).expect("an export")
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
