//! Every way in: HTTP, topics, OTLP and syslog, each as gateways use it.

use std::io::Write;

use chrono::DateTime;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::future::join_all;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use prost::Message;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::calls::{Call, Format};
use crate::harness::Suite;
use crate::tenant::Tenant;

/// How the records of a source get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
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
    pub fn of(format: &Format) -> Vec<Self> {
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
pub struct Source {
    pub format: Format,
    pub way: Way,
    pub name: String,
    pub topic: String,
}

impl Source {
    fn records(&self, calls: &[Call]) -> Vec<Value> {
        calls.iter().map(|call| (self.format.write)(call, &self.name)).collect()
    }

    /// Sends everything twice where a second sending is a redelivery.
    pub async fn send(&self, suite: &Suite, tenant: &Tenant, calls: &[Call]) {
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
