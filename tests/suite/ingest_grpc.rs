//! OTLP over gRPC: what an exporter is told, so that it sends again what was not taken, and nothing that was.

use std::time::Duration;

use farebox_core::clock;
use futures::future::join_all;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest};
use reqwest::Method;
use serde_json::{Value, json};
use tonic::codec::CompressionEncoding;
use tonic::{Code, Status};

use crate::harness::{Suite, eventually};
use crate::tenant::Tenant;

const SOON: Duration = Duration::from_secs(20);

/// An export of so many calls, as Envoy tells them; `padding`: bytes of each one's path.
pub fn calls(name: &str, n: usize, padding: usize) -> ExportLogsServiceRequest {
    let nanos = clock::now().timestamp_micros() * 1000;
    let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let path = format!("/v1/orders/{}", "7".repeat(padding));
    let record = |n: usize| {
        json!({
            "timeUnixNano": nanos.to_string(),
            "attributes": [
                attribute("farebox.id", &format!("{name}-{n}")), attribute("http.response.status_code", "200"), attribute("url.path", &path),
                attribute("http.route", "GET /orders/{id}"), attribute("http.request.method", "GET"), attribute("duration_us", "3231"),
            ],
        })
    };
    let records: Vec<Value> = (0..n).map(record).collect();
    serde_json::from_value(json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": records }] }] })).expect("an export")
}

/// One export; the count of rejected records, or why nothing was taken.
pub async fn export(base_url: &str, token: &str, body: ExportLogsServiceRequest) -> Result<Option<ExportLogsPartialSuccess>, Status> {
    let client = LogsServiceClient::connect(base_url.to_owned()).await.map_err(|e| Status::unknown(e.to_string()))?;
    // What is large is packed, as exporters do it.
    let is_large = prost::Message::encoded_len(&body) > 1 << 20;
    let mut client = if is_large { client.send_compressed(CompressionEncoding::Gzip) } else { client };
    let mut request = tonic::Request::new(body);
    request.metadata_mut().insert("x-farebox-token", token.parse().expect("ASCII"));
    request.metadata_mut().insert("x-farebox-source", "envoy-1".parse().expect("ASCII"));
    client.export(request).await.map(|answer| answer.into_inner().partial_success)
}

/// Good records of an export are taken although others are wrong: those are counted, told with the fix, and kept.
pub async fn what_is_rejected_is_counted_and_the_rest_is_taken(suite: &Suite) {
    let tenant = Tenant::new(suite, "partial").await;
    let mut body = calls("partial", 5, 1);
    for broken in [1, 3] {
        body.resource_logs[0].scope_logs[0].log_records[broken].attributes.retain(|a| a.key != "http.response.status_code");
    }
    for _ in 0..2 {
        let partial = export(&suite.credentials.base_url, &tenant.token, body.clone()).await.expect("taken").expect("partly");
        assert_eq!(partial.rejected_log_records, 2);
        assert!(partial.error_message.contains("http.response.status_code"), "{}", partial.error_message);
    }
    assert_eq!(export(&suite.credentials.base_url, &tenant.token, calls("whole", 3, 1)).await.expect("taken"), None);
    eventually("six calls and two dead letters", SOON, || async {
        let letters = tenant.get("/api/v1/dead-letters?reason=missing_field").await;
        (tenant.calls().await == 6 && letters["data"].as_array().is_some_and(|rows| rows.len() == 2)).then_some(())
    })
    .await;
}

/// A limit of bytes holds without a length, and says when to come again; who is not known is told so in gRPC.
pub async fn refusals_are_said_in_grpc(suite: &Suite) {
    let tenant = Tenant::new(suite, "refused").await;
    let new = json!({ "name": "envoy-1", "scopes": ["ingest"], "limits": { "bytes_per_second": 4096 } });
    let created = tenant.call(Method::POST, "/api/v1/tokens").json(&new).send().await.expect("an answer");
    let token = created.json::<Value>().await.expect("JSON")["token"].as_str().expect("shown once").to_owned();
    let base = &suite.credentials.base_url;
    // Twelve at once are nine seconds' worth.
    let all = join_all((0..12).map(|n| export(base, &token, calls(&format!("at-once-{n}"), 1, 3000)))).await;
    let (taken, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert!(!taken.is_empty() && !refused.is_empty(), "{} of 12 were taken", taken.len());
    let retry_info = b"type.googleapis.com/google.rpc.RetryInfo";
    for refused in refused.into_iter().map(|refused| refused.expect_err("refused")) {
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().contains("4096 bytes a second"), "{refused:?}");
        assert!(refused.details().windows(retry_info.len()).any(|part| part == retry_info), "an exporter needs to know when");
    }
    let never = export(base, &token, calls("never", 1, 5000)).await.expect_err("larger than the limit");
    assert_eq!(never.code(), Code::InvalidArgument, "{never:?}");
    let bomb = export(base, &tenant.token, calls("bomb", 1, 48 << 20)).await.expect_err("48 MiB in 48 KiB");
    assert_eq!(bomb.code(), Code::ResourceExhausted, "{bomb:?}");
    eventually("one is taken later", SOON, || async {
        export(base, &token, calls("later", 1, 3000)).await.ok().map(|partial| assert_eq!(partial, None))
    })
    .await;
    assert_eq!(export(base, "fbx_live_nobody", calls("nobody", 1, 1)).await.expect_err("no token").code(), Code::Unauthenticated);
    let expected = taken.len() as u64 + 1;
    eventually("what was taken is counted", SOON, || async { (tenant.calls().await >= expected).then_some(()) }).await;
    assert_eq!(tenant.calls().await, expected);
}
