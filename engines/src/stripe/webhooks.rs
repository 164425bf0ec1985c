//! Events and their signed delivery: at least once, in no promised order, retried until a 2xx.
//!
//! An event and its deliveries are journalled together with the change they tell of, so that a
//! restart delivers what was not delivered.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::answers::{render, wildcard};
use super::dispatch::Call;
use super::errors::ApiError;
use super::ids;
use super::state::{Tx, copy, int, machine_millis, merge_metadata, set, text};

pub fn create(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    check_url(call)?;
    let mut endpoint = tx.fresh(call.shape.clone(), "webhook_endpoint");
    set(&mut endpoint, json!({"status": "enabled", "metadata": {}, "_secret": ids::new("whsec_", 32)}));
    copy(&mut endpoint, &call.params, &["api_version", "description", "enabled_events", "url"]);
    merge_metadata(&mut endpoint, call.params.get("metadata"));
    tx.put(endpoint.clone());
    let mut answer = render(tx, &endpoint);
    // Told once, here.
    answer["secret"] = endpoint["_secret"].clone();
    Ok(answer)
}

pub fn update(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    check_url(call)?;
    let mut endpoint = tx.get("webhook_endpoint", call.id(), "id")?;
    copy(&mut endpoint, &call.params, &["description", "enabled_events", "url"]);
    merge_metadata(&mut endpoint, call.params.get("metadata"));
    if let Some(disabled) = call.params.get("disabled").and_then(Value::as_bool) {
        endpoint["status"] = json!(if disabled { "disabled" } else { "enabled" });
    }
    tx.put(endpoint.clone());
    Ok(render(tx, &endpoint))
}

pub fn delete(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    tx.get("webhook_endpoint", call.id(), "id")?;
    tx.remove(call.id());
    Ok(json!({"id": call.id(), "object": "webhook_endpoint", "deleted": true}))
}

fn check_url(call: &Call) -> Result<(), ApiError> {
    match call.text("url").map(url::Url::parse) {
        None => Ok(()),
        Some(Ok(url)) if matches!(url.scheme(), "http" | "https") => Ok(()),
        Some(_) => {
            Err(ApiError::invalid("Invalid URL: An explicit scheme (such as https) must be provided.").code("url_invalid").param("url"))
        }
    }
}

/// Records that something happened to an object, and queues the event for each endpoint that asked
/// for it. `before` gives the previous values of what changed.
pub fn emit(tx: &mut Tx<'_>, kind: &str, object: &Value, before: Option<&Value>) {
    let mut data = json!({"object": render(tx, object)});
    if let Some(before) = before.filter(|_| kind.ends_with(".updated") || kind.ends_with(".detached")) {
        data["previous_attributes"] = difference(&render(tx, before), &data["object"]);
    }
    let endpoints: Vec<String> = tx
        .account
        .all("webhook_endpoint")
        .filter(|endpoint| wants(endpoint, kind))
        .map(|endpoint| text(endpoint, "id").to_owned())
        .collect();
    let mut event = tx.blank("event");
    let version = tx.origin.version.clone().unwrap_or_else(|| tx.context.spec.version.clone());
    set(
        &mut event,
        json!({"type": kind, "data": data, "api_version": version, "pending_webhooks": endpoints.len(),
               "request": {"id": tx.origin.request, "idempotency_key": tx.origin.key}}),
    );
    for endpoint in endpoints {
        let due = tx.context.mishaps.lock().expect("no holder panics").deliveries(tx.name, kind, machine_millis());
        for due in due {
            tx.put(json!({"id": ids::of("_delivery"), "object": "_delivery", "event": event["id"], "endpoint": endpoint,
                          "attempts": 0, "due": due}));
        }
    }
    tx.put(event);
}

fn wants(endpoint: &Value, kind: &str) -> bool {
    let mut wanted = endpoint["enabled_events"].as_array().into_iter().flatten().filter_map(Value::as_str);
    endpoint["status"] == "enabled" && wanted.any(|wanted| wanted == "*" || wanted == kind)
}

/// The former values of the members that differ.
fn difference(before: &Value, after: &Value) -> Value {
    let none = Map::new();
    let members = after.as_object().unwrap_or(&none).keys().chain(before.as_object().unwrap_or(&none).keys());
    let changed = members.filter(|name| before.get(name.as_str()) != after.get(name.as_str()));
    Value::Object(changed.map(|name| (name.clone(), before.get(name).cloned().unwrap_or(Value::Null))).collect())
}

/// What goes wrong on the way of webhooks, on demand.
#[derive(Debug, Default)]
pub struct Mishaps {
    rules: Vec<Mishap>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mishap {
    /// All accounts when absent.
    pub account: Option<String>,
    /// `invoice.paid`, `invoice.*`, or `*`.
    #[serde(default = "everything", rename = "type")]
    pub kind: String,
    pub fault: MishapKind,
    /// How many deliveries are affected.
    #[serde(default = "once")]
    pub times: u32,
    /// How long a delay is, or the time over which disorder stretches.
    #[serde(default)]
    pub millis: i64,
    /// When the next one out of order is due, and by how much earlier the one after it.
    #[serde(skip)]
    next: Option<(i64, i64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MishapKind {
    /// Never delivered; `/v1/events` still lists it.
    Drop,
    /// Delivered twice.
    Duplicate,
    /// Delivered late.
    Delay,
    /// The affected events are delivered in reverse order, the last of them `millis` after the first came up.
    Disorder,
}

fn everything() -> String {
    "*".to_owned()
}

fn once() -> u32 {
    1
}

impl Mishaps {
    pub fn add(&mut self, rule: Mishap) {
        self.rules.push(rule);
    }

    pub fn clear(&mut self, account: Option<&str>) {
        self.rules.retain(|rule| account.is_some() && rule.account.as_deref() != account);
    }

    /// When an event that comes up now is delivered: once, twice, later or never.
    fn deliveries(&mut self, account: &str, kind: &str, now: i64) -> Vec<i64> {
        let fits =
            |rule: &&mut Mishap| rule.times > 0 && wildcard(&rule.kind, kind) && rule.account.as_deref().is_none_or(|name| name == account);
        let Some(rule) = self.rules.iter_mut().find(fits) else { return vec![now] };
        rule.times -= 1;
        match rule.fault {
            MishapKind::Drop => Vec::new(),
            MishapKind::Duplicate => vec![now, now],
            MishapKind::Delay => vec![now + rule.millis],
            MishapKind::Disorder => {
                // The first to come up waits until the end, each later one a step less.
                let (due, step) = rule.next.unwrap_or((now + rule.millis, rule.millis / i64::from(rule.times + 1)));
                rule.next = Some((due - step, step));
                vec![due]
            }
        }
    }
}

/// What an endpoint receives: the event in the version the endpoint was made with.
pub fn payload(event: &Value, endpoint: &Value) -> Vec<u8> {
    let mut event = event.clone();
    event.as_object_mut().expect("an event").retain(|name, _| !name.starts_with('_'));
    if let Some(version) = endpoint["api_version"].as_str() {
        event["api_version"] = json!(version);
    }
    serde_json::to_vec_pretty(&event).expect("JSON can be written")
}

/// The `Stripe-Signature` header: HMAC-SHA256 of `<time>.<payload>` under the endpoint's secret.
pub fn signature(secret: &str, time: i64, payload: &[u8]) -> String {
    use hmac::{Hmac, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(format!("{time}.").as_bytes());
    mac.update(payload);
    format!("t={time},v1={}", hex::encode(mac.finalize().into_bytes()))
}

/// The outcome of an attempt: done, or tried again later, twice as late each time.
pub fn attempted(tx: &mut Tx<'_>, delivery: &Value, delivered: bool) {
    let attempts = int(delivery, "attempts") + 1;
    let id = text(delivery, "id");
    // Three days of attempts at most a minute apart would be thousands; a hundred show the point.
    if !delivered && attempts < 100 && tx.account.get(text(delivery, "endpoint")).is_some() {
        let wait = 500 * 2_i64.pow(u32::try_from(attempts.min(7)).expect("at most 7"));
        let mut delivery = delivery.clone();
        set(&mut delivery, json!({"attempts": attempts, "due": machine_millis() + wait.min(60_000)}));
        tx.put(delivery);
        return;
    }
    tx.remove(id);
    let Some(mut event) = tx.account.get(text(delivery, "event")).cloned() else { return };
    let others = tx.account.all("_delivery").any(|other| other["event"] == event["id"] && other["endpoint"] == delivery["endpoint"]);
    if delivered && !others {
        event["pending_webhooks"] = json!((int(&event, "pending_webhooks") - 1).max(0));
        tx.put(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mishaps_happen_as_often_as_asked() {
        let rule = |fault, times, millis| Mishap { account: None, kind: "invoice.*".into(), fault, times, millis, next: None };
        let mut mishaps = Mishaps::default();
        mishaps.add(rule(MishapKind::Drop, 1, 0));
        mishaps.add(rule(MishapKind::Duplicate, 1, 0));
        mishaps.add(rule(MishapKind::Disorder, 3, 300));
        let mut come_up = |kind| mishaps.deliveries("a", kind, 1000);
        assert_eq!(come_up("charge.succeeded"), [1000]);
        assert_eq!(come_up("invoice.paid"), [0_i64; 0]);
        assert_eq!(come_up("invoice.paid"), [1000, 1000]);
        let times: Vec<i64> = (0..3).flat_map(|_| come_up("invoice.paid")).collect();
        assert!(times[0] > times[1] && times[1] > times[2], "{times:?}");
        assert_eq!(come_up("invoice.paid"), [1000]);
    }
}
