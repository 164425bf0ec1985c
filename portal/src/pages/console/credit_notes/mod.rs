//! What corrects issued invoices: the list, one credit note, making one, voiding one.

mod make;
mod void;

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use farebox_billing::credit_notes::{self, CreditNote, Reason, Settles, State as NoteState};
use farebox_billing::{documents, invoices};
use farebox_core::ids::CreditNoteId;
use farebox_metering::consumers;
use serde::Deserialize;

pub use make::{ask, confirm, submit};
pub use void::{confirm as confirm_void, submit as submit_void};

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::pages::portal::credit_notes as portal_notes;
use crate::view::{Badge, Cell, Column, Facts, Note, Shell, Table, Tone};
use crate::{Portal, csv, format, words};

const PAGE: i64 = 100;

#[derive(Debug, Clone, Template)]
#[template(path = "console/credit_notes.html")]
pub struct CreditNotesPage {
    pub shell: Shell,
    pub table: Table,
    pub next: Option<String>,
}

#[derive(Debug, Clone, Template)]
#[template(path = "console/credit_note.html")]
pub struct CreditNotePage {
    pub shell: Shell,
    pub title: String,
    pub subtitle: String,
    pub state: Badge,
    pub note: Option<Note>,
    pub pdf: Option<String>,
    /// Where it can be voided, after a question.
    pub void: Option<String>,
    pub facts: Facts,
    pub lines: Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    after: String,
}

fn name(note: &CreditNote) -> String {
    note.number.clone().unwrap_or_else(|| "No number yet".to_owned())
}

/// Ordinary states stay grey.
fn badge(note: &CreditNote) -> Badge {
    match (note.state, note.voiding_since) {
        (NoteState::Pending, _) => Badge::new(Tone::Warn, "Waits for Stripe"),
        (NoteState::Issued, Some(_)) => Badge::new(Tone::Warn, "Is being voided"),
        (NoteState::Issued, None) => Badge::plain("Issued"),
        (NoteState::Refused, _) => Badge::new(Tone::Bad, "Refused"),
        (NoteState::Void, _) => Badge::plain("Void"),
    }
}

fn what_it_does(settles: Settles) -> &'static str {
    match settles {
        Settles::Open => "Less is to be paid",
        Settles::Refund => "Refunded through Stripe",
        Settles::Balance => "Kept for the next invoices",
        Settles::OutOfBand => "Paid back by hand",
    }
}

/// As a person says it; the first is what a form begins with.
const REASONS: [(Reason, &str); 5] = [
    (Reason::Correction, "Correction"),
    (Reason::Duplicate, "Billed twice"),
    (Reason::OrderChange, "The order was changed"),
    (Reason::ProductUnsatisfactory, "The service was unsatisfactory"),
    (Reason::Fraudulent, "Fraudulent"),
];

pub fn reason(reason: Reason) -> &'static str {
    REASONS.iter().find(|(known, _)| *known == reason).map_or("", |(_, label)| label)
}

/// Of credit notes on any page: with the consumer, or without where the page is about one.
pub fn table(notes: &[CreditNote], names: Option<&BTreeMap<String, String>>, ctx: &Ctx) -> Table {
    let mut columns = vec![Column::text("Credit note")];
    columns.extend(names.map(|_| Column::text("Consumer")));
    columns.extend(names.map(|_| Column::text("Corrects")));
    columns.extend(["Issued", "What it does", "State"].map(Column::text));
    columns.push(Column::number("Total"));
    Table::new("Credit notes", columns).rows(notes.iter().map(|note| {
        let mut row = vec![Cell::link(name(note), format!("/console/credit-notes/{}", note.id))];
        if let Some(names) = names {
            let consumer = names.get(note.consumer.as_str()).cloned().unwrap_or_else(|| note.consumer.to_string());
            row.push(Cell::link(consumer, format!("/console/consumers/{}", note.consumer)));
            row.push(Cell::link(&note.invoice_number, format!("/console/invoices/{}", note.invoice)));
        }
        row.extend([
            Cell::text(note.issued_at.map_or_else(|| "–".to_owned(), |at| format::date(at.with_timezone(&ctx.tz()).date_naive()))),
            Cell::text(what_it_does(note.settles)),
            badge(note).into(),
            Cell::text(format::money(note.total)),
        ]);
        row
    }))
}

pub async fn list(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let ws = &ctx.workspace.id;
    let mut conn = portal.app.pg.acquire().await?;
    let mut found = credit_notes::list(&mut conn, ws, None, None, PAGE + 1, &asked.after).await?;
    let ids: Vec<String> = found.iter().map(|note| note.consumer.to_string()).collect();
    let names = consumers::by_ids(&mut conn, ws, &ids).await?.into_iter().map(|c| (c.id.to_string(), c.name)).collect();
    drop(conn);
    let most = usize::try_from(PAGE).unwrap_or(100);
    let more = found.len() > most;
    found.truncate(most);
    page(&CreditNotesPage {
        shell: ctx.shell("Credit notes", "/console/credit-notes"),
        table: table(&found, Some(&names), &ctx),
        next: found.last().filter(|_| more).map(|last| format!("/console/credit-notes?after={}", last.id)),
    })
}

pub async fn file(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    let found = credit_notes::list(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, None, None, 100_000, "").await?;
    let head = ["credit_note", "state", "invoice", "issued", "reason", "settles", "subtotal", "tax", "total", "currency", "consumer", "id"];
    let rows = found.iter().map(|note| {
        vec![
            note.number.clone().unwrap_or_default(),
            note.state.as_str().to_owned(),
            note.invoice_number.clone(),
            note.issued_at.map(|at| at.to_rfc3339()).unwrap_or_default(),
            note.reason.as_str().to_owned(),
            note.settles.as_str().to_owned(),
            note.subtotal.to_string(),
            note.tax.to_string(),
            note.total.to_string(),
            note.currency.code().to_owned(),
            note.consumer.to_string(),
            note.id.to_string(),
        ]
    });
    Ok(csv::file("credit-notes", &head, rows))
}

async fn find(portal: &Portal, ctx: &Ctx, id: &str) -> Result<CreditNote, Failure> {
    let missing = || Failure::not_found("credit note");
    let id: CreditNoteId = id.parse().map_err(|_| missing())?;
    credit_notes::get(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, &id).await?.ok_or_else(missing)
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let note = find(&portal, &ctx, &id).await?;
    let mut conn = portal.app.pg.acquire().await?;
    let consumer = consumers::get(&mut conn, &ctx.workspace.id, &note.consumer).await?;
    let invoice = invoices::get(&mut conn, &ctx.workspace.id, &note.invoice).await?;
    drop(conn);
    let tz = ctx.tz();
    let consumer = consumer.map_or_else(|| note.consumer.to_string(), |consumer| consumer.name);
    let mut facts = Facts::default()
        .cell("Corrects", Cell::link(&note.invoice_number, format!("/console/invoices/{}", note.invoice)))
        .with("What it does", what_it_does(note.settles))
        .cell("Consumer", Cell::link(consumer, format!("/console/consumers/{}", note.consumer)))
        .with("Reason", reason(note.reason));
    if let Some(memo) = &note.memo {
        facts = facts.with("For the buyer", memo);
    }
    for (label, at) in [("Issued", note.issued_at), ("Voided", note.voided_at)] {
        if let Some(at) = at {
            facts = facts.with(label, format::instant(at, tz));
        }
    }
    if let Some(stripe) = &note.stripe_id {
        facts = facts.cell("At Stripe", Cell::mono(stripe));
    }
    let still_open = invoice.is_some_and(|invoice| invoice.state == invoices::State::Issued);
    let voidable = note.state == NoteState::Issued && note.settles == Settles::Open && note.voiding_since.is_none() && still_open;
    page(&CreditNotePage {
        shell: ctx.shell(&name(&note), "/console/credit-notes"),
        title: name(&note),
        subtitle: format!("{}, tax included.", format::money(note.total)),
        state: badge(&note),
        note: said(&note),
        pdf: note.number.as_ref().map(|_| format!("/console/credit-notes/{}/document.pdf", note.id)),
        void: (voidable && ctx.may_post("/console/credit-notes/{id}/void")).then(|| format!("/console/credit-notes/{}/void", note.id)),
        facts,
        lines: portal_notes::lines(&note, tz),
    })
}

/// Why it stands as it does, where something is to be known.
fn said(note: &CreditNote) -> Option<Note> {
    let why = note.error.as_deref().map(words::sentence);
    match (note.state, note.voiding_since) {
        (NoteState::Pending, _) => {
            Some(Note::new(Tone::Warn, "Stripe is being asked.", why.unwrap_or_else(|| "It is issued when Stripe agrees.".to_owned())))
        }
        (NoteState::Refused, _) => Some(Note::new(Tone::Bad, "Nothing was credited.", why.unwrap_or_default())),
        (NoteState::Issued, Some(_)) => Some(Note::new(
            Tone::Warn,
            "Stripe is being asked to void it.",
            why.unwrap_or_else(|| "Until Stripe agrees it stays as it is.".to_owned()),
        )),
        (NoteState::Issued, None) => why.map(|why| Note::new(Tone::Warn, "It was not voided.", why)),
        (NoteState::Void, _) => Some(Note::new(Tone::Plain, "It counts for nothing.", "Its number stays in its series.")),
    }
}

pub async fn pdf(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let note = find(&portal, &ctx, &id).await?;
    let file = documents::of_credit_note(&portal.app, &ctx.workspace, &note.id, documents::Medium::Pdf).await?;
    Ok(file.ok_or_else(|| Failure::not_found("credit note"))?.into_response())
}
