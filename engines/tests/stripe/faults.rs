use serde_json::json;

use super::harness::Api;

#[tokio::test]
async fn an_answer_lost_after_applying_is_replayed_by_its_key() {
    let api = Api::new();
    let customer = api.customer().await;
    api.fault("/v1/invoices", json!({"kind": "drop"})).await;
    let form = [("customer", customer.as_str()), ("metadata[farebox_invoice]", "inv_1")];
    let lost = api.send("POST", "/v1/invoices", &form, Some("k")).await.unwrap_err();
    assert!(lost.is_request(), "no byte of an answer came: {lost:?}");
    let again = api.keyed("/v1/invoices", &form, "k").await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let listed = api.get(&format!("/v1/invoices?customer={customer}")).await.ok();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert_eq!(listed["data"][0]["id"], again.ok()["id"]);
    let seen = api.seen("/v1/invoices").await;
    assert_eq!(seen.iter().map(|entry| entry["replayed"].as_bool().unwrap()).collect::<Vec<_>>(), [false, true]);
    assert_eq!((&seen[0]["status"], &seen[0]["fault"]["kind"]), (&json!(null), &json!("drop")));

    api.fault("/v1/invoices", json!({"kind": "drop"})).await;
    api.send("POST", "/v1/invoices", &form, None).await.unwrap_err();
    api.post("/v1/invoices", &form).await.ok();
    let listed = api.get(&format!("/v1/invoices?customer={customer}")).await.ok();
    assert_eq!(listed["data"].as_array().unwrap().len(), 3, "without a key a lost answer makes two invoices");
}

#[tokio::test]
async fn a_request_that_hangs_was_applied() {
    let api = Api::new();
    api.fault("/v1/customers", json!({"kind": "hang"})).await;
    let form = [("name", "A")];
    let hanging = tokio::time::timeout(std::time::Duration::from_millis(500), api.send("POST", "/v1/customers", &form, Some("k"))).await;
    assert!(hanging.is_err(), "{hanging:?}");
    assert_eq!(api.keyed("/v1/customers", &form, "k").await.header("idempotent-replayed"), Some("true"));
}

#[tokio::test]
async fn errors_before_and_errors_kept() {
    let api = Api::new();
    let form = [("name", "A")];
    let count = async || api.get("/v1/customers").await.ok()["data"].as_array().unwrap().len();

    api.fault("/v1/customers", json!({"kind": "error_before"})).await;
    let error = api.keyed("/v1/customers", &form, "a").await;
    assert_eq!((error.status, error.header("stripe-should-retry")), (500, Some("true")));
    let retried = api.keyed("/v1/customers", &form, "a").await;
    assert_eq!((retried.status, retried.header("idempotent-replayed")), (200, None));

    for (applied, expected) in [(false, 1), (true, 2)] {
        let key = format!("stored {applied}");
        api.fault("/v1/customers", json!({"kind": "stored_error", "applied": applied})).await;
        let error = api.keyed("/v1/customers", &form, &key).await;
        assert_eq!((error.status, error.header("stripe-should-retry")), (500, Some("false")));
        let retried = api.keyed("/v1/customers", &form, &key).await;
        assert_eq!((retried.status, retried.header("idempotent-replayed")), (500, Some("true")));
        assert_eq!(count().await, expected);
    }

    api.fault("/v1/customers", json!({"kind": "bad_gateway", "applied": true})).await;
    let page = api.keyed("/v1/customers", &form, "b").await;
    assert!(page.status == 502 && page.body.is_string(), "{page:?}");
    assert_eq!(count().await, 3);
    api.fault("/v1/customers", json!({"kind": "drop_before"})).await;
    api.send("POST", "/v1/customers", &form, Some("c")).await.unwrap_err();
    assert_eq!(count().await, 3);
}

#[tokio::test]
async fn conflicts_and_limits_say_when_to_come_back() {
    let api = Api::new();
    let form = [("name", "A")];
    api.fault("/v1/**", json!({"kind": "conflict"})).await;
    let busy = api.keyed("/v1/customers", &form, "a").await;
    assert_eq!((busy.refusal(), busy.header("stripe-should-retry")), ((409, "lock_timeout", ""), Some("true")));
    api.fault("/v1/customers", json!({"kind": "rate_limit", "retry_after": 3})).await;
    let limited = api.keyed("/v1/customers", &form, "a").await;
    assert_eq!((limited.refusal(), limited.header("retry-after")), ((429, "rate_limit", ""), Some("3")));
    assert_eq!(api.keyed("/v1/customers", &form, "a").await.header("idempotent-replayed"), None);
}
