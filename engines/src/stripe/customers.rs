//! Customers, their balance and their tax ids.

use serde_json::{Map, Value, json};

use super::answers::render;
use super::dispatch::Call;
use super::errors::ApiError;
use super::state::{Tx, copy, int, merge_metadata, set, text};
use super::{ids, payment_methods, webhooks};

pub fn create(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let mut customer = tx.fresh(call.shape.clone(), "customer");
    set(
        &mut customer,
        json!({"invoice_prefix": ids::new("", 8).to_uppercase(), "next_invoice_sequence": 1, "balance": 0, "metadata": {},
               "tax_exempt": "none", "preferred_locales": [], "delinquent": false, "email": null, "name": null}),
    );
    if let Some(clock) = call.text("test_clock") {
        tx.get("test_helpers.test_clock", clock, "test_clock")?;
        customer["test_clock"] = json!(clock);
        customer["created"] = json!(tx.time_of(&customer));
    }
    if let Some(source) = call.text("source") {
        return Err(ApiError::invalid(format!("No such token: '{source}'")).code("resource_missing").param("source"));
    }
    apply(tx, &mut customer, &call.params)?;
    let attached = match call.text("payment_method") {
        Some(method) => Some(payment_methods::ready(tx, method, text(&customer, "id"))?),
        None => None,
    };
    customer["balance"] = call.params.get("balance").cloned().unwrap_or(json!(0));
    tx.put(customer.clone());
    webhooks::emit(tx, "customer.created", &customer, None);
    if let Some(method) = attached {
        payment_methods::save_attached(tx, method);
    }
    for data in call.params.get("tax_id_data").and_then(Value::as_array).into_iter().flatten() {
        let id = tax_id(text(&customer, "id"), data, tx.blank("tax_id"));
        tx.put(id);
    }
    Ok(render(tx, &customer))
}

pub fn get(tx: &Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    // A deleted customer is still answered, as `{id, object, deleted}`.
    let customer = tx.account.get(call.id()).filter(|object| object["object"] == "customer");
    customer.map(|customer| render(tx, customer)).ok_or_else(|| ApiError::no_such("customer", call.id(), "id"))
}

pub fn update(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = tx.get("customer", call.id(), "id")?;
    let mut customer = before.clone();
    apply(tx, &mut customer, &call.params)?;
    let change = call.params.get("balance").and_then(Value::as_i64).map_or(0, |balance| balance - int(&before, "balance"));
    tx.put(customer.clone());
    if change != 0 {
        let currency = before["currency"].as_str().unwrap_or("usd").to_owned();
        move_balance(tx, call.id(), change, &currency, "adjustment", json!({}));
        customer = tx.get("customer", call.id(), "id")?;
    }
    webhooks::emit(tx, "customer.updated", &customer, Some(&before));
    Ok(render(tx, &customer))
}

pub fn delete(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let customer = tx.get("customer", call.id(), "id")?;
    let methods: Vec<Value> = tx.account.all("payment_method").filter(|method| method["customer"] == customer["id"]).cloned().collect();
    for method in methods {
        payment_methods::detach(tx, method);
    }
    let gone = json!({"id": call.id(), "object": "customer", "deleted": true});
    tx.put(gone.clone());
    webhooks::emit(tx, "customer.deleted", &customer, None);
    Ok(gone)
}

/// Everything a customer is created or updated with, but for the balance.
fn apply(tx: &Tx<'_>, customer: &mut Value, params: &Map<String, Value>) -> Result<(), ApiError> {
    copy(customer, params, &["description", "email", "invoice_prefix", "name", "next_invoice_sequence", "phone", "shipping", "tax_exempt"]);
    copy(customer, params, &["preferred_locales", "business_name", "individual_name"]);
    if let Some(address) = params.get("address") {
        customer["address"] = whole_address(address);
    }
    merge_metadata(customer, params.get("metadata"));
    let Some(settings) = params.get("invoice_settings").and_then(Value::as_object) else { return Ok(()) };
    if let Some(method) = settings.get("default_payment_method").and_then(Value::as_str) {
        let attached = tx.account.get(method).is_some_and(|method| method["customer"] == customer["id"]);
        if !attached {
            let message = format!(
                "The customer does not have a payment method with the ID {method}. The payment method must be attached to the customer."
            );
            return Err(ApiError::invalid(message).code("resource_missing").param("invoice_settings[default_payment_method]"));
        }
    }
    copy(&mut customer["invoice_settings"], settings, &["custom_fields", "default_payment_method", "footer", "rendering_options"]);
    Ok(())
}

/// Stripe answers all parts of an address, those not given as null.
pub fn whole_address(given: &Value) -> Value {
    if given.is_null() {
        return Value::Null;
    }
    let mut address = json!({});
    for part in ["city", "country", "line1", "line2", "postal_code", "state"] {
        address[part] = given.get(part).cloned().unwrap_or(Value::Null);
    }
    address
}

pub fn adjust_balance(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    tx.get("customer", call.id(), "id")?;
    let (amount, currency) = (call.params["amount"].as_i64().unwrap_or(0), call.need("currency")?);
    let mut more = json!({});
    copy(&mut more, &call.params, &["description"]);
    merge_metadata(&mut more, call.params.get("metadata"));
    let moved = move_balance(tx, call.id(), amount, currency, "adjustment", more);
    Ok(render(tx, &moved))
}

/// Moves a customer's balance; negative is in the customer's favour.
pub fn move_balance(tx: &mut Tx<'_>, customer: &str, amount: i64, currency: &str, kind: &str, more: Value) -> Value {
    let mut moved = tx.blank("customer_balance_transaction");
    let Some(mut owner) = tx.account.get(customer).filter(|owner| owner["deleted"] != true).cloned() else { return moved };
    let balance = int(&owner, "balance") + amount;
    owner["balance"] = json!(balance);
    set(
        &mut moved,
        json!({"amount": amount, "currency": currency, "customer": customer, "ending_balance": balance, "type": kind, "metadata": {}}),
    );
    set(&mut moved, more);
    tx.put(owner);
    tx.put(moved.clone());
    moved
}

pub fn add_tax_id(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    tx.get("customer", call.id(), "id")?;
    let id = tax_id(call.id(), &Value::Object(call.params.clone()), tx.fresh(call.shape.clone(), "tax_id"));
    tx.put(id.clone());
    webhooks::emit(tx, "customer.tax_id.created", &id, None);
    Ok(render(tx, &id))
}

fn tax_id(customer: &str, data: &Value, mut id: Value) -> Value {
    let value = text(data, "value");
    let country = if text(data, "type") == "eu_vat" { value.get(..2) } else { None };
    set(
        &mut id,
        json!({"customer": customer, "type": data["type"], "value": value, "country": country,
               "owner": {"type": "customer", "customer": customer},
               "verification": {"status": "pending", "verified_name": null, "verified_address": null}}),
    );
    id
}

pub fn delete_tax_id(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let id = tx.get("tax_id", &call.ids[1], "id")?;
    tx.remove(&call.ids[1]);
    webhooks::emit(tx, "customer.tax_id.deleted", &id, None);
    Ok(json!({"id": call.ids[1], "object": "tax_id", "deleted": true}))
}
