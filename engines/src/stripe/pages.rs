//! The pages Stripe hosts: Checkout, an invoice to pay, the way back from the billing portal.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::{Form, Router, routing};
use serde::Deserialize;
use serde_json::Value;

use super::payment_methods::Card;
use super::server::Double;
use super::state::{Origin, int, text};
use super::{checkout, limits, payment_methods, payments};

pub fn routes() -> Router<Arc<Double>> {
    Router::new()
        .route("/c/pay/{id}", routing::get(checkout_page).post(checkout_sent))
        .route("/i/{id}", routing::get(invoice_page).post(invoice_sent))
        .route("/p/session/{id}", routing::get(portal))
}

#[derive(Deserialize)]
struct CardForm {
    #[serde(rename = "cardNumber")]
    number: String,
    #[serde(default, rename = "billingName")]
    name: String,
}

async fn checkout_page(State(double): State<Arc<Double>>, Path(id): Path<String>) -> Response {
    match double.find(&id) {
        Some((_, session)) if session["status"] == "open" => checkout_form(&session, None).into_response(),
        Some((_, session)) => {
            let why = format!("This session is {}.", text(&session, "status"));
            (StatusCode::GONE, page("Checkout", &format!("<p>{why} Close this page.</p>"))).into_response()
        }
        None => missing(),
    }
}

async fn checkout_sent(State(double): State<Arc<Double>>, Path(id): Path<String>, Form(form): Form<CardForm>) -> Response {
    let Some((account, session)) = double.find(&id) else { return missing() };
    let done = double.transact(&account, Origin::default(), |tx| checkout::complete(tx, &id, &form.number, form.name.trim()));
    match done {
        Ok(next) => Redirect::to(&next).into_response(),
        Err(error) => (StatusCode::PAYMENT_REQUIRED, checkout_form(&session, Some(&error.message))).into_response(),
    }
}

fn checkout_form(session: &Value, complaint: Option<&str>) -> Html<String> {
    let back = match session["cancel_url"].as_str() {
        Some(url) => format!(r#"<p><a href="{}">← Back</a></p>"#, escape(url)),
        None => String::new(),
    };
    let email = escape(text(&session["customer_details"], "email"));
    let body = format!(
        "{back}<h1>Save your card</h1><p class=quiet>{email}</p>{}<p class=quiet>The card is charged when an invoice is due.</p>",
        card_form("Save card", complaint)
    );
    page("Checkout", &body)
}

async fn invoice_page(State(double): State<Arc<Double>>, Path(id): Path<String>) -> Response {
    match double.find(&id) {
        Some((_, invoice)) => invoice_form(&invoice, None).into_response(),
        None => missing(),
    }
}

async fn invoice_sent(State(double): State<Arc<Double>>, Path(id): Path<String>, Form(form): Form<CardForm>) -> Response {
    let Some((account, invoice)) = double.find(&id) else { return missing() };
    let Some(card) = Card::numbered(&form.number) else {
        return (StatusCode::PAYMENT_REQUIRED, invoice_form(&invoice, Some("Your card number is invalid."))).into_response();
    };
    let done = double.transact(&account, Origin::default(), |tx| {
        let invoice = tx.get("invoice", &id, "id")?;
        if invoice["status"] != "open" {
            return Ok(invoice);
        }
        let method = payment_methods::make(tx, card, tx.context.shapes["payment_method"].clone());
        tx.put(method.clone());
        payments::collect(tx, invoice, Some(text(&method, "id")))
    });
    match done {
        Ok(invoice) => invoice_form(&invoice, None).into_response(),
        Err(error) => (StatusCode::PAYMENT_REQUIRED, invoice_form(&invoice, Some(&error.message))).into_response(),
    }
}

fn invoice_form(invoice: &Value, complaint: Option<&str>) -> Html<String> {
    let (number, status) = (escape(text(invoice, "number")), text(invoice, "status"));
    let amount = limits::shown(int(invoice, "amount_remaining"), text(invoice, "currency"));
    let body = match status {
        "open" => {
            format!("<h1>Invoice {number}</h1><p>{amount} due</p>{}", card_form("Pay", complaint))
        }
        status => format!("<h1>Invoice {number}</h1><p>This invoice is {status}.</p>"),
    };
    page("Invoice", &body)
}

async fn portal(State(double): State<Arc<Double>>, Path(id): Path<String>) -> Response {
    let Some((_, session)) = double.find(&id) else { return missing() };
    let back = match session["return_url"].as_str() {
        Some(url) => format!(r#"<p><a href="{}">← Back</a></p>"#, escape(url)),
        None => String::new(),
    };
    page("Billing", &format!("{back}<h1>Billing</h1><p>Nothing can be changed here.</p>")).into_response()
}

fn missing() -> Response {
    (StatusCode::NOT_FOUND, page("Not found", "<h1>Nothing is here</h1>")).into_response()
}

fn card_form(button: &str, complaint: Option<&str>) -> String {
    let complaint = complaint.map(|text| format!("<p class=error role=alert>{}</p>", escape(text))).unwrap_or_default();
    format!(
        r#"<form method=post>{complaint}
<label>Card number<input id=cardNumber name=cardNumber inputmode=numeric autocomplete=cc-number placeholder="4242 4242 4242 4242" required autofocus></label>
<div class=pair><label>Expiry<input id=cardExpiry name=cardExpiry autocomplete=cc-exp placeholder="12 / 34" required></label>
<label>CVC<input id=cardCvc name=cardCvc inputmode=numeric autocomplete=cc-csc placeholder="123" required></label></div>
<label>Name on card<input id=billingName name=billingName autocomplete=cc-name required></label>
<button type=submit>{button}</button></form>"#
    )
}

fn page(title: &str, body: &str) -> Html<String> {
    Html(format!(
        r#"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1">
<title>{title}</title><style>{STYLE}</style><main><p class=test>Test mode</p>{body}</main></html>"#
    ))
}

const STYLE: &str = "
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif;--line:light-dark(#d5dbe1,#3c4257);--quiet:light-dark(#5c6370,#a3acb9)}
body{margin:0;background:light-dark(#f6f8fa,#14171f)}
main{max-width:26rem;margin:3rem auto;padding:2rem;background:light-dark(#fff,#1c202b);border:1px solid var(--line);border-radius:12px}
h1{font-size:1.4rem;margin:.2rem 0}.quiet{color:var(--quiet);font-size:.9rem}.pair{display:grid;grid-template-columns:1fr 1fr;gap:.8rem}
label{display:block;margin:.8rem 0;font-size:.9rem}
input{box-sizing:border-box;width:100%;margin-top:.25rem;padding:.6rem;font:inherit;border:1px solid var(--line);border-radius:6px}
button{width:100%;padding:.7rem;margin-top:.6rem;font:inherit;font-weight:600;color:#fff;background:#0a5fd4;border:0;border-radius:6px;cursor:pointer}
.error{color:light-dark(#b3093c,#ff8fa3)}.test{display:inline-block;margin:0;padding:0 .5rem;font-size:.75rem;border:1px solid;border-radius:4px;color:light-dark(#8a4b00,#f5b95c)}
@media(max-width:30rem){main{margin:0;border:0;border-radius:0;min-height:100vh}}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
