//! Every documented route with every token, from the API's own description, so that a new one cannot be forgotten.
//! Which scopes open which route is a snapshot that people read; so is the description itself.

use std::collections::BTreeMap;
use std::fmt::Write;

use farebox_core::auth::Scope;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::harness::Suite;
use crate::tenant::Tenant;
use crate::walk::{World, yesterday_and_tomorrow};

/// One documented route.
struct Operation {
    method: Method,
    path: String,
    described: Value,
}

impl Operation {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// Whether it is opened by a workspace's token. Stripe signs what it sends.
    fn takes_a_token(&self) -> bool {
        !self.path.starts_with("/stripe/webhooks/")
    }
}

async fn description(suite: &Suite) -> Value {
    suite.instance.get("/api/openapi.json").await.expect("the API's description")
}

fn operations(description: &Value) -> Vec<Operation> {
    let mut found = Vec::new();
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for (method, described) in methods.as_object().expect("methods") {
            if let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes())
                && described.get("responses").is_some()
            {
                found.push(Operation { method, path: path.clone(), described: described.clone() });
            }
        }
    }
    found
}

/// Makes calls to one workspace that are right but for who makes them.
struct Walk<'a> {
    world: &'a World,
    schemas: Value,
}

impl Walk<'_> {
    fn request(&self, operation: &Operation, by: &Tenant) -> RequestBuilder {
        let mut request = by.anonymous(operation.method.clone(), &self.world.fill(&operation.path));
        let parameters = operation.described["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        for parameter in parameters.iter().filter(|p| p["in"] == "query" && p["required"] == true) {
            let name = parameter["name"].as_str().expect("a name");
            let value = self.value_of(name, &parameter["schema"]);
            request = request.query(&[(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned))]);
        }
        let Some(content) = operation.described["requestBody"]["content"].as_object() else { return request };
        match content.get("application/json") {
            Some(json) => request.json(&self.value_of("", &json["schema"])),
            None => request.header("content-type", content.keys().next().map_or("text/plain", String::as_str)).body(self.raw(operation)),
        }
    }

    /// Bodies that are not described as JSON.
    fn raw(&self, operation: &Operation) -> String {
        match operation.path.as_str() {
            "/api/v1/catalog" => format!("workspace: {}\ncurrency: USD\ntime_zone: UTC\n", self.world.tenant.workspace.name),
            _ => "{}".to_owned(),
        }
    }

    /// A value that fits a schema: only what is required, and ids of this workspace.
    fn value_of(&self, name: &str, schema: &Value) -> Value {
        if let Some(reference) = schema["$ref"].as_str() {
            let schema = &self.schemas[reference.rsplit('/').next().unwrap_or_default()];
            return self.value_of(name, schema);
        }
        if let Some(example) = schema.get("example") {
            return example.clone();
        }
        if let Some(first) = schema["enum"].as_array().and_then(|choices| choices.first()) {
            return first.clone();
        }
        for several in ["oneOf", "anyOf"] {
            if let Some(first) = schema[several].as_array().and_then(|choices| choices.iter().find(|choice| choice["type"] != "null")) {
                return self.value_of(name, first);
            }
        }
        if let Some(parts) = schema["allOf"].as_array() {
            let all = parts.iter().filter_map(|part| self.value_of(name, part).as_object().cloned()).flatten();
            return Value::Object(all.collect());
        }
        let (from, to) = yesterday_and_tomorrow();
        match schema_type(schema) {
            "object" => {
                let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
                let fields = required
                    .iter()
                    .filter_map(Value::as_str)
                    .map(|field| (field.to_owned(), self.value_of(field, &schema["properties"][field])));
                Value::Object(fields.collect())
            }
            "array" => json!([]),
            "integer" | "number" => json!(1),
            "boolean" => json!(false),
            _ => match name {
                "consumer" | "consumer_id" => json!(self.world.consumer),
                "subscription" | "subscription_id" => json!(self.world.subscription),
                "invoice" | "invoice_id" => json!(self.world.invoice),
                "key" | "key_id" | "credential" => json!(self.world.key),
                "plan" | "to_plan" => json!(format!("{}-plan", self.world.mark)),
                "currency" => json!("USD"),
                "period" => json!("2026-01"),
                "amount" | "quantity" | "units" => json!("1.00"),
                "brokers" => json!("kafka.walk.example:9092"),
                "email" => json!("someone@walk.example"),
                "url" => json!("https://hooks.walk.example/"),
                "from" | "since" | "at" => json!(from),
                "to" | "until" => json!(to),
                _ if schema["format"] == "date-time" => json!(from),
                _ if schema["format"] == "date" => json!("2026-01-01"),
                _ => json!("walk"),
            },
        }
    }
}

fn schema_type(schema: &Value) -> &str {
    match &schema["type"] {
        Value::Array(several) => several.iter().filter_map(Value::as_str).find(|one| *one != "null").unwrap_or_default(),
        one => one.as_str().unwrap_or_default(),
    }
}

/// The API's description, which programs rely on.
pub async fn the_description_of_the_api_is_what_it_was(suite: &Suite) {
    let mut description = description(suite).await;
    description["info"]["version"] = json!("[version]");
    insta::assert_json_snapshot!("openapi", description);
}

/// Without a token or with an unknown one nothing is answered; with each scope, what the snapshot says; with a token of
/// another workspace, nothing of this one is found.
pub async fn every_route_with_every_token(suite: &Suite) {
    let description = description(suite).await;
    let (world, stranger) = tokio::join!(World::new(suite, "api"), Tenant::new(suite, "stranger"));
    let walk = Walk { world: &world, schemas: description["components"]["schemas"].clone() };
    let mut tokens = BTreeMap::new();
    for scope in Scope::ALL {
        tokens.insert(scope.as_str(), world.tenant.token_with(suite, &[scope]).await);
    }
    let mut operations = operations(&description);
    // What reads first, so that it reads what is there.
    operations.sort_by_key(|operation| (operation.method != Method::GET, operation.path.clone()));
    let (mut table, mut wrong) = (String::new(), String::new());
    for operation in &operations {
        let name = operation.name();
        let ask = async |by: &Tenant, token: Option<&str>| {
            let request = walk.request(operation, by);
            let request = token.into_iter().fold(request, |request, token| request.header("x-farebox-token", token));
            let answer = request.send().await.expect("an answer");
            let status = answer.status();
            // A stream of events has no end.
            let endless = answer.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
            let body = if endless { String::new() } else { answer.text().await.expect("a body") };
            assert!(!status.is_server_error(), "{name}: {status} {body}");
            (status, body)
        };
        if !operation.takes_a_token() {
            let (status, body) = ask(&world.tenant, None).await;
            assert!(status.is_client_error(), "{name} without a signature: {status}");
            world.keeps_to_itself(&name, &body);
            let _ = writeln!(table, "{name:<52} by signature");
            continue;
        }
        for token in [None, Some("fbx_live_mistyped"), Some("")] {
            let (status, body) = ask(&world.tenant, token).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{name} with {token:?}: {body}");
            world.keeps_to_itself(&name, &body);
        }
        let decides = operation.path.starts_with("/v1/decide/");
        let refused = if decides { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
        let (mut open, mut last) = (Vec::new(), String::new());
        for (scope, token) in &tokens {
            // Decisions are made from memory, which learns of a new token within a second.
            if decides && *scope == "decide" {
                crate::harness::eventually("the token is known", std::time::Duration::from_secs(20), || async {
                    let asked = walk.request(operation, &world.tenant).header("x-farebox-token", token).send().await.expect("an answer");
                    asked.headers().contains_key("x-farebox-decision").then_some(())
                })
                .await;
                open.push(*scope);
                continue;
            }
            let (status, body) = ask(&world.tenant, Some(token)).await;
            last = format!("{status} {body}");
            if status == refused {
                world.keeps_to_itself(&name, &body);
            } else {
                open.push(*scope);
            }
            assert!(*scope == "finance" || !world.tells_what_was_invoiced(&body), "{name} tells `{scope}` what was invoiced");
        }
        // A route that judges the body before the caller would answer 422 to all: give the walk one that fits.
        if !(1..tokens.len()).contains(&open.len()) {
            let _ = writeln!(wrong, "{name} is open to {open:?}: {last}");
        }
        let (status, body) = ask(&stranger, Some(&stranger.token)).await;
        world.keeps_to_itself(&format!("{name} with another workspace's token"), &body);
        // Where the path names a thing, and not what everybody has, nor what would be made under that name.
        let everybodys = ["{format}", "{system}", "{report}", "{period}"].iter().any(|part| operation.path.contains(part));
        let made = operation.method == Method::PUT && operation.path == "/api/v1/provisioning/{name}";
        let names = operation.path.contains('{') && !decides && !everybodys && !made;
        if names && status != StatusCode::NOT_FOUND {
            let _ = writeln!(wrong, "{name} with another workspace's token: {status} {body}");
        }
        let _ = writeln!(table, "{name:<52} {}", open.join(", "));
    }
    let mut lines: Vec<_> = table.lines().collect();
    lines.sort_by_key(|line| line.split_once(' ').map(|(method, rest)| (rest.to_owned(), method.to_owned())));
    assert!(wrong.is_empty(), "{wrong}");
    insta::assert_snapshot!("scopes", lines.join("\n"));
}
