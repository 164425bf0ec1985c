//! Calls, and how each looks in each format.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use farebox_core::clock;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Calls of one source.
pub const CALLS: u32 = 120;

/// One call, as it was.
pub struct Call {
    pub n: u32,
    pub start: DateTime<Utc>,
    pub subject: &'static str,
    pub route: &'static str,
    pub method: &'static str,
    pub status: u16,
    pub latency_ms: u32,
    pub bytes: u64,
}

impl Call {
    pub fn all() -> Vec<Self> {
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

/// A format, and how this call looks in it.
pub struct Format {
    pub name: &'static str,
    pub write: fn(&Call, &str) -> Value,
    /// The subject as it is kept.
    pub subject: fn(&Call) -> String,
    pub has_response_bytes: bool,
    /// The calls' own ids make them one however often a message is written.
    pub has_id: bool,
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

pub const OWN: &str = "
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

pub fn formats() -> Vec<Format> {
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
