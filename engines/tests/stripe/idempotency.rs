use serde_json::json;

use super::harness::{Api, Receiver};

#[tokio::test]
async fn the_same_key_and_parameters_give_the_same_answer() {
    let api = Api::new();
    let first = api.keyed("/v1/customers", &[("email", "a@b.example"), ("name", "A")], "k1").await;
    assert_eq!(first.header("idempotent-replayed"), None);
    // Another order of the same parameters is the same request.
    let second = api.keyed("/v1/customers", &[("name", "A"), ("email", "a@b.example")], "k1").await;
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(second.header("original-request"), first.header("request-id"));
    assert_eq!(first.ok(), second.ok());
    assert_eq!(api.get("/v1/customers").await.ok()["data"].as_array().unwrap().len(), 1);

    let other = api.keyed("/v1/customers", &[("name", "B")], "k1").await;
    assert_eq!((other.status, &other.body["error"]["type"]), (400, &json!("idempotency_error")));
    let elsewhere = api.keyed("/v1/setup_intents", &[("description", "A")], "k1").await;
    assert_eq!(elsewhere.body["error"]["type"], "idempotency_error");
    let stranger = Api::new().keyed("/v1/customers", &[("name", "B")], "k1").await;
    assert_eq!(stranger.status, 200, "keys belong to an account");
    let long = "k".repeat(256);
    assert_eq!(api.keyed("/v1/customers", &[("name", "A")], &long).await.status, 400);
}

#[tokio::test]
async fn malformed_requests_are_not_remembered_but_decisions_are() {
    let api = Api::new();
    assert_eq!(api.keyed("/v1/customers", &[("nope", "1")], "k").await.refusal(), (400, "parameter_unknown", "nope"));
    assert_eq!(api.keyed("/v1/customers", &[("name", "A")], "k").await.status, 200);

    let customer = api.customer_with("pm_card_chargeCustomerFail").await;
    let invoice = api.finalized(&customer, "1000", "false").await;
    let path = format!("/v1/invoices/{}", invoice["id"].as_str().unwrap());
    let first = api.keyed(&format!("{path}/pay"), &[("off_session", "true")], "pay").await;
    let second = api.keyed(&format!("{path}/pay"), &[("off_session", "true")], "pay").await;
    assert_eq!((first.status, second.status, second.header("idempotent-replayed")), (402, 402, Some("true")));
    assert_eq!(api.get(&path).await.ok()["attempt_count"], 1, "the replay charged nothing");
}

#[tokio::test]
async fn a_key_is_taken_while_its_request_runs() {
    let api = Api::new();
    let mut hooks = Receiver::new(&api, "customer.created", 0).await;
    api.fault("/v1/customers", json!({"kind": "slow", "millis": 700})).await;
    let slow = tokio::spawn({
        let api = api.clone();
        async move { api.keyed("/v1/customers", &[("name", "A")], "k").await }
    });
    // The fault is taken by whichever comes first; wait until it is.
    while !api.double("GET", "faults", json!(null)).await.as_array().unwrap().iter().all(|rule| rule["account"] != api.account.as_str()) {
        tokio::task::yield_now().await;
    }
    let busy = api.keyed("/v1/customers", &[("name", "A")], "k").await;
    assert_eq!(busy.refusal(), (409, "idempotency_key_in_use", ""));
    assert_eq!(busy.header("stripe-should-retry"), Some("true"));
    assert_eq!(slow.await.unwrap().status, 200);
    let event = hooks.next().await;
    assert_eq!(event["request"]["idempotency_key"], "k");
    assert_eq!(api.keyed("/v1/customers", &[("name", "A")], "k").await.header("idempotent-replayed"), Some("true"));
}
