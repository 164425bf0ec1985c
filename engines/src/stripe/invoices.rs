//! Invoices and their states: draft to open; open to paid, void or uncollectible; uncollectible to
//! paid or void.

use serde_json::{Map, Value, json};

use super::answers::{lines_of, render};
use super::dispatch::Call;
use super::errors::ApiError;
use super::state::{Tx, copy, int, merge_metadata, set, text};
use super::{customers, ids, lines, payments, webhooks};

const DAY: i64 = 86_400;

pub fn create(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let customer = tx.get("customer", call.need("customer")?, "customer")?;
    let currency = call.text("currency").or_else(|| customer["currency"].as_str()).unwrap_or("usd").to_owned();
    let now = tx.time_of(&customer);
    let mut invoice = tx.fresh(call.shape.clone(), "invoice");
    set(
        &mut invoice,
        json!({"customer": customer["id"], "currency": currency, "status": "draft", "billing_reason": "manual", "created": now,
               "period_start": now, "period_end": now, "collection_method": "charge_automatically", "auto_advance": false,
               "attempted": false, "attempt_count": 0, "metadata": {}, "account_country": "US", "customer_tax_ids": [],
               "total_discount_amounts": [], "total_pretax_credit_amounts": [], "amount_paid": 0, "amount_shipping": 0,
               "amount_overpaid": 0, "amount_paid_off_stripe": 0, "default_tax_rates": [], "discounts": [],
               "pre_payment_credit_notes_amount": 0, "post_payment_credit_notes_amount": 0, "automatic_tax":
               {"disabled_reason": null, "enabled": false, "liability": null, "provider": null, "status": null},
               "test_clock": customer["test_clock"], "_lines": []}),
    );
    snapshot(tx, &mut invoice, &customer);
    apply(tx, &mut invoice, &call.params)?;
    if customer["currency"].is_null() {
        let mut owner = customer;
        owner["currency"] = json!(currency);
        tx.put(owner);
    }
    lines::total(tx, &mut invoice);
    tx.put(invoice.clone());
    webhooks::emit(tx, "invoice.created", &invoice, None);
    Ok(render(tx, &invoice))
}

/// The customer as of now, printed on the invoice.
fn snapshot(tx: &Tx<'_>, invoice: &mut Value, customer: &Value) {
    for name in ["email", "name", "address", "phone", "shipping", "tax_exempt"] {
        invoice[format!("customer_{name}")] = customer[name].clone();
    }
    let mine = tx.account.all("tax_id").filter(|id| id["customer"] == customer["id"]);
    invoice["customer_tax_ids"] = mine.map(|id| json!({"type": id["type"], "value": id["value"]})).collect();
    invoice["starting_balance"] = customer["balance"].clone();
}

fn apply(tx: &Tx<'_>, invoice: &mut Value, params: &Map<String, Value>) -> Result<(), ApiError> {
    let unsupported =
        ["discounts", "default_tax_rates", "from_invoice", "shipping_cost", "subscription", "transfer_data", "default_source"];
    let taxed = params.get("automatic_tax").is_some_and(|tax| tax["enabled"] == true).then_some("automatic_tax");
    let included = (params.get("pending_invoice_items_behavior") == Some(&json!("include"))).then_some("pending_invoice_items_behavior");
    let given = unsupported.into_iter().find(|name| params.get(*name).is_some_and(|value| !value.is_null()));
    if let Some(name) = given.or(taxed).or(included) {
        let message = format!("The Stripe double does not know {name} on invoices.");
        return Err(ApiError::invalid(message).code("double_unsupported").param(name));
    }
    if let Some(method) = params.get("default_payment_method").and_then(Value::as_str) {
        let method = tx.get("payment_method", method, "default_payment_method")?;
        if method["customer"] != invoice["customer"] {
            let message = "The payment method must be attached to the customer.";
            return Err(ApiError::invalid(message).code("resource_missing").param("default_payment_method"));
        }
    }
    if let Some(number) = params.get("number").and_then(Value::as_str) {
        let taken = |other: &Value| other["number"] == number && other["id"] != invoice["id"] && other["deleted"] != true;
        if tx.account.all("invoice").any(taken) {
            let message = format!("An invoice with the number '{number}' already exists. Invoice numbers must be unique.");
            return Err(ApiError::invalid(message).param("number"));
        }
    }
    copy(
        invoice,
        params,
        &["auto_advance", "collection_method", "custom_fields", "default_payment_method", "description", "due_date", "effective_at"],
    );
    copy(invoice, params, &["footer", "number", "rendering", "statement_descriptor", "automatically_finalizes_at"]);
    merge_metadata(invoice, params.get("metadata"));
    if let Some(days) = params.get("days_until_due").and_then(Value::as_i64) {
        invoice["_days_until_due"] = json!(days);
        invoice["due_date"] = json!(tx.time_of(invoice) + days * DAY);
    }
    let sent = invoice["collection_method"] == "send_invoice";
    if sent && invoice["due_date"].is_null() {
        let message = "If collection_method is set to send_invoice, you must specify days_until_due or due_date.";
        return Err(ApiError::invalid(message).param("days_until_due"));
    }
    if !sent && !invoice["due_date"].is_null() {
        let message = "You can only specify days_until_due or due_date if collection_method is set to send_invoice.";
        return Err(ApiError::invalid(message).param("days_until_due"));
    }
    if invoice["status"] == "draft" && invoice["automatically_finalizes_at"].is_null() && invoice["auto_advance"] == true {
        invoice["automatically_finalizes_at"] = json!(tx.time_of(invoice) + 3600);
    }
    Ok(())
}

/// An invoice that may still be changed.
pub fn draft(tx: &Tx<'_>, id: &str) -> Result<Value, ApiError> {
    let invoice = tx.get("invoice", id, "id")?;
    if invoice["status"] == "draft" {
        return Ok(invoice);
    }
    Err(not_editable("This invoice is no longer editable: it is not a draft."))
}

fn not_editable(message: &str) -> ApiError {
    ApiError::state("invoice_not_editable", message)
}

pub fn update(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = tx.get("invoice", call.id(), "id")?;
    let always = ["auto_advance", "default_payment_method", "expand", "metadata", "payment_settings"];
    let frozen = call.params.keys().find(|name| !always.contains(&name.as_str()));
    if let (true, Some(name)) = (before["status"] != "draft", frozen) {
        return Err(not_editable("Finalized invoices can't be updated in this way.").param(name));
    }
    let mut invoice = before.clone();
    apply(tx, &mut invoice, &call.params)?;
    if before["auto_advance"] != true && invoice["auto_advance"] == true {
        payments::schedule(tx, &mut invoice);
    }
    tx.put(invoice.clone());
    webhooks::emit(tx, "invoice.updated", &invoice, Some(&before));
    Ok(render(tx, &invoice))
}

pub fn delete(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let invoice = tx.get("invoice", call.id(), "id")?;
    if invoice["status"] != "draft" {
        return Err(not_editable("You can only delete draft invoices."));
    }
    webhooks::emit(tx, "invoice.deleted", &invoice, None);
    for line in lines_of(tx, &invoice) {
        tx.remove(text(&line, "id"));
    }
    let gone = json!({"id": call.id(), "object": "invoice", "deleted": true});
    tx.put(gone.clone());
    Ok(gone)
}

pub fn finalize_call(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let mut invoice = tx.get("invoice", call.id(), "id")?;
    if invoice["status"] != "draft" {
        return Err(not_editable("This invoice is already finalized, you can't re-finalize a non-draft invoice."));
    }
    copy(&mut invoice, &call.params, &["auto_advance"]);
    let invoice = finalize(tx, invoice);
    Ok(render(tx, &invoice))
}

/// Draft to open: numbered, the customer's balance applied, a payment prepared; paid at once when
/// nothing is due.
pub fn finalize(tx: &mut Tx<'_>, mut invoice: Value) -> Value {
    let now = tx.time_of(&invoice);
    let customer_id = text(&invoice, "customer").to_owned();
    if let Some(mut customer) = tx.account.get(&customer_id).filter(|customer| customer["deleted"] != true).cloned() {
        snapshot(tx, &mut invoice, &customer);
        if invoice["number"].is_null() {
            let sequence = int(&customer, "next_invoice_sequence");
            invoice["number"] = json!(format!("{}-{sequence:04}", text(&customer, "invoice_prefix")));
            customer["next_invoice_sequence"] = json!(sequence + 1);
            tx.put(customer);
        }
    }
    lines::total(tx, &mut invoice);
    let balance = int(&invoice, "starting_balance");
    let (due, ending) = lines::due(int(&invoice, "total"), balance, text(&invoice, "currency"));
    if ending != balance {
        let currency = text(&invoice, "currency").to_owned();
        customers::move_balance(tx, &customer_id, ending - balance, &currency, "applied_to_invoice", json!({"invoice": invoice["id"]}));
    }
    let page = format!("{}/i/{}", tx.context.public_url, text(&invoice, "id"));
    set(
        &mut invoice,
        json!({"status": "open", "ending_balance": ending, "amount_due": due, "amount_remaining": due, "effective_at": now,
               "hosted_invoice_url": page, "automatically_finalizes_at": null,
               "webhooks_delivered_at": now, "_secret": ids::new("", 16)}),
    );
    if let Some(days) = invoice["_days_until_due"].as_i64() {
        invoice["due_date"] = json!(now + days * DAY);
    }
    invoice["status_transitions"]["finalized_at"] = json!(now);
    payments::prepare(tx, &invoice);
    payments::schedule(tx, &mut invoice);
    tx.put(invoice.clone());
    webhooks::emit(tx, "invoice.finalized", &invoice, None);
    if due == 0 {
        return payments::settle(tx, invoice);
    }
    if invoice["collection_method"] == "send_invoice" && invoice["auto_advance"] == true {
        webhooks::emit(tx, "invoice.sent", &invoice, None);
    }
    invoice
}

pub fn send(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let mut invoice = tx.get("invoice", call.id(), "id")?;
    if invoice["collection_method"] != "send_invoice" {
        return Err(ApiError::state(
            "invoice_not_editable",
            "You can only manually send an invoice if its collection method is 'send_invoice'.",
        ));
    }
    if matches!(text(&invoice, "status"), "void" | "paid") {
        return Err(not_editable("This invoice can no longer be sent."));
    }
    if invoice["status"] == "draft" {
        invoice = finalize(tx, invoice);
    }
    webhooks::emit(tx, "invoice.sent", &invoice, None);
    Ok(render(tx, &invoice))
}

pub fn void(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = tx.get("invoice", call.id(), "id")?;
    if !matches!(text(&before, "status"), "open" | "uncollectible") {
        return Err(not_editable("You can only pass in open invoices. This invoice isn't open."));
    }
    let mut invoice = before.clone();
    // What the balance had paid goes back.
    let applied = int(&invoice, "ending_balance") - int(&invoice, "starting_balance");
    if applied != 0 {
        let (customer, currency) = (text(&invoice, "customer").to_owned(), text(&invoice, "currency").to_owned());
        let more = json!({"invoice": invoice["id"]});
        customers::move_balance(tx, &customer, -applied, &currency, "unapplied_from_invoice", more);
    }
    close(tx, &mut invoice, "void", "voided_at");
    webhooks::emit(tx, "invoice.voided", &invoice, Some(&before));
    Ok(render(tx, &invoice))
}

pub fn mark_uncollectible(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = tx.get("invoice", call.id(), "id")?;
    if before["status"] != "open" {
        return Err(not_editable("You can only mark open invoices as uncollectible. This invoice isn't open."));
    }
    let mut invoice = before.clone();
    close(tx, &mut invoice, "uncollectible", "marked_uncollectible_at");
    webhooks::emit(tx, "invoice.marked_uncollectible", &invoice, Some(&before));
    Ok(render(tx, &invoice))
}

fn close(tx: &mut Tx<'_>, invoice: &mut Value, status: &str, transition: &str) {
    set(invoice, json!({"status": status, "next_payment_attempt": null}));
    invoice["status_transitions"][transition] = json!(tx.time_of(invoice));
    if status == "void" {
        invoice["auto_advance"] = json!(false);
        payments::cancel(tx, invoice);
    }
    tx.put(invoice.clone());
}
