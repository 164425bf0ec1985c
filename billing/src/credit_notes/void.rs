//! Voiding a credit note that should not have been made: only one that lets less be paid of an invoice that is still open,
//! which is also all that Stripe voids. Money that went back is asked for with an invoice instead.
//!
//! Where Stripe has the note, it is voided there first, since only Stripe knows whether the invoice was paid in this moment.
//! Until Stripe agreed the note stays issued; when it refuses, it stays so.

use farebox_core::ids::{CreditNoteId, InvoiceId, WorkspaceId};
use farebox_core::workspace::{self, Workspace};
use farebox_core::{App, audit_log, clock};
use serde::Deserialize;
use serde_json::json;
use sqlx::PgConnection;

use super::attempt::{Task, attempt};
use super::there::{AT_ONCE, NOTE_KEY, refresh};
use super::{CreditNote, Settles, State, issue, read};
use crate::settle::SettleError;
use crate::stripe::client::{Form, Stripe};
use crate::stripe::outbox::{self, Request, Sent, Step};
use crate::stripe::view::Tagged;
use crate::stripe::{StripeError, settings};
use crate::{BillingError, invoices};

/// Voids a credit note; asked for when Stripe does not answer now. Repeating it changes nothing.
pub async fn void(app: &App, ws: &WorkspaceId, id: &CreditNoteId, actor: &str) -> Result<CreditNote, SettleError> {
    let mut tx = app.pg.begin().await?;
    let workspace = workspace::by_id(&mut tx, ws).await.map_err(BillingError::from)?.ok_or(BillingError::NotFound("workspace"))?;
    let note = ask(&mut tx, &workspace, id, actor).await?;
    tx.commit().await?;
    if note.state == State::Issued && note.stripe_id.is_some() {
        carry(app, &workspace, id).await?;
    }
    let now = read::get(&mut *app.pg.acquire().await?, ws, id).await?.ok_or(BillingError::NotFound("credit note"))?;
    match (now.state, now.voiding_since, &now.error) {
        (State::Issued, None, Some(why)) => {
            Err(BillingError::conflict("stripe-refused", format!("The credit note stays as it is. {why}")).into())
        }
        _ => Ok(now),
    }
}

/// Checks that it may be, and voids it where no one else has to be asked. In the caller's transaction, which holds the
/// invoice until it ends.
pub async fn ask(conn: &mut PgConnection, workspace: &Workspace, id: &CreditNoteId, actor: &str) -> Result<CreditNote, BillingError> {
    let ws = &workspace.id;
    let of = sqlx::query_scalar!(
        r#"SELECT invoice_id AS "invoice: InvoiceId" FROM credit_notes WHERE workspace_id = $1 AND id = $2"#,
        ws.as_str(),
        id.as_str()
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(BillingError::NotFound("credit note"))?;
    sqlx::query!("SELECT id FROM invoices WHERE workspace_id = $1 AND id = $2 FOR UPDATE", ws.as_str(), of.as_str())
        .fetch_one(&mut *conn)
        .await?;
    let note = read::get(conn, ws, id).await?.ok_or(BillingError::NotFound("credit note"))?;
    if note.state == State::Void {
        return Ok(note);
    }
    let invoice = invoices::get(conn, ws, &of).await?.ok_or(BillingError::NotFound("invoice"))?;
    let refused = |detail: &str| Err(BillingError::conflict("cannot-void", detail));
    match (note.state, note.settles, invoice.state) {
        (State::Pending, _, _) => return refused("Stripe is being asked for this credit note. Ask again when it is issued or refused."),
        (State::Refused, _, _) => return refused("This credit note was never issued."),
        (_, Settles::Refund | Settles::Balance | Settles::OutOfBand, _) => {
            return refused("This credit note gave money of a paid invoice back. What is owed after all belongs on a new invoice.");
        }
        (_, Settles::Open, invoices::State::Issued) => {}
        (_, Settles::Open, _) => return refused("Its invoice is not open any more. What is owed after all belongs on a new invoice."),
    }
    sqlx::query!(
        // What issued it may have left its lease.
        "UPDATE credit_notes SET voiding_since = coalesce(voiding_since, $2), voided_by = coalesce(voided_by, $3), next_at = $4, error = NULL,
                attempts = CASE WHEN voiding_since IS NULL THEN 0 ELSE attempts END,
                leased_until = CASE WHEN voiding_since IS NULL THEN NULL ELSE leased_until END
         WHERE id = $1",
        id.as_str(),
        workspace.clock.now(),
        actor,
        clock::now()
    )
    .execute(&mut *conn)
    .await?;
    if note.stripe_id.is_none() {
        take_back(conn, workspace, id).await?;
    }
    read::get(conn, ws, id).await?.ok_or(BillingError::NotFound("credit note"))
}

/// What it did is undone. False when it was void before.
pub(super) async fn take_back(conn: &mut PgConnection, workspace: &Workspace, id: &CreditNoteId) -> Result<bool, BillingError> {
    // In the order in which asking takes them.
    sqlx::query!("SELECT i.id FROM invoices i JOIN credit_notes n ON n.invoice_id = i.id WHERE n.id = $1 FOR UPDATE OF i", id.as_str())
        .fetch_optional(&mut *conn)
        .await?;
    let voided = sqlx::query!(
        "UPDATE credit_notes SET state = 'void', voided_at = $3, error = NULL, leased_until = NULL
         WHERE workspace_id = $1 AND id = $2 AND state = 'issued' AND settles = 'open'
         RETURNING invoice_id, total_minor, number, voided_by",
        workspace.id.as_str(),
        id.as_str(),
        workspace.clock.now()
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(note) = voided else { return Ok(false) };
    sqlx::query!("UPDATE invoices SET credited_minor = credited_minor - $2 WHERE id = $1", note.invoice_id, note.total_minor)
        .execute(&mut *conn)
        .await?;
    issue::look_again(conn, id).await?;
    // Without a name it was voided in Stripe's dashboard.
    let actor = note.voided_by.as_deref().unwrap_or("stripe");
    let detail = json!({ "number": note.number, "invoice": note.invoice_id });
    audit_log::record(conn, &workspace.id, actor, "credit_note.void", id.as_str(), &detail).await?;
    Ok(true)
}

/// Every voiding that is due, once.
pub(super) async fn run_once(app: &App) -> Result<(), SettleError> {
    let waiting = sqlx::query!(
        r#"SELECT id AS "id: CreditNoteId", workspace_id AS "workspace: WorkspaceId" FROM credit_notes
           WHERE state = 'issued' AND voiding_since IS NOT NULL AND next_at <= $1 AND (leased_until IS NULL OR leased_until <= $1)
           ORDER BY next_at LIMIT $2"#,
        clock::now(),
        AT_ONCE
    )
    .fetch_all(&app.pg)
    .await?;
    for note in waiting {
        let workspace = workspace::by_id(&mut *app.pg.acquire().await?, &note.workspace).await.map_err(BillingError::from)?;
        if let Some(workspace) = workspace {
            carry(app, &workspace, &note.id).await?;
        }
    }
    Ok(())
}

/// One attempt, unless another process has it in hand: void, refused, or left for later.
async fn carry(app: &App, workspace: &Workspace, id: &CreditNoteId) -> Result<(), SettleError> {
    attempt(app, id, Task::Void, async || make(app, workspace, id).await).await
}

/// As much of Stripe's credit note as is used.
#[derive(Debug, Deserialize)]
struct There {
    #[serde(flatten)]
    tagged: Tagged,
    status: String,
    invoice: String,
}

impl There {
    fn is_void(&self) -> bool {
        self.status == "void"
    }
}

async fn look(stripe: &Stripe, stripe_id: &str) -> Result<There, StripeError> {
    stripe.get(&format!("/credit_notes/{stripe_id}"), &Form::new()).await
}

/// An error is worth another attempt.
async fn make(app: &App, workspace: &Workspace, id: &CreditNoteId) -> Result<(), StripeError> {
    let ws = &workspace.id;
    let mut conn = app.pg.acquire().await?;
    let stripe = settings::stripe(app, &mut conn, ws).await?;
    let note = read::get(&mut conn, ws, id).await?.ok_or(StripeError::NotFound("credit note"))?;
    drop(conn);
    let Some(stripe_id) = &note.stripe_id else { return Err(StripeError::NotFound("credit note")) };
    let path = format!("/v1/credit_notes/{stripe_id}/void");
    let build = || Ok(Request { method: "POST", path, body: Vec::new() });
    let request = outbox::store(&app.pg, ws, id.as_str(), Step::VoidCreditNote, build).await?;
    let (answer, there, refusal) = match request.send(&app.pg, &stripe).await? {
        // Recorded and taken back in one transaction.
        Sent::Before { .. } => return Ok(()),
        Sent::Answered(answer) => {
            let there = answer.parse::<There>()?;
            (Some(answer), there, None)
        }
        Sent::KeySpent(reason) => {
            let there = look(&stripe, stripe_id).await?;
            if !there.is_void() {
                outbox::renew(&app.pg, &request).await?;
                return Err(reason);
            }
            (None, there, None)
        }
        Sent::Refused(error) if error.is_about_the_key() => {
            outbox::abandon(&app.pg, request.id).await?;
            return Err(error);
        }
        // Void already, or its invoice was paid in this moment.
        Sent::Refused(error) => (None, look(&stripe, stripe_id).await?, Some(error)),
    };
    let mut tx = app.pg.begin().await?;
    match refusal.filter(|_| !there.is_void()) {
        None => {
            request.finish(&mut tx, answer.as_ref(), &there.tagged.id).await?;
            take_back(&mut tx, workspace, id).await?;
        }
        Some(error) => {
            sqlx::query!(
                "UPDATE credit_notes SET voiding_since = NULL, voided_by = NULL, leased_until = NULL, error = $2 WHERE id = $1 AND state = 'issued'",
                id.as_str(),
                error.to_string()
            )
            .execute(&mut *tx)
            .await?;
        }
    }
    tx.commit().await?;
    if there.is_void() {
        Step::VoidCreditNote.point("recorded");
    } else {
        outbox::abandon(&app.pg, request.id).await?;
    }
    refresh(app, &stripe, workspace, &note, &there.invoice).await
}

/// A note of ours as Stripe has it: one that was voided in Stripe's dashboard is void here too.
pub(crate) async fn apply(app: &App, stripe: &Stripe, ws: &WorkspaceId, stripe_id: &str) -> Result<(), StripeError> {
    let there = look(stripe, stripe_id).await?;
    let Some(Ok(id)) = there.tagged.tag(NOTE_KEY).map(str::parse::<CreditNoteId>) else { return Ok(()) };
    let mut tx = app.pg.begin().await?;
    let workspace = workspace::by_id(&mut tx, ws).await?.ok_or(StripeError::NotFound("workspace"))?;
    let ours = read::get(&mut tx, ws, &id).await?.filter(|note| note.stripe_id.as_deref() == Some(stripe_id));
    if ours.is_some() && there.is_void() {
        take_back(&mut tx, &workspace, &id).await?;
    }
    tx.commit().await?;
    Ok(())
}
