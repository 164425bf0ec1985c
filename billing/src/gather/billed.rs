//! What invoices have of a period's usage already: those issued within it, and corrections of it.

use farebox_core::ids::{AddOnId, InvoiceLineId, PlanVersionId, SubscriptionId};
use farebox_core::money::{Currency, Money};
use farebox_core::period::Period;
use sqlx::PgConnection;

use crate::BillingError;
use crate::rating::cycle::Source;
use crate::rating::difference::BilledLine;
use crate::rating::lines::Line;

/// Usage, cap and minimum lines whose stretch ends in the period, in the order in which they were billed. A void
/// invoice's too: what it charged is forgiven, not charged anew.
pub(super) async fn usage_lines(
    conn: &mut PgConnection,
    subscription: &SubscriptionId,
    period: Period,
    currency: Currency,
) -> Result<Vec<BilledLine>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT coalesce(o.id, l.id) AS "first!: InvoiceLineId", coalesce(l.adjusts_kind, l.kind) AS "kind!", coalesce(o.name, l.name) AS "name!",
                  coalesce(oi.number, i.number, '(draft)') AS "number!",
                  l.plan_version_id AS "version: PlanVersionId", l.add_on_id AS "add_on: AddOnId", l.price, l.meter, l.value, l.period_start, l.period_end,
                  l.quantity, l.amount_minor, coalesce(o.basis, l.basis) AS basis
           FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
           LEFT JOIN invoice_lines o ON o.id = l.adjusts LEFT JOIN invoices oi ON oi.id = o.invoice_id
           WHERE i.subscription_id = $1 AND l.period_end > $2 AND l.period_end <= $3 AND coalesce(l.adjusts_kind, l.kind) IN ('usage', 'minimum', 'cap')
           ORDER BY i.id, l.position"#,
        subscription.as_str(),
        period.start,
        period.end
    )
    .fetch_all(conn)
    .await?;
    let mut found = Vec::new();
    for row in rows {
        let Some(source) = row.version.map(Source::Plan).or(row.add_on.map(Source::AddOn)) else { continue };
        let unreadable = |e: serde_json::Error| BillingError::unreadable("an invoice line", e);
        let kind = serde_json::from_value(row.kind.into()).map_err(unreadable)?;
        let line = Line {
            kind,
            name: row.name,
            price: row.price,
            meter: row.meter,
            value: row.value,
            period: Period { start: row.period_start, end: row.period_end },
            quantity: row.quantity,
            amount: Money::new(row.amount_minor, currency),
            explanation: String::new(),
            counts_to_minimum: false,
            basis: row.basis.map(serde_json::from_value).transpose().map_err(unreadable)?,
            alert: None,
        };
        found.push(BilledLine { source, kind, line, first: row.first, number: row.number });
    }
    Ok(found)
}
