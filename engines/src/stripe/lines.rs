//! Lines of an invoice, their taxes, and the totals as Stripe adds them up.

use serde_json::{Map, Value, json};

use super::answers::{lines_of, page, render};
use super::dispatch::Call;
use super::errors::ApiError;
use super::state::{Tx, copy, int, merge_metadata, set, text};
use super::{ids, invoices, limits, webhooks};

pub fn add(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = invoices::draft(tx, call.id())?;
    let given = given_lines(call);
    let present = lines_of(tx, &before);
    limits::line_count(present.len() + given.len())?;
    let currency = text(&before, "currency").to_owned();
    let mut made = Vec::with_capacity(given.len());
    for (index, params) in given.iter().enumerate() {
        let at = format!("lines[{index}]");
        let mut line = blank_line(tx, &before);
        apply(tx, &mut line, params, &currency, &at)?;
        if line["amount"].is_null() {
            return Err(ApiError::missing_param(&format!("{at}[amount]")));
        }
        made.push(line);
    }
    let mut invoice = before.clone();
    let ids = made.iter().map(|line| line["id"].clone());
    invoice["_lines"].as_array_mut().expect("an invoice has lines").extend(ids);
    tx.put_all(made);
    Ok(store(tx, call, &before, invoice))
}

pub fn update(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = invoices::draft(tx, call.id())?;
    let mut changed = Vec::new();
    for (index, params) in given_lines(call).iter().enumerate() {
        let at = format!("lines[{index}]");
        let id = params.get("id").and_then(Value::as_str).unwrap_or_default();
        let mut line = line_of(tx, &before, id, &format!("{at}[id]"))?;
        apply(tx, &mut line, params, text(&before, "currency"), &at)?;
        changed.push(line);
    }
    tx.put_all(changed);
    Ok(store(tx, call, &before, before.clone()))
}

/// `POST /v1/invoices/{id}/lines/{line}` answers the line.
pub fn update_one(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = invoices::draft(tx, call.id())?;
    let mut line = line_of(tx, &before, &call.ids[1], "id")?;
    apply(tx, &mut line, &call.params, text(&before, "currency"), "")?;
    tx.put(line.clone());
    store(tx, call, &before, before.clone());
    Ok(render(tx, &line))
}

pub fn remove(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = invoices::draft(tx, call.id())?;
    let mut gone = Vec::new();
    for (index, params) in given_lines(call).iter().enumerate() {
        let id = params.get("id").and_then(Value::as_str).unwrap_or_default();
        line_of(tx, &before, id, &format!("lines[{index}][id]"))?;
        gone.push(json!(id));
    }
    let mut invoice = before.clone();
    invoice["_lines"].as_array_mut().expect("an invoice has lines").retain(|id| !gone.contains(id));
    gone.iter().filter_map(Value::as_str).for_each(|id| tx.remove(id));
    Ok(store(tx, call, &before, invoice))
}

pub fn list(tx: &Tx<'_>, call: &Call, kind: &str) -> Result<Value, ApiError> {
    let owner = tx.get(kind, call.id(), "id")?;
    page(tx, &lines_of(tx, &owner), &call.params, &format!("/v1/{kind}s/{}/lines", call.id()))
}

fn given_lines(call: &Call) -> Vec<Map<String, Value>> {
    call.params["lines"].as_array().into_iter().flatten().filter_map(Value::as_object).cloned().collect()
}

fn line_of(tx: &Tx<'_>, invoice: &Value, id: &str, param: &str) -> Result<Value, ApiError> {
    let line = tx.get("line_item", id, param)?;
    if line["invoice"] == invoice["id"] { Ok(line) } else { Err(ApiError::no_such("line_item", id, param)) }
}

fn store(tx: &mut Tx<'_>, call: &Call, before: &Value, mut invoice: Value) -> Value {
    if call.params.contains_key("invoice_metadata") {
        merge_metadata(&mut invoice, call.params.get("invoice_metadata"));
    }
    total(tx, &mut invoice);
    tx.put(invoice.clone());
    webhooks::emit(tx, "invoice.updated", &invoice, Some(before));
    render(tx, &invoice)
}

fn blank_line(tx: &Tx<'_>, invoice: &Value) -> Value {
    let mut line = tx.blank("line_item");
    line.as_object_mut().expect("an object").remove("created");
    set(
        &mut line,
        json!({"invoice": invoice["id"], "currency": invoice["currency"], "amount": null, "quantity": 1, "discount_amounts": [],
               "discountable": true, "discounts": [], "metadata": {}, "pretax_credit_amounts": [], "taxes": [],
               "period": {"start": invoice["created"], "end": invoice["created"]},
               "parent": {"type": "invoice_item_details", "subscription_item_details": null, "invoice_item_details": {
                   "invoice_item": ids::new("ii_1", 23), "proration": false, "proration_details": {"credited_items": null},
                   "subscription": null}}}),
    );
    line
}

fn apply(tx: &mut Tx<'_>, line: &mut Value, params: &Map<String, Value>, currency: &str, at: &str) -> Result<(), ApiError> {
    let param = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}[{name}]") };
    for name in ["discounts", "invoice_item", "pricing", "tax_rates"] {
        if params.get(name).is_some_and(|value| !value.is_null()) {
            let message = format!("The Stripe double does not know {name} on invoice lines.");
            return Err(ApiError::invalid(message).code("double_unsupported").param(&param(name)));
        }
    }
    copy(line, params, &["description", "discountable", "period", "quantity", "quantity_decimal"]);
    merge_metadata(line, params.get("metadata"));
    if params.contains_key("amount") && params.contains_key("price_data") {
        let message = "You may only specify one of these parameters: amount, price_data.";
        return Err(ApiError::invalid(message).param(&param("amount")));
    }
    copy(line, params, &["amount"]);
    if let Some(price) = params.get("price_data") {
        price_by_unit(line, price, currency, &param("price_data"))?;
    }
    limits::step(currency, int(line, "amount"), &param("amount"))?;
    let (start, end) = (int(&line["period"], "start"), int(&line["period"], "end"));
    if start > end {
        return Err(ApiError::invalid("The period's end must not be before its start.").param(&param("period")));
    }
    if let Some(taxes) = params.get("tax_amounts") {
        let taxes = taxes.as_array().cloned().unwrap_or_default();
        for (index, tax) in taxes.iter().enumerate() {
            limits::step(currency, int(tax, "amount"), &format!("{}[{index}][amount]", param("tax_amounts")))?;
        }
        line["taxes"] = taxes.iter().map(|tax| tax_on_line(tx, tax)).collect();
    }
    line["subtotal"] = line["amount"].clone();
    Ok(())
}

fn price_by_unit(line: &mut Value, price: &Value, currency: &str, at: &str) -> Result<(), ApiError> {
    if text(price, "currency") != currency {
        let message = format!("The currency of this line does not match the invoice's, which is {currency}.");
        return Err(ApiError::invalid(message).param(&format!("{at}[currency]")));
    }
    let Some(unit) = price["unit_amount"].as_i64() else {
        let message = "The Stripe double multiplies whole unit amounts only; send the line's amount.";
        return Err(ApiError::invalid(message).code("double_unsupported").param(at));
    };
    line["amount"] = json!(unit * line["quantity"].as_i64().unwrap_or(1));
    let product = price["product"].as_str().map_or_else(|| ids::new("prod_", 14), str::to_owned);
    line["pricing"] = json!({"type": "price_details", "unit_amount_decimal": unit.to_string(),
                             "price_details": {"price": ids::new("price_1", 23), "product": product}});
    Ok(())
}

/// A tax of a line; rates given as data become tax rates of the account, one for the same data.
fn tax_on_line(tx: &mut Tx<'_>, tax: &Value) -> Value {
    let data = &tax["tax_rate_data"];
    let known = tx.account.all("tax_rate").find(|rate| rate["_data"] == *data).map(|rate| rate["id"].clone());
    let rate = known.unwrap_or_else(|| {
        let mut rate = tx.blank("tax_rate");
        let given = data.as_object().expect("required");
        copy(&mut rate, given, &["country", "description", "display_name", "inclusive", "jurisdiction", "percentage", "state", "tax_type"]);
        set(&mut rate, json!({"active": true, "effective_percentage": data["percentage"], "metadata": {}, "_data": data}));
        tx.put(rate.clone());
        rate["id"].clone()
    });
    let reason = tax.get("taxability_reason").filter(|reason| !reason.is_null()).cloned();
    json!({"amount": tax["amount"], "taxable_amount": tax["taxable_amount"], "type": "tax_rate_details",
           "tax_behavior": if data["inclusive"] == true { "inclusive" } else { "exclusive" },
           "tax_rate_details": {"tax_rate": rate}, "taxability_reason": reason.unwrap_or(json!("not_available"))})
}

/// Adds an invoice up. Exclusive taxes come on top of the subtotal, inclusive ones are within it.
pub fn total(tx: &Tx<'_>, invoice: &mut Value) {
    let lines = lines_of(tx, invoice);
    let subtotal: i64 = lines.iter().map(|line| int(line, "amount")).sum();
    let (mut inclusive, mut exclusive) = (0, 0);
    let mut taxes: Vec<Value> = Vec::new();
    for tax in lines.iter().flat_map(|line| line["taxes"].as_array().into_iter().flatten()) {
        *(if tax["tax_behavior"] == "inclusive" { &mut inclusive } else { &mut exclusive }) += int(tax, "amount");
        let same =
            |other: &&mut Value| ["tax_behavior", "tax_rate_details", "taxability_reason"].iter().all(|name| other[*name] == tax[*name]);
        match taxes.iter_mut().find(same) {
            Some(sum) => {
                sum["amount"] = json!(int(sum, "amount") + int(tax, "amount"));
                sum["taxable_amount"] = json!(int(sum, "taxable_amount") + int(tax, "taxable_amount"));
            }
            None => taxes.push(tax.clone()),
        }
    }
    let total = subtotal + exclusive;
    let (due, _) = due(total, int(invoice, "starting_balance"), text(invoice, "currency"));
    set(
        invoice,
        json!({"subtotal": subtotal, "subtotal_excluding_tax": subtotal - inclusive, "total": total,
               "total_excluding_tax": total - exclusive - inclusive, "total_taxes": taxes, "amount_due": due,
               "amount_remaining": due}),
    );
}

/// What is collected now, and the customer's balance afterwards. Credit is used up first; what is
/// owed from before is added; less than the smallest charge is carried forward.
pub fn due(total: i64, balance: i64, currency: &str) -> (i64, i64) {
    let payable = total + balance;
    if payable < limits::minimum_charge(currency) { (0, payable) } else { (payable, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_and_minimum_decide_what_is_due() {
        assert_eq!(due(1000, 0, "usd"), (1000, 0));
        assert_eq!(due(1000, -300, "usd"), (700, 0));
        assert_eq!(due(1000, -1300, "usd"), (0, -300));
        assert_eq!(due(1000, 200, "usd"), (1200, 0));
        assert_eq!(due(30, 0, "usd"), (0, 30));
        assert_eq!(due(-500, 100, "usd"), (0, -400));
        assert_eq!(due(0, 0, "usd"), (0, 0));
    }
}
