//! The state: per account, Stripe's objects as JSON, in order of creation.
//!
//! Members whose name begins with `_` are the double's own and never leave it; so are the kinds
//! `_delivery` (a webhook to be delivered), `_idempotency` (an answer kept under a key) and `_clock`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::errors::ApiError;
use super::ids;
use super::journal::{Entry, Journal};
use super::spec::Spec;
use super::webhooks::Mishaps;

/// What stays the same while the double runs.
#[derive(Debug)]
pub struct Context {
    pub spec: Spec,
    /// stripe-mock's own object of each kind, without its inventions.
    pub shapes: HashMap<String, Value>,
    /// Where browsers find the hosted pages, without a slash at the end.
    pub public_url: String,
    /// Seconds between finalising and the automatic charge.
    pub charge_delay: i64,
    pub mishaps: std::sync::Mutex<Mishaps>,
}

#[derive(Debug, Default)]
pub struct Account {
    objects: HashMap<String, Value>,
    order: HashMap<String, Vec<String>>,
}

impl Account {
    pub fn get(&self, id: &str) -> Option<&Value> {
        self.objects.get(id)
    }

    /// Objects of a kind, oldest first.
    pub fn all(&self, kind: &str) -> impl DoubleEndedIterator<Item = &Value> {
        self.order.get(kind).into_iter().flatten().filter_map(|id| self.objects.get(id))
    }

    fn put(&mut self, object: Value) {
        let (id, kind) = (text(&object, "id").to_owned(), text(&object, "object").to_owned());
        if self.objects.insert(id.clone(), object).is_none() {
            self.order.entry(kind).or_default().push(id);
        }
    }

    fn remove(&mut self, id: &str) {
        if let Some(object) = self.objects.remove(id)
            && let Some(order) = self.order.get_mut(text(&object, "object"))
        {
            order.retain(|other| other != id);
        }
    }
}

#[derive(Debug)]
pub struct State {
    accounts: BTreeMap<String, Account>,
    journal: Journal,
}

/// The pseudo account that holds the double's own clock.
const OWN: &str = "";

impl State {
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
        let mut lines = 0;
        let journal = Journal::open(dir, |entry| {
            lines += 1;
            let account = accounts.entry(entry.account).or_default();
            entry.put.into_iter().for_each(|object| account.put(object));
            entry.del.iter().for_each(|id| account.remove(id));
        })?;
        let mut state = Self { accounts, journal };
        if lines > 1000 {
            state.compact()?;
        }
        Ok(state)
    }

    fn compact(&mut self) -> std::io::Result<()> {
        let entries = self.accounts.iter().flat_map(|(name, account)| {
            account.order.keys().flat_map(move |kind| {
                account.all(kind).map(move |object| Entry { account: name.clone(), put: vec![object.clone()], del: Vec::new() })
            })
        });
        self.journal.rewrite(entries)
    }

    pub fn names(&self) -> Vec<String> {
        self.accounts.keys().filter(|name| *name != OWN).cloned().collect()
    }

    pub fn account(&self, name: &str) -> Option<&Account> {
        self.accounts.get(name)
    }

    pub fn flush(&mut self) -> std::io::Result<()> {
        self.journal.flush()
    }

    /// Forgets an account, or all of them.
    pub fn reset(&mut self, name: Option<&str>) -> std::io::Result<()> {
        self.accounts.retain(|account, _| account == OWN || name.is_some_and(|name| name != account));
        self.compact()
    }

    /// Seconds by which the double's clock is ahead of the machine's.
    pub fn offset(&self) -> i64 {
        self.account(OWN).and_then(|own| own.get("clock")).map_or(0, |clock| int(clock, "offset"))
    }

    pub fn now(&self) -> i64 {
        machine_millis() / 1000 + self.offset()
    }

    pub fn set_offset(&mut self, context: &Context, offset: i64) {
        self.transact(context, OWN, Origin::default(), |tx| {
            tx.put(json!({"id": "clock", "object": "_clock", "offset": offset}));
        });
    }

    /// Runs one request's work on an account and journals what it changed, before anyone learns of it.
    /// There is no rollback: handlers check everything first, then change.
    pub fn transact<T>(&mut self, context: &Context, name: &str, origin: Origin, work: impl FnOnce(&mut Tx<'_>) -> T) -> T {
        let now = self.now();
        let account = self.accounts.entry(name.to_owned()).or_default();
        let mut tx = Tx { name, account, context, now, origin, touched: Vec::new() };
        let result = work(&mut tx);
        let touched = std::mem::take(&mut tx.touched);
        if !touched.is_empty() {
            let mut entry = Entry { account: name.to_owned(), put: Vec::new(), del: Vec::new() };
            for id in touched {
                match account.get(&id) {
                    Some(object) => entry.put.push(object.clone()),
                    None => entry.del.push(id),
                }
            }
            // Without its journal the double would promise what it cannot keep.
            self.journal.append(&entry).expect("the journal of the Stripe double can be written");
        }
        result
    }
}

/// Milliseconds since 1970 on the machine's clock: webhooks are signed and retried by it.
pub fn machine_millis() -> i64 {
    farebox_core::clock::now().timestamp_millis()
}

/// The request that causes a change, as events name it.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    pub request: Option<String>,
    pub key: Option<String>,
    pub version: Option<String>,
}

/// One account while a request works on it.
#[derive(Debug)]
pub struct Tx<'a> {
    pub name: &'a str,
    pub account: &'a mut Account,
    pub context: &'a Context,
    pub now: i64,
    pub origin: Origin,
    touched: Vec<String>,
}

impl Tx<'_> {
    /// A copy of an object; `what` is the name Stripe's messages use, `param` where its id was given.
    pub fn get(&self, kind: &str, id: &str, param: &str) -> Result<Value, ApiError> {
        let found = self.account.get(id).filter(|object| object["object"] == kind);
        found.filter(|object| object["deleted"] != true).cloned().ok_or_else(|| {
            let what = match kind {
                "payment_method" => "PaymentMethod",
                "checkout.session" => "checkout.session",
                other => other,
            };
            ApiError::no_such(what, id, param)
        })
    }

    pub fn put(&mut self, object: Value) {
        self.touch(text(&object, "id"));
        self.account.put(object);
    }

    pub fn put_all(&mut self, objects: Vec<Value>) {
        for object in objects {
            self.put(object);
        }
    }

    pub fn remove(&mut self, id: &str) {
        self.touch(id);
        self.account.remove(id);
    }

    fn touch(&mut self, id: &str) {
        if !self.touched.iter().any(|known| known == id) {
            self.touched.push(id.to_owned());
        }
    }

    /// A new object of a kind in stripe-mock's shape, for what a request makes besides its answer.
    pub fn blank(&self, kind: &str) -> Value {
        let shape = self.context.shapes.get(kind).cloned();
        self.fresh(shape.unwrap_or_else(|| unreachable!("no shape of kind {kind}")), kind)
    }

    /// stripe-mock's answer as a new object of ours.
    pub fn fresh(&self, shape: Value, kind: &str) -> Value {
        let mut object = self.context.spec.bare(shape);
        object["id"] = json!(ids::of(kind));
        object["object"] = json!(kind);
        object["created"] = json!(self.now);
        object["livemode"] = json!(false);
        object
    }

    /// The time of the test clock an object lives by, or else the double's.
    pub fn time_of(&self, object: &Value) -> i64 {
        let clock = object["test_clock"].as_str().and_then(|id| self.account.get(id));
        clock.map_or(self.now, |clock| int(clock, "frozen_time"))
    }
}

/// A member that is text; empty where it is not.
pub fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or_default()
}

/// A member that is a whole number; 0 where it is not.
pub fn int(object: &Value, name: &str) -> i64 {
    object[name].as_i64().unwrap_or(0)
}

/// Sets several members.
pub fn set(object: &mut Value, members: Value) {
    let Value::Object(members) = members else { unreachable!("members are an object") };
    for (name, value) in members {
        object[name] = value;
    }
}

/// Copies the parameters named, where they are given.
pub fn copy(object: &mut Value, params: &Map<String, Value>, names: &[&str]) {
    for name in names {
        if let Some(value) = params.get(*name) {
            object[*name] = value.clone();
        }
    }
}

/// Stripe's rule for metadata: given keys are set, empty ones removed, the empty text removes all.
pub fn merge_metadata(object: &mut Value, given: Option<&Value>) {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    match given {
        Some(Value::Null) => object["metadata"] = json!({}),
        Some(Value::Object(pairs)) => {
            for (key, value) in pairs {
                match value {
                    Value::Null => drop(object["metadata"].as_object_mut().expect("just made").remove(key)),
                    value => object["metadata"][key] = value.clone(),
                }
            }
        }
        _ => {}
    }
}
