//! Which route does what. A route that passes both walls and is not here has no state in the double.

use serde_json::{Map, Value, json};

use super::answers::{page, select};
use super::errors::ApiError;
use super::state::Tx;
use super::{account, checkout, credit_notes, customers, invoices, lines, payment_methods, payments, refunds, setup_intents, webhooks};

/// A request that passed both walls.
#[derive(Debug)]
pub struct Call {
    pub method: String,
    pub template: String,
    /// The values of the `{...}` parts of the path.
    pub ids: Vec<String>,
    pub params: Map<String, Value>,
    /// stripe-mock's answer.
    pub shape: Value,
}

impl Call {
    pub fn id(&self) -> &str {
        &self.ids[0]
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.params.get(name).and_then(Value::as_str)
    }

    /// A parameter that Stripe requires although its document does not say so.
    pub fn need(&self, name: &str) -> Result<&str, ApiError> {
        self.text(name).ok_or_else(|| ApiError::missing_param(name))
    }
}

/// Applies a request to the account's state; the answer is complete but for `expand`.
pub fn dispatch(tx: &mut Tx<'_>, call: &Call) -> Result<Value, ApiError> {
    match (call.method.as_str(), call.template.trim_start_matches("/v1/")) {
        ("POST", "customers") => customers::create(tx, call),
        ("GET", "customers") => list(tx, call, "customer"),
        ("GET", "customers/{customer}") => customers::get(tx, call),
        ("POST", "customers/{customer}") => customers::update(tx, call),
        ("DELETE", "customers/{customer}") => customers::delete(tx, call),
        ("POST", "customers/{customer}/balance_transactions") => customers::adjust_balance(tx, call),
        ("GET", "customers/{customer}/balance_transactions") => of_customer(tx, call, "customer_balance_transaction"),
        ("GET", "customers/{customer}/balance_transactions/{transaction}") => second(tx, call, "customer_balance_transaction"),
        ("POST", "customers/{customer}/tax_ids") => customers::add_tax_id(tx, call),
        ("GET", "customers/{customer}/tax_ids") => of_customer(tx, call, "tax_id"),
        ("GET", "customers/{customer}/tax_ids/{id}") => second(tx, call, "tax_id"),
        ("DELETE", "customers/{customer}/tax_ids/{id}") => customers::delete_tax_id(tx, call),
        ("GET", "customers/{customer}/payment_methods") => of_customer(tx, call, "payment_method"),
        ("GET", "customers/{customer}/payment_methods/{payment_method}") => second(tx, call, "payment_method"),

        ("POST", "payment_methods") => payment_methods::create(tx, call),
        ("GET", "payment_methods") => list(tx, call, "payment_method"),
        ("GET", "payment_methods/{payment_method}") => one(tx, call, "payment_method"),
        ("POST", "payment_methods/{payment_method}") => payment_methods::update(tx, call),
        ("POST", "payment_methods/{payment_method}/attach") => payment_methods::attach_call(tx, call),
        ("POST", "payment_methods/{payment_method}/detach") => payment_methods::detach_call(tx, call),

        ("POST", "setup_intents") => setup_intents::create(tx, call),
        ("GET", "setup_intents") => list(tx, call, "setup_intent"),
        ("GET", "setup_intents/{intent}") => one(tx, call, "setup_intent"),
        ("POST", "setup_intents/{intent}/confirm") => setup_intents::confirm_call(tx, call),
        ("POST", "setup_intents/{intent}/cancel") => setup_intents::cancel(tx, call),

        ("POST", "checkout/sessions") => checkout::create(tx, call),
        ("GET", "checkout/sessions") => list(tx, call, "checkout.session"),
        ("GET", "checkout/sessions/{session}") => one(tx, call, "checkout.session"),
        ("POST", "checkout/sessions/{session}/expire") => checkout::expire_call(tx, call),
        ("POST", "billing_portal/sessions") => account::portal_session(tx, call),

        ("POST", "invoices") => invoices::create(tx, call),
        ("GET", "invoices") => list(tx, call, "invoice"),
        ("GET", "invoices/{invoice}") => one(tx, call, "invoice"),
        ("POST", "invoices/{invoice}") => invoices::update(tx, call),
        ("DELETE", "invoices/{invoice}") => invoices::delete(tx, call),
        ("POST", "invoices/{invoice}/add_lines") => lines::add(tx, call),
        ("POST", "invoices/{invoice}/update_lines") => lines::update(tx, call),
        ("POST", "invoices/{invoice}/remove_lines") => lines::remove(tx, call),
        ("POST", "invoices/{invoice}/lines/{line_item_id}") => lines::update_one(tx, call),
        ("GET", "invoices/{invoice}/lines") => lines::list(tx, call, "invoice"),
        ("POST", "invoices/{invoice}/finalize") => invoices::finalize_call(tx, call),
        ("POST", "invoices/{invoice}/pay") => payments::pay(tx, call),
        ("POST", "invoices/{invoice}/send") => invoices::send(tx, call),
        ("POST", "invoices/{invoice}/void") => invoices::void(tx, call),
        ("POST", "invoices/{invoice}/mark_uncollectible") => invoices::mark_uncollectible(tx, call),
        ("GET", "invoice_payments") => list(tx, call, "invoice_payment"),
        ("GET", "invoice_payments/{invoice_payment}") => one(tx, call, "invoice_payment"),

        ("POST", "credit_notes") => credit_notes::create(tx, call),
        ("GET", "credit_notes") => list(tx, call, "credit_note"),
        ("GET", "credit_notes/{id}") => one(tx, call, "credit_note"),
        ("GET", "credit_notes/{credit_note}/lines") => lines::list(tx, call, "credit_note"),
        ("POST", "credit_notes/{id}/void") => credit_notes::void(tx, call),

        ("GET", "payment_intents") => list(tx, call, "payment_intent"),
        ("GET", "payment_intents/{intent}") => one(tx, call, "payment_intent"),
        ("GET", "charges") => list(tx, call, "charge"),
        ("GET", "charges/{charge}") => one(tx, call, "charge"),
        ("POST", "refunds") => refunds::create(tx, call),
        ("GET", "refunds") => list(tx, call, "refund"),
        ("GET", "refunds/{refund}") => one(tx, call, "refund"),
        ("GET", "disputes") => list(tx, call, "dispute"),
        ("GET", "disputes/{dispute}") => one(tx, call, "dispute"),
        ("POST", "disputes/{dispute}") => refunds::answer_dispute(tx, call),
        ("POST", "disputes/{dispute}/close") => refunds::close_dispute(tx, call),
        ("GET", "balance") => Ok(account::balance(tx, call)),
        ("GET", "account") => Ok(account::get(tx, call)),
        ("GET", "tax_rates") => list(tx, call, "tax_rate"),
        ("GET", "tax_rates/{tax_rate}") => one(tx, call, "tax_rate"),

        ("POST", "test_helpers/test_clocks") => Ok(account::test_clock(tx, call)),
        ("GET", "test_helpers/test_clocks") => list(tx, call, "test_helpers.test_clock"),
        ("GET", "test_helpers/test_clocks/{test_clock}") => one(tx, call, "test_helpers.test_clock"),
        ("POST", "test_helpers/test_clocks/{test_clock}/advance") => account::advance_test_clock(tx, call),

        ("GET", "events") => list(tx, call, "event"),
        ("GET", "events/{id}") => one(tx, call, "event"),
        ("POST", "webhook_endpoints") => webhooks::create(tx, call),
        ("GET", "webhook_endpoints") => list(tx, call, "webhook_endpoint"),
        ("GET", "webhook_endpoints/{webhook_endpoint}") => one(tx, call, "webhook_endpoint"),
        ("POST", "webhook_endpoints/{webhook_endpoint}") => webhooks::update(tx, call),
        ("DELETE", "webhook_endpoints/{webhook_endpoint}") => webhooks::delete(tx, call),

        (method, route) => {
            Err(ApiError::invalid(format!("The Stripe double keeps no state for {method} /v1/{route}.")).code("double_unsupported"))
        }
    }
}

fn one(tx: &Tx<'_>, call: &Call, kind: &str) -> Result<Value, ApiError> {
    tx.get(kind, call.id(), "id").map(|object| super::answers::render(tx, &object))
}

/// An object below a customer's path.
fn second(tx: &Tx<'_>, call: &Call, kind: &str) -> Result<Value, ApiError> {
    let object = tx.get(kind, &call.ids[1], "id")?;
    if object["customer"] == call.id() {
        return Ok(super::answers::render(tx, &object));
    }
    Err(ApiError::no_such(kind, &call.ids[1], "id"))
}

fn list(tx: &Tx<'_>, call: &Call, kind: &str) -> Result<Value, ApiError> {
    page(tx, &select(tx, kind, &call.params), &call.params, &call.template)
}

fn of_customer(tx: &Tx<'_>, call: &Call, kind: &str) -> Result<Value, ApiError> {
    tx.get("customer", call.id(), "id")?;
    let mut filter = call.params.clone();
    filter.insert("customer".to_owned(), json!(call.id()));
    page(tx, &select(tx, kind, &filter), &call.params, &call.template.replace("{customer}", call.id()))
}
