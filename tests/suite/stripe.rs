//! One invoice at Stripe for each of ours, whatever Stripe, the network or the webhooks do.
//!
//! Every test has workspaces of its own, and each workspace an account of its own at the Stripe double (the middle of
//! its key). The running system pushes; the tests issue invoices, order faults, and look at both sides afterwards.

use std::time::Duration;

use farebox_billing::invoices::{self, State};
use farebox_billing::settings::{ConsumerBilling, set_consumer};
use farebox_billing::stripe::{self, endpoint, endpoint::register_webhook, events, poll, settings};
use farebox_billing::{reconcile, settle};
use farebox_core::ids::{ConsumerId, InvoiceId, InvoiceLineId, SubscriptionId, WorkspaceId};
use farebox_core::workspace::{self, NewWorkspace};
use farebox_core::{App, clock};
use farebox_metering::consumers::{self, NewConsumer};
use serde_json::{Value, json};

use crate::harness::{Suite, eventually};

const IN_TIME: Duration = Duration::from_secs(60);

/// A workspace with Stripe keys and one consumer.
pub struct Shop {
    pub app: App,
    pub workspace: WorkspaceId,
    consumer: ConsumerId,
    account: String,
    http: reqwest::Client,
}

impl Shop {
    pub async fn open(app: &App, name: &str) -> Self {
        let unique = WorkspaceId::new().to_string().replace("ws_", "")[12..].to_owned();
        let mut tx = app.pg.begin().await.expect("PostgreSQL");
        let new = NewWorkspace {
            name: &format!("{name}-{unique}/test"),
            display_name: name,
            currency: "USD".parse().expect("a currency"),
            time_zone: chrono_tz::UTC,
            test_mode: false,
            is_default: false,
        };
        let workspace = workspace::create(&mut tx, new).await.expect("a workspace").id;
        let new = NewConsumer {
            name: "initech".to_owned(),
            email: Some("dev@initech.example".to_owned()),
            signed_up_at: clock::now(),
            country: Some("DE".to_owned()),
            address: json!({"line1": "Street 1", "city": "Berlin", "country": "DE"}),
            subjects: Vec::new(),
        };
        let consumer = consumers::create(&mut tx, &workspace, new).await.expect("a consumer").id;
        let account = format!("{}{unique}", name.replace('-', ""));
        tx.commit().await.expect("PostgreSQL");
        Self { app: app.clone(), workspace, consumer, account, http: reqwest::Client::new() }
    }

    /// Of a consumer of a workspace that is there.
    pub fn of(app: &App, name: &str, workspace: WorkspaceId, consumer: ConsumerId) -> Self {
        let account = format!("{}{}", name.replace('-', ""), &workspace.as_str().replace("ws_", "")[12..]);
        Self { app: app.clone(), workspace, consumer, account, http: reqwest::Client::new() }
    }

    fn key(&self) -> String {
        format!("sk_test_{}_secret", self.account)
    }

    pub async fn connect(&self) {
        let mut tx = self.app.pg.begin().await.expect("PostgreSQL");
        settings::set(&mut tx, &self.app.config.billing, &self.workspace, &self.key(), None, "a test").await.expect("keys are taken");
        tx.commit().await.expect("PostgreSQL");
    }

    /// An issued invoice of 49.00 and 12.34, each with 19 % tax on top. `off_by` spoils its total.
    pub async fn issue(&self, off_by: i64) -> InvoiceId {
        let (invoice, subscription, now) = (InvoiceId::new(), SubscriptionId::new(), clock::now());
        let (from, to) = ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z");
        let mut tx = self.app.pg.begin().await.expect("PostgreSQL");
        let mut run = async |sql: &'static str, values: &[String]| {
            let mut query = sqlx::query(sql).bind(now).bind(self.workspace.as_str());
            for value in values {
                query = query.bind(value.clone());
            }
            query.execute(&mut *tx).await.expect(sql);
        };
        let text = |values: &[&dyn std::fmt::Display]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
        run(
            "INSERT INTO subscriptions (id, workspace_id, consumer_id, product, currency, started_at, created_at) VALUES ($3, $2, $4, 'default', 'USD', $1, $1)",
            &text(&[&subscription, &self.consumer]),
        )
        .await;
        run(
            "INSERT INTO invoices (id, workspace_id, consumer_id, subscription_id, kind, period_start, period_end, currency, subtotal_minor,
                                   tax_minor, total_minor, collect, due_days, seller, buyer, created_at)
             VALUES ($3, $2, $4, $5, 'regular', $6::timestamptz, $7::timestamptz, 'USD', 6134 + $8::bigint, 1165, 7299 + $8::bigint, 'automatically', 14, '{}', '{\"name\": \"initech\", \"email\": \"dev@initech.example\"}', $1)",
            &text(&[&invoice, &self.consumer, &subscription, &from, &to, &off_by]),
        )
        .await;
        for (position, (name, kind, quantity, amount, tax)) in
            [("Platform", "fee", "1", 4900, 931), ("Requests", "usage", "130850", 1234, 234)].into_iter().enumerate()
        {
            run(
                "INSERT INTO invoice_lines (id, workspace_id, invoice_id, position, kind, name, period_start, period_end, quantity, amount_minor,
                                            tax_name, tax_rate, tax_inclusive, tax_minor, explanation)
                 SELECT $3, $2, $4, $5::integer, $6, $7, $8::timestamptz, $9::timestamptz, $10::numeric, $11::bigint, 'VAT', 0.19, false, $12::bigint, ''
                 WHERE $1 IS NOT NULL",
                &text(&[&InvoiceLineId::new(), &invoice, &position, &kind, &name, &from, &to, &quantity, &amount, &tax]),
            )
            .await;
        }
        run(
            "UPDATE invoices SET state = 'issued', number = $4, issued_at = $1, due_at = $1 WHERE workspace_id = $2 AND id = $3",
            &text(&[&invoice, &format!("T-{}", &invoice.as_str()[invoice.as_str().len() - 20..])]),
        )
        .await;
        tx.commit().await.expect("PostgreSQL");
        invoice
    }

    pub async fn invoice(&self, id: &InvoiceId) -> invoices::Invoice {
        let mut conn = self.app.pg.acquire().await.expect("PostgreSQL");
        invoices::get(&mut conn, &self.workspace, id).await.expect("PostgreSQL").expect("it was issued")
    }

    pub async fn when_pushed(&self, id: &InvoiceId) -> invoices::Invoice {
        eventually(&format!("the push of {id} ({})", self.account), IN_TIME, || async {
            Some(self.invoice(id).await).filter(|i| i.stripe_id.is_some())
        })
        .await
    }

    pub async fn when_paid(&self, id: &InvoiceId) -> invoices::Invoice {
        eventually(&format!("the payment of {id} ({})", self.account), IN_TIME, || async {
            Some(self.invoice(id).await).filter(|i| i.state == State::Paid)
        })
        .await
    }

    /// What this account has at Stripe.
    pub async fn at_stripe(&self, path: &str) -> Vec<Value> {
        let url = format!("{}/v1/{path}", self.stripe());
        let answer = self.http.get(url).query(&[("limit", "100")]).bearer_auth(self.key()).send().await.expect("the double answers");
        let list: Value = answer.json().await.expect("JSON");
        list["data"].as_array().expect("a list").clone()
    }

    fn stripe(&self) -> &str {
        self.app.config.billing.stripe_url.trim_end_matches('/')
    }

    pub async fn order(&self, path: &str, mut rule: Value) {
        rule["account"] = json!(self.account);
        let answer = self.http.post(format!("{}/_double/{path}", self.stripe())).json(&rule).send().await.expect("the double answers");
        assert!(answer.status().is_success(), "{rule}: {:?}", answer.text().await);
    }

    /// For the next hour no poll finds what happens at Stripe.
    pub async fn hears_nothing(&self) {
        sqlx::query("UPDATE stripe_settings SET next_poll_at = now() + interval '1 hour' WHERE workspace_id = $1")
            .bind(self.workspace.as_str())
            .execute(&self.app.pg)
            .await
            .expect("PostgreSQL");
    }

    /// What someone does in Stripe's dashboard.
    pub async fn in_the_dashboard(&self, path: &str, form: &[(&str, &str)]) -> Value {
        let key = uuid::Uuid::now_v7().to_string();
        let request = self.http.post(format!("{}/v1/{path}", self.stripe())).bearer_auth(self.key()).header("idempotency-key", key);
        let answer = request.form(form).send().await.expect("the double answers");
        let (status, body) = (answer.status(), answer.json::<Value>().await.expect("JSON"));
        assert!(status.is_success(), "{path}: {body}");
        body
    }

    pub async fn delete_in_the_dashboard(&self, path: &str) {
        let answer = self.http.delete(format!("{}/v1/{path}", self.stripe())).bearer_auth(self.key()).send().await;
        assert!(answer.expect("the double answers").status().is_success(), "{path}");
    }

    /// A card, typed into Stripe's page by the consumer.
    pub async fn give_card(&self) {
        self.give_this_card("4242424242424242").await;
    }

    pub async fn give_this_card(&self, number: &str) {
        let page = stripe::checkout_setup_url(
            &self.app,
            &self.workspace,
            &self.consumer,
            "http://localhost/back?session={CHECKOUT_SESSION_ID}",
            "http://localhost/",
        )
        .await
        .expect("a page");
        let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        let sent = browser
            .post(page)
            .form(&[("cardNumber", number), ("billingName", "Ini Tech"), ("cardExpiry", "12 / 40"), ("cardCvc", "123")])
            .send();
        let back = sent.await.expect("the page answers");
        let back = back.headers().get("location").expect("the way back").to_str().expect("text").to_owned();
        let session = back.split_once("session=").expect("the session's id").1;
        let whose = stripe::complete_setup(&self.app, &self.workspace, session).await.expect("a completed session");
        assert_eq!(whose, self.consumer);
        let mut conn = self.app.pg.acquire().await.expect("PostgreSQL");
        assert!(stripe::has_payment_method(&mut conn, &self.workspace, &self.consumer).await.expect("PostgreSQL"));
    }
}

/// Each request of a push fails in each way once, then twice over: there is one customer, one invoice with our lines and
/// totals, open, and ours knows it.
pub async fn one_invoice_whatever_stripe_answers(suite: &Suite) {
    let faults = [
        json!({"kind": "drop"}),
        json!({"kind": "drop_before"}),
        json!({"kind": "error_before"}),
        json!({"kind": "stored_error", "applied": true}),
        json!({"kind": "stored_error", "applied": false}),
        json!({"kind": "bad_gateway", "applied": true}),
        json!({"kind": "bad_gateway", "applied": false}),
        json!({"kind": "conflict"}),
        json!({"kind": "rate_limit", "retry_after": 1}),
    ];
    let steps = ["/v1/customers", "/v1/invoices", "/v1/invoices/*/add_lines", "/v1/invoices/*/finalize"];
    let mut all = Vec::new();
    for step in steps {
        for fault in &faults {
            for times in [1, 2] {
                let (app, fault) = (suite.app.clone(), fault.clone());
                all.push(async move {
                    let shop = Shop::open(&app, "faults").await;
                    shop.order("faults", json!({"method": "POST", "path": step, "fault": fault, "times": times})).await;
                    let invoice = shop.issue(0).await;
                    shop.connect().await;
                    let ours = shop.when_pushed(&invoice).await;
                    assert_one(&shop, &ours, &format!("{times} x {fault} at {step}")).await;
                });
            }
        }
    }
    futures::future::join_all(all).await;
}

pub async fn assert_one(shop: &Shop, ours: &invoices::Invoice, what: &str) {
    let customers = shop.at_stripe("customers").await;
    assert_eq!(customers.len(), 1, "customers, {what}");
    assert_eq!(customers[0]["metadata"]["farebox_consumer"], shop.consumer.as_str());
    let invoices = shop.at_stripe("invoices").await;
    assert_eq!(invoices.len(), 1, "invoices, {what}");
    let theirs = &invoices[0];
    let shown = json!({"id": theirs["id"], "status": theirs["status"], "number": theirs["number"], "currency": theirs["currency"],
        "subtotal": theirs["subtotal"], "total": theirs["total"], "without_tax": theirs["total_excluding_tax"],
        "lines": theirs["lines"]["data"].as_array().expect("lines").iter().map(|line| line["amount"].clone()).collect::<Vec<_>>()});
    let expected = json!({"id": ours.stripe_id, "status": "open", "number": ours.number, "currency": "usd",
        "subtotal": 6134, "total": 7299, "without_tax": 6134, "lines": [4900, 1234]});
    assert_eq!(shown, expected, "{what}");
    assert_eq!(ours.hosted_url.as_deref(), theirs["hosted_invoice_url"].as_str());
}

/// Lost answers are asked for again with the same bytes and key, and a new key is taken only where Stripe stored a
/// failure under the old one; nothing can change stored bytes.
pub async fn the_same_bytes_are_sent_again(suite: &Suite) {
    let app = &suite.app;
    let shop = Shop::open(app, "bytes").await;
    let drafts = json!({"method": "POST", "path": "/v1/invoices", "fault": {"kind": "drop"}, "times": 3});
    let lines = json!({"method": "POST", "path": "/v1/invoices/*/add_lines", "fault": {"kind": "stored_error", "applied": false}});
    shop.order("faults", drafts).await;
    shop.order("faults", lines).await;
    let invoice = shop.issue(0).await;
    shop.connect().await;
    shop.when_pushed(&invoice).await;

    let asked = async |path: &str| -> Vec<(Value, Value, Value)> {
        let query = [("account", shop.account.as_str()), ("method", "POST"), ("path", path)];
        let answer = shop.http.get(format!("{}/_double/requests", shop.stripe())).query(&query).send().await.expect("the double answers");
        let log: Vec<Value> = answer.json().await.expect("JSON");
        log.iter().map(|entry| (entry["idempotency_key"].clone(), entry["params"].clone(), entry["replayed"].clone())).collect()
    };
    let key = |step: &str, generation: u32| json!(format!("{invoice}.{step}.{generation}"));
    let drafts = asked("/v1/invoices").await;
    assert_eq!(drafts.iter().map(|(used, ..)| used.clone()).collect::<Vec<_>>(), vec![key("draft", 1); 4]);
    assert!(drafts.iter().all(|(_, params, _)| *params == drafts[0].1));
    assert_eq!(drafts[3].2, json!(true), "the answer that counts is the stored one");
    let stripe_id = shop.invoice(&invoice).await.stripe_id.expect("pushed");
    let lines = asked(&format!("/v1/invoices/{stripe_id}/add_lines")).await;
    assert_eq!(lines.iter().map(|(used, ..)| used.clone()).collect::<Vec<_>>(), [key("lines", 1), key("lines", 2)]);
    assert_eq!(lines[0].1, lines[1].1);

    let changed = sqlx::query("UPDATE stripe_requests SET body = body || 'x'::bytea WHERE subject = $1")
        .bind(invoice.as_str())
        .execute(&app.pg)
        .await;
    assert!(changed.expect_err("stored bytes never change").to_string().contains("resent unchanged"));
}

/// Totals that differ block the invoice: nothing is finalised, the draft is gone, and a person is told why.
pub async fn a_different_total_blocks(suite: &Suite) {
    let app = &suite.app;
    let shop = Shop::open(app, "mismatch").await;
    let invoice = shop.issue(1).await;
    shop.connect().await;
    let reason = eventually("the block", IN_TIME, || async {
        let mut conn = app.pg.acquire().await.expect("PostgreSQL");
        let status = settings::status(&mut conn, &shop.workspace).await.expect("PostgreSQL");
        status.invoices.blocked_invoices.into_iter().find(|blocked| blocked.invoice == invoice.as_str()).map(|blocked| blocked.reason)
    })
    .await;
    assert_eq!(
        reason,
        "Stripe's totals differ from ours, so the draft was deleted there: total: ours 7300, Stripe's 7299; total excluding tax: ours 6135, Stripe's 6134"
    );
    assert!(shop.at_stripe("invoices").await.is_empty());
    let ours = shop.invoice(&invoice).await;
    assert_eq!((ours.state, ours.stripe_id), (State::Issued, None));
}

/// A consumer with a card is charged; the news of it comes twice, late and in the wrong order, and is taken once.
pub async fn paid_by_webhooks_in_any_order(suite: &Suite) {
    let app = &suite.app;
    let shop = Shop::open(app, "webhooks").await;
    shop.connect().await;
    let address = register_webhook(app, &shop.workspace).await.expect("registered").expect("reachable");
    assert_eq!(register_webhook(app, &shop.workspace).await.expect("still registered"), Some(address));
    assert_eq!(shop.at_stripe("webhook_endpoints").await.len(), 1);
    shop.give_card().await;
    shop.order("webhook-faults", json!({"type": "invoice.paid", "fault": "duplicate"})).await;
    shop.order("webhook-faults", json!({"type": "invoice.paid", "fault": "disorder", "times": 2, "millis": 1500})).await;
    for invoice in [shop.issue(0).await, shop.issue(0).await, shop.issue(0).await] {
        let ours = shop.when_paid(&invoice).await;
        assert!(ours.paid_at.is_some());
    }
    let theirs = shop.at_stripe("invoices").await;
    assert_eq!(theirs.iter().map(|invoice| invoice["status"].as_str()).collect::<Vec<_>>(), [Some("paid"); 3]);
    let sql = "SELECT count(*) FROM stripe_events WHERE workspace_id = $1 AND kind = 'invoice.paid'";
    let kept: i64 = sqlx::query_scalar(sql).bind(shop.workspace.as_str()).fetch_one(&app.pg).await.expect("PostgreSQL");
    assert_eq!(kept, 3, "an event that comes twice is kept once");
}

/// An endpoint that was registered before a kind of event was listened for is told of it at the next start, or when it is
/// registered again; it stays the same endpoint, with what someone added to it.
pub async fn an_older_endpoint_learns_newer_kinds(suite: &Suite) {
    let app = &suite.app;
    let shop = Shop::open(app, "older").await;
    shop.connect().await;
    register_webhook(app, &shop.workspace).await.expect("registered").expect("reachable");
    let endpoint = shop.at_stripe("webhook_endpoints").await.remove(0);
    let id = endpoint["id"].as_str().expect("an id");
    let kinds = async || {
        let mut all = shop.at_stripe("webhook_endpoints").await;
        assert_eq!((all.len(), all[0]["id"].as_str()), (1, Some(id)));
        let mut kinds: Vec<_> = all.remove(0)["enabled_events"].as_array().expect("kinds").clone();
        kinds.sort_by_key(ToString::to_string);
        kinds
    };
    let mut expected: Vec<_> = events::KINDS.into_iter().chain(["customer.created"]).map(|kind| json!(kind)).collect();
    expected.sort_by_key(ToString::to_string);
    let older = [("enabled_events[0]", "invoice.paid"), ("enabled_events[1]", "customer.created")];
    let forget = async || {
        shop.in_the_dashboard(&format!("webhook_endpoints/{id}"), &older).await;
        assert_eq!(kinds().await, [json!("customer.created"), json!("invoice.paid")]);
        let sql = "UPDATE stripe_settings SET endpoint_kinds = '{}' WHERE workspace_id = $1";
        sqlx::query(sql).bind(shop.workspace.as_str()).execute(&app.pg).await.expect("PostgreSQL");
    };
    forget().await;
    endpoint::run_once(app).await.expect("PostgreSQL");
    assert_eq!(kinds().await, expected, "at the start");
    forget().await;
    register_webhook(app, &shop.workspace).await.expect("registered").expect("reachable");
    assert_eq!(kinds().await, expected, "when it is registered again");
}

/// No webhook arrives: the poll finds the payment.
pub async fn paid_although_no_webhook_arrives(suite: &Suite) {
    let app = &suite.app;
    let shop = Shop::open(app, "poll").await;
    shop.connect().await;
    shop.give_card().await;
    let invoice = shop.issue(0).await;
    eventually("the charge", IN_TIME, || async { shop.at_stripe("invoices").await.first().filter(|i| i["status"] == "paid").cloned() })
        .await;
    poll::poll(app, &shop.workspace).await.expect("a list of events");
    shop.when_paid(&invoice).await;
}

/// Stripe knows of a consumer what we do: with the tax number in the form it takes, and anew before the next invoice when
/// something changed. A customer that someone deletes there is made again.
pub async fn a_customer_there_is_who_the_consumer_is(suite: &Suite) {
    let app = &suite.app;
    let shop = Shop::open(app, "customer").await;
    let tax_id = async |number: &str| {
        let billing = ConsumerBilling { tax_id: Some(number.to_owned()), ..ConsumerBilling::default() };
        let mut conn = app.pg.acquire().await.expect("PostgreSQL");
        set_consumer(&mut conn, &shop.workspace, &shop.consumer, &billing).await.expect("billing is set");
    };
    let there = async || {
        let mut customers = shop.at_stripe("customers").await;
        assert_eq!(customers.len(), 1, "{customers:?}");
        let customer = customers.remove(0);
        let ids = shop.at_stripe(&format!("customers/{}/tax_ids", customer["id"].as_str().expect("an id"))).await;
        let ids: Vec<_> = ids.iter().map(|id| json!([id["type"], id["value"]])).collect();
        json!({"name": customer["name"], "email": customer["email"], "city": customer["address"]["city"], "tax_ids": ids})
    };
    tax_id("DE 123 456 789").await;
    // Several at once.
    let invoices = [shop.issue(0).await, shop.issue(0).await, shop.issue(0).await, shop.issue(0).await];
    shop.connect().await;
    for invoice in &invoices {
        shop.when_pushed(invoice).await;
    }
    let first = json!({"name": "initech", "email": "dev@initech.example", "city": "Berlin", "tax_ids": [["eu_vat", "DE123456789"]]});
    assert_eq!(there().await, first);
    shop.when_pushed(&shop.issue(0).await).await;
    assert_eq!(there().await, first, "nothing is told twice");

    tax_id("987654321").await;
    let moved = NewConsumer {
        name: "Initech GmbH".to_owned(),
        email: None,
        signed_up_at: clock::now(),
        country: Some("DE".to_owned()),
        address: json!({"city": "Hamburg"}),
        subjects: Vec::new(),
    };
    let mut conn = app.pg.acquire().await.expect("PostgreSQL");
    consumers::update(&mut conn, &shop.workspace, &shop.consumer, moved).await.expect("PostgreSQL").expect("it is there");
    drop(conn);
    shop.when_pushed(&shop.issue(0).await).await;
    let second = json!({"name": "Initech GmbH", "email": null, "city": "Hamburg", "tax_ids": [["eu_vat", "DE987654321"]]});
    assert_eq!(there().await, second);

    shop.give_card().await;
    let before = shop.at_stripe("customers").await.remove(0);
    shop.delete_in_the_dashboard(&format!("customers/{}", before["id"].as_str().expect("an id"))).await;
    eventually("the news that the card is gone", IN_TIME, || async {
        poll::poll(app, &shop.workspace).await.expect("a list of events");
        let mut conn = app.pg.acquire().await.expect("PostgreSQL");
        let has = stripe::has_payment_method(&mut conn, &shop.workspace, &shop.consumer).await.expect("PostgreSQL");
        (!has).then_some(())
    })
    .await;
    shop.when_pushed(&shop.issue(0).await).await;
    let after = shop.at_stripe("customers").await;
    assert_ne!(after[0]["id"], before["id"]);
    assert_eq!(there().await, second);
}

/// A webhook that is not signed with the workspace's secret is refused, and so is one for another workspace.
pub async fn a_forged_webhook_is_refused(suite: &Suite) {
    let app = &suite.app;
    let (shop, other) = (Shop::open(app, "forged").await, Shop::open(app, "other").await);
    shop.connect().await;
    let address = register_webhook(app, &shop.workspace).await.expect("registered").expect("reachable");
    let event = json!({"id": "evt_forged", "object": "event", "type": "invoice.paid", "created": 1, "data": {"object": {"id": "in_1"}}});
    let send = async |address: &str, signature: &str| {
        let request = shop.http.post(address).header("stripe-signature", signature).json(&event);
        request.send().await.expect("an answer").status().as_u16()
    };
    let forged = format!("t={},v1={}", clock::now().timestamp(), "00".repeat(32));
    assert_eq!(send(&address, &forged).await, 400);
    assert_eq!(send(&address, "").await, 400);
    let elsewhere = address.replace(shop.workspace.as_str(), other.workspace.as_str());
    assert_eq!(send(&elsewhere, &forged).await, 404);
    let kept: i64 =
        sqlx::query_scalar("SELECT count(*) FROM stripe_events WHERE id = 'evt_forged'").fetch_one(&app.pg).await.expect("PostgreSQL");
    assert_eq!(kept, 0);
}

/// Keys are not stored in the clear, and a workspace's row does not open for another.
pub async fn keys_are_sealed(suite: &Suite) {
    let app = &suite.app;
    let (ours, theirs) = (Shop::open(app, "sealed").await, Shop::open(app, "thief").await);
    ours.connect().await;
    theirs.connect().await;
    let stored: Vec<u8> = sqlx::query_scalar("SELECT secret_key_sealed FROM stripe_settings WHERE workspace_id = $1")
        .bind(ours.workspace.as_str())
        .fetch_one(&app.pg)
        .await
        .expect("PostgreSQL");
    assert!(!stored.windows(8).any(|part| part == b"sk_test_"));
    sqlx::query("UPDATE stripe_settings SET secret_key_sealed = $2 WHERE workspace_id = $1")
        .bind(theirs.workspace.as_str())
        .bind(stored)
        .execute(&app.pg)
        .await
        .expect("PostgreSQL");
    let refused = stripe::ensure_customer(app, &theirs.workspace, &theirs.consumer).await.expect_err("another workspace's key");
    assert!(refused.to_string().contains("does not open"), "{refused}");
}

/// Every invoice here against there: what agrees, what was changed there behind our back, what was made there with our mark;
/// and an invoice paid otherwise is no longer collected there.
pub async fn every_invoice_is_compared(suite: &Suite) {
    let app = &suite.app;
    let shop = Shop::open(app, "compare").await;
    shop.connect().await;
    let (agreed, voided) = (shop.issue(0).await, shop.issue(0).await);
    shop.when_pushed(&agreed).await;
    let there = shop.when_pushed(&voided).await.stripe_id.expect("pushed");
    // No webhook is registered, and the poll comes later than this.
    shop.hears_nothing().await;
    shop.in_the_dashboard(&format!("invoices/{there}/void"), &[]).await;
    let customer = shop.at_stripe("customers").await[0]["id"].as_str().expect("an id").to_owned();
    let mark = shop.workspace.as_str().to_owned();
    let copy = shop
        .in_the_dashboard(
            "invoices",
            &[
                ("customer", &customer),
                ("auto_advance", "false"),
                ("metadata[farebox_workspace]", &mark),
                ("metadata[farebox_invoice]", agreed.as_str()),
            ],
        )
        .await;
    shop.in_the_dashboard(&format!("invoices/{}/finalize", copy["id"].as_str().expect("an id")), &[]).await;

    assert!(reconcile::reconcile(app, &shop.workspace).await.expect("compares"));
    let summary = reconcile::summary(&app.pg, &shop.workspace).await.expect("PostgreSQL").expect("a run");
    let said: Vec<_> = summary.differences.iter().map(|found| (found.invoice.as_deref(), found.difference.as_str())).collect();
    let stranger = "it carries our mark and is not the invoice we pushed: void it there unless it is wanted";
    assert_eq!(said, [(Some(voided.as_str()), "ours is issued, Stripe's void"), (Some(agreed.as_str()), stranger)], "{summary:?}");
    assert_eq!(summary.compared, 3);

    let payment = settle::Payment { paid_at: clock::now(), method: "transfer".to_owned(), reference: "statement 7".to_owned() };
    let paid = settle::settle(app, &shop.workspace, &agreed, &settle::Settlement::Paid(payment), "a test").await.expect("settled");
    assert_eq!(paid.state, State::Paid);
    let theirs = shop.at_stripe("invoices").await;
    let theirs = theirs.iter().find(|invoice| invoice["id"] == json!(paid.stripe_id)).expect("it is there");
    assert_eq!(theirs["status"], "paid", "Stripe no longer collects it");
}
