//! What corrects a consumer's invoices, beside them.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use chrono_tz::Tz;
use farebox_billing::credit_notes::{self, CreditNote, Settles, State as NoteState};
use farebox_billing::documents;
use farebox_core::ids::CreditNoteId;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::pages::console::credit_notes::reason;
use crate::view::{Badge, Cell, Column, Facts, Note, Shell, Table, Tone};
use crate::{Portal, format};

#[derive(Debug, Clone, Template)]
#[template(path = "portal/credit_note.html")]
pub struct CreditNotePage {
    pub shell: Shell,
    pub title: String,
    pub subtitle: String,
    pub note: Option<Note>,
    pub pdf: String,
    pub facts: Facts,
    pub lines: Table,
}

/// More than a consumer has.
const ALL: i64 = 500;

/// A consumer's issued credit notes, of one invoice or all, the newest first. What was never issued is the provider's business.
pub async fn of_consumer(portal: &Portal, ctx: &Ctx, invoice: Option<&str>) -> Result<Vec<CreditNote>, Failure> {
    let (ws, consumer) = (&ctx.workspace.id, ctx.consumer()?);
    let mut conn = portal.app.pg.acquire().await?;
    let mut found = credit_notes::list(&mut conn, ws, invoice, Some(consumer.as_str()), ALL, "").await?;
    found.retain(|note| note.number.is_some());
    Ok(found)
}

fn what_it_means(settles: Settles) -> &'static str {
    match settles {
        Settles::Open => "You pay less",
        Settles::Refund => "Paid back the way you paid",
        Settles::Balance => "Taken off your next invoices",
        Settles::OutOfBand => "Paid back to you",
    }
}

/// With the invoice that each corrects, or without where the page is about one.
pub fn table(notes: &[CreditNote], with_invoice: bool, ctx: &Ctx) -> Table {
    let mut columns = vec![Column::text("Credit note")];
    columns.extend(with_invoice.then(|| Column::text("Corrects")));
    columns.extend(["Issued", "What it means"].map(Column::text));
    columns.extend([Column::number("Total"), Column::text("Document")]);
    Table::new("Credit notes", columns).rows(notes.iter().map(|note| {
        let name = note.number.clone().unwrap_or_default();
        let void = note.state == NoteState::Void;
        let mut row = vec![Cell::link(&name, format!("/credit-notes/{}", note.id))];
        row.extend(with_invoice.then(|| Cell::link(&note.invoice_number, format!("/invoices/{}", note.invoice))));
        row.extend([
            Cell::text(note.issued_at.map_or_else(|| "–".to_owned(), |at| format::date(at.with_timezone(&ctx.tz()).date_naive()))),
            if void { Badge::plain("Void: it counts for nothing").into() } else { Cell::text(what_it_means(note.settles)) },
            Cell::text(format::money(note.total)),
            Cell::link(format!("PDF of {name}"), format!("/credit-notes/{}/document.pdf", note.id)),
        ]);
        row
    }))
}

/// What a credit note takes back, by line, the same for both sides.
pub fn lines(note: &CreditNote, tz: Tz) -> Table {
    let columns = vec![Column::text("Line"), Column::number("Net"), Column::number("Tax")];
    let rows = note.lines.iter().map(|line| {
        let all = line.amount == line.of.left();
        let of = if all { "all of it".to_owned() } else { format!("of {}", format::money(line.of.left())) };
        let of = format!("{of}, {}", format::period(line.of.period.start, line.of.period.end, tz));
        vec![Cell::text(&line.name).sub(of), Cell::text(format::money(line.net)), Cell::text(format::money(line.tax))]
    });
    let foot = vec![Cell::text("Together"), Cell::text(format::money(note.subtotal)), Cell::text(format::money(note.tax))];
    Table::new("Lines", columns).rows(rows).foot(foot)
}

async fn find(portal: &Portal, ctx: &Ctx, id: &str) -> Result<CreditNote, Failure> {
    let missing = || Failure::not_found("credit note");
    let id: CreditNoteId = id.parse().map_err(|_| missing())?;
    let note = credit_notes::get(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, &id).await?.ok_or_else(missing)?;
    if note.consumer != *ctx.consumer()? || note.number.is_none() {
        return Err(missing());
    }
    Ok(note)
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let note = find(&portal, &ctx, &id).await?;
    let title = format!("Credit note {}", note.number.as_deref().unwrap_or_default());
    let mut facts = Facts::default()
        .cell("Corrects", Cell::link(format!("Invoice {}", note.invoice_number), format!("/invoices/{}", note.invoice)))
        .with("What it means", what_it_means(note.settles))
        .with("Why", reason(note.reason));
    if let Some(memo) = &note.memo {
        facts = facts.with("Note", memo);
    }
    for (label, at) in [("Issued", note.issued_at), ("Voided", note.voided_at)] {
        if let Some(at) = at {
            facts = facts.with(label, format::instant(at, ctx.tz()));
        }
    }
    page(&CreditNotePage {
        shell: ctx.shell(&title, "/invoices"),
        title,
        subtitle: format!("{}, tax included.", format::money(note.total)),
        note: (note.state == NoteState::Void)
            .then(|| Note::new(Tone::Plain, "It counts for nothing.", "It was voided; the invoice stands.")),
        pdf: format!("/credit-notes/{}/document.pdf", note.id),
        facts,
        lines: lines(&note, ctx.tz()),
    })
}

pub async fn pdf(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let note = find(&portal, &ctx, &id).await?;
    let file = documents::of_credit_note(&portal.app, &ctx.workspace, &note.id, documents::Medium::Pdf).await?;
    Ok(file.ok_or_else(|| Failure::not_found("credit note"))?.into_response())
}
