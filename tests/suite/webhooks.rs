//! Webhooks through the front door, to a receiver that takes, fails, redirects, hangs and is gone.

use std::time::Duration;

use farebox_core::auth::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::finance;
use crate::harness::{Suite, eventually};
use crate::hooks::Receiver;
use crate::shop::Shop;
use crate::tenant::Tenant;

/// The webhook's id and secret.
pub async fn hook(tenant: &Tenant, url: &str, events: &[&str]) -> (String, String) {
    let asked = tenant.call(Method::POST, "/api/v1/webhooks").json(&json!({ "url": url, "events": events }));
    let (status, made) = answer(asked).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let text = |field: &str| made[field].as_str().expect("a text").to_owned();
    (text("id"), text("secret"))
}

pub async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let answer = request.send().await.expect("an answer");
    let status = answer.status();
    let text = answer.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn test(tenant: &Tenant, id: &str) -> String {
    let (status, answer) = answer(tenant.call(Method::POST, &format!("/api/v1/webhooks/{id}/test"))).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    answer["event"].as_str().expect("an id").to_owned()
}

/// Waits until the only delivery is as asked.
async fn delivery(tenant: &Tenant, id: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually("the delivery is as it should be", Duration::from_secs(60), || async {
        let found = tenant.get(&format!("/api/v1/webhooks/{id}/deliveries")).await;
        assert_eq!(found["data"].as_array().expect("a list").len(), 1, "{found}");
        Some(found["data"][0].clone()).filter(|delivery| is(delivery))
    })
    .await
}

pub async fn an_address_that_fails_redirects_or_hangs_holds_up_nobody(suite: &Suite) {
    let (receiver, tenant) = (Receiver::start().await, Tenant::new(suite, "hooks").await);
    let mut hooks = Vec::new();
    for path in ["/hangs", "/fails-once", "/redirects", "/gone", "/good"] {
        let (id, secret) = hook(&tenant, &receiver.url(path), &["key.created"]).await;
        let event = test(&tenant, &id).await;
        hooks.push((path, id, secret, event));
    }
    let of = |path: &str| hooks.iter().find(|hook| hook.0 == path).expect("a hook");

    let (_, id, secret, event) = of("/good");
    let good = delivery(&tenant, id, |d| d["state"] == "delivered").await;
    assert_eq!(
        (&good["event"], &good["type"], &good["attempts"], &good["status"]),
        (&json!(event), &json!("webhook.test"), &json!(1), &json!(204))
    );
    let arrived = receiver.until("/good", 1).await;
    assert_eq!((arrived[0].id.as_str(), &arrived[0].body["type"]), (event.as_str(), &json!("webhook.test")));
    assert!(arrived[0].is_signed_with(secret) && !arrived[0].is_signed_with(&of("/gone").2));

    // The same id and bytes, signed anew.
    let (_, id, secret, event) = of("/fails-once");
    delivery(&tenant, id, |d| d["state"] == "delivered" && d["attempts"] == 2).await;
    let twice = receiver.until("/fails-once", 2).await;
    assert!(
        twice.iter().all(|arrived| arrived.id == *event && arrived.body == twice[0].body && arrived.is_signed_with(secret)),
        "{twice:?}"
    );

    let (_, id, ..) = of("/redirects");
    let redirected = delivery(&tenant, id, |d| d["attempts"].as_i64() >= Some(1)).await;
    assert_eq!((&redirected["state"], &redirected["status"]), (&json!("queued"), &json!(307)));
    assert!(redirected["error"].as_str().expect("why").contains("redirects are not followed"), "{redirected}");
    assert!(receiver.arrived("/landed").is_empty());

    let (_, id, ..) = of("/hangs");
    let hung = delivery(&tenant, id, |d| d["attempts"].as_i64() >= Some(1)).await;
    assert_eq!(
        (&hung["state"], &hung["status"], &hung["error"]),
        (&json!("queued"), &Value::Null, &json!("it did not answer within 15 seconds"))
    );
    assert!(hung["next_at"].is_string());

    let (_, id, ..) = of("/gone");
    delivery(&tenant, id, |d| d["state"] == "failed").await;
    let off = tenant.get(&format!("/api/v1/webhooks/{id}")).await;
    assert_eq!(off["disabled_reason"], json!("it answered 410 Gone"), "{off}");
    let (status, refused) = answer(tenant.call(Method::POST, &format!("/api/v1/webhooks/{id}/test"))).await;
    assert_eq!((status, &refused["type"]), (StatusCode::CONFLICT, &json!("urn:farebox:problem:webhook-disabled")));
    let (status, on) = answer(tenant.call(Method::PATCH, &format!("/api/v1/webhooks/{id}")).json(&json!({ "enabled": true }))).await;
    assert_eq!((status, &on["disabled_at"]), (StatusCode::OK, &Value::Null));
}

pub async fn what_happens_to_invoices_keys_and_subscriptions_is_told(suite: &Suite) {
    let receiver = Receiver::start().await;
    let tenant = Tenant::new(suite, "told").await;
    let (_, secret) = hook(&tenant, &receiver.url("/invoices"), &["invoice.issued", "invoice.paid", "invoice.past_due"]).await;
    finance::close(suite, &tenant).await;
    let issued = finance::issued(&tenant, "initech").await;
    // initech's months, and the free ones of the other, which are paid when they are issued.
    let of =
        |invoice: &Value| receiver.arrived("/invoices").into_iter().filter(|a| a.body["data"]["id"] == invoice["id"]).collect::<Vec<_>>();
    for invoice in &issued {
        let told = eventually("an issued invoice is told", Duration::from_secs(60), || async { of(invoice).first().cloned() }).await;
        assert!(told.is_signed_with(&secret));
        assert_eq!(told.body["type"], "invoice.issued");
        for field in ["number", "currency", "subtotal", "tax", "total", "period", "consumer", "due_at"] {
            assert_eq!(told.body["data"][field], invoice[field], "{field}");
        }
        assert_eq!(told.body["data"]["state"], "issued");
    }
    // By the workspace's clock three weeks on, all are past due, each told once.
    sqlx::query("UPDATE workspaces SET test_mode = true, clock_ahead_s = 1814400 WHERE id = $1")
        .bind(tenant.workspace.id.as_str())
        .execute(&suite.app.pg)
        .await
        .expect("ahead");
    let past_due = || issued.iter().filter(|invoice| of(invoice).iter().any(|told| told.body["type"] == "invoice.past_due")).count();
    eventually("what is past due is told", Duration::from_secs(60), || async { (past_due() == issued.len()).then_some(()) }).await;
    let paid = json!({ "paid_at": "2026-11-20T10:00:00Z", "method": "transfer", "reference": "wire 1" });
    let id = issued[0]["id"].as_str().expect("an id");
    let (status, settled) = answer(tenant.call(Method::POST, &format!("/api/v1/invoices/{id}/payment")).json(&paid)).await;
    assert!(status.is_success(), "{status} {settled}");
    let told = eventually("a payment is told", Duration::from_secs(60), || async { of(&issued[0]).get(2).cloned() }).await;
    assert_eq!((&told.body["type"], &told.body["data"]["state"]), (&json!("invoice.paid"), &json!("paid")));

    let shop = Shop::open(suite, "told-keys").await;
    hook(&shop.tenant, &receiver.url("/keys"), &["key.created", "key.revoked", "subscription.changed"]).await;
    let key = json!({ "consumer": shop.consumer, "name": "second" });
    let (status, made) = answer(shop.tenant.call(Method::POST, "/api/v1/keys").json(&key)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let id = made["id"].as_str().expect("an id");
    let revoked = shop.tenant.call(Method::DELETE, &format!("/api/v1/keys/{id}")).send().await.expect("an answer");
    assert!(revoked.status().is_success(), "{}", revoked.status());
    let subscription = shop.tenant.get("/api/v1/subscriptions").await["data"][0]["id"].as_str().expect("an id").to_owned();
    let ended =
        shop.tenant.call(Method::POST, &format!("/api/v1/subscriptions/{subscription}/cancel")).json(&json!({ "when": "period_end" }));
    let (status, ended) = answer(ended).await;
    assert!(status.is_success(), "{status} {ended}");
    let arrived = receiver.until("/keys", 3).await;
    let told: Vec<_> =
        arrived.iter().map(|a| (a.body["type"].as_str().unwrap_or_default(), a.body["data"]["id"].as_str().unwrap_or_default())).collect();
    assert_eq!(told, [("key.created", id), ("key.revoked", id), ("subscription.changed", subscription.as_str())]);
    let secret = made["key"].as_str().expect("the key");
    assert!(arrived.iter().all(|a| !a.body.to_string().contains(secret)), "no key is told");
    assert_eq!(arrived[2].body["data"]["ended_at"], ended["ended_at"]);
}

pub async fn secrets_rotate_and_addresses_are_judged(suite: &Suite) {
    let (receiver, tenant) = (Receiver::start().await, Tenant::new(suite, "rotate").await);
    let (id, old) = hook(&tenant, &receiver.url("/good"), &["*"]).await;
    let (status, rotated) = answer(tenant.call(Method::POST, &format!("/api/v1/webhooks/{id}/rotate"))).await;
    let new = rotated["secret"].as_str().expect("a secret");
    assert!(status.is_success() && new != old && rotated["rotating_until"].is_string(), "{rotated}");
    test(&tenant, &id).await;
    let arrived = receiver.until("/good", 1).await;
    assert!(arrived[0].is_signed_with(&old) && arrived[0].is_signed_with(new), "for a day both fit");
    let shown = tenant.get("/api/v1/webhooks").await.to_string();
    assert!(!shown.contains(new) && !shown.contains(&old) && !shown.contains("whsec_"), "{shown}");
    // Sent again by hand: the same event.
    let event = arrived[0].id.clone();
    let (status, again) = answer(tenant.call(Method::POST, &format!("/api/v1/webhooks/{id}/deliveries/{event}/retry"))).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{again}");
    assert!(receiver.until("/good", 2).await.iter().all(|arrived| arrived.id == event));

    // The suite allows 127.0.0.0/8, and nothing else that is not public.
    for url in [
        "http://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "ftp://hooks.example/",
        "https://a:b@hooks.example/",
        "no",
    ] {
        let asked = tenant.call(Method::POST, "/api/v1/webhooks").json(&json!({ "url": url, "events": ["key.created"] }));
        let (status, problem) = answer(asked).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("/url")), "{url}: {problem}");
    }
    // Amounts are told only to whoever may know them.
    let manage = tenant.token_with(suite, &[Scope::Manage]).await;
    let ask = async |events: &[&str]| {
        let asked = tenant.anonymous(Method::POST, "/api/v1/webhooks").header("x-farebox-token", &manage);
        answer(asked.json(&json!({ "url": receiver.url("/good"), "events": events }))).await.0
    };
    assert_eq!(ask(&["key.created"]).await, StatusCode::CREATED);
    for events in [&["invoice.paid"][..], &["*"], &["key.created", "alert.fired"]] {
        assert_eq!(ask(events).await, StatusCode::FORBIDDEN, "{events:?}");
    }
    let moved = tenant.anonymous(Method::PATCH, &format!("/api/v1/webhooks/{id}")).header("x-farebox-token", &manage);
    let (status, _) = answer(moved.json(&json!({ "url": receiver.url("/elsewhere") }))).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "whoever may not know amounts does not send them elsewhere");
    let gone = tenant.call(Method::DELETE, &format!("/api/v1/webhooks/{id}")).send().await.expect("an answer");
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
}
