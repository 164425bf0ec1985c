//! Kong Gateway, as `http-log` and `kafka-log` write it.
//!
//! Units: `started_at` epoch milliseconds (`created_at` elsewhere in the entry is seconds and no matter of ours),
//! `latencies.request` milliseconds, `request.size` and `response.size` bytes with headers. `latencies.proxy` is -1 when
//! the call was not proxied. `upstream_status` can be `"500, 200 : 200, 200"` after retries and is not read: the client
//! got `response.status`. `route` is absent on a 404.
//!
//! The principal is `consumer.custom_id` (what a provisioning system set), else `username`, else `id`;
//! `authenticated_entity.id` is the credential. Either can come alone.
//!
//! Id: a top-level `decision`, added by `custom_fields_by_lua`; else `request.id`, which Kong makes itself and no client
//! can choose; `""` is none.

use farebox_core::event::{AnsweredBy, RequestData};

use super::{Draft, api_of, decision, latency, method, status, times, without_secret};
use crate::fields::{Log, Object, log_text};
use crate::verdict::Rejection;

pub fn decode(record: &[u8]) -> Result<Draft, Rejection> {
    let text = log_text(record);
    let log = Object::from_text(&text)?;
    let request = log.object("request")?.ok_or_else(|| Rejection::missing("/request"))?;
    let id = request.said("id")?;
    draft(&log, &request, &id).map_err(|rejection| rejection.of_event("", &id))
}

fn draft(log: &Object, request: &Object, id: &str) -> Result<Draft, Rejection> {
    let response = log.object("response")?.ok_or_else(|| Rejection::missing("/response"))?;
    let latencies = log.object("latencies")?;
    let time = times::epoch(log, "started_at", 3)?.ok_or_else(|| Rejection::missing("/started_at"))?;
    let answer = response.amount("status", 0)?.ok_or_else(|| Rejection::missing("/response/status"))?;
    let latency_us = latencies.as_ref().map_or(Ok(None), |l| l.amount("request", 3))?.unwrap_or(0);

    let of = |name: &str, keys: &[&str]| log.object(name)?.map_or(Ok(String::new()), |object| object.first_said(keys));
    let route = of("route", &["id", "name"])?;
    let (api, api_version) = api_of(of("service", &["name", "id"])?, &request.said("uri")?, !route.is_empty());
    let consumer = of("consumer", &["custom_id", "username", "id"])?;
    let answered_by = answered_by(log, &response, latencies.as_ref())?;

    let data = RequestData {
        api,
        api_version,
        route,
        method: method(request.said("method")?),
        status: status(answer, || response.at("status"))?,
        latency_us: latency(latency_us),
        request_bytes: request.amount("size", 0)?.unwrap_or(0),
        response_bytes: response.amount("size", 0)?.unwrap_or(0),
        cached: answered_by == AnsweredBy::Cache,
        answered_by,
        decision: decision(log.said("decision")?),
        credential: without_secret(of("authenticated_entity", &["id"])?),
        gateway: "kong".to_owned(),
        ..RequestData::default()
    };
    Ok(Draft::call(time, (!id.is_empty()).then(|| id.to_owned()), consumer, data))
}

/// By Kong's own word (`source`) where it has one, else by whether there was a time of the upstream. What the
/// proxy-cache plugin answered is a hit.
fn answered_by(log: &Object, response: &Object, latencies: Option<&Object>) -> Result<AnsweredBy, Rejection> {
    let upstream = match log.said("source")?.as_str() {
        "upstream" | "service" => true,
        "" => match latencies {
            None => return Ok(AnsweredBy::Unknown),
            Some(latencies) => latencies.amount("proxy", 0)?.is_some(),
        },
        _ => false,
    };
    if upstream {
        return Ok(AnsweredBy::Upstream);
    }
    let hit = match response.object("headers") {
        Ok(Some(headers)) => headers.said("x-cache-status").is_ok_and(|word| word.eq_ignore_ascii_case("hit")),
        _ => false,
    };
    Ok(if hit { AnsweredBy::Cache } else { AnsweredBy::Gateway })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::formats::sample;
    use crate::verdict::Reason;

    fn with(change: impl FnOnce(&mut Value)) -> Result<Draft, Rejection> {
        let mut log: Value = serde_json::from_str(sample("kong")).expect("a true sample");
        change(&mut log);
        decode(log.to_string().as_bytes())
    }

    #[test]
    fn the_log_is_read_and_nothing_secret_kept() {
        let draft = decode(sample("kong").as_bytes()).expect("a true sample");
        assert!(!format!("{draft:?}").contains("s3cret"));
        insta::assert_debug_snapshot!(draft);
    }

    #[test]
    fn seconds_are_not_taken_for_milliseconds() {
        let rejection = with(|log| log["started_at"] = json!(1_795_268_435)).expect_err("seconds");
        assert_eq!((rejection.reason, rejection.id.as_str()), (Reason::InvalidTime, "5b1c1f0f7d0b4a1f8f0e6a2d4c9b7e31"));
    }

    #[test]
    fn an_empty_id_is_none() {
        assert_eq!(with(|log| log["request"]["id"] = json!("")).expect("it is right").id, None);
    }

    #[test]
    fn an_unrouted_call_and_a_call_that_was_not_proxied() {
        let draft = with(|log| {
            let log = log.as_object_mut().expect("an object");
            for absent in ["route", "service", "consumer", "authenticated_entity", "source", "upstream_status"] {
                log.remove(absent);
            }
            log["latencies"] = json!({ "kong": 0, "proxy": -1, "request": 1 });
            log["response"]["status"] = json!(404);
        })
        .expect("it is right");
        let data = &draft.data;
        assert_eq!((data.route.as_str(), data.api.as_str(), data.api_version.as_str(), data.status), ("", "", "", 404));
        assert_eq!((data.answered_by, draft.subject.as_str(), data.latency_us), (AnsweredBy::Gateway, "", 1000));
    }

    #[test]
    fn a_retried_upstream_leaves_the_clients_status() {
        let draft = with(|log| log["upstream_status"] = json!("500, 200 : 200, 200")).expect("it is right");
        assert_eq!(draft.data.status, 200);
    }

    #[test]
    fn the_consumer_and_the_credential_can_each_come_alone() {
        let consumer = |value: Value| {
            with(|log| {
                log["consumer"] = value;
                log.as_object_mut().expect("an object").remove("authenticated_entity");
            })
            .expect("it is right")
        };
        assert_eq!(consumer(json!({ "id": "c-1", "username": "initech", "custom_id": "con_7" })).subject, "con_7");
        assert_eq!(consumer(json!({ "id": "c-1", "username": "initech", "custom_id": null })).subject, "initech");
        assert_eq!(consumer(json!({ "id": "c-1" })).subject, "c-1");
        assert_eq!(consumer(json!({ "id": "c-1" })).data.credential, "");
        let alone = with(|log| {
            log.as_object_mut().expect("an object").remove("consumer");
        });
        let alone = alone.expect("it is right");
        assert_eq!((alone.subject.as_str(), alone.data.credential.as_str()), ("", "0e6f4c1d-7d53-4a39-9d0a-1f2b3c4d5e6f"));
    }

    #[test]
    fn a_hit_of_the_cache_is_told() {
        let draft = with(|log| {
            log["source"] = json!("kong");
            log["response"]["headers"]["x-cache-status"] = json!("Hit");
        });
        let data = draft.expect("it is right").data;
        assert_eq!((data.cached, data.answered_by), (true, AnsweredBy::Cache));
    }

    #[test]
    fn bytes_of_a_client_that_are_no_utf8_do_not_make_a_call_free() {
        let mut record = sample("kong").replace("HTTPie/3.2.3", "LATIN").into_bytes();
        let at = record.windows(5).position(|w| w == b"LATIN").expect("it is there");
        record[at..at + 5].copy_from_slice(b"caf\xe9!");
        assert_eq!(decode(&record).expect("it is read").data.status, 200);
    }
}
