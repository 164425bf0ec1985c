//! Payment methods: Stripe's test cards, those that work and those that fail.

use serde_json::{Value, json};

use super::answers::render;
use super::dispatch::Call;
use super::errors::ApiError;
use super::state::{Tx, copy, merge_metadata, set, text};
use super::{ids, webhooks};

/// What a test card does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Works,
    /// Refused whenever it is used, and already when it is saved.
    Refused(&'static str, Option<&'static str>, &'static str),
    /// Saved without complaint, refused when charged.
    RefusedLater(&'static str, Option<&'static str>, &'static str),
    /// Asks for the cardholder at every charge.
    AsksHolder,
    /// The charge succeeds and is disputed.
    Disputed,
}

/// A card of Stripe's test documentation: number, the name in `pm_card_<name>`, brand.
#[derive(Debug)]
pub struct Card {
    pub number: &'static str,
    pub names: &'static [&'static str],
    pub brand: &'static str,
    pub fate: Fate,
}

const DECLINED: &str = "Your card was declined.";
const GENERIC: (&str, Option<&str>, &str) = ("card_declined", Some("generic_decline"), DECLINED);
const NO_FUNDS: (&str, Option<&str>, &str) = ("card_declined", Some("insufficient_funds"), "Your card has insufficient funds.");

const fn card(number: &'static str, names: &'static [&'static str], brand: &'static str, fate: Fate) -> Card {
    Card { number, names, brand, fate }
}

const fn refused(why: (&'static str, Option<&'static str>, &'static str)) -> Fate {
    Fate::Refused(why.0, why.1, why.2)
}

pub const CARDS: &[Card] = &[
    card("4242424242424242", &["visa", "us"], "visa", Fate::Works),
    card("4000056655665556", &["visa_debit"], "visa", Fate::Works),
    card("5555555555554444", &["mastercard"], "mastercard", Fate::Works),
    card("378282246310005", &["amex"], "amex", Fate::Works),
    card("4000002760000016", &["de"], "visa", Fate::Works),
    card("4000000000000002", &["visa_chargeDeclined", "chargeDeclined"], "visa", refused(GENERIC)),
    card("4000000000009995", &["visa_chargeDeclinedInsufficientFunds", "chargeDeclinedInsufficientFunds"], "visa", refused(NO_FUNDS)),
    card("4000000000009987", &["visa_chargeDeclinedLostCard"], "visa", refused(("card_declined", Some("lost_card"), DECLINED))),
    card("4000000000009979", &["visa_chargeDeclinedStolenCard"], "visa", refused(("card_declined", Some("stolen_card"), DECLINED))),
    card("4000000000000069", &["chargeDeclinedExpiredCard"], "visa", refused(("expired_card", None, "Your card has expired."))),
    card(
        "4000000000000127",
        &["chargeDeclinedIncorrectCvc"],
        "visa",
        refused(("incorrect_cvc", None, "Your card's security code is incorrect.")),
    ),
    card(
        "4000000000000119",
        &["chargeDeclinedProcessingError"],
        "visa",
        refused(("processing_error", None, "An error occurred while processing your card. Try again in a little bit.")),
    ),
    card("4000000000000341", &["chargeCustomerFail"], "visa", Fate::RefusedLater(GENERIC.0, GENERIC.1, GENERIC.2)),
    card("4000002760003184", &["authenticationRequired"], "visa", Fate::AsksHolder),
    card("4000000000000259", &["createDispute"], "visa", Fate::Disputed),
];

impl Card {
    /// The card of a test payment method's id (`pm_card_visa`) or token (`tok_visa`).
    pub fn named(id: &str) -> Option<&'static Self> {
        let name = id.strip_prefix("pm_card_").or_else(|| id.strip_prefix("tok_"))?;
        CARDS.iter().find(|card| card.names.contains(&name))
    }

    /// The card of a number as a person types it.
    pub fn numbered(typed: &str) -> Option<&'static Self> {
        let digits: String = typed.chars().filter(char::is_ascii_digit).collect();
        CARDS.iter().find(|card| card.number == digits)
    }

    /// The refusal when this card is saved.
    pub fn saved(&self) -> Result<(), ApiError> {
        match self.fate {
            Fate::Refused(code, decline, message) => Err(ApiError::card(code, decline, message)),
            _ => Ok(()),
        }
    }
}

/// The fate of a payment method of ours.
pub fn fate(method: &Value) -> Fate {
    Card::numbered(text(method, "_number")).map_or(Fate::Works, |card| card.fate)
}

/// A new payment method for a card, in stripe-mock's shape.
pub fn make(tx: &Tx<'_>, card: &Card, shape: Value) -> Value {
    let mut method = tx.fresh(shape, "payment_method");
    let last4 = &card.number[card.number.len() - 4..];
    set(&mut method, json!({"type": "card", "metadata": {}, "customer": null, "_number": card.number, "allow_redisplay": "unspecified"}));
    set(
        &mut method["card"],
        json!({"brand": card.brand, "display_brand": card.brand, "country": "US", "exp_month": 12, "exp_year": 2034,
               "fingerprint": ids::new("", 16), "funding": if card.number == "4000056655665556" { "debit" } else { "credit" },
               "last4": last4, "networks": {"available": [card.brand], "preferred": null},
               "checks": {"address_line1_check": null, "address_postal_code_check": null, "cvc_check": "pass"},
               "three_d_secure_usage": {"supported": true}}),
    );
    method
}

pub fn create(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    if call.text("type") != Some("card") {
        return Err(ApiError::invalid("The Stripe double knows payment methods of type card.").param("type"));
    }
    let given = call.params.get("card").ok_or_else(|| ApiError::missing_param("card"))?;
    let found = Card::numbered(text(given, "number")).or_else(|| Card::named(text(given, "token")));
    let wrong = || ApiError::card("incorrect_number", None, "Your card number is incorrect.").param("card[number]");
    let mut method = make(tx, found.ok_or_else(wrong)?, call.shape.clone());
    copy(&mut method["card"], given.as_object().expect("walked"), &["exp_month", "exp_year"]);
    if let Some(details) = call.params.get("billing_details").and_then(Value::as_object) {
        copy(&mut method["billing_details"], details, &["address", "email", "name", "phone"]);
    }
    merge_metadata(&mut method, call.params.get("metadata"));
    tx.put(method.clone());
    Ok(render(tx, &method))
}

pub fn update(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let before = tx.get("payment_method", call.id(), "id")?;
    let mut method = before.clone();
    merge_metadata(&mut method, call.params.get("metadata"));
    if let Some(details) = call.params.get("billing_details").and_then(Value::as_object) {
        copy(&mut method["billing_details"], details, &["address", "email", "name", "phone"]);
    }
    tx.put(method.clone());
    webhooks::emit(tx, "payment_method.updated", &method, Some(&before));
    Ok(render(tx, &method))
}

pub fn attach_call(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let customer = call.need("customer")?.to_owned();
    tx.get("customer", &customer, "customer")?;
    let method = ready(tx, call.id(), &customer)?;
    let method = save_attached(tx, method);
    Ok(render(tx, &method))
}

/// The payment method as the customer's, not yet saved. A test id such as `pm_card_visa` becomes a
/// payment method of its own, as it does at Stripe.
pub fn ready(tx: &Tx<'_>, id: &str, customer: &str) -> Result<Value, ApiError> {
    let mut method = match Card::named(id) {
        Some(card) => make(tx, card, tx.context.shapes["payment_method"].clone()),
        None => tx.get("payment_method", id, "payment_method")?,
    };
    let owner = method["customer"].as_str();
    if owner.is_some_and(|owner| owner != customer) || method["_detached"] == true {
        let message = "This PaymentMethod was previously used without being attached to a Customer or was detached from a \
                       Customer, and may not be used again.";
        return Err(ApiError::state("payment_method_unexpected_state", message));
    }
    if let Some(card) = Card::numbered(text(&method, "_number")) {
        card.saved()?;
    }
    method["customer"] = json!(customer);
    Ok(method)
}

pub fn save_attached(tx: &mut Tx<'_>, method: Value) -> Value {
    let already = tx.account.get(text(&method, "id")).is_some_and(|known| known["customer"] == method["customer"]);
    if !already {
        tx.put(method.clone());
        webhooks::emit(tx, "payment_method.attached", &method, None);
    }
    method
}

pub fn detach_call(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    let method = tx.get("payment_method", call.id(), "id")?;
    if method["customer"].is_null() {
        let message = "The payment method you provided is not attached to a customer so detachment is impossible.";
        return Err(ApiError::state("payment_method_unexpected_state", message));
    }
    let method = detach(tx, method);
    Ok(render(tx, &method))
}

/// Takes a payment method from its customer, who may have used it by default.
pub fn detach(tx: &mut Tx<'_>, before: Value) -> Value {
    let mut method = before.clone();
    set(&mut method, json!({"customer": null, "_detached": true}));
    tx.put(method.clone());
    if let Some(mut customer) = tx.account.get(text(&before, "customer")).cloned()
        && customer["invoice_settings"]["default_payment_method"] == method["id"]
    {
        customer["invoice_settings"]["default_payment_method"] = Value::Null;
        tx.put(customer);
    }
    webhooks::emit(tx, "payment_method.detached", &method, Some(&before));
    method
}
