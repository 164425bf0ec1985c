//! Credit notes: on an open invoice they reduce what remains; on a paid one the amount is refunded,
//! credited to the balance, or settled outside.

use serde_json::{Value, json};

use super::answers::{lines_of, render};
use super::dispatch::Call;
use super::errors::ApiError;
use super::state::{Tx, copy, int, merge_metadata, set, text};
use super::{customers, payments, refunds, webhooks};

pub fn create(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = tx.get("invoice", call.need("invoice")?, "invoice")?;
    let paid = before["status"] == "paid";
    if !paid && before["status"] != "open" {
        let message = "You can only create a credit note for an invoice that is open or paid.";
        return Err(ApiError::state("invoice_not_editable", message));
    }
    let mut note = tx.fresh(call.shape.clone(), "credit_note");
    let earlier = tx.account.all("credit_note").filter(|other| other["invoice"] == before["id"]).count();
    let number = format!("{}-CN-{:02}", text(&before, "number"), earlier + 1);
    set(
        &mut note,
        json!({"invoice": before["id"], "customer": before["customer"], "currency": before["currency"], "number": number,
               "status": "issued", "discount_amount": 0, "discount_amounts": [], "amount_shipping": 0, "refunds": [],
               "pretax_credit_amounts": [], "metadata": {}, "effective_at": tx.now, "_lines": [],
               "pdf": format!("{}/cn/{}", tx.context.public_url, text(&before, "id"))}),
    );
    copy(&mut note, &call.params, &["memo", "reason", "effective_at"]);
    merge_metadata(&mut note, call.params.get("metadata"));
    let lines = lines(tx, call, &before)?;
    let subtotal = lines.iter().map(|line| int(line, "amount")).sum::<i64>();
    let taxes: Vec<Value> = lines.iter().flat_map(|line| line["taxes"].as_array().cloned().unwrap_or_default()).collect();
    let exclusive: i64 = taxes.iter().filter(|tax| tax["tax_behavior"] == "exclusive").map(|tax| int(tax, "amount")).sum();
    let inclusive: i64 = taxes.iter().map(|tax| int(tax, "amount")).sum::<i64>() - exclusive;
    let total = subtotal + exclusive;
    if total <= 0 {
        return Err(ApiError::invalid("A credit note's total must be greater than zero.").param("amount"));
    }
    let credited: i64 = issued(tx, &before).iter().map(|other| int(other, "total")).sum();
    let most = if paid { int(&before, "total") - credited } else { int(&before, "amount_remaining") };
    if total > most {
        let message = format!("The credit note's total ({total}) must not exceed what the invoice still allows ({most}).");
        return Err(ApiError::invalid(message).param("amount"));
    }
    let part = |name: &str| call.params.get(name).and_then(Value::as_i64).unwrap_or(0);
    let (refund, credit, outside) = (part("refund_amount"), part("credit_amount"), part("out_of_band_amount"));
    let wanted = if paid { total } else { 0 };
    if refund + credit + outside != wanted {
        let message = format!(
            "The sum of credit_amount, refund_amount and out_of_band_amount ({}) must equal the part of the credit note that is \
             after payment ({wanted}).",
            refund + credit + outside
        );
        return Err(ApiError::invalid(message).param("credit_amount"));
    }
    set(
        &mut note,
        json!({"amount": total, "total": total, "subtotal": subtotal, "subtotal_excluding_tax": subtotal - inclusive,
               "total_excluding_tax": subtotal - inclusive, "total_taxes": taxes, "pre_payment_amount": total - wanted,
               "post_payment_amount": wanted, "type": if paid { "post_payment" } else { "pre_payment" },
               "out_of_band_amount": (outside > 0).then_some(outside),
               "_lines": lines.iter().map(|line| line["id"].clone()).collect::<Vec<_>>()}),
    );
    if refund > 0 {
        let charge = tx.account.all("charge").find(|charge| charge["_invoice"] == before["id"] && charge["paid"] == true).cloned();
        let none = || ApiError::invalid("This invoice has no charge to refund.").param("refund_amount");
        let made = refunds::refund_charge(tx, charge.ok_or_else(none)?, Some(refund), tx.blank("refund"))?;
        note["refunds"] = json!([{"amount_refunded": refund, "refund": made["id"], "payment_record_refund": null, "type": "refund"}]);
    }
    if credit > 0 {
        let (customer, currency) = (text(&before, "customer").to_owned(), text(&before, "currency").to_owned());
        let more = json!({"credit_note": note["id"], "invoice": before["id"]});
        let moved = customers::move_balance(tx, &customer, -credit, &currency, "credit_note", more);
        note["customer_balance_transaction"] = moved["id"].clone();
    }
    tx.put_all(lines);
    tx.put(note.clone());
    webhooks::emit(tx, "credit_note.created", &note, None);
    reduce(tx, before, if paid { 0 } else { total }, wanted);
    Ok(render(tx, &note))
}

/// The note's effect on its invoice, which is paid once nothing remains.
fn reduce(tx: &mut Tx<'_>, before: Value, open_part: i64, paid_part: i64) {
    let mut invoice = before.clone();
    set(
        &mut invoice,
        json!({"amount_due": int(&before, "amount_due") - open_part, "amount_remaining": int(&before, "amount_remaining") - open_part,
               "pre_payment_credit_notes_amount": int(&before, "pre_payment_credit_notes_amount") + open_part,
               "post_payment_credit_notes_amount": int(&before, "post_payment_credit_notes_amount") + paid_part}),
    );
    tx.put(invoice.clone());
    if open_part != 0 && int(&invoice, "amount_remaining") == 0 {
        payments::cancel(tx, &invoice);
        payments::settle(tx, invoice);
    } else {
        webhooks::emit(tx, "invoice.updated", &invoice, Some(&before));
    }
}

fn issued(tx: &Tx<'_>, invoice: &Value) -> Vec<Value> {
    tx.account.all("credit_note").filter(|note| note["invoice"] == invoice["id"] && note["status"] == "issued").cloned().collect()
}

/// The note's lines; a bare `amount` is one line.
fn lines(tx: &Tx<'_>, call: &Call, invoice: &Value) -> Result<Vec<Value>, ApiError> {
    let given = call.params.get("lines").and_then(Value::as_array).cloned().unwrap_or_default();
    let amount = call.params.get("amount").and_then(Value::as_i64);
    let items = match (amount, given.is_empty()) {
        (Some(amount), true) => vec![json!({"type": "custom_line_item", "description": "Credit", "quantity": 1, "unit_amount": amount})],
        (None, false) => given,
        (None, true) => return Err(ApiError::invalid("One of amount or lines is required.").code("parameter_missing")),
        (Some(_), false) => return Err(ApiError::invalid("You may only specify one of these parameters: amount, lines.").param("amount")),
    };
    items.iter().enumerate().map(|(index, item)| line(tx, invoice, item, &format!("lines[{index}]"))).collect()
}

fn line(tx: &Tx<'_>, invoice: &Value, item: &Value, at: &str) -> Result<Value, ApiError> {
    let missing = |name: &str| ApiError::missing_param(&format!("{at}[{name}]"));
    let mut line = tx.blank("credit_note_line_item");
    line.as_object_mut().expect("an object").remove("created");
    set(
        &mut line,
        json!({"type": item["type"], "quantity": item.get("quantity"), "unit_amount": item.get("unit_amount"), "discount_amount": 0,
               "discount_amounts": [], "tax_rates": [], "pretax_credit_amounts": [], "metadata": {}, "taxes": []}),
    );
    if item["type"] == "invoice_line_item" {
        let id = item["invoice_line_item"].as_str().ok_or_else(|| missing("invoice_line_item"))?;
        let param = format!("{at}[invoice_line_item]");
        let credited = lines_of(tx, invoice).into_iter().find(|line| line["id"] == id);
        let credited = credited.ok_or_else(|| ApiError::no_such("line_item", id, &param))?;
        line["invoice_line_item"] = json!(id);
        line["description"] = credited["description"].clone();
        line["amount"] = match item["amount"].as_i64() {
            Some(amount) => json!(amount),
            None => credited["amount"].clone(),
        };
    } else {
        line.as_object_mut().expect("an object").remove("invoice_line_item");
        line["description"] = item.get("description").cloned().ok_or_else(|| missing("description"))?;
        let unit = item["unit_amount"].as_i64().ok_or_else(|| missing("unit_amount"))?;
        line["amount"] = json!(unit * item["quantity"].as_i64().unwrap_or(1));
    }
    merge_metadata(&mut line, item.get("metadata"));
    let mut taxes = Vec::new();
    for (index, tax) in item["tax_amounts"].as_array().into_iter().flatten().enumerate() {
        let rate = tx.get("tax_rate", text(tax, "tax_rate"), &format!("{at}[tax_amounts][{index}][tax_rate]"))?;
        taxes.push(json!({"amount": tax["amount"], "taxable_amount": tax["taxable_amount"], "type": "tax_rate_details",
                          "tax_behavior": if rate["inclusive"] == true { "inclusive" } else { "exclusive" },
                          "tax_rate_details": {"tax_rate": rate["id"]}, "taxability_reason": "not_available"}));
    }
    line["taxes"] = Value::Array(taxes);
    Ok(line)
}

pub fn void(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = tx.get("credit_note", call.id(), "id")?;
    let invoice = tx.get("invoice", text(&before, "invoice"), "invoice")?;
    if before["status"] == "void" || before["type"] != "pre_payment" || invoice["status"] != "open" {
        return Err(ApiError::state("invoice_not_editable", "You can only void a credit note whose invoice is open."));
    }
    let mut note = before.clone();
    set(&mut note, json!({"status": "void", "voided_at": tx.now}));
    tx.put(note.clone());
    webhooks::emit(tx, "credit_note.voided", &note, Some(&before));
    reduce(tx, invoice, -int(&note, "total"), 0);
    Ok(render(tx, &note))
}
