use serde_json::json;

use super::harness::{Api, shared};

#[tokio::test]
async fn wrong_parameters_are_refused_at_any_depth() {
    let api = Api::new();
    let customer = api.customer().await;
    let draft = api.draft(&customer, "100").await;
    let lines = format!("/v1/invoices/{draft}/add_lines");
    let invoices = "/v1/invoices".to_owned();
    let cases = [
        (&lines, vec![("lines[0][amount]", "5"), ("lines[0][nope]", "1")], (400, "parameter_unknown", "lines[0][nope]")),
        (&lines, vec![("lines[0][amount]", "5.5")], (400, "parameter_invalid_integer", "lines[0][amount]")),
        (&lines, vec![("lines[0][amount]", "123456789")], (400, "amount_too_large", "lines[0][amount]")),
        (&lines, vec![("lines[0][description]", "no amount")], (400, "parameter_missing", "lines[0][amount]")),
        (&lines, vec![], (400, "parameter_missing", "lines")),
        (&lines, vec![("lines[0][amount]", "5"), ("lines[0][period][end]", "9")], (400, "parameter_missing", "lines[0][period][start]")),
        (&invoices, vec![], (400, "parameter_missing", "customer")),
        (&invoices, vec![("customer", "cus_none")], (400, "resource_missing", "customer")),
        (&invoices, vec![("customer", &customer), ("number", "123456789012345678901234567")], (400, "", "number")),
        (&invoices, vec![("customer", &customer), ("currency", "xts")], (400, "", "currency")),
        (&invoices, vec![("customer", &customer), ("statement_descriptor", "12345678901234567890123")], (400, "", "statement_descriptor")),
        (&invoices, vec![("customer", &customer), ("auto_advance", "1")], (400, "", "auto_advance")),
    ];
    for (path, form, expected) in cases {
        assert_eq!(api.post(path, &form).await.refusal(), expected, "{path} {form:?}");
    }
    assert_eq!(api.get("/v1/invoices?status=nope").await.refusal(), (400, "", "status"));
    assert_eq!(api.get("/v1/invoices?limit=101").await.refusal(), (400, "parameter_invalid_integer", "limit"));
    assert_eq!(api.get("/v1/nothing").await.refusal().0, 404);
    assert_eq!(api.get("/v1/prices").await.refusal(), (400, "double_unsupported", ""));
}

#[tokio::test]
async fn currencies_have_steps_and_numbers_are_unique() {
    let api = Api::new();
    let customer = api.customer().await;
    for (currency, wrong, right) in [("kwd", "1234", "1230"), ("isk", "150", "200")] {
        let invoice = api.post("/v1/invoices", &[("customer", &customer), ("currency", currency)]).await.ok();
        let path = format!("/v1/invoices/{}/add_lines", invoice["id"].as_str().unwrap());
        assert_eq!(api.post(&path, &[("lines[0][amount]", wrong)]).await.refusal(), (400, "", "lines[0][amount]"));
        assert_eq!(api.post(&path, &[("lines[0][amount]", right)]).await.ok()["currency"], currency);
    }
    api.post("/v1/invoices", &[("customer", &customer), ("number", "A-1")]).await.ok();
    assert_eq!(api.post("/v1/invoices", &[("customer", &customer), ("number", "A-1")]).await.refusal(), (400, "", "number"));
}

#[tokio::test]
async fn keys_versions_and_bodies() {
    let client = reqwest::Client::new();
    let url = format!("{}/v1/customers", shared());
    let none = client.get(&url).send().await.unwrap();
    assert_eq!(none.status(), 401);
    let live = client.get(&url).bearer_auth("sk_live_a_b").send().await.unwrap();
    assert_eq!(live.status(), 401);
    let version = client.get(&url).bearer_auth("sk_test_a_b").header("Stripe-Version", "latest").send().await.unwrap();
    assert_eq!(version.status(), 400);
    let json = client.post(&url).bearer_auth("sk_test_a_b").json(&json!({"name": "A"})).send().await.unwrap();
    assert_eq!(json.status(), 400);
    let good = client.get(&url).bearer_auth("sk_test_a_b").header("Stripe-Version", "2026-09-30.endive").send().await.unwrap();
    assert!(good.headers()["request-id"].to_str().unwrap().starts_with("req_"));
    assert_eq!(good.headers()["stripe-version"], "2026-09-30.endive");
}
