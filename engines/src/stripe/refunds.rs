//! Money that goes back: refunds and disputes.

use serde_json::{Value, json};

use super::answers::render;
use super::dispatch::Call;
use super::errors::ApiError;
use super::state::{Tx, copy, int, merge_metadata, set, text};
use super::webhooks;

pub fn create(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let charge = match (call.text("charge"), call.text("payment_intent")) {
        (Some(charge), _) => tx.get("charge", charge, "charge")?,
        (None, Some(intent)) => {
            let intent = tx.get("payment_intent", intent, "payment_intent")?;
            let charge = tx.account.get(text(&intent, "latest_charge")).filter(|charge| charge["paid"] == true).cloned();
            let none = || ApiError::state("charge_not_refundable", "This PaymentIntent does not have a successful charge to refund.");
            charge.ok_or_else(none)?
        }
        (None, None) => return Err(ApiError::invalid("One of charge or payment_intent is required.").code("parameter_missing")),
    };
    let amount = call.params.get("amount").and_then(Value::as_i64);
    let mut refund = tx.fresh(call.shape.clone(), "refund");
    copy(&mut refund, &call.params, &["reason"]);
    merge_metadata(&mut refund, call.params.get("metadata"));
    let refund = refund_charge(tx, charge, amount, refund)?;
    Ok(render(tx, &refund))
}

/// Gives back `amount` of a charge, or what is left of it.
pub fn refund_charge(tx: &mut Tx<'_>, before: Value, amount: Option<i64>, mut refund: Value) -> Result<Value, ApiError> {
    let left = int(&before, "amount") - int(&before, "amount_refunded");
    if left == 0 {
        let message = format!("Charge {} has already been refunded.", text(&before, "id"));
        return Err(ApiError::state("charge_already_refunded", message));
    }
    let amount = amount.unwrap_or(left);
    if amount <= 0 || amount > left || before["paid"] != true {
        let message = format!("Refund amount ({amount}) must be positive and not greater than unrefunded amount on charge ({left}).");
        return Err(ApiError::invalid(message).code("amount_too_large").param("amount"));
    }
    let mut charge = before.clone();
    set(&mut charge, json!({"amount_refunded": int(&before, "amount_refunded") + amount, "refunded": amount == left}));
    if refund["metadata"].is_null() {
        refund["metadata"] = json!({});
    }
    set(
        &mut refund,
        json!({"amount": amount, "currency": charge["currency"], "charge": charge["id"], "payment_intent": charge["payment_intent"],
               "customer": charge["customer"], "status": "succeeded"}),
    );
    // Refunds have no such member.
    refund.as_object_mut().expect("an object").remove("livemode");
    tx.put(charge.clone());
    tx.put(refund.clone());
    webhooks::emit(tx, "refund.created", &refund, None);
    webhooks::emit(tx, "charge.refunded", &charge, Some(&before));
    Ok(refund)
}

/// The cardholder disputes a charge.
pub fn dispute(tx: &mut Tx<'_>, mut charge: Value) {
    let mut dispute = tx.blank("dispute");
    set(
        &mut dispute,
        json!({"amount": charge["amount"], "currency": charge["currency"], "charge": charge["id"], "reason": "fraudulent",
               "payment_intent": charge["payment_intent"], "status": "needs_response", "metadata": {}, "balance_transactions": []}),
    );
    charge["disputed"] = json!(true);
    tx.put(charge);
    tx.put(dispute.clone());
    webhooks::emit(tx, "charge.dispute.created", &dispute, None);
    webhooks::emit(tx, "charge.dispute.funds_withdrawn", &dispute, None);
}

/// Evidence. As at Stripe's test cards, `winning_evidence` wins and `losing_evidence` loses at once; anything else is under
/// review.
pub fn answer_dispute(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = tx.get("dispute", call.id(), "id")?;
    if matches!(text(&before, "status"), "won" | "lost") {
        return Err(ApiError::state("dispute_already_closed", "This dispute is already closed"));
    }
    let mut dispute = before.clone();
    merge_metadata(&mut dispute, call.params.get("metadata"));
    let evidence = call.params.get("evidence").map(|evidence| text(evidence, "uncategorized_text"));
    dispute["status"] = json!(match evidence {
        None => text(&before, "status"),
        Some("winning_evidence") => "won",
        Some("losing_evidence") => "lost",
        Some(_) => "under_review",
    });
    tx.put(dispute.clone());
    webhooks::emit(tx, "charge.dispute.updated", &dispute, Some(&before));
    if dispute["status"] == "won" {
        webhooks::emit(tx, "charge.dispute.funds_reinstated", &dispute, Some(&before));
    }
    if matches!(text(&dispute, "status"), "won" | "lost") {
        webhooks::emit(tx, "charge.dispute.closed", &dispute, Some(&before));
    }
    Ok(render(tx, &dispute))
}

/// Accepts a dispute: it is lost.
pub fn close_dispute(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = tx.get("dispute", call.id(), "id")?;
    if before["status"] == "lost" {
        return Err(ApiError::state("dispute_already_closed", "This dispute is already closed"));
    }
    let mut dispute = before.clone();
    dispute["status"] = json!("lost");
    tx.put(dispute.clone());
    webhooks::emit(tx, "charge.dispute.closed", &dispute, Some(&before));
    Ok(render(tx, &dispute))
}
