//! Strict doubles of two Admin APIs: they hold what is put there, and refuse every field, value and reference that the
//! published schemas do not have (APISIX: `apisix/schema_def.lua` and the plugins' schemas, master of August 2026; Kong:
//! `kong/db/schema/entities` and the plugins' `daos.lua` and `schema.lua`, master of July 2026).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{OriginalUri, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

pub const ADMIN_KEY: &str = "edd1c9f034335f136f87ad84b625c8f1";

/// Paths and what is there. `writes` counts what changed it.
#[derive(Default)]
pub struct Held {
    pub things: BTreeMap<String, Value>,
    pub writes: usize,
    pub refusals: Vec<String>,
    /// Answers 503 to everything.
    pub away: bool,
}

pub type Shared = Arc<Mutex<Held>>;

pub struct Double {
    pub url: String,
    pub held: Shared,
}

impl Double {
    pub async fn apisix() -> Self {
        Self::serve(apisix).await
    }

    pub async fn kong() -> Self {
        Self::serve(kong).await
    }

    async fn serve(answer: fn(&mut Held, &Method, &str, &str, Value) -> Result<(StatusCode, Value), (StatusCode, String)>) -> Self {
        let held = Shared::default();
        let handler = move |State(held): State<Shared>, OriginalUri(uri): OriginalUri, request: Request| async move {
            let (parts, body) = request.into_parts();
            let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
            let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or(json!("no JSON")) };
            let mut held = held.lock().expect("whole");
            if held.away {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
            if !authorized(&parts.headers) {
                return refused(&mut held, StatusCode::UNAUTHORIZED, "failed to check token");
            }
            match answer(&mut held, &parts.method, uri.path(), uri.query().unwrap_or_default(), body) {
                Ok((status, Value::Null)) => status.into_response(),
                Ok((status, value)) => (status, Json(value)).into_response(),
                Err((status, why)) => refused(&mut held, status, &format!("{} {}: {why}", parts.method, uri.path())),
            }
        };
        let router = Router::new().fallback(handler).with_state(held.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, held }
    }

    pub fn things(&self) -> BTreeMap<String, Value> {
        self.held.lock().expect("whole").things.clone()
    }

    pub fn writes(&self) -> usize {
        self.held.lock().expect("whole").writes
    }

    pub fn refusals(&self) -> Vec<String> {
        self.held.lock().expect("whole").refusals.clone()
    }

    /// Somebody over there changes things by hand.
    pub fn meddle(&self, with: impl FnOnce(&mut BTreeMap<String, Value>)) {
        with(&mut self.held.lock().expect("whole").things);
    }
}

fn authorized(headers: &HeaderMap) -> bool {
    ["x-api-key", "kong-admin-token"].iter().any(|name| headers.get(*name).is_some_and(|key| key == ADMIN_KEY))
}

/// A lookup of what is not there is no mistake; everything else that is refused is noted.
fn refused(held: &mut Held, status: StatusCode, why: &str) -> Response {
    if status != StatusCode::NOT_FOUND {
        held.refusals.push(why.to_owned());
    }
    (status, Json(json!({ "error_msg": why, "message": why }))).into_response()
}

type Answer = Result<(StatusCode, Value), (StatusCode, String)>;

fn bad(why: impl Into<String>) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, why.into())
}

fn gone() -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, "Not found".to_owned())
}

/// Its fields are among `allowed`.
fn object<'a>(value: &'a Value, allowed: &[&str]) -> Result<&'a Map<String, Value>, (StatusCode, String)> {
    let object = value.as_object().ok_or_else(|| bad("wrong type: expected object"))?;
    match object.keys().find(|name| !allowed.contains(&name.as_str())) {
        Some(name) => Err(bad(format!("additional properties forbidden, found {name}"))),
        None => Ok(object),
    }
}

fn matches(text: Option<&str>, longest: usize, also: &str) -> Result<(), (StatusCode, String)> {
    let fits =
        |text: &str| (1..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || also.as_bytes().contains(&b));
    if text.is_some_and(fits) { Ok(()) } else { Err(bad(format!("{text:?} does not match the pattern"))) }
}

fn apisix(held: &mut Held, method: &Method, path: &str, query: &str, body: Value) -> Answer {
    let path = path.strip_prefix("/apisix/admin/").ok_or_else(gone)?;
    let segments: Vec<&str> = path.split('/').collect();
    let row =
        |path: &str, value: &Value| json!({ "key": format!("/apisix/{path}"), "value": value, "createdIndex": 1, "modifiedIndex": 1 });
    match (method.as_str(), segments.as_slice()) {
        ("GET", ["consumers" | "consumer_groups"] | ["consumers", _, "credentials"]) => {
            if segments.len() == 3 && !held.things.contains_key(&format!("consumers/{}", segments[1])) {
                return Err(gone());
            }
            let below = |key: &String| key.strip_prefix(path).and_then(|k| k.strip_prefix('/')).is_some_and(|k| !k.contains('/'));
            let all: Vec<Value> = held.things.iter().filter(|(key, _)| below(key)).map(|(key, value)| row(key, value)).collect();
            let number = |name: &str| query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('=')?.parse::<usize>().ok());
            let total = all.len();
            let list = match (number("page"), number("page_size")) {
                (Some(page), Some(size)) if (10..=500).contains(&size) => all.into_iter().skip((page - 1) * size).take(size).collect(),
                (None, None) => all,
                _ => return Err(bad("page size must be between 10 and 500")),
            };
            Ok((StatusCode::OK, json!({ "total": total, "list": list })))
        }
        ("GET", ["consumers" | "consumer_groups", _] | ["consumers", _, "credentials", _]) => {
            let value = held.things.get(path).ok_or_else(gone)?;
            Ok((StatusCode::OK, row(path, value)))
        }
        ("DELETE", ["consumers" | "consumer_groups", id] | ["consumers", _, "credentials", id]) => {
            let used = segments[0] == "consumer_groups" && held.things.values().any(|value| value["group_id"] == **id);
            if used {
                return Err(bad("can not delete this consumer group, it is still used"));
            }
            held.things.remove(path).ok_or_else(gone)?;
            held.writes += 1;
            Ok((StatusCode::OK, json!({ "deleted": "1", "key": format!("/apisix/{path}") })))
        }
        ("PUT", ["consumers"]) => {
            let consumer = object(&body, &["username", "group_id", "plugins", "labels", "desc"])?;
            matches(consumer.get("username").and_then(Value::as_str), 256, "_-")?;
            labels(&body)?;
            if let Some(group) = consumer.get("group_id").and_then(Value::as_str) {
                held.things
                    .get(&format!("consumer_groups/{group}"))
                    .ok_or_else(|| bad(format!("failed to fetch consumer group info by consumer group id [{group}]")))?;
            }
            plugins(&body["plugins"], &["limit-count"])?;
            Ok(held.put(&format!("consumers/{}", body["username"].as_str().unwrap_or_default()), body))
        }
        ("PUT", ["consumer_groups", id]) => {
            object(&body, &["id", "name", "plugins", "labels", "desc"])?;
            matches(Some(*id), 64, "-_.")?;
            labels(&body)?;
            if !body["plugins"].is_object() {
                return Err(bad("property \"plugins\" is required"));
            }
            plugins(&body["plugins"], &["limit-count"])?;
            let mut body = body;
            body["id"] = json!(id);
            Ok(held.put(path, body))
        }
        ("PUT", ["consumers", consumer, "credentials", id]) => {
            object(&body, &["id", "name", "plugins", "labels", "desc"])?;
            matches(Some(*id), 64, "-_.")?;
            labels(&body)?;
            plugins(&body["plugins"], &["key-auth"])?;
            held.things.get(&format!("consumers/{consumer}")).ok_or_else(gone)?;
            Ok(held.put(path, body))
        }
        _ => Err((StatusCode::METHOD_NOT_ALLOWED, "not supported".to_owned())),
    }
}

impl Held {
    fn put(&mut self, path: &str, value: Value) -> (StatusCode, Value) {
        self.writes += 1;
        let before = self.things.insert(path.to_owned(), value.clone());
        let status = if before.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        (status, json!({ "key": format!("/apisix/{path}"), "value": value }))
    }
}

fn labels(body: &Value) -> Result<(), (StatusCode, String)> {
    if body["desc"].as_str().is_some_and(|desc| desc.chars().count() > 256) {
        return Err(bad("desc is too long"));
    }
    let Some(labels) = body.get("labels") else { return Ok(()) };
    let right = |value: &Value| value.as_str().is_some_and(|v| (1..=256).contains(&v.len()) && !v.contains(char::is_whitespace));
    let all = labels.as_object().is_some_and(|labels| labels.values().all(right));
    if all { Ok(()) } else { Err(bad("a label's value does not match the pattern")) }
}

fn plugins(plugins: &Value, allowed: &[&str]) -> Result<(), (StatusCode, String)> {
    if plugins.is_null() {
        return Ok(());
    }
    for (name, config) in object(plugins, allowed)? {
        match name.as_str() {
            "key-auth" => {
                let config = object(config, &["key"])?;
                config.get("key").and_then(Value::as_str).ok_or_else(|| bad("property \"key\" is required"))?;
            }
            _ => {
                let fields = [
                    "count",
                    "time_window",
                    "rules",
                    "group",
                    "key",
                    "key_type",
                    "rejected_code",
                    "rejected_msg",
                    "policy",
                    "allow_degradation",
                    "show_limit_quota_header",
                ];
                object(config, &fields)?;
                let positive = |name: &str| config[name].as_u64().is_some_and(|n| n > 0);
                let one_of = |name: &str, of: &[&str]| config[name].as_str().is_none_or(|value| of.contains(&value));
                let code = config["rejected_code"].as_u64().is_none_or(|code| (200..=599).contains(&code));
                if !(positive("count")
                    && positive("time_window")
                    && code
                    && one_of("key_type", &["var", "var_combination", "constant"])
                    && one_of("policy", &["local", "redis", "redis-cluster"]))
                {
                    return Err(bad(format!("failed to check the configuration of plugin limit-count: {config}")));
                }
            }
        }
    }
    Ok(())
}

fn kong(held: &mut Held, method: &Method, path: &str, query: &str, body: Value) -> Answer {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let list = |held: &Held, prefix: &str, keep: &dyn Fn(&Value) -> bool| {
        let below = |key: &String| key.strip_prefix(prefix).is_some_and(|rest| !rest.contains('/'));
        let data: Vec<Value> =
            held.things.iter().filter(|(key, value)| below(key) && keep(value)).map(|(_, value)| value.clone()).collect();
        Ok((StatusCode::OK, json!({ "data": data, "next": null })))
    };
    let there = |held: &Held, consumer: &str| held.things.contains_key(&format!("consumers/{consumer}")).then_some(()).ok_or_else(gone);
    let key = segments.join("/");
    match (method.as_str(), segments.as_slice()) {
        ("GET", ["consumers"]) => {
            let tags: Vec<&str> =
                query.split('&').find_map(|p| p.strip_prefix("tags=")).unwrap_or_default().split(',').filter(|t| !t.is_empty()).collect();
            list(held, "consumers/", &|value| tags.iter().all(|tag| value["tags"].as_array().is_some_and(|all| all.contains(&json!(tag)))))
        }
        ("GET", ["consumers", consumer, kind @ ("key-auth" | "acls" | "plugins")]) => {
            there(held, consumer)?;
            list(held, &format!("consumers/{consumer}/{kind}/"), &|_| true)
        }
        ("GET", ["consumers", _] | ["consumers", _, "key-auth" | "acls" | "plugins", _]) => {
            Ok((StatusCode::OK, held.things.get(&key).cloned().ok_or_else(gone)?))
        }
        ("DELETE", ["consumers", _] | ["consumers", _, "key-auth" | "acls" | "plugins", _]) => {
            held.things.retain(|name, _| *name != key && !name.starts_with(&format!("{key}/")));
            held.writes += 1;
            Ok((StatusCode::NO_CONTENT, Value::Null))
        }
        ("PUT", ["consumers", username]) => {
            let fields = object(&body, &["id", "username", "custom_id", "tags"])?;
            tags(&body)?;
            if fields.get("username").is_some_and(|name| name != username) {
                return Err(bad("username: value does not match the path"));
            }
            Ok((StatusCode::OK, held.put(&key, body).1["value"].take()))
        }
        ("PUT", ["consumers", consumer, "key-auth", id]) => {
            there(held, consumer)?;
            object(&body, &["id", "key", "ttl", "tags"])?;
            tags(&body)?;
            uuid::Uuid::parse_str(id).map_err(|_| bad("id: expected a valid UUID"))?;
            if body.get("ttl").is_some_and(|ttl| ttl.as_i64().is_none_or(|ttl| !(0..=100_000_000).contains(&ttl))) {
                return Err(bad("ttl: must be an integer between 0 and 100000000"));
            }
            let taken = held.things.iter().any(|(name, value)| *name != key && name.contains("/key-auth/") && value["key"] == body["key"]);
            if taken {
                return Err((StatusCode::CONFLICT, "UNIQUE violation detected on key".to_owned()));
            }
            let mut body = body;
            body["id"] = json!(id);
            Ok((StatusCode::OK, held.put(&key, body).1["value"].take()))
        }
        ("POST", ["consumers", consumer, "acls"]) => {
            there(held, consumer)?;
            object(&body, &["id", "group", "tags"])?;
            tags(&body)?;
            let group = body["group"].as_str().ok_or_else(|| bad("group: required field missing"))?;
            if held.things.iter().any(|(name, value)| name.starts_with(&format!("{key}/")) && value["group"] == group) {
                return Err((StatusCode::CONFLICT, "UNIQUE violation detected on consumer, group".to_owned()));
            }
            let id = uuid::Uuid::now_v7().to_string();
            let mut body = body.clone();
            body["id"] = json!(id);
            held.put(&format!("{key}/{id}"), body.clone());
            Ok((StatusCode::CREATED, body))
        }
        ("PUT", ["consumers", consumer, "plugins", id]) => {
            there(held, consumer)?;
            uuid::Uuid::parse_str(id).map_err(|_| bad("id: expected a valid UUID"))?;
            object(&body, &["id", "name", "instance_name", "config", "protocols", "enabled", "tags"])?;
            tags(&body)?;
            if body["name"] != "rate-limiting" {
                return Err(bad("plugin not enabled"));
            }
            let periods = ["second", "minute", "hour", "day", "month", "year"];
            let known = [
                &periods[..],
                &["limit_by", "policy", "fault_tolerant", "hide_client_headers", "error_code", "error_message", "sync_rate"],
            ]
            .concat();
            let config = object(&body["config"], &known)?;
            let by = config
                .get("limit_by")
                .and_then(Value::as_str)
                .is_none_or(|by| ["consumer", "credential", "ip", "service", "header", "path"].contains(&by));
            if !by || !periods.iter().any(|p| config.get(*p).and_then(Value::as_f64).is_some_and(|n| n > 0.0)) {
                return Err(bad("at least one of these fields must be non-empty: 'config.second', ..."));
            }
            Ok((StatusCode::OK, held.put(&key, body).1["value"].take()))
        }
        _ => Err((StatusCode::METHOD_NOT_ALLOWED, "Method not allowed".to_owned())),
    }
}

fn tags(body: &Value) -> Result<(), (StatusCode, String)> {
    let right = |tag: &Value| tag.as_str().is_some_and(|t| !t.is_empty() && !t.contains([',', '/']));
    let all = body.get("tags").is_none_or(|tags| tags.as_array().is_some_and(|tags| tags.iter().all(right)));
    if all { Ok(()) } else { Err(bad("tags: expected a set of strings without ',' and '/'")) }
}
