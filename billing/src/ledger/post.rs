//! Derived journals into the database, once each.

use std::collections::HashMap;
use std::time::Duration;

use chrono::TimeDelta;
use farebox_core::ids::{ConsumerId, InvoiceId, InvoiceLineId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use farebox_core::{App, clock, workspace};
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::derive::{DisputeFacts, FactLine, Facts, Fate, Journal, NoteFacts, Posting, RefundFacts, journals};
use super::{Account, prepaid};
use crate::BillingError;
use crate::credit_notes::{self, Settles};
use crate::invoices::{self, Invoice, InvoiceLine, State};
use crate::rating::LineKind;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What cannot be derived is tried again after this long.
const AGAIN: TimeDelta = TimeDelta::minutes(5);
/// A report waits this long for the ledger to catch up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Books what is noted, until `stop`.
pub async fn run(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match post_one(&app.pg, None).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::warn!("the ledger cannot be written and is tried again: {error}"),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Books everything of a workspace that happened until now, so that a report on it is complete.
pub async fn settle(pg: &PgPool, ws: &WorkspaceId) -> Result<(), BillingError> {
    let started = tokio::time::Instant::now();
    while post_one(pg, Some(ws)).await? {
        if started.elapsed() > PATIENCE {
            let detail = "Many invoices moved and the ledger is still being written. Ask again in a minute.";
            return Err(BillingError::conflict("ledger-catching-up", detail));
        }
    }
    let stuck = sqlx::query!(
        r#"SELECT coalesce('Invoice ' || invoice_id, 'Entry ' || entry_id || ' of prepaid credits', 'Entry ' || unit_entry_id || ' of prepaid units') AS "what!", error AS "error!" FROM ledger_pending WHERE workspace_id = $1 AND error IS NOT NULL ORDER BY id LIMIT 1"#,
        ws.as_str()
    )
    .fetch_optional(pg)
    .await?;
    match stuck {
        None => Ok(()),
        Some(stuck) => Err(BillingError::conflict(
            "ledger-incomplete",
            format!("{} cannot be booked: {}. The ledger tries again every five minutes.", stuck.what, stuck.error),
        )),
    }
}

/// What is to be booked: an invoice, an entry of credits, or one of units.
struct Noted {
    id: i64,
    workspace: WorkspaceId,
    invoice: Option<InvoiceId>,
    entry_id: Option<i64>,
    unit_entry_id: Option<i64>,
}

/// What was noted first, of one workspace or of all. False when nothing is noted.
async fn post_one(pg: &PgPool, ws: Option<&WorkspaceId>) -> Result<bool, BillingError> {
    let mut tx = pg.begin().await?;
    // A report waits for what another process is writing; the loop leaves it to that process.
    let next = match ws {
        Some(ws) => sqlx::query_as!(
            Noted,
            r#"SELECT id, workspace_id AS "workspace: WorkspaceId", invoice_id AS "invoice: InvoiceId", entry_id, unit_entry_id FROM ledger_pending
                   WHERE workspace_id = $1 AND next_at <= $2 ORDER BY id LIMIT 1 FOR UPDATE"#,
            ws.as_str(),
            clock::now()
        )
        .fetch_optional(&mut *tx)
        .await?,
        None => sqlx::query_as!(
            Noted,
            r#"SELECT id, workspace_id AS "workspace: WorkspaceId", invoice_id AS "invoice: InvoiceId", entry_id, unit_entry_id FROM ledger_pending
               WHERE next_at <= $1 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"#,
            clock::now()
        )
        .fetch_optional(&mut *tx)
        .await?,
    };
    let Some(noted) = next else { return Ok(false) };
    let result = match &noted {
        Noted { invoice: Some(invoice), .. } => book(&mut tx, &noted.workspace, invoice).await,
        Noted { entry_id: Some(entry), .. } => prepaid::book_credits(&mut tx, &noted.workspace, *entry).await,
        Noted { unit_entry_id: Some(entry), .. } => prepaid::book_units(&mut tx, &noted.workspace, *entry).await,
        // The database has none without one of them.
        Noted { .. } => Ok(()),
    };
    let booked = match result {
        // What does not balance is refused here.
        Ok(()) => tx.commit().await.map_err(BillingError::from),
        Err(error) => {
            tx.rollback().await?;
            Err(error)
        }
    };
    match booked {
        Ok(()) => {}
        Err(error @ BillingError::Database(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed)) => return Err(error),
        Err(error) => {
            let Noted { invoice, entry_id, unit_entry_id, .. } = &noted;
            tracing::error!(?invoice, entry_id, unit_entry_id, "what happened cannot be booked and is tried again in minutes: {error}");
            sqlx::query!(
                "UPDATE ledger_pending SET next_at = $4, error = $5
                 WHERE workspace_id = $1 AND (invoice_id = $2 OR id = $3)",
                noted.workspace.as_str(),
                invoice.as_ref().map(InvoiceId::as_str),
                noted.id,
                clock::now() + AGAIN,
                error.to_string()
            )
            .execute(pg)
            .await?;
        }
    }
    Ok(true)
}

async fn book(conn: &mut PgConnection, ws: &WorkspaceId, invoice: &InvoiceId) -> Result<(), BillingError> {
    // One at a time for an invoice, and what is noted from here on is seen by the next.
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", format!("ledger {invoice}")).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM ledger_pending WHERE workspace_id = $1 AND invoice_id = $2", ws.as_str(), invoice.as_str())
        .execute(&mut *conn)
        .await?;
    let Some(facts) = facts(conn, ws, invoice).await? else { return Ok(()) };
    let zone = workspace::by_id(conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?.time_zone;
    let booked = booked(conn, ws, invoice, facts.currency).await?;
    let mut fresh = journals(&facts, &booked, zone)?;
    fresh.retain(|journal| !booked.iter().any(|known| known.key == journal.key));
    write(conn, ws, Some(&facts.invoice), &facts.consumer, facts.currency, &fresh).await
}

/// None for a draft, and for an invoice that is not there.
async fn facts(conn: &mut PgConnection, ws: &WorkspaceId, id: &InvoiceId) -> Result<Option<Facts>, BillingError> {
    let Some(invoice) = invoices::get(conn, ws, id).await? else { return Ok(None) };
    let (Some(number), Some(issued_at)) = (invoice.number.clone(), invoice.issued_at) else { return Ok(None) };
    let closed_at = sqlx::query_scalar!("SELECT closed_at FROM invoices WHERE workspace_id = $1 AND id = $2", ws.as_str(), id.as_str())
        .fetch_one(&mut *conn)
        .await?
        .unwrap_or(issued_at);
    let earlier = sqlx::query!(
        r#"SELECT id AS "id: InvoiceId", number AS "number!" FROM invoices WHERE workspace_id = $1 AND carried_into = $2 AND number IS NOT NULL"#,
        ws.as_str(),
        id.as_str()
    )
    .fetch_all(&mut *conn)
    .await?;
    let settled: HashMap<String, InvoiceId> = earlier.into_iter().map(|row| (format!("From invoice {}", row.number), row.id)).collect();
    let lines = invoice.lines.iter().map(|line| fact_line(line, line.net(), &settled)).collect();
    let notes = notes(conn, ws, &invoice, &settled).await?;
    let refunds = refunds(conn, ws, &invoice).await?;
    let disputes = disputes(conn, ws, &invoice).await?;
    Ok(Some(Facts {
        lines,
        notes,
        refunds,
        disputes,
        invoice: invoice.id,
        consumer: invoice.consumer,
        number,
        currency: invoice.currency,
        total: invoice.total,
        tax: invoice.tax,
        issued_at,
        carried: invoice.carried,
        fate: match invoice.state {
            State::Draft | State::Issued => Fate::Open,
            State::Paid => Fate::Paid(invoice.paid_at.unwrap_or(closed_at)),
            State::Void => Fate::Void(closed_at),
            State::Uncollectible => Fate::Uncollectible(closed_at),
        },
    }))
}

/// The issued credit notes of an invoice.
async fn notes(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    invoice: &Invoice,
    settled: &HashMap<String, InvoiceId>,
) -> Result<Vec<NoteFacts>, BillingError> {
    let mut found = Vec::new();
    for note in credit_notes::of_invoice(conn, ws, &invoice.id).await?.into_iter().rev() {
        let (Some(number), Some(issued_at)) = (note.number, note.issued_at) else { continue };
        // A refund that was made before, which this note is the document of.
        let refunded = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM refunds WHERE workspace_id = $1 AND credit_note_id = $2) AS "is!""#,
            ws.as_str(),
            note.id.as_str()
        )
        .fetch_one(&mut *conn)
        .await?;
        let lines = note.lines.iter().map(|part| fact_line(&part.of, part.net, settled));
        found.push(NoteFacts {
            lines: lines.collect(),
            id: note.id,
            number,
            issued_at,
            voided_at: note.voided_at,
            total: note.total,
            tax: note.tax,
            against: match note.settles {
                Settles::Open => Account::Receivable,
                Settles::OutOfBand if !refunded => Account::Cash,
                Settles::Refund | Settles::Balance | Settles::OutOfBand => Account::CustomerCredit,
            },
        });
    }
    Ok(found)
}

async fn refunds(conn: &mut PgConnection, ws: &WorkspaceId, invoice: &Invoice) -> Result<Vec<RefundFacts>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT stripe_id, amount_minor, succeeded_at AS "succeeded_at!", failed_at FROM refunds
           WHERE workspace_id = $1 AND invoice_id = $2 AND succeeded_at IS NOT NULL ORDER BY succeeded_at, stripe_id"#,
        ws.as_str(),
        invoice.id.as_str()
    )
    .fetch_all(conn)
    .await?;
    let facts = rows.into_iter().map(|row| RefundFacts {
        id: row.stripe_id,
        amount: Money::new(row.amount_minor, invoice.currency),
        succeeded_at: row.succeeded_at,
        failed_at: row.failed_at,
    });
    Ok(facts.collect())
}

async fn disputes(conn: &mut PgConnection, ws: &WorkspaceId, invoice: &Invoice) -> Result<Vec<DisputeFacts>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT stripe_id, amount_minor, withdrawn_at AS "withdrawn_at!", closed_at, state FROM disputes
           WHERE workspace_id = $1 AND invoice_id = $2 AND withdrawn_at IS NOT NULL ORDER BY withdrawn_at, stripe_id"#,
        ws.as_str(),
        invoice.id.as_str()
    )
    .fetch_all(conn)
    .await?;
    let facts = rows.into_iter().map(|row| DisputeFacts {
        id: row.stripe_id,
        amount: Money::new(row.amount_minor, invoice.currency),
        withdrawn_at: row.withdrawn_at,
        decided: row.closed_at.map(|at| (at, row.state != "lost")),
    });
    Ok(facts.collect())
}

/// A line with so much of it. Carried amounts settle the earlier invoice they come from, and prepaid credits used after tax settle
/// what is owed.
fn fact_line(line: &InvoiceLine, net: Money, settled: &HashMap<String, InvoiceId>) -> FactLine {
    let settles = matches!(line.kind, LineKind::Carried | LineKind::Credit).then(|| settled.get(&line.name).cloned());
    FactLine { line: line.id.clone(), period: line.period, net, settles }
}

async fn booked(conn: &mut PgConnection, ws: &WorkspaceId, invoice: &InvoiceId, currency: Currency) -> Result<Vec<Journal>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT j.id, j.key, j.kind, j.booked_on, j.description, p.account, p.amount_minor,
                  p.invoice_id AS "invoice: InvoiceId", p.line_id AS "line: InvoiceLineId"
           FROM ledger_journals j JOIN ledger_postings p ON p.journal_id = j.id
           WHERE j.workspace_id = $1 AND j.invoice_id = $2 ORDER BY j.id, p.position"#,
        ws.as_str(),
        invoice.as_str()
    )
    .fetch_all(conn)
    .await?;
    let mut found: Vec<Journal> = Vec::new();
    for row in rows {
        let account = Account::parse(&row.account).ok_or_else(|| BillingError::unreadable("a posting", &row.account))?;
        let posting = Posting { account, amount: Money::new(row.amount_minor, currency), invoice: row.invoice, line: row.line };
        match found.last_mut().filter(|journal| journal.key == row.key) {
            Some(journal) => journal.postings.push(posting),
            None => {
                let kind =
                    KINDS.into_iter().find(|kind| *kind == row.kind).ok_or_else(|| BillingError::unreadable("a journal", &row.kind))?;
                found.push(Journal { key: row.key, kind, booked_on: row.booked_on, description: row.description, postings: vec![posting] });
            }
        }
    }
    Ok(found)
}

/// Of the journals that an invoice makes.
const KINDS: [&str; 9] = ["accrual", "issue", "recognition", "payment", "write_off", "void", "credit_note", "refund", "dispute"];

pub(super) async fn write(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    invoice: Option<&InvoiceId>,
    consumer: &ConsumerId,
    currency: Currency,
    fresh: &[Journal],
) -> Result<(), BillingError> {
    for journal in fresh {
        let id = sqlx::query_scalar!(
            "INSERT INTO ledger_journals (workspace_id, key, kind, booked_on, invoice_id, consumer_id, description, recorded_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT ON CONSTRAINT ledger_journals_once DO NOTHING RETURNING id",
            ws.as_str(),
            journal.key,
            journal.kind,
            journal.booked_on,
            invoice.map(InvoiceId::as_str),
            consumer.as_str(),
            journal.description,
            clock::now()
        )
        .fetch_optional(&mut *conn)
        .await?;
        let Some(id) = id else { continue };
        let text = |of: &dyn Fn(&Posting) -> Option<String>| journal.postings.iter().map(of).collect::<Vec<_>>();
        let accounts: Vec<_> = journal.postings.iter().map(|posting| posting.account.as_str().to_owned()).collect();
        let amounts: Vec<_> = journal.postings.iter().map(|posting| posting.amount.minor).collect();
        let invoices = text(&|posting| posting.invoice.as_ref().map(ToString::to_string));
        let lines = text(&|posting| posting.line.as_ref().map(ToString::to_string));
        sqlx::query!(
            "INSERT INTO ledger_postings (journal_id, position, workspace_id, account, currency, amount_minor, invoice_id, line_id)
             SELECT $1, ordinality::integer, $2, account, $3, amount, invoice, line
             FROM unnest($4::text[], $5::bigint[], $6::text[], $7::text[]) WITH ORDINALITY AS p (account, amount, invoice, line, ordinality)",
            id,
            ws.as_str(),
            currency.code(),
            &accounts,
            &amounts,
            &invoices as &[Option<String>],
            &lines as &[Option<String>]
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}
