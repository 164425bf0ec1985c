//! Credit notes, refunds and disputes: ours and Stripe's agree to the cent, whatever Stripe answers, and the books balance
//! after every step.

use std::collections::BTreeMap;
use std::time::Duration;

use bigdecimal::BigDecimal;
use farebox_billing::credit_notes::{self, CreditNote, NewCreditNote, Settles, State as NoteState, To};
use farebox_billing::invoices::{Invoice, State};
use farebox_billing::reversals::{disputes, refunds};
use farebox_billing::stripe::endpoint::register_webhook;
use farebox_billing::{credits, ledger, reconcile};
use farebox_core::ids::{CreditNoteId, InvoiceId};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::finance::{self, second_opinion};
use crate::harness::{Suite, eventually};
use crate::stripe::Shop;

const IN_TIME: Duration = Duration::from_secs(60);

fn part(invoice: &Invoice, line: usize, amount: &str) -> NewCreditNote {
    let amount = amount.parse::<BigDecimal>().expect("a decimal");
    NewCreditNote { lines: vec![(invoice.lines[line].id.clone(), Some(amount))], ..NewCreditNote::default() }
}

async fn credit(shop: &Shop, invoice: &InvoiceId, new: &NewCreditNote) -> Result<CreditNote, String> {
    credit_notes::credit(&shop.app, &shop.workspace, invoice, new, "a test").await.map_err(|e| e.to_string())
}

/// What every account of the books holds, in cents. A journal that does not balance would not be there.
async fn books(shop: &Shop) -> BTreeMap<String, i64> {
    ledger::settle(&shop.app.pg, &shop.workspace).await.expect("booked");
    let sql = "SELECT account, sum(amount_minor)::bigint FROM ledger_postings WHERE workspace_id = $1 GROUP BY account HAVING sum(amount_minor) <> 0";
    let rows: Vec<(String, i64)> = sqlx::query_as(sql).bind(shop.workspace.as_str()).fetch_all(&shop.app.pg).await.expect("PostgreSQL");
    assert_eq!(rows.iter().map(|(_, sum)| sum).sum::<i64>(), 0, "{rows:?}");
    rows.into_iter().collect()
}

fn accounts(expected: &[(&str, i64)]) -> BTreeMap<String, i64> {
    expected.iter().map(|(account, sum)| ((*account).to_owned(), *sum)).collect()
}

/// An open invoice of 72.99 (49.00 and 12.34 with 19 % on top): less is to be paid, then nothing. Stripe has the same notes,
/// each once, although it fails in every way in between.
pub async fn an_open_invoice_asks_for_less(suite: &Suite) {
    let shop = Shop::open(&suite.app, "credited").await;
    let faults = [
        json!({"kind": "drop"}),
        json!({"kind": "error_before"}),
        json!({"kind": "stored_error", "applied": true}),
        json!({"kind": "stored_error", "applied": false}),
        json!({"kind": "conflict"}),
        json!({"kind": "rate_limit", "retry_after": 1}),
    ];
    let id = shop.issue(0).await;
    shop.connect().await;
    let invoice = shop.when_pushed(&id).await;
    for fault in &faults {
        shop.order("faults", json!({"method": "POST", "path": "/v1/credit_notes", "fault": fault})).await;
        let note = credit(&shop, &id, &part(&invoice, 0, "1.00")).await.expect("asked for");
        let note = eventually(&format!("the credit note, with {fault}"), IN_TIME, || async {
            Some(note_of(&shop, &note.id).await).filter(|note| note.state == NoteState::Issued)
        })
        .await;
        assert_eq!((note.subtotal.minor, note.tax.minor, note.total.minor, note.settles), (100, 19, 119, Settles::Open));
    }
    let there = shop.at_stripe("credit_notes").await;
    assert_eq!(there.iter().map(|note| note["total"].as_i64().expect("a number")).collect::<Vec<_>>(), vec![119; faults.len()]);
    assert_eq!(there[0]["lines"]["data"][0]["taxes"][0]["amount"], json!(19), "with its tax");
    let numbers: Vec<_> = notes(&shop, &id).await.into_iter().filter_map(|note| note.number).collect();
    assert_eq!(numbers, (1..=6).rev().map(|n| format!("INV-CN-{n:06}")).collect::<Vec<_>>(), "a series without gaps");
    assert_eq!(shop.at_stripe("invoices").await[0]["amount_remaining"], json!(7299 - 6 * 119));
    let ours = shop.invoice(&id).await;
    assert_eq!((ours.state, ours.credited.minor, ours.due().minor), (State::Issued, 714, 6585));
    assert_eq!(books(&shop).await, accounts(&[("receivable", 6585), ("revenue", -5534), ("tax_payable", -1051)]));

    // More than is left is refused, with what is left; nothing was asked of Stripe.
    let refused = credit(&shop, &id, &part(&invoice, 0, "43.01")).await.expect_err("too much");
    assert!(refused.contains("at most 43.00"), "{refused}");
    let whole = credit(&shop, &id, &NewCreditNote::default()).await.expect("the rest");
    assert_eq!(whole.total.minor, 6585);
    assert_eq!(shop.invoice(&id).await.state, State::Paid);
    assert_eq!(shop.at_stripe("invoices").await[0]["status"], "paid");
    assert_eq!(books(&shop).await, BTreeMap::new(), "as if it had never been");
    let again = credit(&shop, &id, &NewCreditNote { to: Some(To::Refund), ..NewCreditNote::default() }).await.expect_err("nothing left");
    assert!(again.contains("between 0 and 0.00 is left"), "{again}");
    let changed = sqlx::query("UPDATE credit_notes SET total_minor = 1, subtotal_minor = 1, tax_minor = 0 WHERE id = $1")
        .bind(whole.id.as_str())
        .execute(&shop.app.pg)
        .await;
    assert!(changed.expect_err("a document never changes").to_string().contains("never changes"));
}

async fn notes(shop: &Shop, invoice: &InvoiceId) -> Vec<CreditNote> {
    let mut conn = shop.app.pg.acquire().await.expect("PostgreSQL");
    credit_notes::of_invoice(&mut conn, &shop.workspace, invoice).await.expect("PostgreSQL")
}

async fn note_of(shop: &Shop, id: &CreditNoteId) -> CreditNote {
    let mut conn = shop.app.pg.acquire().await.expect("PostgreSQL");
    credit_notes::get(&mut conn, &shop.workspace, id).await.expect("PostgreSQL").expect("is there")
}

async fn when_void(shop: &Shop, id: &CreditNoteId, what: &str) {
    eventually(what, IN_TIME, || async { Some(note_of(shop, id).await).filter(|note| note.state == NoteState::Void) }).await;
}

/// A note that should not have been made is voided, at Stripe too, whatever Stripe answers, or by someone in its dashboard; but
/// not once its invoice is paid, even in this very moment.
pub async fn a_credit_note_is_voided(suite: &Suite) {
    let shop = Shop::open(&suite.app, "unsaid").await;
    let faults = [
        json!({"kind": "drop"}),
        json!({"kind": "error_before"}),
        json!({"kind": "stored_error", "applied": true}),
        json!({"kind": "stored_error", "applied": false}),
        json!({"kind": "conflict"}),
        json!({"kind": "rate_limit", "retry_after": 1}),
    ];
    let id = shop.issue(0).await;
    shop.connect().await;
    register_webhook(&suite.app, &shop.workspace).await.expect("registered").expect("reachable");
    let invoice = shop.when_pushed(&id).await;
    let before = books(&shop).await;
    let void =
        async |note: &CreditNote| credit_notes::void(&shop.app, &shop.workspace, &note.id, "a test").await.map_err(|e| e.to_string());
    for fault in &faults {
        let note = credit(&shop, &id, &part(&invoice, 0, "1.00")).await.expect("issued");
        shop.order("faults", json!({"method": "POST", "path": "/v1/credit_notes/*/void", "fault": fault})).await;
        void(&note).await.expect("asked for");
        when_void(&shop, &note.id, &format!("the voiding, with {fault}")).await;
        assert_eq!(void(&note).await.expect("no news").state, NoteState::Void);
    }
    let note = credit(&shop, &id, &part(&invoice, 0, "1.00")).await.expect("issued");
    shop.in_the_dashboard(&format!("credit_notes/{}/void", note.stripe_id.as_deref().expect("there")), &[]).await;
    when_void(&shop, &note.id, "the voiding in the dashboard").await;
    let there = shop.at_stripe("credit_notes").await;
    assert_eq!(there.iter().map(|note| note["status"].as_str()).collect::<Vec<_>>(), vec![Some("void"); faults.len() + 1]);
    assert_eq!(shop.at_stripe("invoices").await[0]["amount_remaining"], json!(7299));
    let ours = shop.invoice(&id).await;
    assert_eq!((ours.state, ours.credited.minor, ours.due().minor), (State::Issued, 0, 7299));
    assert_eq!(books(&shop).await, before, "as if none had ever been");
    assert!(reconcile::reconcile(&shop.app, &shop.workspace).await.expect("compared"));
    let compared = reconcile::summary(&shop.app.pg, &shop.workspace).await.expect("PostgreSQL").expect("a comparison");
    assert_eq!((compared.compared, compared.different), (1, 0), "{compared:?}");
    let changed = sqlx::query("UPDATE credit_notes SET state = 'issued', voided_at = NULL WHERE id = $1")
        .bind(note.id.as_str())
        .execute(&shop.app.pg)
        .await;
    assert!(changed.expect_err("void stays void").to_string().contains("never changes"));

    // All of a line can be credited again, and what is paid with it stays.
    let whole = credit(&shop, &id, &NewCreditNote::default()).await.expect("the whole");
    assert_eq!(whole.total.minor, 7299);
    let refused = void(&whole).await.expect_err("its invoice is paid");
    assert!(refused.contains("not open any more"), "{refused}");

    let unaware = Shop::open(&suite.app, "unawares").await;
    unaware.connect().await;
    let late = unaware.issue(0).await;
    let invoice = unaware.when_pushed(&late).await;
    let note = credit(&unaware, &late, &part(&invoice, 0, "10.00")).await.expect("issued");
    unaware.hears_nothing().await;
    let there = invoice.stripe_id.clone().expect("pushed");
    unaware.in_the_dashboard(&format!("invoices/{there}/pay"), &[("paid_out_of_band", "true")]).await;
    let refused = credit_notes::void(&unaware.app, &unaware.workspace, &note.id, "a test").await.expect_err("it is paid").to_string();
    assert!(refused.contains("stays as it is. Stripe refused"), "{refused}");
    let kept = note_of(&unaware, &note.id).await;
    assert_eq!((kept.state, kept.voiding_since), (NoteState::Issued, None));
    assert_eq!(unaware.invoice(&late).await.state, State::Paid);
    assert_eq!(books(&unaware).await, accounts(&[("cash", 6109), ("revenue", -5134), ("tax_payable", -975)]));
}

/// A paid invoice is given back in parts: to the card, to the balance, by hand; and one that was paid in this very moment is
/// not credited as if it were open.
pub async fn a_paid_invoice_is_given_back(suite: &Suite) {
    let shop = Shop::open(&suite.app, "refunded").await;
    shop.connect().await;
    register_webhook(&suite.app, &shop.workspace).await.expect("registered").expect("reachable");
    shop.give_card().await;
    let id = shop.issue(0).await;
    let invoice = shop.when_paid(&id).await;
    let to = |to, new: NewCreditNote| NewCreditNote { to: Some(to), ..new };

    let unsaid = credit(&shop, &id, &part(&invoice, 0, "10.00")).await.expect_err("where to?");
    assert!(unsaid.starts_with("/to: "), "{unsaid}");
    let refunded = credit(&shop, &id, &to(To::Refund, part(&invoice, 0, "10.00"))).await.expect("refunded");
    assert_eq!((refunded.state, refunded.total.minor), (NoteState::Issued, 1190));
    let list = async || {
        let mut conn = shop.app.pg.acquire().await.expect("PostgreSQL");
        refunds::list(&mut conn, &shop.workspace, Some(id.as_str())).await.expect("PostgreSQL")
    };
    let found = list().await;
    assert_eq!((found.len(), found[0].amount.minor, found[0].state.as_str()), (1, 1190, "succeeded"));
    assert_eq!(found[0].credit_note.as_ref(), Some(&refunded.id));
    assert_eq!(shop.at_stripe("charges").await[0]["amount_refunded"], json!(1190));
    assert_eq!(books(&shop).await, accounts(&[("cash", 6109), ("revenue", -5134), ("tax_payable", -975)]));

    // To the balance: Stripe is told that it is settled elsewhere, and the grant is money already taxed.
    let kept = credit(&shop, &id, &to(To::Balance, part(&invoice, 1, "2.34"))).await.expect("kept");
    assert_eq!(kept.total.minor, 278);
    let mut conn = shop.app.pg.acquire().await.expect("PostgreSQL");
    let grants = credits::list(&mut conn, &shop.workspace, None).await.expect("PostgreSQL");
    assert_eq!(grants.iter().map(|grant| (grant.balance.minor, grant.taxed)).collect::<Vec<_>>(), [(278, true)]);
    drop(conn);
    assert_eq!(shop.at_stripe("credit_notes").await[0]["out_of_band_amount"], json!(278));
    assert_eq!(books(&shop).await, accounts(&[("cash", 6109), ("customer_credit", -278), ("revenue", -4900), ("tax_payable", -931)]));

    // Someone refunds in Stripe's dashboard: it is recorded without a document, and the document follows.
    let charge = shop.at_stripe("charges").await[0]["id"].as_str().expect("an id").to_owned();
    shop.in_the_dashboard("refunds", &[("charge", &charge), ("amount", "2380")]).await;
    eventually("the refund", IN_TIME, || async { Some(list().await).filter(|found| found.len() == 2 && found[0].succeeded_at.is_some()) })
        .await;
    assert_eq!(books(&shop).await.get("customer_credit"), Some(&(2380 - 278)), "given back without a reason");
    credit(&shop, &id, &to(To::OutOfBand, part(&invoice, 0, "20.00"))).await.expect("its document");
    assert!(list().await.iter().all(|refund| refund.credit_note.is_some()));
    assert_eq!(books(&shop).await, accounts(&[("cash", 3729), ("customer_credit", -278), ("revenue", -2900), ("tax_payable", -551)]));

    // Paid in this moment, and we do not know yet: Stripe refuses, nothing is credited, and we know.
    let unaware = Shop::open(&suite.app, "unaware").await;
    unaware.connect().await;
    let late = unaware.issue(0).await;
    let invoice = unaware.when_pushed(&late).await;
    unaware.hears_nothing().await;
    let there = invoice.stripe_id.clone().expect("pushed");
    unaware.in_the_dashboard(&format!("invoices/{there}/pay"), &[("paid_out_of_band", "true")]).await;
    let refused = credit(&unaware, &late, &part(&invoice, 0, "10.00")).await.expect_err("it is paid");
    assert!(refused.contains("Nothing was credited. Stripe refused"), "{refused}");
    assert_eq!(unaware.invoice(&late).await.state, State::Paid);
    assert_eq!(notes(&unaware, &late).await[0].state, NoteState::Refused);
    assert_eq!(books(&unaware).await, accounts(&[("cash", 7299), ("revenue", -6134), ("tax_payable", -1165)]));
}

/// The bank takes the money when a payment is disputed, and it is back or lost when that is decided.
pub async fn disputes_are_recorded(suite: &Suite) {
    let shop = Shop::open(&suite.app, "disputed").await;
    shop.connect().await;
    register_webhook(&suite.app, &shop.workspace).await.expect("registered").expect("reachable");
    shop.give_this_card("4000000000000259").await;
    let list = async || {
        let mut conn = shop.app.pg.acquire().await.expect("PostgreSQL");
        disputes::list(&mut conn, &shop.workspace, None).await.expect("PostgreSQL")
    };
    let (first, second) = (shop.issue(0).await, shop.issue(0).await);
    shop.when_paid(&first).await;
    shop.when_paid(&second).await;
    let open = eventually("both disputes", IN_TIME, || async { Some(list().await).filter(|found| found.len() == 2) }).await;
    assert!(open.iter().all(|dispute| dispute.state == "needs_response" && dispute.withdrawn_at.is_some()));
    assert_eq!(books(&shop).await, accounts(&[("disputed", 2 * 7299), ("revenue", -2 * 6134), ("tax_payable", -2 * 1165)]));
    let of = |invoice: &InvoiceId| open.iter().find(|dispute| dispute.invoice == *invoice).expect("a dispute").id.clone();
    shop.in_the_dashboard(&format!("disputes/{}", of(&first)), &[("evidence[uncategorized_text]", "winning_evidence")]).await;
    shop.in_the_dashboard(&format!("disputes/{}/close", of(&second)), &[]).await;
    eventually("both decisions", IN_TIME, || async { Some(list().await).filter(|found| found.iter().all(|d| d.closed_at.is_some())) })
        .await;
    assert_eq!(books(&shop).await, accounts(&[("bad_debt", 7299), ("cash", 7299), ("revenue", -2 * 6134), ("tax_payable", -2 * 1165)]));
    assert_eq!(shop.invoice(&first).await.state, State::Paid, "an invoice whose payment is disputed was paid");
}

/// Without Stripe, through the API: the document in every medium, the e-invoice by its norm, the report, and refusals.
pub async fn a_credit_note_is_a_document(suite: &Suite) {
    let tenant = finance::closed(suite).await;
    let invoice = finance::issued(&tenant, "initech").await.remove(0);
    let (id, usage) = (invoice["id"].as_str().expect("an id"), &invoice["lines"].as_array().expect("lines")[2]);
    let line = usage["id"].as_str().expect("an id");
    let post = async |id: &str, body: Value| {
        let answer = tenant.call(Method::POST, &format!("/api/v1/invoices/{id}/credit-notes")).json(&body).send().await.expect("an answer");
        (answer.status(), answer.json::<Value>().await.expect("JSON"))
    };
    let number = invoice["number"].as_str().expect("a number");
    let (status, note) = post(number, json!({"lines": [{"line": line, "amount": "0.50"}], "memo": "Four calls were our own tests."})).await;
    assert_eq!(status, StatusCode::CREATED, "{note}");
    let expected = json!({"state": "issued", "number": "ACME-CN-000001", "invoice_number": invoice["number"], "settles": "open",
        "subtotal": "0.50", "tax": "0.10", "total": "0.60"});
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(note[name], *value, "{name}");
    }
    assert_eq!(tenant.get(&format!("/api/v1/invoices/{id}")).await["credited"], "0.60");
    let note_id = note["id"].as_str().expect("an id").to_owned();
    assert_eq!(tenant.get("/api/v1/credit-notes/ACME-CN-000001").await["id"], note["id"], "by its number, too");
    let document = async |format: &str| {
        let path = format!("/api/v1/credit-notes/{note_id}/document?format={format}");
        let answer = tenant.call(Method::GET, &path).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        answer.bytes().await.expect("whole").to_vec()
    };
    let (pdf, html) = (document("pdf").await, document("html").await);
    assert!(pdf.starts_with(b"%PDF-"));
    std::fs::write(suite.data.join("credit-note.pdf"), &pdf).expect("written");
    let shown = String::from_utf8(html.clone()).expect("UTF-8");
    for part in
        ["Credit note", "Corrects invoice", "ACME-CN-000001", "VAT 19 % on 0.50", "Four calls were our own tests.", "less is to be paid"]
    {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert_eq!((document("pdf").await, document("html").await), (pdf, html));
    let einvoice = document("ubl").await;
    let file = suite.data.join("credit-note.xml");
    std::fs::write(&file, &einvoice).expect("written");
    let (valid, said) = second_opinion(&["-m", "peppol.cli", file.to_str().expect("UTF-8")]).await;
    assert!(valid, "{said}\n{}", String::from_utf8_lossy(&einvoice));
    let wrong = String::from_utf8(einvoice).expect("UTF-8").replace(">0.60</cbc:PayableAmount>", ">1.60</cbc:PayableAmount>");
    std::fs::write(&file, wrong).expect("written");
    assert!(!second_opinion(&["-m", "peppol.cli", file.to_str().expect("UTF-8")]).await.0, "the validator looks at totals");

    // In the report and in the books.
    let (manifest, rows) = finance::rows(&tenant, "credit-notes", "from=2026-01-01&to=2028-01-01").await;
    assert_eq!((rows.len(), rows[0]["net"].as_str(), Some(rows[0]["invoice_number"].as_str())), (1, "0.50", invoice["number"].as_str()));
    assert_eq!(manifest["totals"][0]["sums"]["net"], "0.50");
    let (_, aged) = finance::rows(&tenant, "ageing", "from=2026-01-01&to=2028-01-01").await;
    let open = aged.iter().find(|row| row["invoice"] == id).expect("still open");
    assert_eq!(open["open"], "117.51");

    // One made by mistake is voided: its document says so, its number stays, and it is no e-invoice.
    let (_, mistaken) = post(id, json!({"lines": [{"line": line}]})).await;
    let mistaken_id = mistaken["id"].as_str().expect("an id");
    let voided = async || {
        let answer = tenant.call(Method::POST, &format!("/api/v1/credit-notes/{mistaken_id}/void")).send().await.expect("an answer");
        (answer.status(), answer.json::<Value>().await.expect("JSON"))
    };
    let (status, void) = voided().await;
    assert_eq!((status, &void["state"], &void["number"]), (StatusCode::OK, &json!("void"), &json!("ACME-CN-000002")), "{void}");
    assert_eq!(voided().await.1, void, "repeated, nothing changes");
    assert_eq!(tenant.get(&format!("/api/v1/invoices/{id}")).await["credited"], "0.60");
    let shown = async |format: &str| {
        let path = format!("/api/v1/credit-notes/{mistaken_id}/document?format={format}");
        let answer = tenant.call(Method::GET, &path).send().await.expect("an answer");
        (answer.status(), answer.text().await.expect("a text"))
    };
    let (status, html) = shown("html").await;
    assert!(status == StatusCode::OK && html.contains("VOID"), "{html}");
    assert_eq!(shown("ubl").await.0, StatusCode::CONFLICT);
    assert_eq!(finance::rows(&tenant, "credit-notes", "from=2026-01-01&to=2028-01-01").await.1.len(), 1, "it counts for nothing");

    // Paid by hand, of what is left; Stripe cannot refund it, the balance can take it, and the next invoice uses it.
    let payment = json!({"paid_at": "2026-11-02T00:00:00Z", "method": "transfer", "reference": "statement 7"});
    let paid = tenant.call(Method::POST, &format!("/api/v1/invoices/{id}/payment")).json(&payment).send().await.expect("an answer");
    assert_eq!(paid.status(), StatusCode::OK);
    let (status, refused) = post(id, json!({"to": "refund"})).await;
    assert_eq!((status, &refused["errors"][0]["pointer"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("/to")));
    let (status, kept) = post(id, json!({"to": "balance"})).await;
    assert_eq!((status, &kept["total"]), (StatusCode::CREATED, &json!("117.51")), "{kept}");
    let subscription = invoice["subscription"].as_str().expect("an id");
    let preview = tenant.call(Method::POST, &format!("/api/v1/subscriptions/{subscription}/preview")).send().await.expect("an answer");
    let preview: Value = preview.json().await.expect("JSON");
    let used = preview["lines"].as_array().expect("lines").iter().find(|line| line["kind"] == "credit").expect("the balance is used");
    assert!(used["name"].as_str().expect("a name").contains("ACME-CN-000003"), "{used}");

    let stranger = crate::tenant::Tenant::new(suite, "stranger").await;
    for path in [format!("/api/v1/credit-notes/{note_id}"), format!("/api/v1/credit-notes/{note_id}/document")] {
        let refused = stranger.call(Method::GET, &path).send().await.expect("an answer");
        assert_eq!(refused.status(), StatusCode::NOT_FOUND, "another tenant's credit note is not there");
    }
}
