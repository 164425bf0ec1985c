//! Setup intents: saving a card for charges to come.

use serde_json::{Value, json};

use super::answers::render;
use super::dispatch::Call;
use super::errors::ApiError;
use super::payment_methods::{self, Card};
use super::state::{Tx, copy, merge_metadata, set, text};
use super::{ids, webhooks};

pub fn create(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    if let Some(customer) = call.text("customer") {
        tx.get("customer", customer, "customer")?;
    }
    let mut intent = begin(tx, call.shape.clone(), call.text("customer"));
    copy(&mut intent, &call.params, &["description", "usage"]);
    merge_metadata(&mut intent, call.params.get("metadata"));
    tx.put(intent.clone());
    webhooks::emit(tx, "setup_intent.created", &intent, None);
    match (call.text("payment_method"), call.params.get("confirm")) {
        (Some(method), Some(Value::Bool(true))) => {
            let method = method.to_owned();
            intent = confirm(tx, intent, &method)?;
        }
        (Some(method), _) => {
            set(&mut intent, json!({"payment_method": method, "status": "requires_confirmation"}));
            tx.put(intent.clone());
        }
        _ => {}
    }
    Ok(render(tx, &intent))
}

/// A setup intent that waits for a card, not yet saved.
pub fn begin(tx: &Tx<'_>, shape: Value, customer: Option<&str>) -> Value {
    let mut intent = tx.fresh(shape, "setup_intent");
    let secret = format!("{}_secret_{}", text(&intent, "id"), ids::new("", 25));
    set(
        &mut intent,
        json!({"client_secret": secret, "customer": customer, "status": "requires_payment_method", "metadata": {},
               "payment_method_types": ["card"], "usage": "off_session"}),
    );
    intent
}

pub fn confirm_call(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let intent = tx.get("setup_intent", call.id(), "id")?;
    let given = call.text("payment_method").or_else(|| intent["payment_method"].as_str()).map(str::to_owned);
    let Some(method) = given else {
        let message = "You cannot confirm this SetupIntent because it's missing a payment method.";
        return Err(ApiError::state("parameter_missing", message).param("payment_method"));
    };
    let intent = confirm(tx, intent, &method)?;
    Ok(render(tx, &intent))
}

/// Saves a card: the intent succeeds and the card becomes the customer's, or the bank refuses.
pub fn confirm(tx: &mut Tx<'_>, before: Value, method: &str) -> Result<Value, ApiError> {
    if !matches!(text(&before, "status"), "requires_payment_method" | "requires_confirmation" | "requires_action") {
        let message = format!("You cannot confirm this SetupIntent because it has a status of {}.", text(&before, "status"));
        return Err(ApiError::state("setup_intent_unexpected_state", message));
    }
    let mut intent = before.clone();
    let owner = before["customer"].as_str();
    let ready = match owner {
        Some(customer) => payment_methods::ready(tx, method, customer),
        None => alone(tx, method),
    };
    match ready {
        Ok(method) => {
            set(&mut intent, json!({"payment_method": method["id"], "status": "succeeded", "last_setup_error": null}));
            tx.put(intent.clone());
            if owner.is_some() {
                payment_methods::save_attached(tx, method);
            } else {
                tx.put(method);
            }
            webhooks::emit(tx, "setup_intent.succeeded", &intent, Some(&before));
            Ok(intent)
        }
        Err(error) if error.kind == "card_error" => {
            intent["last_setup_error"] = error.body("")["error"].clone();
            intent["last_setup_error"].as_object_mut().expect("an error").remove("request_log_url");
            intent["status"] = json!("requires_payment_method");
            tx.put(intent.clone());
            webhooks::emit(tx, "setup_intent.setup_failed", &intent, Some(&before));
            Err(error.with("setup_intent", render(tx, &intent)))
        }
        Err(error) => Err(error),
    }
}

fn alone(tx: &Tx<'_>, id: &str) -> Result<Value, ApiError> {
    let method = match Card::named(id) {
        Some(card) => payment_methods::make(tx, card, tx.context.shapes["payment_method"].clone()),
        None => tx.get("payment_method", id, "payment_method")?,
    };
    if let Some(card) = Card::numbered(text(&method, "_number")) {
        card.saved()?;
    }
    Ok(method)
}

pub fn cancel(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = tx.get("setup_intent", call.id(), "id")?;
    if matches!(text(&before, "status"), "succeeded" | "canceled") {
        let message = format!("You cannot cancel this SetupIntent because it has a status of {}.", text(&before, "status"));
        return Err(ApiError::state("setup_intent_unexpected_state", message));
    }
    let mut intent = before.clone();
    set(&mut intent, json!({"status": "canceled"}));
    copy(&mut intent, &call.params, &["cancellation_reason"]);
    tx.put(intent.clone());
    webhooks::emit(tx, "setup_intent.canceled", &intent, Some(&before));
    Ok(render(tx, &intent))
}
