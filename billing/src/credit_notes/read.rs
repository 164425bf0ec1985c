//! Credit notes as they are kept.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use farebox_core::ids::{ConsumerId, CreditNoteId, InvoiceId, InvoiceLineId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use sqlx::PgConnection;

use super::{CreditNote, CreditNoteLine, Reason, Settles, State};
use crate::BillingError;
use crate::invoices::{self, id_or};

struct Row {
    id: CreditNoteId,
    number: Option<String>,
    state: State,
    invoice: InvoiceId,
    invoice_number: String,
    consumer: ConsumerId,
    reason: Reason,
    memo: Option<String>,
    settles: Settles,
    currency: String,
    subtotal_minor: i64,
    tax_minor: i64,
    total_minor: i64,
    created_at: DateTime<Utc>,
    issued_at: Option<DateTime<Utc>>,
    voiding_since: Option<DateTime<Utc>>,
    voided_at: Option<DateTime<Utc>>,
    error: Option<String>,
    stripe_id: Option<String>,
}

/// Newest first; those before `after` (an id; empty for the first page), of one invoice or consumer, or all.
pub async fn list(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    invoice: Option<&str>,
    consumer: Option<&str>,
    limit: i64,
    after: &str,
) -> Result<Vec<CreditNote>, BillingError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT n.id AS "id: CreditNoteId", n.number, n.state AS "state: State", n.invoice_id AS "invoice: InvoiceId",
                  i.number AS "invoice_number!", n.consumer_id AS "consumer: ConsumerId", n.reason AS "reason: Reason", n.memo,
                  n.settles AS "settles: Settles", n.currency, n.subtotal_minor, n.tax_minor, n.total_minor, n.created_at, n.issued_at,
                  n.voiding_since, n.voided_at, n.error, n.stripe_id
           FROM credit_notes n JOIN invoices i ON i.id = n.invoice_id
           WHERE n.workspace_id = $1 AND ($2::text IS NULL OR n.invoice_id = $2) AND ($3::text IS NULL OR n.consumer_id = $3)
             AND ($4 = '' OR n.id < $4)
           ORDER BY n.id DESC LIMIT $5"#,
        ws.as_str(),
        invoice,
        consumer,
        after,
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    with_lines(conn, ws, rows).await
}

pub async fn of_invoice(conn: &mut PgConnection, ws: &WorkspaceId, invoice: &InvoiceId) -> Result<Vec<CreditNote>, BillingError> {
    list(conn, ws, Some(invoice.as_str()), None, i64::MAX, "").await
}

/// The credit note of this id or number.
pub async fn named(conn: &mut PgConnection, ws: &WorkspaceId, id_or_number: &str) -> Result<CreditNoteId, BillingError> {
    let number = match id_or(id_or_number) {
        Ok(id) => return Ok(id),
        Err(number) => number,
    };
    let id = sqlx::query_scalar!(
        r#"SELECT id AS "id: CreditNoteId" FROM credit_notes WHERE workspace_id = $1 AND number = $2"#,
        ws.as_str(),
        number
    );
    id.fetch_optional(conn).await?.ok_or(BillingError::NotFound("credit note"))
}

pub async fn get(conn: &mut PgConnection, ws: &WorkspaceId, id: &CreditNoteId) -> Result<Option<CreditNote>, BillingError> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT n.id AS "id: CreditNoteId", n.number, n.state AS "state: State", n.invoice_id AS "invoice: InvoiceId",
                  i.number AS "invoice_number!", n.consumer_id AS "consumer: ConsumerId", n.reason AS "reason: Reason", n.memo,
                  n.settles AS "settles: Settles", n.currency, n.subtotal_minor, n.tax_minor, n.total_minor, n.created_at, n.issued_at,
                  n.voiding_since, n.voided_at, n.error, n.stripe_id
           FROM credit_notes n JOIN invoices i ON i.id = n.invoice_id WHERE n.workspace_id = $1 AND n.id = $2"#,
        ws.as_str(),
        id.as_str()
    )
    .fetch_optional(&mut *conn)
    .await?;
    Ok(with_lines(conn, ws, row.into_iter().collect()).await?.pop())
}

async fn with_lines(conn: &mut PgConnection, ws: &WorkspaceId, rows: Vec<Row>) -> Result<Vec<CreditNote>, BillingError> {
    let ids: Vec<_> = rows.iter().map(|row| row.id.as_str().to_owned()).collect();
    let parts = sqlx::query!(
        r#"SELECT credit_note_id, invoice_line_id AS "line: InvoiceLineId", amount_minor, tax_minor
           FROM credit_note_lines WHERE credit_note_id = ANY($1) ORDER BY credit_note_id, position"#,
        &ids
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut of: HashMap<InvoiceLineId, invoices::InvoiceLine> = HashMap::new();
    let of_invoices: Vec<_> = rows.iter().map(|row| row.invoice.as_str().to_owned()).collect();
    for invoice in invoices::by_ids(conn, ws, &of_invoices).await? {
        of.extend(invoice.lines.into_iter().map(|line| (line.id.clone(), line)));
    }
    let mut notes = Vec::with_capacity(rows.len());
    for row in rows {
        let currency: Currency = row.currency.parse().map_err(|e| BillingError::unreadable("a credit note", e))?;
        let money = |minor| Money::new(minor, currency);
        let mut lines = Vec::new();
        for part in parts.iter().filter(|part| part.credit_note_id == row.id.as_str()) {
            let line = of.get(&part.line).ok_or(BillingError::NotFound("line"))?;
            let inclusive = line.tax.as_ref().is_some_and(|tax| tax.inclusive);
            let (amount, tax) = (money(part.amount_minor), money(part.tax_minor));
            let net = if inclusive { amount.checked_sub(tax)? } else { amount };
            lines.push(CreditNoteLine { line: part.line.clone(), name: line.name.clone(), amount, net, tax, of: line.clone() });
        }
        notes.push(CreditNote {
            id: row.id,
            number: row.number,
            state: row.state,
            invoice: row.invoice,
            invoice_number: row.invoice_number,
            consumer: row.consumer,
            reason: row.reason,
            memo: row.memo,
            settles: row.settles,
            currency,
            subtotal: money(row.subtotal_minor),
            tax: money(row.tax_minor),
            total: money(row.total_minor),
            created_at: row.created_at,
            issued_at: row.issued_at,
            voiding_since: row.voiding_since,
            voided_at: row.voided_at,
            error: row.error,
            stripe_id: row.stripe_id,
            lines,
        });
    }
    Ok(notes)
}
