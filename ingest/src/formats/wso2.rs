//! WSO2 API Manager and Choreo, as their analytics publishers write it: JSON, in log files with a prefix before it.
//!
//! Units: `requestTimestamp` RFC 3339 or epoch milliseconds (when the request began), `responseLatency` milliseconds.
//! There are no sizes. `applicationId` is the principal, `UNKNOWN` is none. The API is `apiId`, its version
//! `apiVersion`, the route `apiResourceTemplate`; `keyType` `SANDBOX` marks the environment `sandbox`. A fault
//! (`"eventType": "fault"`, such as a throttled call) has neither method, latency nor resource; `targetResponseCode` -1
//! says that no backend was asked.
//!
//! Id: `correlationId`, which a client may send as `activityid`, joined with a hash of the record; `decision` before it
//! where the operator has it in `properties`.

use farebox_core::api_path;
use farebox_core::event::{AnsweredBy, RequestData};

use super::{Draft, decision, joined, latency, method, own_hash, status, times};
use crate::fields::{Log, Object, log_text};
use crate::verdict::Rejection;

pub fn decode(record: &[u8]) -> Result<Draft, Rejection> {
    let text = log_text(record);
    let json = without_prefix(&text);
    let log = Object::from_text(json)?;
    let id = log.said("correlationId")?;
    draft(&log, &id, json).map_err(|rejection| rejection.of_event("", &id))
}

/// What comes before the first brace with a name in it is a log's own: time, level, class.
fn without_prefix(text: &str) -> &str {
    let at = text.find("{\"").or_else(|| text.find('{')).unwrap_or(0);
    text[at..].trim_end()
}

fn draft(log: &Object, id: &str, json: &str) -> Result<Draft, Rejection> {
    let time = times::iso_or_millis(log, "requestTimestamp")?.ok_or_else(|| Rejection::missing("/requestTimestamp"))?;
    let answer = log.amount("proxyResponseCode", 0)?.ok_or_else(|| Rejection::missing("/proxyResponseCode"))?;
    let application = log.said("applicationId")?;
    let cached = log.get("responseCacheHit").is_some_and(|raw| matches!(raw.get(), "true" | "\"true\""));
    let decided = log.object("properties")?.map_or(Ok(String::new()), |properties| properties.said("decision"))?;
    let mut route = log.said("apiResourceTemplate")?;
    route.truncate(api_path::without_query(&route).len());
    let mut environment = log.said("keyType")?;
    environment.make_ascii_lowercase();
    let data = RequestData {
        api: log.first_said(&["apiId", "apiName"])?,
        api_version: log.said("apiVersion")?,
        route,
        method: method(log.said("apiMethod")?),
        status: status(answer, || log.at("proxyResponseCode"))?,
        latency_us: latency(log.amount("responseLatency", 3)?.unwrap_or(0)),
        cached,
        answered_by: match log.amount("targetResponseCode", 0)? {
            _ if cached => AnsweredBy::Cache,
            Some(1..) => AnsweredBy::Upstream,
            Some(0) | None => AnsweredBy::Gateway,
        },
        decision: decision(decided),
        environment,
        gateway: "wso2".to_owned(),
        ..RequestData::default()
    };
    let subject = if application.eq_ignore_ascii_case("UNKNOWN") { String::new() } else { application };
    Ok(Draft::call(time, joined(id, || own_hash(json.as_bytes())), subject, data))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::formats::sample;
    use crate::verdict::Reason;

    const THROTTLED: &str = r#"{"apiCreator":"admin","apiCreatorTenantDomain":"carbon.super","apiId":"6f2c1d0e-4b3a-4c5d-8e7f-0a1b2c3d4e5f","apiName":"Orders","apiType":"HTTP","apiVersion":"1.0.0","applicationId":"0b1c2d3e-4f5a-4b6c-8d7e-9f0a1b2c3d4e","applicationName":"Initech","applicationOwner":"admin","correlationId":"ccf2196f-0d1e-4f2a-8b3c-4d5e6f7a8b9c","errorCode":900803,"errorMessage":"APPLICATION_LEVEL_LIMIT_EXCEEDED","errorType":"THROTTLED","eventType":"fault","gatewayType":"SYNAPSE","keyType":"PRODUCTION","proxyResponseCode":429,"regionId":"default","requestTimestamp":"2026-11-21T13:40:35.023Z","responseCacheHit":false,"targetResponseCode":-1}"#;

    fn with(key: &str, value: Value) -> Result<Draft, Rejection> {
        let mut log: Value = serde_json::from_str(sample("wso2")).expect("a true sample");
        log[key] = value;
        decode(log.to_string().as_bytes())
    }

    #[test]
    fn a_response_and_a_fault_are_read() {
        insta::assert_debug_snapshot!("wso2_response", decode(sample("wso2").as_bytes()).expect("a true sample"));
        insta::assert_debug_snapshot!("wso2_fault", decode(THROTTLED.as_bytes()).expect("a true sample"));
    }

    #[test]
    fn a_line_can_have_a_prefix() {
        let prefix = "[2026-11-21 13:40:35,101]  INFO {reporter} - apimMetrics: ";
        let line = format!("apimMetrics: apim:response, properties :{}\r\n", sample("wso2"));
        assert_eq!(decode(line.as_bytes()).expect("it is right"), decode(sample("wso2").as_bytes()).expect("it is right"));
        assert_eq!(decode(b"apimMetrics: nothing").expect_err("no JSON").reason, Reason::InvalidJson);
        let braces = format!("{prefix}{}", sample("wso2"));
        assert_eq!(decode(braces.as_bytes()).expect("it is right"), decode(sample("wso2").as_bytes()).expect("it is right"));
    }

    #[test]
    fn times_are_texts_or_milliseconds() {
        let time = |value: Value| with("requestTimestamp", value).map(|draft| draft.time.expect("a time").timestamp_millis());
        assert_eq!(time(json!("2026-11-21T13:40:35.451Z")), Ok(1_795_268_435_451));
        assert_eq!(time(json!(1_795_268_435_451_u64)), Ok(1_795_268_435_451));
        assert_eq!(time(json!("1795268435451")), Ok(1_795_268_435_451));
        assert_eq!(time(json!(1_795_268_435)).expect_err("seconds").reason, Reason::InvalidTime);
    }

    #[test]
    fn nobody_the_sandbox_and_the_cache() {
        assert_eq!(with("applicationId", json!("UNKNOWN")).expect("it is right").subject, "");
        assert_eq!(with("keyType", json!("SANDBOX")).expect("it is right").data.environment, "sandbox");
        let cached = with("responseCacheHit", json!(true)).expect("it is right").data;
        assert_eq!((cached.cached, cached.answered_by), (true, AnsweredBy::Cache));
    }

    #[test]
    fn a_query_in_a_template_is_not_kept() {
        assert_eq!(with("apiResourceTemplate", json!("/orders?token=s3cret")).expect("it is right").data.route, "/orders");
    }

    #[test]
    fn a_clients_correlation_id_does_not_make_two_calls_one() {
        let id = |latency: u64| with("responseLatency", json!(latency)).expect("it is right").id;
        assert_eq!(id(7), id(7));
        assert_ne!(id(7), id(8));
    }
}
