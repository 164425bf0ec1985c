use serde_json::json;

use super::harness::{Api, Receiver};

#[tokio::test]
async fn a_card_that_fails_when_saved() {
    let api = Api::new();
    let customer = api.customer().await;
    let attach = api.post("/v1/payment_methods/pm_card_chargeDeclined/attach", &[("customer", &customer)]).await;
    assert_eq!(attach.refusal(), (402, "card_declined", ""));
    assert_eq!(attach.body["error"]["decline_code"], "generic_decline");

    let form = [("mode", "setup"), ("currency", "usd"), ("customer", &customer), ("success_url", "http://portal.example/")];
    let session = api.post("/v1/checkout/sessions", &form).await.ok();
    let page = session["url"].as_str().unwrap();
    let refused = api.browser("POST", page, &[("cardNumber", "4000 0000 0000 9995"), ("billingName", "Jo")]).await;
    assert!(refused.status == 402 && refused.body.as_str().unwrap().contains("insufficient funds"), "{refused:?}");
    let unknown = api.browser("POST", page, &[("cardNumber", "1234")]).await;
    assert!(unknown.body.as_str().unwrap().contains("card number is invalid"), "{unknown:?}");
    let accepted = api.browser("POST", page, &[("cardNumber", "5555555555554444")]).await;
    assert_eq!(accepted.header("location"), Some("http://portal.example/"), "the page can be tried again");
    let again = api.browser("POST", page, &[("cardNumber", "5555555555554444")]).await;
    assert_eq!(again.status, 402, "but not after it succeeded");
    let methods = api.get(&format!("/v1/customers/{customer}/payment_methods")).await.ok();
    assert_eq!((methods["data"].as_array().unwrap().len(), &methods["data"][0]["card"]["last4"]), (1, &json!("4444")));
}

#[tokio::test]
async fn a_card_that_fails_when_charged() {
    let api = Api::new();
    let mut hooks = Receiver::new(&api, "invoice.payment_failed", 0).await;
    let customer = api.customer_with("pm_card_chargeCustomerFail").await;
    let invoice = api.finalized(&customer, "1000", "true").await;
    let failed = hooks.next().await;
    assert_eq!(failed["data"]["object"]["attempt_count"], 1);
    let path = format!("/v1/invoices/{}", invoice["id"].as_str().unwrap());
    let open = api.get(&path).await.ok();
    assert_eq!((&open["status"], &open["attempted"]), (&json!("open"), &json!(true)));
    assert!(open["next_payment_attempt"].as_i64().unwrap() > open["created"].as_i64().unwrap() + 86_400, "tried again in days");
    let pay = api.post(&format!("{path}/pay"), &[]).await;
    assert_eq!((pay.refusal().0, pay.refusal().1), (402, "card_declined"));

    let good = api.post("/v1/payment_methods/pm_card_visa/attach", &[("customer", &customer)]).await.ok();
    let paid = api.post(&format!("{path}/pay"), &[("payment_method", good["id"].as_str().unwrap())]).await.ok();
    assert_eq!((&paid["status"], &paid["attempt_count"]), (&json!("paid"), &json!(3)));
}

#[tokio::test]
async fn authentication_disputes_and_no_card() {
    let api = Api::new();
    let mut hooks = Receiver::new(&api, "*", 0).await;
    let asks = api.customer_with("pm_card_authenticationRequired").await;
    api.finalized(&asks, "1000", "true").await;
    hooks.until("invoice.payment_action_required").await;

    let disputes = api.customer_with("pm_card_createDispute").await;
    let invoice = api.finalized(&disputes, "2000", "true").await;
    let dispute = hooks.until("charge.dispute.created").await;
    assert_eq!(dispute["data"]["object"]["amount"], 2000);
    assert_eq!(api.get(&format!("/v1/invoices/{}", invoice["id"].as_str().unwrap())).await.ok()["status"], "paid");

    let none = api.customer().await;
    let invoice = api.finalized(&none, "3000", "false").await;
    let pay = api.post(&format!("/v1/invoices/{}/pay", invoice["id"].as_str().unwrap()), &[]).await;
    assert_eq!(pay.refusal(), (400, "resource_missing", "payment_method"));
}
