//! Idempotency keys: the first answer under a key is the answer, for a day.
//!
//! A key is taken while its request runs. What is kept lies in the account's state, journalled with
//! the change it answers, so a restart replays it too.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};

use super::errors::ApiError;
use super::state::{Account, Tx, int};

/// How long an answer is kept, by the double's clock.
pub const KEPT_SECONDS: i64 = 86_400;
const LONGEST_KEY: usize = 255;

/// What a request must have in common with the first one under its key.
#[derive(Debug, Clone)]
pub struct Asked {
    pub key: String,
    pub method: String,
    pub path: String,
    /// Parsed, so that the order of parameters does not matter.
    pub params: Map<String, Value>,
}

/// An answer kept under a key.
#[derive(Debug)]
pub struct Kept {
    pub status: u16,
    pub body: Value,
    /// The id of the request that it first answered.
    pub request: String,
}

fn record_id(key: &str) -> String {
    format!("_key {key}")
}

/// The answer kept under the key of this request, if any; a different request is refused.
pub fn kept(account: Option<&Account>, asked: &Asked, now: i64) -> Result<Option<Kept>, ApiError> {
    if asked.key.chars().count() > LONGEST_KEY {
        let message = format!("Idempotency keys are at most {LONGEST_KEY} characters long.");
        return Err(ApiError::invalid(message));
    }
    let Some(record) = account.and_then(|account| account.get(&record_id(&asked.key))) else { return Ok(None) };
    if int(record, "at") + KEPT_SECONDS <= now {
        return Ok(None);
    }
    let same = record["method"] == asked.method && record["path"] == asked.path && record["params"] == Value::Object(asked.params.clone());
    if !same {
        return Err(ApiError::key_reused(&asked.key));
    }
    let status = u16::try_from(int(record, "status")).expect("a status was kept");
    Ok(Some(Kept { status, body: record["body"].clone(), request: record["request"].as_str().unwrap_or_default().to_owned() }))
}

/// Keeps an answer, in the transaction that made it true.
pub fn keep(tx: &mut Tx<'_>, asked: &Asked, status: u16, body: &Value, request: &str) {
    tx.put(json!({"id": record_id(&asked.key), "object": "_idempotency", "at": tx.now, "method": asked.method, "path": asked.path,
                  "params": asked.params, "status": status, "body": body, "request": request}));
}

/// Forgets what is older than a day.
pub fn prune(tx: &mut Tx<'_>) {
    let old = |record: &&Value| int(record, "at") + KEPT_SECONDS <= tx.now;
    let ids: Vec<String> =
        tx.account.all("_idempotency").take_while(old).filter_map(|record| record["id"].as_str()).map(str::to_owned).collect();
    for id in ids {
        tx.remove(&id);
    }
}

/// The keys whose requests run.
#[derive(Debug, Default, Clone)]
pub struct Running(Arc<Mutex<HashSet<(String, String)>>>);

/// Held while a request runs; dropping it frees the key.
#[derive(Debug)]
pub struct Hold {
    running: Running,
    name: (String, String),
}

impl Running {
    pub fn hold(&self, account: &str, key: &str) -> Result<Hold, ApiError> {
        let name = (account.to_owned(), key.to_owned());
        if self.0.lock().expect("no holder panics").insert(name.clone()) {
            return Ok(Hold { running: self.clone(), name });
        }
        Err(ApiError::key_in_use(key))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.running.0.lock().expect("no holder panics").remove(&self.name);
    }
}
