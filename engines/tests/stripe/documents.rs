use serde_json::json;

use super::harness::Api;

#[tokio::test]
async fn customers_are_kept_changed_found_and_deleted() {
    let api = Api::new();
    let form = [
        ("email", "Dev@Initech.example"),
        ("name", "Initech"),
        ("address[country]", "DE"),
        ("preferred_locales[0]", "de"),
        ("metadata[farebox]", "con_1"),
        ("metadata[b]", "2"),
        ("tax_id_data[0][type]", "eu_vat"),
        ("tax_id_data[0][value]", "DE123456789"),
    ];
    let customer = api.post("/v1/customers", &form).await.ok();
    assert_eq!((&customer["address"]["country"], &customer["address"]["city"]), (&json!("DE"), &json!(null)));
    let path = format!("/v1/customers/{}", customer["id"].as_str().unwrap());
    let updated = api.post(&path, &[("name", ""), ("metadata[b]", ""), ("metadata[c]", "3")]).await.ok();
    assert_eq!((&updated["name"], &updated["metadata"]), (&json!(null), &json!({"farebox": "con_1", "c": "3"})));
    let tax_ids = api.get(&format!("{path}/tax_ids")).await.ok();
    assert_eq!(tax_ids["data"][0]["country"], "DE");
    let found = api.get("/v1/customers?email=dev@initech.example&limit=3").await.ok();
    assert_eq!((found["data"].as_array().unwrap().len(), &found["data"][0]["id"]), (1, &customer["id"]));
    assert_eq!(Api::new().get(&path).await.refusal(), (404, "resource_missing", "id"), "another account sees nothing");
    assert_eq!(api.delete(&path).await.ok()["deleted"], true);
    assert_eq!(api.get(&path).await.ok()["deleted"], true);
    assert_eq!(api.post(&path, &[("name", "x")]).await.refusal(), (404, "resource_missing", "id"));
    let id = customer["id"].as_str().unwrap();
    assert_eq!(api.post("/v1/invoices", &[("customer", id)]).await.refusal(), (400, "resource_missing", "customer"));
}

#[tokio::test]
async fn credit_notes_before_and_after_payment() {
    let api = Api::new();
    let customer = api.customer_with("pm_card_visa").await;
    let invoice = api.finalized(&customer, "10000", "false").await;
    let id = invoice["id"].as_str().unwrap();
    let path = format!("/v1/invoices/{id}");

    let note = api.post("/v1/credit_notes", &[("invoice", id), ("amount", "4000"), ("reason", "order_change")]).await.ok();
    assert_eq!((&note["type"], &note["number"]), (&json!("pre_payment"), &json!(format!("{}-CN-01", invoice["number"].as_str().unwrap()))));
    assert_eq!(api.get(&path).await.ok()["amount_remaining"], 6000);
    let too_much = api.post("/v1/credit_notes", &[("invoice", id), ("amount", "6001")]).await;
    assert_eq!(too_much.refusal(), (400, "", "amount"));
    let credit = api.post("/v1/credit_notes", &[("invoice", id), ("amount", "100"), ("credit_amount", "100")]).await;
    assert_eq!(credit.refusal(), (400, "", "credit_amount"));

    let paid = api.post(&format!("{path}/pay"), &[]).await.ok();
    assert_eq!((&paid["status"], &paid["amount_paid"]), (&json!("paid"), &json!(6000)));
    let void = |note: &serde_json::Value| format!("/v1/credit_notes/{}/void", note["id"].as_str().unwrap());
    let paid_meanwhile = (400, "invoice_not_editable", "");
    assert_eq!(api.post(&void(&note), &[]).await.refusal(), paid_meanwhile, "what let less be paid stays once it is paid");
    let short = api.post("/v1/credit_notes", &[("invoice", id), ("amount", "3000"), ("refund_amount", "1000")]).await;
    assert_eq!(short.refusal(), (400, "", "credit_amount"));
    let form = [
        ("invoice", id),
        ("lines[0][type]", "custom_line_item"),
        ("lines[0][description]", "Outage"),
        ("lines[0][quantity]", "1"),
        ("lines[0][unit_amount]", "3000"),
        ("refund_amount", "1000"),
        ("credit_amount", "1500"),
        ("out_of_band_amount", "500"),
    ];
    let note = api.post("/v1/credit_notes", &form).await.ok();
    assert_eq!((&note["type"], &note["lines"]["data"][0]["description"]), (&json!("post_payment"), &json!("Outage")));
    assert_eq!(api.post(&void(&note), &[]).await.refusal(), paid_meanwhile);
    assert_eq!(api.get(&format!("/v1/customers/{customer}")).await.ok()["balance"], -1500);
    let refunds = api.get("/v1/refunds").await.ok();
    assert_eq!(refunds["data"][0]["amount"], 1000);
    let charge = refunds["data"][0]["charge"].as_str().unwrap();
    let rest = api.post("/v1/refunds", &[("charge", charge)]).await.ok();
    assert_eq!(rest["amount"], 5000);
    assert_eq!(api.post("/v1/refunds", &[("charge", charge)]).await.refusal(), (400, "charge_already_refunded", ""));
    let notes = api.get(&format!("/v1/credit_notes?invoice={id}")).await.ok();
    assert_eq!(notes["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_credit_note_over_all_that_remains_closes_the_invoice() {
    let api = Api::new();
    let customer = api.customer().await;
    let invoice = api.finalized(&customer, "2500", "false").await;
    let id = invoice["id"].as_str().unwrap();
    let path = format!("/v1/invoices/{id}");
    let note = api.post("/v1/credit_notes", &[("invoice", id), ("amount", "1000")]).await.ok();
    let void = format!("/v1/credit_notes/{}/void", note["id"].as_str().unwrap());
    assert_eq!(api.post(&void, &[]).await.ok()["status"], "void");
    assert_eq!(api.post(&void, &[]).await.refusal(), (400, "invoice_not_editable", ""), "once");
    assert_eq!(api.get(&path).await.ok()["amount_remaining"], 2500);
    let line = invoice["lines"]["data"][0]["id"].as_str().unwrap();
    let form = [("invoice", id), ("lines[0][type]", "invoice_line_item"), ("lines[0][invoice_line_item]", line)];
    api.post("/v1/credit_notes", &form).await.ok();
    let closed = api.get(&path).await.ok();
    assert_eq!((&closed["status"], &closed["amount_paid"]), (&json!("paid"), &json!(0)));
}

#[tokio::test]
async fn a_test_clock_moves_only_what_lives_by_it() {
    let api = Api::new();
    let clock = api.post("/v1/test_helpers/test_clocks", &[("frozen_time", "1800000000"), ("name", "a month")]).await.ok();
    let id = clock["id"].as_str().unwrap();
    let customer = api.post("/v1/customers", &[("test_clock", id)]).await.ok();
    assert_eq!(customer["created"], 1_800_000_000);
    let form = [("frozen_time", "1802592000")];
    api.post(&format!("/v1/test_helpers/test_clocks/{id}/advance"), &form).await.ok();
    let invoice = api.post("/v1/invoices", &[("customer", customer["id"].as_str().unwrap())]).await.ok();
    assert_eq!(invoice["created"], 1_802_592_000);
}

#[tokio::test]
async fn setup_intents_payment_methods_and_the_portal() {
    let api = Api::new();
    let customer = api.customer().await;
    let form = [("customer", customer.as_str()), ("payment_method", "pm_card_mastercard"), ("confirm", "true")];
    let intent = api.post("/v1/setup_intents", &form).await.ok();
    assert_eq!(intent["status"], "succeeded");
    let method = intent["payment_method"].as_str().unwrap();
    let form = [("invoice_settings[default_payment_method]", method)];
    api.post(&format!("/v1/customers/{customer}"), &form).await.ok();
    let detached = api.post(&format!("/v1/payment_methods/{method}/detach"), &[]).await.ok();
    assert_eq!(detached["customer"], json!(null));
    let customer = api.get(&format!("/v1/customers/{customer}")).await.ok();
    assert_eq!(customer["invoice_settings"]["default_payment_method"], json!(null));
    let id = customer["id"].as_str().unwrap();
    let again = api.post(&format!("/v1/payment_methods/{method}/attach"), &[("customer", id)]).await;
    assert_eq!(again.refusal(), (400, "payment_method_unexpected_state", ""));
    let refused =
        api.post("/v1/setup_intents", &[("customer", id), ("payment_method", "pm_card_visa_chargeDeclined"), ("confirm", "true")]).await;
    assert_eq!(
        (refused.refusal().1, &refused.body["error"]["setup_intent"]["status"]),
        ("card_declined", &json!("requires_payment_method"))
    );

    let session = api.post("/v1/billing_portal/sessions", &[("customer", id), ("return_url", "http://portal.example/")]).await.ok();
    let page = api.browser("GET", session["url"].as_str().unwrap(), &[]).await;
    assert!(page.body.as_str().unwrap().contains("http://portal.example/"), "{page:?}");
}
