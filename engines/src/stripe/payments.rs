//! Collecting an invoice: its payment intent, charges with the customer's card, retries.

use serde_json::{Value, json};

use super::answers::render;
use super::dispatch::Call;
use super::errors::ApiError;
use super::payment_methods::{self, Fate};
use super::state::{Tx, int, set, text};
use super::{ids, invoices, refunds, webhooks};

/// Days until the next automatic attempt, after the first, second and third refusal.
const RETRY_DAYS: [i64; 3] = [3, 5, 7];

/// The payment intent of an invoice that is now open, and the record that ties them together.
pub fn prepare(tx: &mut Tx<'_>, invoice: &Value) {
    let amount = int(invoice, "amount_remaining");
    if amount == 0 {
        return;
    }
    let mut intent = tx.blank("payment_intent");
    let secret = format!("{}_secret_{}", text(&intent, "id"), ids::new("", 25));
    set(
        &mut intent,
        json!({"amount": amount, "currency": invoice["currency"], "customer": invoice["customer"], "client_secret": secret,
               "description": "Payment for Invoice", "status": "requires_payment_method", "metadata": {}, "_invoice": invoice["id"]}),
    );
    let mut payment = tx.blank("invoice_payment");
    set(
        &mut payment,
        json!({"invoice": invoice["id"], "amount_requested": amount, "amount_paid": null, "currency": invoice["currency"],
               "is_default": true, "status": "open", "payment": {"type": "payment_intent", "payment_intent": intent["id"]}}),
    );
    tx.put(intent.clone());
    tx.put(payment);
    webhooks::emit(tx, "payment_intent.created", &intent, None);
}

/// Plans the automatic charge of an open invoice.
pub fn schedule(tx: &Tx<'_>, invoice: &mut Value) {
    let automatic = invoice["collection_method"] == "charge_automatically" && invoice["auto_advance"] == true;
    if automatic && invoice["status"] == "open" && int(invoice, "amount_remaining") > 0 {
        invoice["next_payment_attempt"] = json!(tx.time_of(invoice) + tx.context.charge_delay);
    }
}

pub fn pay(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let mut invoice = tx.get("invoice", call.id(), "id")?;
    match text(&invoice, "status") {
        "paid" => return Err(ApiError::state("invoice_already_paid", "Invoice is already paid")),
        "void" => return Err(ApiError::state("invoice_not_editable", "Voided invoices cannot be paid.")),
        "draft" => invoice = invoices::finalize(tx, invoice),
        _ => {}
    }
    if invoice["status"] == "paid" {
        return Ok(render(tx, &invoice));
    }
    if call.params.get("paid_out_of_band") == Some(&json!(true)) {
        invoice["amount_paid_off_stripe"] = invoice["amount_remaining"].clone();
        cancel(tx, &invoice);
        let invoice = settle(tx, invoice);
        return Ok(render(tx, &invoice));
    }
    let invoice = collect(tx, invoice, call.text("payment_method"))?;
    Ok(render(tx, &invoice))
}

/// Charges what remains: with the card given, or the invoice's, or the customer's.
pub fn collect(tx: &mut Tx<'_>, invoice: Value, card: Option<&str>) -> Result<Value, ApiError> {
    let customer = tx.account.get(text(&invoice, "customer")).cloned().unwrap_or_default();
    let by_default = invoice["default_payment_method"].as_str().or(customer["invoice_settings"]["default_payment_method"].as_str());
    let Some(id) = card.or(by_default) else {
        let message = "This customer has no attached payment source or default payment method. Please consider adding a default \
                       payment method. For more information, visit https://stripe.com/docs/billing/payment-methods.";
        refused(tx, invoice, "invoice.payment_failed");
        return Err(ApiError::state("resource_missing", message).param("payment_method"));
    };
    let method = tx.get("payment_method", id, "payment_method")?;
    if !method["customer"].is_null() && method["customer"] != invoice["customer"] {
        let message = "The payment method supplied does not belong to the invoice's customer.";
        return Err(ApiError::state("payment_method_unexpected_state", message));
    }
    let fate = payment_methods::fate(&method);
    match fate {
        Fate::Works | Fate::Disputed => Ok(charge(tx, invoice, &method, fate)),
        Fate::Refused(code, decline, message) | Fate::RefusedLater(code, decline, message) => {
            let error = ApiError::card(code, decline, message);
            Err(refuse(tx, invoice, &method, error, "requires_payment_method"))
        }
        Fate::AsksHolder => {
            let message = "Your card was declined. This transaction requires authentication.";
            let error = ApiError::card("authentication_required", Some("authentication_required"), message);
            Err(refuse(tx, invoice, &method, error, "requires_action"))
        }
    }
}

fn charge(tx: &mut Tx<'_>, invoice: Value, method: &Value, fate: Fate) -> Value {
    let amount = int(&invoice, "amount_remaining");
    let now = tx.time_of(&invoice);
    let before = default_intent(tx, &invoice);
    let mut intent = before.clone();
    let mut charge = charge_of(tx, &invoice, method, &intent, amount);
    set(&mut charge, json!({"status": "succeeded", "paid": true, "captured": true, "amount_captured": amount}));
    set(
        &mut intent,
        json!({"amount": amount, "status": "succeeded", "amount_received": amount, "latest_charge": charge["id"],
               "payment_method": method["id"], "last_payment_error": null, "next_action": null}),
    );
    tx.put(charge.clone());
    tx.put(intent.clone());
    webhooks::emit(tx, "charge.succeeded", &charge, None);
    webhooks::emit(tx, "payment_intent.succeeded", &intent, Some(&before));
    if let Some(mut payment) = default_payment(tx, &invoice) {
        set(&mut payment, json!({"status": "paid", "amount_paid": amount, "amount_requested": amount}));
        payment["status_transitions"]["paid_at"] = json!(now);
        tx.put(payment.clone());
        webhooks::emit(tx, "invoice_payment.paid", &payment, None);
    }
    let mut invoice = invoice;
    invoice["attempt_count"] = json!(int(&invoice, "attempt_count") + 1);
    let invoice = settle(tx, invoice);
    if fate == Fate::Disputed {
        refunds::dispute(tx, charge);
    }
    invoice
}

/// A bank's refusal, with the traces it leaves.
fn refuse(tx: &mut Tx<'_>, invoice: Value, method: &Value, error: ApiError, status: &str) -> ApiError {
    let amount = int(&invoice, "amount_remaining");
    let before = default_intent(tx, &invoice);
    let mut intent = before.clone();
    let mut failed = charge_of(tx, &invoice, method, &intent, amount);
    set(
        &mut failed,
        json!({"status": "failed", "paid": false, "captured": false, "amount_captured": 0, "failure_code": error.code,
               "failure_message": error.message}),
    );
    let mut why = error.body("")["error"].clone();
    why.as_object_mut().expect("an error").remove("request_log_url");
    set(
        &mut intent,
        json!({"status": status, "latest_charge": failed["id"], "last_payment_error": why,
               "next_action": if status == "requires_action" { json!({"type": "use_stripe_sdk", "use_stripe_sdk": {}}) } else { Value::Null }}),
    );
    tx.put(failed.clone());
    tx.put(intent.clone());
    webhooks::emit(tx, "charge.failed", &failed, None);
    let asks = status == "requires_action";
    webhooks::emit(tx, if asks { "payment_intent.requires_action" } else { "payment_intent.payment_failed" }, &intent, Some(&before));
    if asks {
        webhooks::emit(tx, "invoice.payment_action_required", &invoice, None);
    }
    refused(tx, invoice, "invoice.payment_failed");
    error.with("charge", failed["id"].clone())
}

fn refused(tx: &mut Tx<'_>, mut invoice: Value, event: &str) {
    let before = invoice.clone();
    let attempts = int(&invoice, "attempt_count") + 1;
    set(&mut invoice, json!({"attempted": true, "attempt_count": attempts, "next_payment_attempt": null}));
    let wait = usize::try_from(attempts - 1).ok().and_then(|attempt| RETRY_DAYS.get(attempt));
    if let (Some(days), true) = (wait, before["auto_advance"] == true) {
        invoice["next_payment_attempt"] = json!(tx.time_of(&invoice) + days * 86_400);
    }
    tx.put(invoice.clone());
    webhooks::emit(tx, event, &invoice, None);
    webhooks::emit(tx, "invoice.updated", &invoice, Some(&before));
}

/// Open to paid.
pub fn settle(tx: &mut Tx<'_>, before: Value) -> Value {
    let mut invoice = before.clone();
    set(
        &mut invoice,
        json!({"status": "paid", "amount_paid": int(&before, "amount_paid") + int(&before, "amount_remaining"), "amount_remaining": 0,
               "attempted": true, "auto_advance": false, "next_payment_attempt": null}),
    );
    invoice["status_transitions"]["paid_at"] = json!(tx.time_of(&invoice));
    tx.put(invoice.clone());
    webhooks::emit(tx, "invoice.updated", &invoice, Some(&before));
    webhooks::emit(tx, "invoice.paid", &invoice, None);
    webhooks::emit(tx, "invoice.payment_succeeded", &invoice, None);
    invoice
}

/// Cancels the payment of an invoice that is paid elsewhere or void.
pub fn cancel(tx: &mut Tx<'_>, invoice: &Value) {
    let Some(mut payment) = default_payment(tx, invoice) else { return };
    let now = tx.time_of(invoice);
    payment["status"] = json!("canceled");
    payment["status_transitions"]["canceled_at"] = json!(now);
    tx.put(payment);
    let mut intent = default_intent(tx, invoice);
    set(&mut intent, json!({"status": "canceled", "canceled_at": now, "cancellation_reason": "void_invoice"}));
    tx.put(intent.clone());
    webhooks::emit(tx, "payment_intent.canceled", &intent, None);
}

fn default_payment(tx: &Tx<'_>, invoice: &Value) -> Option<Value> {
    let open = |payment: &&Value| payment["invoice"] == invoice["id"] && payment["status"] == "open";
    tx.account.all("invoice_payment").rev().find(open).cloned()
}

fn default_intent(tx: &mut Tx<'_>, invoice: &Value) -> Value {
    if default_payment(tx, invoice).is_none() {
        prepare(tx, invoice);
    }
    let payment = default_payment(tx, invoice).unwrap_or_default();
    tx.account.get(text(&payment["payment"], "payment_intent")).cloned().unwrap_or_else(|| tx.blank("payment_intent"))
}

fn charge_of(tx: &Tx<'_>, invoice: &Value, method: &Value, intent: &Value, amount: i64) -> Value {
    let mut charge = tx.blank("charge");
    set(
        &mut charge,
        json!({"amount": amount, "amount_refunded": 0, "currency": invoice["currency"], "customer": invoice["customer"],
               "payment_intent": intent["id"], "payment_method": method["id"], "description": intent["description"],
               "metadata": {}, "disputed": false, "refunded": false, "_invoice": invoice["id"]}),
    );
    charge
}
