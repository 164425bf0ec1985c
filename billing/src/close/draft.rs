//! Writes a gathered period as a draft: the invoice, its lines with sealed proofs, and what earlier invoices left to
//! it, in the caller's transaction.

use chrono::{DateTime, Utc};
use farebox_core::ids::{InvoiceId, InvoiceLineId, WorkspaceId};
use farebox_core::money::{BigDecimal, Currency, Money};
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use farebox_metering::consumers::Consumer;
use serde_json::json;
use sqlx::PgConnection;

use crate::BillingError;
use crate::gather::{Gathered, GatheredLine};
use crate::rating::{Line, LineKind, RatedLine};
use crate::subscriptions::Subscription;

/// None when another worker was faster: the constraint holds.
pub async fn write(
    conn: &mut PgConnection,
    workspace: &Workspace,
    subscription: &Subscription,
    consumer: &Consumer,
    period: Period,
    gathered: Gathered,
    now: DateTime<Utc>,
) -> Result<Option<InvoiceId>, BillingError> {
    let id = InvoiceId::new();
    let carried = carried(conn, &workspace.id, consumer, gathered.currency, period).await?;
    let mut subtotal = Money::sum(carried.iter().map(|(_, rated)| rated.line.amount), gathered.currency)?;
    let mut tax = Money::zero(gathered.currency);
    for line in &gathered.lines {
        subtotal = subtotal.checked_add(line.rated.tax.as_ref().map_or(line.rated.line.amount, |t| t.net))?;
        tax = tax.checked_add(line.rated.tax.as_ref().map_or(Money::zero(gathered.currency), |t| t.tax))?;
    }
    let total = subtotal.checked_add(tax)?;
    let buyer = json!({
        "id": consumer.id, "name": consumer.name, "email": consumer.email, "country": consumer.country, "address": consumer.address,
    });
    let inserted = sqlx::query!(
        "INSERT INTO invoices (id, workspace_id, consumer_id, subscription_id, kind, period_start, period_end, currency,
                               subtotal_minor, tax_minor, total_minor, collect, due_days, seller, buyer, created_at)
         VALUES ($1, $2, $3, $4, 'regular', $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
         ON CONFLICT ON CONSTRAINT invoices_once DO NOTHING",
        id.as_str(),
        workspace.id.as_str(),
        consumer.id.as_str(),
        subscription.id.as_str(),
        period.start,
        period.end,
        gathered.currency.code(),
        subtotal.minor,
        tax.minor,
        total.minor,
        gathered.terms.collect.as_str(),
        gathered.terms.due_days,
        workspace.seller,
        buyer,
        now
    )
    .execute(&mut *conn)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(None);
    }
    let mut position = 0;
    for line in &gathered.lines {
        insert_line(conn, &workspace.id, &id, position, Some(line), &line.rated).await?;
        position += 1;
    }
    for (from, rated) in &carried {
        insert_line(conn, &workspace.id, &id, position, None, rated).await?;
        sqlx::query!("UPDATE invoices SET carried_into = $2 WHERE id = $1", from.as_str(), id.as_str()).execute(&mut *conn).await?;
        position += 1;
    }
    Ok(Some(id))
}

/// Issued invoices of the consumer that were too small to collect, or negative, as lines.
async fn carried(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    consumer: &Consumer,
    currency: Currency,
    period: Period,
) -> Result<Vec<(InvoiceId, RatedLine)>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id: InvoiceId", number AS "number!", total_minor FROM invoices
           WHERE workspace_id = $1 AND consumer_id = $2 AND currency = $3 AND carried AND carried_into IS NULL AND state = 'issued'
           ORDER BY id FOR UPDATE"#,
        ws.as_str(),
        consumer.id.as_str(),
        currency.code()
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let amount = Money::new(row.total_minor, currency);
            let what = if row.total_minor < 0 { "credit" } else { "amount too small to collect by itself" };
            let line = Line {
                kind: LineKind::Carried,
                name: format!("From invoice {}", row.number),
                price: None,
                meter: None,
                period,
                quantity: BigDecimal::from(1),
                amount,
                explanation: format!("{what} of {amount}, tax included, brought over from invoice {}", row.number),
                counts_to_minimum: false,
                alert: None,
            };
            (row.id, RatedLine { line, tax: None })
        })
        .collect())
}

async fn insert_line(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    invoice: &InvoiceId,
    position: i32,
    gathered: Option<&GatheredLine>,
    rated: &RatedLine,
) -> Result<(), BillingError> {
    let (id, line, tax) = (InvoiceLineId::new(), &rated.line, rated.tax.as_ref());
    sqlx::query!(
        "INSERT INTO invoice_lines (id, workspace_id, invoice_id, position, kind, name, plan_version_id, price, meter, period_start, period_end,
                                    quantity, amount_minor, tax_name, tax_rate, tax_inclusive, tax_minor, explanation, proof)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
        id.as_str(),
        ws.as_str(),
        invoice.as_str(),
        position,
        line.kind.as_str(),
        line.name,
        gathered.map(|g| g.version.as_str()),
        line.price,
        line.meter,
        line.period.start,
        line.period.end,
        line.quantity,
        line.amount.minor,
        tax.map(|t| t.rate.name.as_str()),
        tax.map(|t| t.rate.rate.0.clone()),
        tax.map(|t| t.rate.inclusive),
        tax.map_or(0, |t| t.tax.minor),
        line.explanation,
        gathered.and_then(|g| g.proof.clone())
    )
    .execute(conn)
    .await?;
    Ok(())
}
