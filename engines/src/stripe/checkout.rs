//! Checkout sessions in setup mode: a page where the browser enters a card for later charges.

use serde_json::{Value, json};

use super::answers::render;
use super::dispatch::Call;
use super::errors::ApiError;
use super::payment_methods::{self, Card};
use super::state::{Tx, copy, int, merge_metadata, set, text};
use super::{setup_intents, webhooks};

pub fn create(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    if call.need("mode")? != "setup" {
        return Err(ApiError::invalid("The Stripe double knows Checkout in setup mode only.").code("double_unsupported").param("mode"));
    }
    let customer = match call.text("customer") {
        Some(id) => Some(tx.get("customer", id, "customer")?),
        None => None,
    };
    call.need("success_url")?;
    if call.text("currency").is_none() && !call.params.contains_key("payment_method_types") {
        return Err(ApiError::missing_param("currency"));
    }
    let mut intent = setup_intents::begin(tx, tx.context.shapes["setup_intent"].clone(), call.text("customer"));
    if let Some(data) = call.params.get("setup_intent_data") {
        copy(&mut intent, data.as_object().expect("walked"), &["description"]);
        merge_metadata(&mut intent, data.get("metadata"));
    }
    let mut session = tx.fresh(call.shape.clone(), "checkout.session");
    let url = format!("{}/c/pay/{}", tx.context.public_url, text(&session, "id"));
    let email = customer.as_ref().map_or(Value::Null, |customer| customer["email"].clone());
    set(
        &mut session,
        json!({"mode": "setup", "status": "open", "payment_status": "no_payment_required", "url": url, "setup_intent": intent["id"],
               "customer": call.text("customer"), "currency": call.text("currency"), "expires_at": tx.now + 86_400, "metadata": {},
               "ui_mode": "hosted_page", "payment_method_types": ["card"], "cancel_url": null, "custom_fields": [], "shipping_options": [],
               "customer_details": {"address": null, "business_name": null, "email": email, "individual_name": null, "name": null,
                                    "phone": null, "tax_exempt": "none", "tax_ids": null}}),
    );
    copy(&mut session, &call.params, &["success_url", "cancel_url", "client_reference_id", "customer_email", "locale", "expires_at"]);
    copy(&mut session, &call.params, &["customer_creation", "submit_type", "billing_address_collection"]);
    merge_metadata(&mut session, call.params.get("metadata"));
    tx.put(intent.clone());
    tx.put(session.clone());
    webhooks::emit(tx, "setup_intent.created", &intent, None);
    Ok(render(tx, &session))
}

pub fn expire_call(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let session = tx.get("checkout.session", call.id(), "id")?;
    if session["status"] != "open" {
        let message = format!(
            "Only Checkout Sessions with a status in [\"open\"] can be expired. This Checkout Session has a status of {}.",
            text(&session, "status")
        );
        return Err(ApiError::state("checkout_session_not_open", message));
    }
    let session = expire(tx, session);
    Ok(render(tx, &session))
}

pub fn expire(tx: &mut Tx<'_>, mut session: Value) -> Value {
    set(&mut session, json!({"status": "expired", "url": null}));
    tx.put(session.clone());
    webhooks::emit(tx, "checkout.session.expired", &session, None);
    session
}

/// The form of the hosted page was sent: saves the card, completes the session, and says where the
/// browser goes next.
pub fn complete(tx: &mut Tx<'_>, id: &str, number: &str, name: &str) -> Result<String, ApiError> {
    let before = tx.get("checkout.session", id, "id")?;
    if before["status"] != "open" || int(&before, "expires_at") <= tx.now {
        return Err(ApiError::state("checkout_session_not_open", "This Checkout Session has expired or is complete."));
    }
    let card = Card::numbered(number);
    let card = card.ok_or_else(|| ApiError::card("incorrect_number", None, "Your card number is invalid."))?;
    let mut method = payment_methods::make(tx, card, tx.context.shapes["payment_method"].clone());
    method["billing_details"]["name"] = if name.is_empty() { Value::Null } else { json!(name) };
    let method_id = text(&method, "id").to_owned();
    tx.put(method);
    let intent = tx.get("setup_intent", text(&before, "setup_intent"), "id")?;
    setup_intents::confirm(tx, intent, &method_id)?;
    let mut session = before.clone();
    set(&mut session, json!({"status": "complete", "url": null}));
    session["customer_details"]["name"] = json!(name);
    tx.put(session.clone());
    webhooks::emit(tx, "checkout.session.completed", &session, None);
    Ok(text(&session, "success_url").replace("{CHECKOUT_SESSION_ID}", id))
}
