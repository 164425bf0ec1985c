use serde_json::json;

use super::harness::{Api, Receiver};

#[tokio::test]
async fn deliveries_are_repeated_until_accepted() {
    let api = Api::new();
    let mut hooks = Receiver::new(&api, "customer.created", 2).await;
    let customer = api.customer().await;
    let event = hooks.next().await;
    assert_eq!((&event["type"], &event["data"]["object"]["id"]), (&json!("customer.created"), &json!(customer)));
    let path = format!("/v1/events/{}", event["id"].as_str().unwrap());
    assert_eq!(api.get(&path).await.ok()["type"], "customer.created");
}

#[tokio::test]
async fn duplicates_disorder_and_loss_on_demand() {
    let api = Api::new();
    let mut hooks = Receiver::new(&api, "customer.created", 0).await;
    let mishap = async |mishap: &str, times: u32, millis: u32| {
        let rule = json!({"account": api.account, "type": "customer.*", "fault": mishap, "times": times, "millis": millis});
        api.double("POST", "webhook-faults", rule).await;
    };
    mishap("duplicate", 1, 0).await;
    let first = api.customer().await;
    let (one, two) = (hooks.next().await, hooks.next().await);
    assert_eq!((&one["id"], &one["data"]["object"]["id"]), (&two["id"], &json!(first)));

    mishap("disorder", 3, 900).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(api.customer().await);
    }
    let mut came = Vec::new();
    for _ in 0..3 {
        came.push(hooks.next().await["data"]["object"]["id"].as_str().unwrap().to_owned());
    }
    made.reverse();
    assert_eq!(came, made);

    mishap("drop", 1, 0).await;
    let lost = api.customer().await;
    let next = api.customer().await;
    assert_eq!(hooks.next().await["data"]["object"]["id"], json!(next));
    let listed = api.get("/v1/events?type=customer.created&limit=2").await.ok();
    assert_eq!(listed["data"][1]["data"]["object"]["id"], json!(lost), "the poll of events finds it");
}

#[tokio::test]
async fn an_endpoint_can_be_switched_off_and_shows_its_secret_once() {
    let api = Api::new();
    let mut hooks = Receiver::new(&api, "customer.created", 0).await;
    assert!(hooks.secret.starts_with("whsec_"));
    let listed = api.get("/v1/webhook_endpoints").await.ok();
    let endpoint = &listed["data"][0];
    assert_eq!((&endpoint["url"], endpoint.get("secret")), (&json!(hooks.url), None));
    let path = format!("/v1/webhook_endpoints/{}", endpoint["id"].as_str().unwrap());
    assert_eq!(api.post(&path, &[("disabled", "true")]).await.ok()["status"], "disabled");
    api.customer().await;
    assert_eq!(api.post(&path, &[("disabled", "false")]).await.ok()["status"], "enabled");
    let later = api.customer().await;
    assert_eq!(hooks.next().await["data"]["object"]["id"], json!(later));
    assert_eq!(api.delete(&path).await.ok()["deleted"], true);
}
