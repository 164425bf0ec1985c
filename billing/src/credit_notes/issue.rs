//! A pending note is issued with its number, or refused.

use chrono::{DateTime, Utc};
use farebox_core::audit_log;
use farebox_core::ids::{CreditNoteId, GrantId};
use farebox_core::money::Money;
use farebox_core::workspace::Workspace;
use serde_json::json;
use sqlx::PgConnection;

use super::ask::earlier;
use super::{CreditNote, Settles, State, read};
use crate::close::numbers;
use crate::credits::{self, GrantKind, NewGrant};
use crate::rating::LineKind;
use crate::{BillingError, invoices, units};

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
    credits::insert(conn, &workspace.id, &grant, &credits::Origin::default()).await?.ok_or(BillingError::NotFound("grant"))
}

/// Nothing is left of the invoice: the prepaid credits it used are the consumer's again, and so is what it took over from
/// earlier ones.
async fn give_back_credits(conn: &mut PgConnection, workspace: &Workspace, note: &CreditNote, number: &str) -> Result<(), BillingError> {
    credits::give_back(conn, &workspace.id, &note.invoice).await?;
    let corrects = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM credit_note_lines WHERE credit_note_id = $1 AND corrects_minor IS NOT NULL) AS "corrects!""#,
        note.id.as_str()
    )
    .fetch_one(&mut *conn)
    .await?;
    // Usage that was counted again has given back its units by itself.
    if !corrects {
        units::give_back(conn, &workspace.id, &note.invoice).await?;
    }
    let carried = note.lines.iter().filter(|line| line.of.kind == LineKind::Carried && line.amount.minor < 0);
    for line in carried.collect::<Vec<_>>() {
        let amount = Money::zero(note.currency).checked_sub(line.amount)?;
        give(conn, workspace, note, amount, format!("Credit note {number}: {}", line.name)).await?;
    }
    Ok(())
}

/// Stripe refused: nothing happened.
pub async fn refuse(conn: &mut PgConnection, id: &CreditNoteId, why: &str) -> Result<(), BillingError> {
    look_again(conn, id).await?;
    sqlx::query!("UPDATE credit_notes SET state = 'refused', error = $2 WHERE id = $1 AND state = 'pending'", id.as_str(), why)
        .execute(conn)
        .await?;
    Ok(())
}

/// Usage that the note corrected, or should have, is looked at again.
pub(super) async fn look_again(conn: &mut PgConnection, id: &CreditNoteId) -> Result<(), BillingError> {
    sqlx::query!(
        "UPDATE counted_periods c SET state = '' FROM credit_note_lines p JOIN invoice_lines l ON l.id = p.invoice_line_id JOIN invoices i ON i.id = l.invoice_id
         WHERE p.credit_note_id = $1 AND p.corrects_minor IS NOT NULL AND c.subscription_id = coalesce(l.subscription_id, i.subscription_id)
           AND l.period_end > c.period_start AND l.period_end <= c.period_end",
        id.as_str()
    )
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
            Self::Void => "void",
        }
    }
}
