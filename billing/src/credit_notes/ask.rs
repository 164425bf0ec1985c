//! What is asked for: checked against what is left of the invoice, and written as pending.

use std::collections::HashMap;

use farebox_core::clock;
use farebox_core::ids::{CreditNoteId, InvoiceId, InvoiceLineId, WorkspaceId};
use farebox_core::money::Money;
use farebox_core::workspace::Workspace;
use sqlx::PgConnection;

use super::derive::{self, Credited, Part, Sums};
use super::{NewCreditNote, Settles, To};
use crate::invoices::{self, Invoice};
use crate::{BillingError, settle};

const MEMO_MOST: usize = 500;

/// What a credit note would be.
#[derive(Debug, Clone)]
pub struct Preview {
    pub parts: Vec<Part>,
    pub sums: Sums,
    pub settles: Settles,
    /// Of the invoice, before it.
    pub left: Money,
}

/// What can be credited of an invoice.
#[derive(Debug, Clone)]
pub struct Creditable {
    /// Lines of which something is left, as priced.
    pub lines: Vec<(InvoiceLineId, Money)>,
    /// Of the whole, with tax.
    pub left: Money,
    /// Where its money can go; nowhere while the invoice is open, which then asks for less.
    pub ways: Vec<To>,
}

/// Or why nothing can be, with the way out.
pub async fn creditable(conn: &mut PgConnection, ws: &WorkspaceId, invoice: &Invoice) -> Result<Creditable, BillingError> {
    let ways = match invoice.state {
        invoices::State::Paid if settle::was_paid_elsewhere(conn, ws, invoice).await? => vec![To::Balance, To::OutOfBand],
        invoices::State::Paid => vec![To::Refund, To::Balance, To::OutOfBand],
        _ => Vec::new(),
    };
    settles(conn, ws, invoice, ways.first().copied()).await?;
    let earlier = earlier(conn, invoice).await?;
    let left = invoice.total.checked_sub(earlier.total)?;
    if left.minor <= 0 {
        return Err(BillingError::conflict("cannot-credit", "All of this invoice is credited."));
    }
    Ok(Creditable { lines: derive::open_lines(invoice, &earlier.lines)?, left, ways })
}

/// What the note would be, or why it cannot be.
pub async fn preview(conn: &mut PgConnection, ws: &WorkspaceId, invoice: &Invoice, new: &NewCreditNote) -> Result<Preview, BillingError> {
    if new.memo.as_ref().is_some_and(|memo| memo.trim().is_empty() || memo.len() > MEMO_MOST) {
        return Err(BillingError::invalid("/memo", format!("has 1 to {MEMO_MOST} bytes")));
    }
    let settles = settles(conn, ws, invoice, new.to).await?;
    let earlier = earlier(conn, invoice).await?;
    let parts =
        if new.lines.is_empty() { derive::whole(invoice, &earlier.lines)? } else { derive::some(invoice, &earlier.lines, &new.lines)? };
    let sums = derive::sums(&parts, invoice.currency)?;
    let most = invoice.total.checked_sub(earlier.total)?;
    if new.left.is_some_and(|left| left != most) {
        let detail = format!("Another credit note was made meanwhile; {most} is left of the invoice. Look at it again.");
        return Err(BillingError::conflict("credited-meanwhile", detail));
    }
    if sums.total.minor <= 0 || sums.total.minor > most.minor {
        return Err(BillingError::invalid(
            "/lines",
            format!("come to {} with tax; between 0 and {most} is left of the invoice to be credited", sums.total),
        ));
    }
    Ok(Preview { parts, sums, settles, left: most })
}

/// Writes the pending note, in the caller's transaction, which holds the invoice until it ends.
pub async fn ask(
    conn: &mut PgConnection,
    workspace: &Workspace,
    invoice: &InvoiceId,
    new: &NewCreditNote,
    actor: &str,
) -> Result<CreditNoteId, BillingError> {
    let ws = &workspace.id;
    sqlx::query!("SELECT id FROM invoices WHERE workspace_id = $1 AND id = $2 FOR UPDATE", ws.as_str(), invoice.as_str())
        .fetch_optional(&mut *conn)
        .await?;
    let invoice = invoices::get(conn, ws, invoice).await?.ok_or(BillingError::NotFound("invoice"))?;
    let Preview { parts, sums, settles, .. } = preview(conn, ws, &invoice, new).await?;
    let id = CreditNoteId::new();
    let pending = sqlx::query!(
        "INSERT INTO credit_notes (id, workspace_id, invoice_id, consumer_id, reason, memo, currency, subtotal_minor, tax_minor, total_minor,
                                   settles, created_by, created_at, next_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (invoice_id) WHERE state = 'pending' DO NOTHING",
        id.as_str(),
        ws.as_str(),
        invoice.id.as_str(),
        invoice.consumer.as_str(),
        new.reason.as_str(),
        new.memo,
        invoice.currency.code(),
        sums.subtotal.minor,
        sums.tax.minor,
        sums.total.minor,
        settles.as_str(),
        actor,
        workspace.clock.now(),
        clock::now()
    )
    .execute(&mut *conn)
    .await?;
    if pending.rows_affected() == 0 {
        let detail = "Another credit note of this invoice waits for Stripe. Ask again when it is issued or refused.";
        return Err(BillingError::conflict("credit-note-pending", detail));
    }
    for (position, part) in (0_i32..).zip(&parts) {
        let corrected = new.corrects.get(&part.line);
        sqlx::query!(
            "INSERT INTO credit_note_lines (credit_note_id, position, workspace_id, invoice_line_id, amount_minor, tax_minor, corrects_minor, corrects_quantity)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            id.as_str(),
            position,
            ws.as_str(),
            part.line.as_str(),
            part.amount.minor,
            part.tax.minor,
            corrected.map(|corrected| corrected.amount.minor),
            corrected.map(|corrected| corrected.quantity.clone())
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(id)
}

/// What the note does, or why there can be none, with the way out.
async fn settles(conn: &mut PgConnection, ws: &WorkspaceId, invoice: &Invoice, to: Option<To>) -> Result<Settles, BillingError> {
    let refused = |detail: &str| Err(BillingError::conflict("cannot-credit", detail));
    if invoice.carried || invoice.carried_into.is_some() {
        return refused("This amount is settled by the consumer's next invoice. Credit that one when it is issued.");
    }
    if invoice.total.minor <= 0 {
        return refused("There is nothing on this invoice to be credited.");
    }
    match invoice.state {
        invoices::State::Draft => refused("A draft is not issued yet and needs no credit note: what it is made from can still be changed."),
        invoices::State::Void => refused("This invoice is void: nothing of it is owed."),
        invoices::State::Uncollectible => {
            refused("This invoice was given up. Void it when it should not have been issued, or record its payment first.")
        }
        invoices::State::Issued => {
            if settle::is_on_its_way(conn, ws, &invoice.id).await? {
                return refused("This invoice is on its way to Stripe, or held back there. Credit it when it has arrived.");
            }
            Ok(Settles::Open)
        }
        invoices::State::Paid => match to {
            None => Err(BillingError::invalid("/to", "says where the money of a paid invoice goes: refund, balance or out_of_band")),
            Some(To::Balance) => Ok(Settles::Balance),
            Some(To::OutOfBand) => Ok(Settles::OutOfBand),
            Some(To::Refund) if settle::was_paid_elsewhere(conn, ws, invoice).await? => Err(BillingError::invalid(
                "/to",
                "is refund, and this invoice was not paid through Stripe: pay it back yourself and say out_of_band, or say balance",
            )),
            Some(To::Refund) => Ok(Settles::Refund),
        },
    }
}

pub(super) struct Earlier {
    pub lines: Credited,
    pub total: Money,
}

pub(super) async fn earlier(conn: &mut PgConnection, invoice: &Invoice) -> Result<Earlier, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT l.invoice_line_id AS "line: InvoiceLineId", sum(l.amount_minor)::bigint AS "amount!", sum(l.tax_minor)::bigint AS "tax!"
           FROM credit_notes n JOIN credit_note_lines l ON l.credit_note_id = n.id
           WHERE n.invoice_id = $1 AND n.state = 'issued' GROUP BY 1"#,
        invoice.id.as_str()
    )
    .fetch_all(&mut *conn)
    .await?;
    let money = |minor| Money::new(minor, invoice.currency);
    let lines: HashMap<_, _> = rows.into_iter().map(|row| (row.line, (money(row.amount), money(row.tax)))).collect();
    let total = sqlx::query_scalar!(
        r#"SELECT coalesce(sum(total_minor), 0)::bigint AS "total!" FROM credit_notes WHERE invoice_id = $1 AND state = 'issued'"#,
        invoice.id.as_str()
    )
    .fetch_one(conn)
    .await?;
    Ok(Earlier { lines, total: money(total) })
}
