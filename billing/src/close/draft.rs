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

use crate::gather::{Beside, Gathered, GatheredLine, assemble};
use crate::rating::cycle::Source;
use crate::rating::{Line, LineKind, RatedLine};
use crate::subscriptions::Subscription;
use crate::{BillingError, coupons, credits};

/// An invoice to write: what kind of document it is, and for which period.
#[derive(Debug, Clone, Copy)]
pub struct Document {
    /// `regular`, `threshold`, `adjustment`.
    pub kind: &'static str,
    pub sequence: i32,
    pub period: Period,
}

/// None when another worker was faster: the constraint holds.
pub async fn write(
    conn: &mut PgConnection,
    workspace: &Workspace,
    subscription: &Subscription,
    consumer: &Consumer,
    document: Document,
    mut gathered: Gathered,
    now: DateTime<Utc>,
) -> Result<Option<InvoiceId>, BillingError> {
    let (id, period) = (InvoiceId::new(), document.period);
    let terms = gathered.terms.clone();
    let carried = carried(conn, &workspace.id, consumer, gathered.currency, period).await?;
    gathered.lines.extend(carried.iter().map(|(_, line)| GatheredLine {
        source: None,
        line: line.clone(),
        proof: None,
        adjusts: None,
        of: None,
    }));
    let assembled = assemble(conn, workspace, subscription, consumer, period, gathered, true).await?;
    let rated = &assembled.rated;
    let buyer = json!({
        "id": consumer.id, "name": consumer.name, "email": consumer.email, "country": consumer.country, "address": consumer.address,
    });
    let inserted = sqlx::query!(
        "INSERT INTO invoices (id, workspace_id, consumer_id, subscription_id, kind, sequence, period_start, period_end, currency,
                               subtotal_minor, tax_minor, total_minor, collect, due_days, seller, buyer, created_at, tax_note)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
         ON CONFLICT ON CONSTRAINT invoices_once DO NOTHING",
        id.as_str(),
        workspace.id.as_str(),
        consumer.id.as_str(),
        subscription.id.as_str(),
        document.kind,
        document.sequence,
        period.start,
        period.end,
        rated.currency.code(),
        rated.subtotal.minor,
        rated.tax.minor,
        rated.total.minor,
        terms.collect.as_str(),
        terms.due_days,
        workspace.seller,
        buyer,
        now,
        assembled.tax_note
    )
    .execute(&mut *conn)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(None);
    }
    for (position, (line, beside)) in (0..).zip(assembled.lines()) {
        insert_line(conn, &workspace.id, &id, position, line, beside).await?;
    }
    for (from, _) in &carried {
        sqlx::query!("UPDATE invoices SET carried_into = $2 WHERE id = $1", from.as_str(), id.as_str()).execute(&mut *conn).await?;
    }
    coupons::record(conn, &workspace.id, &id, &rated.discounts).await?;
    credits::burn(conn, &workspace.id, &id, &rated.credits).await?;
    Ok(Some(id))
}

/// Issued invoices of the consumer that were too small to collect, or negative, as lines.
async fn carried(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    consumer: &Consumer,
    currency: Currency,
    period: Period,
) -> Result<Vec<(InvoiceId, Line)>, BillingError> {
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
                value: None,
                period,
                quantity: BigDecimal::from(1),
                amount,
                explanation: format!("{what} of {amount}, tax included, brought over from invoice {}", row.number),
                counts_to_minimum: false,
                basis: None,
                alert: None,
            };
            (row.id, line)
        })
        .collect())
}

async fn insert_line(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    invoice: &InvoiceId,
    position: i32,
    rated: &RatedLine,
    beside: &Beside,
) -> Result<(), BillingError> {
    let (id, line, tax) = (InvoiceLineId::new(), &rated.line, rated.tax.as_ref());
    let (version, add_on) = match &beside.source {
        Some(Source::Plan(version)) => (Some(version.as_str()), None),
        Some(Source::AddOn(add_on)) => (None, Some(add_on.as_str())),
        None => (None, None),
    };
    let basis = line.basis.as_ref().map(serde_json::to_value).transpose().map_err(|e| BillingError::unreadable("a line", e))?;
    sqlx::query!(
        "INSERT INTO invoice_lines (id, workspace_id, invoice_id, position, kind, name, plan_version_id, price, meter, period_start, period_end,
                                    quantity, amount_minor, tax_name, tax_rate, tax_inclusive, tax_minor, explanation, proof, add_on_id, value, basis,
                                    discount_minor, credit_minor, adjusts, adjusts_kind)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26)",
        id.as_str(),
        ws.as_str(),
        invoice.as_str(),
        position,
        line.kind.as_str(),
        line.name,
        version,
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
        beside.proof,
        add_on,
        line.value,
        basis,
        rated.discount.minor,
        rated.credit.minor,
        beside.adjusts.as_ref().map(InvoiceLineId::as_str),
        beside.of.map(LineKind::as_str)
    )
    .execute(conn)
    .await?;
    Ok(())
}
