//! Asked for, checked, written as pending; and issued with its number.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use farebox_core::ids::{CreditNoteId, GrantId, InvoiceId, InvoiceLineId, WorkspaceId};
use farebox_core::money::Money;
use farebox_core::workspace::Workspace;
use farebox_core::{audit_log, clock};
use serde_json::json;
use sqlx::PgConnection;

use super::derive::{self, Credited};
use super::{CreditNote, NewCreditNote, Settles, State, To, read};
use crate::close::numbers;
use crate::credits::{self, GrantKind, NewGrant};
use crate::invoices::{self, Invoice};
use crate::rating::LineKind;
use crate::{BillingError, settle};

const MEMO_MOST: usize = 500;

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
    if new.memo.as_ref().is_some_and(|memo| memo.trim().is_empty() || memo.len() > MEMO_MOST) {
        return Err(BillingError::invalid("/memo", format!("has 1 to {MEMO_MOST} bytes")));
    }
    let settles = settles(conn, ws, &invoice, new.to).await?;
    let earlier = earlier(conn, &invoice).await?;
    let parts =
        if new.lines.is_empty() { derive::whole(&invoice, &earlier.lines)? } else { derive::some(&invoice, &earlier.lines, &new.lines)? };
    let sums = derive::sums(&parts, invoice.currency)?;
    let most = invoice.total.checked_sub(earlier.total)?;
    if sums.total.minor <= 0 || sums.total.minor > most.minor {
        return Err(BillingError::invalid(
            "/lines",
            format!("come to {} with tax; between 0 and {most} is left of the invoice to be credited", sums.total),
        ));
    }
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

struct Earlier {
    lines: Credited,
    total: Money,
}

async fn earlier(conn: &mut PgConnection, invoice: &Invoice) -> Result<Earlier, BillingError> {
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

/// Issues a pending note: its number, and what it does to the invoice, the consumer's balance and the prepaid credits. False
/// when it was issued before.
pub async fn issue(
    conn: &mut PgConnection,
    workspace: &Workspace,
    id: &CreditNoteId,
    stripe_id: Option<&str>,
) -> Result<bool, BillingError> {
    let ws = &workspace.id;
    let locked = sqlx::query_scalar!(
        "SELECT invoice_id FROM credit_notes WHERE workspace_id = $1 AND id = $2 AND state = 'pending' FOR UPDATE",
        ws.as_str(),
        id.as_str()
    )
    .fetch_optional(&mut *conn)
    .await?;
    if locked.is_none() {
        return Ok(false);
    }
    let note = read::get(conn, ws, id).await?.ok_or(BillingError::NotFound("credit note"))?;
    let now = workspace.clock.now();
    let number = numbers::next(conn, ws, &numbers::credit_note_prefix(&workspace.seller), 1).await?.remove(0);
    sqlx::query!(
        "UPDATE credit_notes SET state = 'issued', number = $2, issued_at = $3, stripe_id = $4, error = NULL WHERE id = $1",
        id.as_str(),
        number,
        now,
        stripe_id
    )
    .execute(&mut *conn)
    .await?;
    if note.settles == Settles::Open {
        take_off(conn, &note, now).await?;
    }
    if note.settles == Settles::Balance {
        give(conn, workspace, &note, note.total, format!("Credit note {number}")).await?;
    }
    if note.settles == Settles::OutOfBand {
        take_up_refund(conn, &note).await?;
    }
    let invoice = invoices::get(conn, ws, &note.invoice).await?.ok_or(BillingError::NotFound("invoice"))?;
    if earlier(conn, &invoice).await?.total == invoice.total {
        give_back_credits(conn, workspace, &note, &number).await?;
    }
    let actor = sqlx::query_scalar!("SELECT created_by FROM credit_notes WHERE id = $1", id.as_str()).fetch_one(&mut *conn).await?;
    let detail =
        json!({ "number": number, "invoice": note.invoice, "total": note.total, "currency": note.currency, "settles": note.settles });
    audit_log::record(conn, ws, &actor, "credit_note.issue", id.as_str(), &detail).await?;
    Ok(true)
}

/// So much less is to be paid; when nothing is left, it is paid.
async fn take_off(conn: &mut PgConnection, note: &CreditNote, now: DateTime<Utc>) -> Result<(), BillingError> {
    sqlx::query!(
        "UPDATE invoices SET credited_minor = credited_minor + $2,
                state = CASE WHEN credited_minor + $2 = total_minor THEN 'paid' ELSE state END,
                paid_at = CASE WHEN credited_minor + $2 = total_minor THEN $3 ELSE paid_at END,
                closed_at = CASE WHEN credited_minor + $2 = total_minor THEN $3 ELSE closed_at END
         WHERE id = $1",
        note.invoice.as_str(),
        note.total.minor,
        now
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A refund that someone made in Stripe's dashboard over the same amount has its document now.
async fn take_up_refund(conn: &mut PgConnection, note: &CreditNote) -> Result<(), BillingError> {
    sqlx::query!(
        "UPDATE refunds SET credit_note_id = $1 WHERE (workspace_id, stripe_id) IN (
             SELECT workspace_id, stripe_id FROM refunds
             WHERE invoice_id = $2 AND credit_note_id IS NULL AND amount_minor = $3 AND state = 'succeeded' ORDER BY created_at LIMIT 1)",
        note.id.as_str(),
        note.invoice.as_str(),
        note.total.minor
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Money already taxed that the next invoices use.
async fn give(
    conn: &mut PgConnection,
    workspace: &Workspace,
    note: &CreditNote,
    amount: Money,
    name: String,
) -> Result<GrantId, BillingError> {
    let grant = NewGrant {
        consumer: note.consumer.clone(),
        name,
        kind: GrantKind::Balance,
        amount,
        taxed: true,
        priority: 0,
        effective_at: workspace.clock.now(),
        expires_at: None,
        rollover: None,
    };
    Ok(credits::grant(conn, &workspace.id, grant).await?.id)
}

/// Nothing is left of the invoice: the prepaid credits it used are the consumer's again, and so is what it took over from
/// earlier ones.
async fn give_back_credits(conn: &mut PgConnection, workspace: &Workspace, note: &CreditNote, number: &str) -> Result<(), BillingError> {
    credits::give_back(conn, &workspace.id, &note.invoice).await?;
    let carried = note.lines.iter().filter(|line| line.of.kind == LineKind::Carried && line.amount.minor < 0);
    for line in carried.collect::<Vec<_>>() {
        let amount = Money::zero(note.currency).checked_sub(line.amount)?;
        give(conn, workspace, note, amount, format!("Credit note {number}: {}", line.name)).await?;
    }
    Ok(())
}

/// Stripe refused: nothing happened. Usage that it should have corrected is looked at again.
pub async fn refuse(conn: &mut PgConnection, id: &CreditNoteId, why: &str) -> Result<(), BillingError> {
    sqlx::query!(
        "UPDATE counted_periods c SET state = '' FROM credit_note_lines p JOIN invoice_lines l ON l.id = p.invoice_line_id JOIN invoices i ON i.id = l.invoice_id
         WHERE p.credit_note_id = $1 AND p.corrects_minor IS NOT NULL AND c.subscription_id = i.subscription_id
           AND l.period_end > c.period_start AND l.period_end <= c.period_end",
        id.as_str()
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("UPDATE credit_notes SET state = 'refused', error = $2 WHERE id = $1 AND state = 'pending'", id.as_str(), why)
        .execute(conn)
        .await?;
    Ok(())
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Issued => "issued",
            Self::Refused => "refused",
        }
    }
}
