//! What corrects a consumer's invoices, beside them.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use farebox_billing::credit_notes::{self, CreditNote, Settles, State as NoteState};
use farebox_billing::documents;
use farebox_core::ids::CreditNoteId;

use crate::context::Ctx;
use crate::failure::Failure;
use crate::view::{Badge, Cell, Column, Table};
use crate::{Portal, format};

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
        let mut row = vec![Cell::text(&name)];
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

pub async fn pdf(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let missing = || Failure::not_found("credit note");
    let id: CreditNoteId = id.parse().map_err(|_| missing())?;
    let note = credit_notes::get(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, &id).await?.ok_or_else(missing)?;
    if note.consumer != *ctx.consumer()? || note.number.is_none() {
        return Err(missing());
    }
    let file = documents::of_credit_note(&portal.app, &ctx.workspace, &id, documents::Medium::Pdf).await?;
    Ok(file.ok_or_else(missing)?.into_response())
}
