//! The account itself: its balance, the billing portal, and Stripe's own test clocks.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::answers::render;
use super::dispatch::Call;
use super::errors::ApiError;
use super::state::{Tx, int, set, text};
use super::webhooks;

pub fn get(tx: &Tx<'_>, call: &Call) -> Value {
    let mut account = tx.context.spec.bare(call.shape.clone());
    set(&mut account, json!({"id": format!("acct_{}", tx.name), "charges_enabled": true, "payouts_enabled": true}));
    account
}

/// What was charged less what was refunded, by currency; everything is available at once.
pub fn balance(tx: &Tx<'_>, call: &Call) -> Value {
    let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
    for charge in tx.account.all("charge").filter(|charge| charge["paid"] == true) {
        *sums.entry(text(charge, "currency")).or_default() += int(charge, "amount") - int(charge, "amount_refunded");
    }
    let amounts = |value: &dyn Fn(i64) -> i64| -> Value {
        sums.iter()
            .map(|(currency, sum)| json!({"currency": currency, "amount": value(*sum), "source_types": {"card": value(*sum)}}))
            .collect()
    };
    let mut balance = call.shape.clone();
    set(&mut balance, json!({"available": amounts(&|sum| sum), "pending": amounts(&|_| 0), "connect_reserved": []}));
    balance
}

pub fn portal_session(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let customer = tx.get("customer", call.need("customer")?, "customer")?;
    let mut session = tx.fresh(call.shape.clone(), "billing_portal.session");
    let url = format!("{}/p/session/{}", tx.context.public_url, text(&session, "id"));
    set(&mut session, json!({"customer": customer["id"], "return_url": call.text("return_url"), "url": url}));
    tx.put(session.clone());
    Ok(render(tx, &session))
}

pub fn test_clock(tx: &mut Tx<'_>, call: &Call) -> Value {
    let mut clock = tx.fresh(call.shape.clone(), "test_helpers.test_clock");
    set(
        &mut clock,
        json!({"frozen_time": call.params["frozen_time"], "name": call.text("name"), "status": "ready",
               "deletes_after": tx.now + 30 * 86_400}),
    );
    tx.put(clock.clone());
    webhooks::emit(tx, "test_helpers.test_clock.created", &clock, None);
    render(tx, &clock)
}

/// Objects that live by this clock do what is due when the clockwork next looks, within a moment.
pub fn advance_test_clock(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let mut clock = tx.get("test_helpers.test_clock", call.id(), "id")?;
    let to = call.params["frozen_time"].as_i64().unwrap_or(0);
    if to <= int(&clock, "frozen_time") {
        return Err(ApiError::invalid("You cannot advance a test clock to a time in its past.").param("frozen_time"));
    }
    set(&mut clock, json!({"frozen_time": to, "status": "ready"}));
    tx.put(clock.clone());
    webhooks::emit(tx, "test_helpers.test_clock.advancing", &clock, None);
    webhooks::emit(tx, "test_helpers.test_clock.ready", &clock, None);
    Ok(render(tx, &clock))
}
