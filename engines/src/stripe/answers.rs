//! How objects leave: without the double's own members, lists in pages, expanded where asked.

use std::borrow::Borrow;

use serde_json::{Map, Value, json};

use super::errors::ApiError;
use super::state::{Tx, int, text};

/// Lines an invoice shows inline; the rest is fetched page by page.
const INLINE: usize = 10;

/// An object as Stripe shows it.
pub fn render(tx: &Tx<'_>, object: &Value) -> Value {
    let mut shown = object.clone();
    if let Some(members) = shown.as_object_mut() {
        members.retain(|name, _| !name.starts_with('_'));
    }
    if object["deleted"] == true {
        return shown;
    }
    if matches!(text(object, "object"), "invoice" | "credit_note") {
        let lines = lines_of(tx, object);
        let url = format!("/v1/{}s/{}/lines", text(object, "object"), text(object, "id"));
        let inline: Vec<Value> = lines.iter().take(INLINE).map(|line| render(tx, line)).collect();
        shown["lines"] = json!({"object": "list", "data": inline, "has_more": lines.len() > INLINE, "url": url});
    }
    shown
}

/// The lines of an invoice or credit note, in order.
pub fn lines_of(tx: &Tx<'_>, object: &Value) -> Vec<Value> {
    let ids = object["_lines"].as_array().into_iter().flatten().filter_map(Value::as_str);
    ids.filter_map(|id| tx.account.get(id).cloned()).collect()
}

/// A page of a list, newest first unless the objects come in an order of their own.
pub fn page<T: Borrow<Value>>(tx: &Tx<'_>, objects: &[T], params: &Map<String, Value>, url: &str) -> Result<Value, ApiError> {
    let limit = match params.get("limit").and_then(Value::as_i64) {
        None => 10,
        Some(limit @ 1..=100) => usize::try_from(limit).expect("between 1 and 100"),
        Some(limit) => {
            let message = format!("This value must be between 1 and 100 (inclusive), but it is {limit}.");
            return Err(ApiError::invalid(message).code("parameter_invalid_integer").param("limit"));
        }
    };
    let position = |param: &str| match params.get(param).and_then(Value::as_str) {
        None => Ok(None),
        Some(id) => match objects.iter().position(|object| text(object.borrow(), "id") == id) {
            Some(at) => Ok(Some(at)),
            None => Err(ApiError::no_such("object", id, param)),
        },
    };
    let (start, end, more) = match (position("starting_after")?, position("ending_before")?) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("You cannot specify both starting_after and ending_before.").param("ending_before"));
        }
        (_, Some(before)) => {
            let start = before.saturating_sub(limit);
            (start, before, start > 0)
        }
        (after, None) => {
            let start = after.map_or(0, |at| at + 1);
            let end = (start + limit).min(objects.len());
            (start, end, end < objects.len())
        }
    };
    let data: Vec<Value> = objects[start..end].iter().map(|object| render(tx, object.borrow())).collect();
    Ok(json!({"object": "list", "data": data, "has_more": more, "url": url}))
}

/// The objects of a kind, newest first, that fit every filter given: equality of a member, or the
/// range of a time.
pub fn select<'a>(tx: &'a Tx<'_>, kind: &str, params: &Map<String, Value>) -> Vec<&'a Value> {
    let fits = |object: &Value| {
        params.iter().all(|(name, wanted)| match name.as_str() {
            "limit" | "starting_after" | "ending_before" | "expand" => true,
            "created" | "due_date" => in_range(object[name].as_i64(), wanted),
            "types" => wanted.as_array().is_some_and(|types| types.contains(&object["type"])),
            "type" => wildcard(wanted.as_str().unwrap_or_default(), text(object, "type")),
            "email" => text(object, "email").eq_ignore_ascii_case(wanted.as_str().unwrap_or_default()),
            name => object[name] == *wanted,
        })
    };
    let alive = |object: &&Value| object["deleted"] != true && fits(object);
    tx.account.all(kind).rev().filter(alive).collect()
}

/// `invoice.*` fits `invoice.paid`, `*` fits everything.
pub fn wildcard(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

fn in_range(at: Option<i64>, wanted: &Value) -> bool {
    let Some(at) = at else { return false };
    let bound = |name: &str, holds: fn(&i64, &i64) -> bool| wanted.get(name).and_then(Value::as_i64).is_none_or(|limit| holds(&at, &limit));
    match wanted.as_i64() {
        Some(exact) => at == exact,
        None => bound("gt", i64::gt) && bound("gte", i64::ge) && bound("lt", i64::lt) && bound("lte", i64::le),
    }
}

/// Replaces ids by their objects along the paths of `expand`.
pub fn expand(tx: &Tx<'_>, mut answer: Value, params: &Map<String, Value>) -> Result<Value, ApiError> {
    for path in params.get("expand").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        let steps: Vec<&str> = path.split('.').collect();
        if steps.len() > 4 {
            let message = "You cannot expand more than 4 levels of a property.";
            return Err(ApiError::invalid(message).param("expand"));
        }
        follow(tx, &mut answer, &steps, path)?;
    }
    Ok(answer)
}

fn follow(tx: &Tx<'_>, value: &mut Value, steps: &[&str], path: &str) -> Result<(), ApiError> {
    let Some((step, rest)) = steps.split_first() else { return Ok(()) };
    if let Some(items) = value.as_array_mut() {
        return items.iter_mut().try_for_each(|item| follow(tx, item, steps, path));
    }
    if *step == "payments" && value["object"] == "invoice" {
        value["payments"] = payments(tx, value);
    }
    let Some(member) = value.get_mut(*step) else {
        return Err(ApiError::invalid(format!("This property cannot be expanded ({path}).")).param("expand"));
    };
    if let Some(object) = member.as_str().and_then(|id| tx.account.get(id)) {
        *member = render(tx, object);
    }
    if member.is_null() { Ok(()) } else { follow(tx, member, rest, path) }
}

fn payments(tx: &Tx<'_>, invoice: &Value) -> Value {
    let mine = tx.account.all("invoice_payment").filter(|payment| payment["invoice"] == invoice["id"]);
    let mut data: Vec<Value> = mine.map(|payment| render(tx, payment)).collect();
    data.sort_by_key(|payment| std::cmp::Reverse(int(payment, "created")));
    json!({"object": "list", "data": data, "has_more": false, "url": "/v1/invoice_payments"})
}
