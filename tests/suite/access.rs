//! Decisions: from memory, with a reason.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Suite, eventually};
use crate::shop::{SOON, Shop, header, slug};
use crate::tenant::Tenant;

/// Allowed and refused, each with whose call it is, an id of its own, and a reason the caller can act on.
pub async fn a_decision_says_who_and_why(suite: &Suite) {
    let shop = Shop::open(suite, "decide").await;
    let (status, allowed, _) = shop.ask(Some(&shop.key), "GET", "/v1/orders/7?token=s3cret").await;
    assert_eq!(status, 200);
    assert_eq!(header(&allowed, "x-farebox-consumer"), shop.consumer.as_str());
    assert_eq!(header(&allowed, "x-farebox-credential"), shop.credential.as_str());
    assert_eq!(header(&allowed, "x-farebox-plan"), "reader");
    assert!(header(&allowed, "x-farebox-subscription").starts_with("sub_"));
    assert_eq!((header(&allowed, "x-farebox-api"), header(&allowed, "x-farebox-api-version")), ("orders", "v1"));
    assert_eq!((header(&allowed, "deprecation"), header(&allowed, "sunset")), ("@1788220800", "Mon, 01 Mar 2027 00:00:00 GMT"));
    let (_, again, _) = shop.ask(Some(&shop.key), "GET", "/v1/orders/7").await;
    assert_ne!(header(&allowed, "x-farebox-decision"), header(&again, "x-farebox-decision"));

    for (key, method, path, status, reason) in [
        (None, "GET", "/orders", 401, "no-key"),
        (Some("acme_live_nobody"), "GET", "/orders", 401, "unknown-key"),
        (Some(shop.key.as_str()), "DELETE", "/orders/7", 403, "not-in-plan"),
        (Some(shop.key.as_str()), "GET", "/reports", 403, "not-in-plan"),
        (Some(shop.key.as_str()), "GET", "/orders/..%2freports", 403, "not-in-plan"),
    ] {
        let (found, headers, body) = shop.ask(key, method, path).await;
        assert_eq!((found.as_u16(), slug(&body).as_str()), (status, reason), "{method} {path}");
        assert_eq!(header(&headers, "x-farebox-problem"), body, "for gateways that drop the body");
        assert!(!header(&headers, "x-farebox-decision").is_empty(), "a refusal has an id, too");
        assert_eq!(header(&headers, "x-farebox-consumer").is_empty(), status == 401);
    }

    for remaining in ["2", "1", "0"] {
        let (status, headers, _) = shop.ask(Some(&shop.key), "GET", "/orders/few").await;
        assert_eq!(status, 200);
        assert!(header(&headers, "ratelimit").starts_with(&format!("\"few\";r={remaining};")), "{headers:?}");
    }
    let (status, headers, body) = shop.ask(Some(&shop.key), "GET", "/orders/few").await;
    assert_eq!((status.as_u16(), slug(&body).as_str()), (429, "rate-limited"));
    assert!(header(&headers, "retry-after").parse::<u64>().is_ok_and(|s| (1..=3600).contains(&s)));

    // nginx asks with HEAD, names the call in headers, and knows only 401 and 403.
    let nginx =
        shop.tenant.call(Method::HEAD, "/v1/decide/nginx-1").header("x-original-method", "GET").header("x-original-uri", "/orders/few?x=1");
    let nginx =
        nginx.header("authorization", format!("Bearer {}", shop.key)).header("x-farebox-deny-as", "403").send().await.expect("an answer");
    assert_eq!((nginx.status().as_u16(), header(nginx.headers(), "x-farebox-status")), (403, "429"));

    // A gateway that nobody knows, and one of another workspace.
    let unknown =
        shop.tenant.anonymous(Method::GET, "/v1/decide/envoy-1/orders").header("x-api-key", &shop.key).send().await.expect("an answer");
    assert_eq!(unknown.status(), 401);
    let other = Tenant::new(suite, "other").await;
    let foreign = eventually("the other workspace's token is known", SOON, || async {
        let asked = other.call(Method::GET, "/v1/decide/envoy-1/orders").header("x-api-key", &shop.key).send().await.expect("an answer");
        let decided = asked.headers().contains_key("x-farebox-decision");
        decided.then_some(asked)
    });
    assert_eq!(slug(&foreign.await.text().await.expect("a body")), "unknown-key");
}

/// Revoked by the management API, a key is refused within a second.
pub async fn a_revoked_key_is_refused_within_a_second(suite: &Suite) {
    let shop = Shop::open(suite, "revoke").await;
    let revoked = shop.tenant.call(Method::DELETE, &format!("/api/v1/keys/{}", shop.credential)).send().await.expect("an answer");
    assert_eq!(revoked.status(), 204);
    let at = Instant::now();
    eventually("the key is refused", Duration::from_secs(1), || async {
        (shop.ask(Some(&shop.key), "GET", "/orders").await.0 == 401).then_some(())
    })
    .await;
    println!("refused {} ms after it was revoked", at.elapsed().as_millis());

    // Keys of the management API: shown once, then only known by their ends.
    let issued = shop
        .tenant
        .call(Method::POST, "/api/v1/keys")
        .json(&json!({ "consumer": shop.consumer, "name": "second" }))
        .send()
        .await
        .expect("an answer");
    assert_eq!(issued.status(), 201);
    let issued: Value = issued.json().await.expect("JSON");
    let key = issued["key"].as_str().expect("the key").to_owned();
    eventually("the new key is accepted", SOON, || async { (shop.ask(Some(&key), "GET", "/orders").await.0 == 200).then_some(()) }).await;
    let listed = shop.tenant.get(&format!("/api/v1/keys?consumer={}", shop.consumer)).await;
    assert_eq!(listed["data"].as_array().expect("keys").len(), 2);
    assert!(!listed.to_string().contains(&key));
}
