//! What happens at Stripe without a request: automatic charges, expiry, overdue invoices, webhooks.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::server::Double;
use super::state::{Origin, Tx, int, machine_millis, text};
use super::{checkout, idempotency, invoices, payments, webhooks};

/// How often the clocks are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Deliveries under way at once.
const COURIERS: usize = 32;

/// Runs for as long as the double.
pub async fn run(double: Arc<Double>) {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).redirect(reqwest::redirect::Policy::none());
    let client = client.build().expect("a client without options that can fail");
    let under_way = Arc::new(Mutex::new(HashSet::new()));
    let mut tick = tokio::time::interval(TICK);
    let mut ticks = 0_u64;
    loop {
        tick.tick().await;
        ticks += 1;
        for account in double.accounts() {
            double.transact(&account, Origin::default(), due);
            deliver(&double, &client, &under_way, &account);
        }
        if ticks.is_multiple_of(20) {
            double.flush();
        }
    }
}

/// Everything in an account whose time has come.
fn due(tx: &mut Tx<'_>) {
    idempotency::prune(tx);
    let has_come = |tx: &Tx<'_>, object: &Value, name: &str| object[name].as_i64().is_some_and(|at| at <= tx.time_of(object));
    let (mut charges, mut finals, mut overdue) = (Vec::new(), Vec::new(), Vec::new());
    for invoice in tx.account.all("invoice") {
        match text(invoice, "status") {
            "open" if has_come(tx, invoice, "next_payment_attempt") => charges.push(invoice.clone()),
            "open" if invoice["_overdue"].is_null() && has_come(tx, invoice, "due_date") => overdue.push(invoice.clone()),
            "draft" if has_come(tx, invoice, "automatically_finalizes_at") => finals.push(invoice.clone()),
            _ => {}
        }
    }
    for invoice in charges {
        // A refusal leaves its traces by itself.
        if let Err(error) = payments::collect(tx, invoice.clone(), None)
            && error.kind != "card_error"
            && tx.account.get(text(&invoice, "id")).is_some_and(|now| *now == invoice)
        {
            let mut stuck = invoice;
            stuck["next_payment_attempt"] = Value::Null;
            tx.put(stuck);
        }
    }
    for invoice in finals {
        invoices::finalize(tx, invoice);
    }
    for mut invoice in overdue {
        invoice["_overdue"] = json!(true);
        tx.put(invoice.clone());
        webhooks::emit(tx, "invoice.overdue", &invoice, None);
    }
    let expired = |session: &&Value| session["status"] == "open" && int(session, "expires_at") <= tx.now;
    let sessions: Vec<Value> = tx.account.all("checkout.session").filter(expired).cloned().collect();
    for session in sessions {
        checkout::expire(tx, session);
    }
}

type UnderWay = Arc<Mutex<HashSet<String>>>;

/// Sends what is due and not under way, earliest first.
fn deliver(double: &Arc<Double>, client: &reqwest::Client, under_way: &UnderWay, account: &str) {
    for (delivery, endpoint, event) in double.due_deliveries(account, machine_millis()) {
        let id = text(&delivery, "id").to_owned();
        {
            let mut sending = under_way.lock().expect("no holder panics");
            if sending.len() >= COURIERS || !sending.insert(id.clone()) {
                continue;
            }
        }
        let (double, client, under_way, account) = (double.clone(), client.clone(), under_way.clone(), account.to_owned());
        tokio::spawn(async move {
            let delivered = post(&client, &endpoint, &event).await;
            double.transact(&account, Origin::default(), |tx| webhooks::attempted(tx, &delivery, delivered));
            under_way.lock().expect("no holder panics").remove(&id);
        });
    }
}

async fn post(client: &reqwest::Client, endpoint: &Value, event: &Value) -> bool {
    let payload = webhooks::payload(event, endpoint);
    let signature = webhooks::signature(text(endpoint, "_secret"), machine_millis() / 1000, &payload);
    let request = client
        .post(text(endpoint, "url"))
        .header("Content-Type", "application/json; charset=utf-8")
        .header("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
        .header("Stripe-Signature", signature)
        .body(payload);
    match request.send().await {
        Ok(response) => response.status().is_success(),
        Err(error) => {
            tracing::debug!(url = text(endpoint, "url"), %error, "webhook not delivered, will be tried again");
            false
        }
    }
}
