//! What invoices have of a period's usage already: those issued within it, and corrections of it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use farebox_core::ids::{AddOnId, InvoiceLineId, PlanVersionId, SubscriptionId};
use farebox_core::money::Money;
use farebox_core::period::Period;
use sqlx::PgConnection;

use super::records::currency;
use crate::BillingError;
use crate::rating::cycle::Source;
use crate::rating::difference::BilledLine;
use crate::rating::lines::Line;
use crate::subscriptions::Subscription;

/// Usage, cap and minimum lines of each subscription whose stretch ends after an instant, in the order in which they were
/// billed, less what credit notes corrected of them. A void invoice's too: what it charged is forgiven, not charged anew.
pub(super) async fn usage_lines(
    conn: &mut PgConnection,
    since: &[(&Subscription, DateTime<Utc>)],
) -> Result<HashMap<SubscriptionId, Vec<BilledLine>>, BillingError> {
    let (ids, from): (Vec<_>, Vec<_>) = since.iter().map(|(subscription, from)| (subscription.id.as_str().to_owned(), *from)).unzip();
    // No usage is invoiced before its stretch is over.
    let rows = sqlx::query!(
        // Invoice by invoice: while a close fills empty tables the planner would read them whole.
        r#"WITH own AS MATERIALIZED (
               SELECT part.subscription_id, part.invoice_id, w.since FROM unnest($1::text[], $2::timestamptz[]) AS w (subscription_id, since)
               JOIN invoice_parts part ON part.subscription_id = w.subscription_id AND part.period_end > w.since)
           SELECT own.subscription_id AS "subscription!: SubscriptionId", x.currency AS "currency!", x.first AS "first!: InvoiceLineId",
                  x.kind AS "kind!", x.name AS "name!", x.number AS "number!", x.plan_version_id AS "version?: PlanVersionId",
                  x.add_on_id AS "add_on?: AddOnId", x.price AS "price?", x.meter AS "meter?", x.value AS "value?",
                  x.period_start AS "period_start!", x.period_end AS "period_end!", x.quantity AS "quantity!",
                  x.amount_minor AS "amount_minor!", x.basis AS basis
           FROM own CROSS JOIN LATERAL (
               SELECT i.currency, b.first, b.kind, coalesce(o.name, l.name) AS name, coalesce(oi.number, i.number, '(draft)') AS number,
                      l.plan_version_id, l.add_on_id, l.price, l.meter, l.value, l.period_start, l.period_end, b.quantity, b.amount_minor,
                      coalesce(o.basis, l.basis) AS basis, l.position, b.step
               FROM invoices i
               JOIN invoice_lines l ON l.invoice_id = i.id AND coalesce(l.subscription_id, i.subscription_id) = own.subscription_id
               CROSS JOIN LATERAL (
                   SELECT 0 AS step, coalesce(l.adjusts, l.id) AS first, coalesce(l.adjusts_kind, l.kind) AS kind, l.quantity, l.amount_minor
                   UNION ALL
                   SELECT 1, l.id, coalesce(l.adjusts_kind, l.kind), -p.corrects_quantity, -p.corrects_minor
                   FROM credit_note_lines p JOIN credit_notes n ON n.id = p.credit_note_id
                   WHERE p.invoice_line_id = l.id AND p.corrects_minor IS NOT NULL AND n.state NOT IN ('refused', 'void')
               ) b
               LEFT JOIN invoice_lines o ON o.id = l.adjusts LEFT JOIN invoices oi ON oi.id = o.invoice_id
               WHERE i.id = own.invoice_id AND l.period_end > own.since AND b.kind IN ('usage', 'minimum', 'cap') OFFSET 0) x
           ORDER BY own.invoice_id, x.position, x.step"#,
        &ids,
        &from
    )
    .fetch_all(conn)
    .await?;
    let mut found: HashMap<SubscriptionId, Vec<BilledLine>> = HashMap::new();
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
            amount: Money::new(row.amount_minor, currency(&row.currency)?),
            explanation: String::new(),
            counts_to_minimum: false,
            basis: row.basis.map(serde_json::from_value).transpose().map_err(unreadable)?,
            alert: None,
        };
        found.entry(row.subscription).or_default().push(BilledLine { source, kind, line, first: row.first, number: row.number });
    }
    Ok(found)
}
