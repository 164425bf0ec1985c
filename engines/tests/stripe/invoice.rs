use serde_json::json;

use super::harness::{Api, Receiver};

/// Customer, card by Checkout in the browser, invoice, lines, finalisation, automatic charge, webhook.
#[tokio::test]
async fn the_whole_way_of_an_invoice() {
    let api = Api::new();
    let mut hooks = Receiver::new(&api, "*", 0).await;
    let customer = api.customer().await;

    let success = "http://portal.example/done?session={CHECKOUT_SESSION_ID}";
    let form = [("mode", "setup"), ("currency", "usd"), ("customer", &customer), ("success_url", success), ("metadata[a]", "b")];
    let session = api.post("/v1/checkout/sessions", &form).await.ok();
    let page = session["url"].as_str().unwrap();
    let shown = api.browser("GET", page, &[]).await;
    assert!(shown.status == 200 && shown.body.as_str().unwrap().contains("name=cardNumber"), "{shown:?}");
    let card = [("cardNumber", "4242 4242 4242 4242"), ("cardExpiry", "12/34"), ("cardCvc", "123"), ("billingName", "Jo")];
    let done = api.browser("POST", page, &card).await;
    assert_eq!(done.header("location"), Some(success.replace("{CHECKOUT_SESSION_ID}", session["id"].as_str().unwrap()).as_str()));
    let completed = hooks.until("checkout.session.completed").await;
    let intent = api.get(&format!("/v1/setup_intents/{}", completed["data"]["object"]["setup_intent"].as_str().unwrap())).await.ok();
    assert_eq!((&intent["status"], &intent["customer"]), (&json!("succeeded"), &json!(customer)));
    let method = intent["payment_method"].as_str().unwrap();
    let form = [("invoice_settings[default_payment_method]", method)];
    api.post(&format!("/v1/customers/{customer}"), &form).await.ok();

    let form = [
        ("customer", customer.as_str()),
        ("currency", "usd"),
        ("auto_advance", "false"),
        ("number", "ACME-0001"),
        ("collection_method", "charge_automatically"),
        ("pending_invoice_items_behavior", "exclude"),
        ("automatic_tax[enabled]", "false"),
        ("metadata[farebox_invoice]", "inv_1"),
        ("custom_fields[0][name]", "PO"),
        ("custom_fields[0][value]", "7"),
    ];
    let draft = api.post("/v1/invoices", &form).await.ok();
    assert_eq!((&draft["status"], &draft["total"], &draft["number"]), (&json!("draft"), &json!(0), &json!("ACME-0001")));
    let path = format!("/v1/invoices/{}", draft["id"].as_str().unwrap());

    let tax = |line: usize, amount: &str, taxable: &str| {
        let at = format!("lines[{line}][tax_amounts][0]");
        vec![
            (format!("{at}[amount]"), amount.to_owned()),
            (format!("{at}[taxable_amount]"), taxable.to_owned()),
            (format!("{at}[tax_rate_data][display_name]"), "VAT".to_owned()),
            (format!("{at}[tax_rate_data][inclusive]"), "false".to_owned()),
            (format!("{at}[tax_rate_data][percentage]"), "19".to_owned()),
        ]
    };
    let mut lines = Vec::new();
    for (index, amount) in ["10000", "2500", "-500"].iter().enumerate() {
        lines.push((format!("lines[{index}][amount]"), (*amount).to_owned()));
        lines.push((format!("lines[{index}][description]"), format!("Line {index}")));
        lines.push((format!("lines[{index}][period][start]"), "1790000000".to_owned()));
        lines.push((format!("lines[{index}][period][end]"), "1792600000".to_owned()));
    }
    lines.extend(tax(0, "1900", "10000"));
    lines.extend(tax(1, "475", "2500"));
    let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let with_lines = api.post(&format!("{path}/add_lines"), &lines).await.ok();
    assert_eq!(
        ["subtotal", "total", "total_excluding_tax", "amount_due", "amount_remaining"].map(|name| with_lines[name].as_i64().unwrap()),
        [12_000, 14_375, 12_000, 14_375, 14_375]
    );
    assert_eq!(with_lines["total_taxes"].as_array().unwrap().len(), 1, "one rate, one sum");
    assert_eq!((&with_lines["total_taxes"][0]["amount"], &with_lines["total_taxes"][0]["taxable_amount"]), (&json!(2375), &json!(12_500)));
    assert_eq!(with_lines["lines"]["data"].as_array().unwrap().len(), 3);

    let open = api.post(&format!("{path}/finalize"), &[("auto_advance", "true")]).await.ok();
    assert_eq!((&open["status"], &open["ending_balance"]), (&json!("open"), &json!(0)));
    let paid = hooks.until("invoice.paid").await;
    assert_eq!(paid["data"]["object"]["id"], draft["id"]);
    let paid = api.get(&format!("{path}?expand[]=payments&expand[]=customer")).await.ok();
    assert_eq!((&paid["status"], &paid["amount_paid"], &paid["amount_remaining"]), (&json!("paid"), &json!(14_375), &json!(0)));
    assert_eq!((&paid["payments"]["data"][0]["status"], &paid["customer"]["email"]), (&json!("paid"), &json!("dev@initech.example")));
    let charges = api.get(&format!("/v1/charges?customer={customer}")).await.ok();
    assert_eq!((charges["data"].as_array().unwrap().len(), &charges["data"][0]["amount"]), (1, &json!(14_375)));
    let balance = api.get("/v1/balance").await.ok();
    assert_eq!(balance["available"][0]["amount"], 14_375);

    let events = api.get("/v1/events?types[]=invoice.finalized&types[]=invoice.paid").await.ok();
    let kinds: Vec<&str> = events["data"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["invoice.paid", "invoice.finalized"], "newest first");
}

#[tokio::test]
async fn lines_come_in_pages_and_are_limited() {
    let api = Api::new();
    let customer = api.customer().await;
    let invoice = api.post("/v1/invoices", &[("customer", &customer), ("currency", "eur")]).await.ok();
    let path = format!("/v1/invoices/{}", invoice["id"].as_str().unwrap());
    let many = |count: usize| (0..count).map(|index| (format!("lines[{index}][amount]"), (index + 1).to_string())).collect::<Vec<_>>();
    let form = many(25);
    let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let shown = api.post(&format!("{path}/add_lines"), &form).await.ok();
    assert_eq!((shown["lines"]["data"].as_array().unwrap().len(), &shown["lines"]["has_more"]), (10, &json!(true)));
    let mut amounts = Vec::new();
    let mut after = String::new();
    loop {
        let page = api.get(&format!("{path}/lines?limit=11{after}")).await.ok();
        let data = page["data"].as_array().unwrap();
        amounts.extend(data.iter().map(|line| line["amount"].as_i64().unwrap()));
        if page["has_more"] == false {
            break;
        }
        after = format!("&starting_after={}", data.last().unwrap()["id"].as_str().unwrap());
    }
    assert_eq!(amounts, (1..=25).collect::<Vec<i64>>());
    let form = many(226);
    let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(api.post(&format!("{path}/add_lines"), &form).await.refusal(), (400, "", "lines"));

    let first = shown["lines"]["data"][0]["id"].as_str().unwrap();
    let form = [("lines[0][id]", first), ("lines[0][amount]", "100"), ("lines[0][description]", "More")];
    let updated = api.post(&format!("{path}/update_lines"), &form).await.ok();
    assert_eq!((&updated["total"], &updated["lines"]["data"][0]["description"]), (&json!(325 - 1 + 100), &json!("More")));
    let form = [("lines[0][id]", first), ("lines[0][behavior]", "delete")];
    let removed = api.post(&format!("{path}/remove_lines"), &form).await.ok();
    assert_eq!(removed["total"], 324);
}

#[tokio::test]
async fn states_follow_their_order() {
    let api = Api::new();
    let customer = api.customer().await;
    let not_editable = (400, "invoice_not_editable", "");

    let id = api.draft(&customer, "1000").await;
    let path = format!("/v1/invoices/{id}");
    assert_eq!(api.post(&format!("{path}/void"), &[]).await.refusal(), not_editable);
    assert_eq!(api.post(&format!("{path}/mark_uncollectible"), &[]).await.refusal(), not_editable);
    assert_eq!(api.delete(&path).await.ok()["deleted"], true);
    assert_eq!(api.get(&path).await.refusal(), (404, "resource_missing", "id"));

    let open = api.finalized(&customer, "1000", "false").await;
    let path = format!("/v1/invoices/{}", open["id"].as_str().unwrap());
    assert!(open["number"].as_str().unwrap().ends_with("-0001"), "numbered by Stripe when we gave no number");
    for (call, form) in [("finalize", vec![]), ("add_lines", vec![("lines[0][amount]", "5")])] {
        assert_eq!(api.post(&format!("{path}/{call}"), &form).await.refusal(), not_editable, "{call}");
    }
    assert_eq!(api.delete(&path).await.refusal(), not_editable);
    assert_eq!(api.post(&path, &[("description", "late")]).await.refusal(), (400, "invoice_not_editable", "description"));
    assert_eq!(api.post(&path, &[("metadata[a]", "b")]).await.ok()["metadata"], json!({"a": "b"}));
    assert_eq!(api.post(&format!("{path}/mark_uncollectible"), &[]).await.ok()["status"], "uncollectible");
    let paid = api.post(&format!("{path}/pay"), &[("paid_out_of_band", "true")]).await.ok();
    assert_eq!((&paid["status"], &paid["amount_paid_off_stripe"]), (&json!("paid"), &json!(1000)));
    assert_eq!(api.post(&format!("{path}/pay"), &[]).await.refusal(), (400, "invoice_already_paid", ""));

    let open = api.finalized(&customer, "2000", "false").await;
    let path = format!("/v1/invoices/{}", open["id"].as_str().unwrap());
    let void = api.post(&format!("{path}/void"), &[]).await.ok();
    assert_eq!((&void["status"], &void["amount_remaining"]), (&json!("void"), &json!(2000)));

    let listed = api.get(&format!("/v1/invoices?customer={customer}&status=paid")).await.ok();
    assert_eq!((listed["data"].as_array().unwrap().len(), &listed["data"][0]["id"]), (1, &paid["id"]));
}

#[tokio::test]
async fn balance_is_applied_and_small_amounts_carried() {
    let api = Api::new();
    let customer = api.customer().await;
    let form = [("amount", "-1500"), ("currency", "usd"), ("description", "goodwill")];
    api.post(&format!("/v1/customers/{customer}/balance_transactions"), &form).await.ok();
    let balance = async || api.get(&format!("/v1/customers/{customer}")).await.ok()["balance"].as_i64().unwrap();

    let first = api.finalized(&customer, "1000", "false").await;
    assert_eq!(
        (&first["status"], &first["amount_due"], &first["starting_balance"], &first["ending_balance"]),
        (&json!("paid"), &json!(0), &json!(-1500), &json!(-500))
    );
    let second = api.finalized(&customer, "1000", "false").await;
    assert_eq!((&second["status"], &second["amount_due"]), (&json!("open"), &json!(500)));
    assert_eq!(balance().await, 0);
    api.post(&format!("/v1/invoices/{}/void", second["id"].as_str().unwrap()), &[]).await.ok();
    assert_eq!(balance().await, -500, "voiding gives the credit back");

    let form = [("amount", "500"), ("currency", "usd")];
    api.post(&format!("/v1/customers/{customer}/balance_transactions"), &form).await.ok();
    let small = api.finalized(&customer, "49", "false").await;
    assert_eq!((&small["status"], &small["amount_due"]), (&json!("paid"), &json!(0)));
    assert_eq!(balance().await, 49, "less than the smallest charge is owed from now on");
    let moved = api.get(&format!("/v1/customers/{customer}/balance_transactions")).await.ok();
    let kinds: Vec<&str> = moved["data"].as_array().unwrap().iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["applied_to_invoice", "adjustment", "unapplied_from_invoice", "applied_to_invoice", "applied_to_invoice", "adjustment"]
    );
}

#[tokio::test]
async fn an_invoice_that_is_sent_becomes_overdue() {
    let api = Api::new();
    let mut hooks = Receiver::new(&api, "invoice.overdue", 0).await;
    let customer = api.customer().await;
    let form = [("customer", customer.as_str()), ("collection_method", "send_invoice")];
    assert_eq!(api.post("/v1/invoices", &form).await.refusal(), (400, "", "days_until_due"));
    // Due in a moment that has passed: no clock needs to move under the other tests.
    let due = (farebox_core::clock::now().timestamp() - 1).to_string();
    let form = [("customer", customer.as_str()), ("collection_method", "send_invoice"), ("due_date", &due)];
    let invoice = api.post("/v1/invoices", &form).await.ok();
    let path = format!("/v1/invoices/{}", invoice["id"].as_str().unwrap());
    api.post(&format!("{path}/add_lines"), &[("lines[0][amount]", "1000")]).await.ok();
    let open = api.post(&format!("{path}/send"), &[]).await.ok();
    assert_eq!(open["status"], "open");
    assert_eq!(hooks.next().await["data"]["object"]["id"], invoice["id"]);

    // The customer pays on the page that Stripe hosts.
    let page = open["hosted_invoice_url"].as_str().unwrap();
    let shown = api.browser("GET", page, &[]).await;
    assert!(shown.body.as_str().unwrap().contains("10.00 USD due"), "{shown:?}");
    let refused = api.browser("POST", page, &[("cardNumber", "4000000000000002")]).await;
    assert!(refused.status == 402 && refused.body.as_str().unwrap().contains("was declined"), "{refused:?}");
    let paid = api.browser("POST", page, &[("cardNumber", "4242424242424242")]).await;
    assert!(paid.body.as_str().unwrap().contains("This invoice is paid"), "{paid:?}");
    assert_eq!(api.get(&path).await.ok()["status"], "paid");
}
