//! Gateways that check keys themselves have what they need, and keep it: tried against strict doubles of the Admin APIs
//! of APISIX and Kong.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::admin_doubles::{ADMIN_KEY, Double};
use crate::harness::{Suite, eventually};
use crate::shop::{SOON, Shop};

const PLAN: &[&str] = &[r#"{feature: orders, routes: ["GET /orders*"], rate: {limit: 100, per: minute}}"#];

async fn register(shop: &Shop, kind: &str, url: &str) {
    let target = json!({ "kind": kind, "url": url, "admin_key": ADMIN_KEY, "anonymous": { "limit": 20, "per": "hour" } });
    let put = shop.tenant.call(Method::PUT, "/api/v1/provisioning/edge").json(&target).send().await.expect("an answer");
    assert_eq!(put.status(), 204, "{}", put.text().await.unwrap_or_default());
}

async fn issue(shop: &Shop, name: &str) -> (String, String) {
    let new = json!({ "consumer": shop.consumer, "name": name });
    let issued: Value =
        shop.tenant.call(Method::POST, "/api/v1/keys").json(&new).send().await.expect("an answer").json().await.expect("JSON");
    let text = |of: &str| issued[of].as_str().expect("a text").to_owned();
    (text("id"), text("key"))
}

async fn state(shop: &Shop) -> Value {
    shop.tenant.get("/api/v1/provisioning").await["data"][0].clone()
}

/// Everything was compared after this, and nothing waits.
async fn reconciled(shop: &Shop) -> Value {
    let before = state(shop).await["reconciled_at"].clone();
    let asked = shop.tenant.call(Method::POST, "/api/v1/provisioning/edge/reconcile").send().await.expect("an answer");
    assert_eq!(asked.status(), 202);
    eventually("it is compared", SOON, || async {
        let state = state(shop).await;
        (state["reconciled_at"] != before && state["waiting"] == 0).then_some(state)
    })
    .await
}

/// Whose key stands anywhere in what is there.
fn holds(things: &BTreeMap<String, Value>, key: &str) -> bool {
    things.values().any(|value| value["key"] == key || value["plugins"]["key-auth"]["key"] == key)
}

async fn kept_in_step(suite: &Suite, kind: &str, double: Double) {
    let shop = Shop::selling(suite, kind, "[]", PLAN).await;
    let consumer = shop.consumer.as_str();
    register(&shop, kind, &double.url).await;
    let first = eventually("the consumer is there", SOON, || async {
        let state = state(&shop).await;
        (state["consumers"] == 1 && state["waiting"] == 0).then_some(state)
    })
    .await;
    assert!(double.things().contains_key(&format!("consumers/{consumer}")), "{:?}", double.things().keys());
    assert_eq!(
        (&first["keys"], &first["keys_missing"], &first["error"]),
        (&json!(0), &json!(1), &Value::Null),
        "issued before: only its hash is left"
    );

    // A key that is issued now is delivered, and nothing here can give it away afterwards.
    let (id, key) = issue(&shop, "edge").await;
    eventually("the key is there", SOON, || async { holds(&double.things(), &key).then_some(()) }).await;
    let state_after =
        eventually("it is settled", SOON, || async { Some(state(&shop).await).filter(|s| s["keys"] == 1 && s["waiting"] == 0) }).await;
    assert_eq!(state_after["keys_missing"], 1);
    let kept = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM provision_secrets WHERE credential_id = $1").bind(&id);
    assert_eq!(kept.fetch_one(&suite.app.pg).await.expect("PostgreSQL answers"), 0, "a delivered key is forgotten");

    // Once more changes nothing.
    let writes = double.writes();
    reconciled(&shop).await;
    assert_eq!(double.writes(), writes, "comparing what is right writes nothing");

    // What is changed by hand over there is set right; what is not ours is left alone.
    double.meddle(|things| {
        let ours = things.get_mut(&format!("consumers/{consumer}")).expect("the consumer");
        ours["labels"] = json!({ "farebox-workspace": ours["labels"]["farebox-workspace"].clone() });
        ours["custom_id"] = json!("meddled");
        if let Some(tags) = ours.get_mut("tags") {
            *tags = json!(["farebox", tags[1].clone(), "more"]);
        }
        things.retain(|name, _| !name.contains("/acls/"));
        things.insert("consumers/theirs".to_owned(), json!({ "username": "theirs" }));
        let forgotten = "con_00000000000000000000000000000000";
        let like_ours = things[&format!("consumers/{consumer}")].clone();
        things.insert(
            format!("consumers/{forgotten}"),
            json!({ "username": forgotten, "labels": like_ours["labels"], "tags": like_ours["tags"] }),
        );
        let forged =
            json!({ "id": "0198c8a0-0000-7000-8000-000000000000", "key": "forged", "plugins": { "key-auth": { "key": "forged" } } });
        let place = if kind == "kong" { "key-auth" } else { "credentials" };
        things.insert(format!("consumers/{consumer}/{place}/0198c8a0-0000-7000-8000-000000000000"), forged);
    });
    reconciled(&shop).await;
    let things = double.things();
    let ours = &things[&format!("consumers/{consumer}")];
    assert!(ours["labels"]["managed-by"] == "farebox" || ours["tags"].as_array().is_some_and(|tags| tags.len() == 2), "{ours}");
    assert!(things.contains_key("consumers/theirs") && !things.contains_key("consumers/con_00000000000000000000000000000000"));
    assert!(!holds(&things, "forged") && holds(&things, &key));
    if kind == "kong" {
        assert!(things.iter().any(|(name, value)| name.contains("/acls/") && value["group"] == "plan-reader"), "{things:?}");
    } else {
        let group = ours["group_id"].as_str().expect("a group");
        assert_eq!(things[&format!("consumer_groups/{group}")]["plugins"]["limit-count"]["count"], 100);
    }
    let anonymous = things.iter().find(|(name, _)| name.starts_with("consumers/anonymous_")).expect("the anonymous consumer");
    assert!(
        anonymous.1.to_string().contains("20") || things.iter().any(|(n, v)| n.contains("/plugins/") && v["config"]["hour"] == 20),
        "{anonymous:?}"
    );

    // While the Admin API is away changes wait, and then all come.
    double.held.lock().expect("whole").away = true;
    let (second_id, second) = issue(&shop, "later").await;
    let revoked = shop.tenant.call(Method::DELETE, &format!("/api/v1/keys/{id}")).send().await.expect("an answer");
    assert_eq!(revoked.status(), 204);
    eventually("what stands in the way is said", SOON, || async {
        state(&shop).await["error"].as_str().is_some_and(|e| e.contains("503")).then_some(())
    })
    .await;
    assert!(holds(&double.things(), &key));
    double.held.lock().expect("whole").away = false;
    eventually("the revoked key is gone and the new one there", SOON, || async {
        let things = double.things();
        (!holds(&things, &key) && holds(&things, &second)).then_some(())
    })
    .await;

    // Without a key left the consumer goes.
    for id in [second_id.as_str(), shop.credential.as_str()] {
        assert_eq!(shop.tenant.call(Method::DELETE, &format!("/api/v1/keys/{id}")).send().await.expect("an answer").status(), 204);
    }
    eventually("the consumer is gone", SOON, || async { (!double.things().contains_key(&format!("consumers/{consumer}"))).then_some(()) })
        .await;
    assert_eq!(double.refusals(), Vec::<String>::new(), "nothing that the published schemas do not have");
}

pub async fn apisix_is_kept_in_step(suite: &Suite) {
    kept_in_step(suite, "apisix", Double::apisix().await).await;
}

pub async fn kong_is_kept_in_step(suite: &Suite) {
    kept_in_step(suite, "kong", Double::kong().await).await;
}
