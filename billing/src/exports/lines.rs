//! Invoice lines, one a row, each with the proof of what was counted.

use bigdecimal::BigDecimal;
use farebox_core::money::Money;
use futures::{FutureExt, StreamExt};
use sqlx::PgConnection;

use super::manifest::Total;
use super::scope::{Scope, currency};
use super::table::{Column, Kind, Value, column, group, sum, text};
use super::{Report, Rows, Source};
use crate::BillingError;

pub const REPORT: Report = Report {
    name: "lines",
    about: "their lines, with tax, arithmetic and the proof of what was counted",
    source: Source::Documents,
    columns: COLUMNS,
    rows,
    totals: |conn, scope| totals(conn, scope).boxed(),
};

const COLUMNS: &[Column] = &[
    text("line"),
    text("invoice"),
    text("number"),
    group("invoice_state"),
    column("issued_on", Kind::Date),
    text("consumer"),
    text("consumer_name"),
    text("subscription"),
    column("position", Kind::Integer),
    text("kind"),
    text("name"),
    text("plan"),
    column("plan_version", Kind::Integer),
    text("price"),
    text("meter"),
    column("period_from", Kind::Instant),
    column("period_to", Kind::Instant),
    column("quantity", Kind::Quantity),
    super::table::currency(),
    sum("amount"),
    sum("discount"),
    sum("credit"),
    sum("net"),
    sum("tax"),
    text("tax_name"),
    column("tax_rate", Kind::Quantity),
    column("tax_inclusive", Kind::Boolean),
    text("explanation"),
    column("proof_events", Kind::Integer),
    text("proof_hash"),
];

fn rows<'c>(conn: &'c mut PgConnection, scope: &Scope) -> Rows<'c> {
    let found = sqlx::query!(
        r#"SELECT l.id, i.id AS invoice, i.number AS "number!", i.state, i.issued_at AS "issued_at!", i.consumer_id, i.buyer->>'name' AS consumer_name,
                  coalesce(l.subscription_id, i.subscription_id) AS "subscription_id!", l.position, l.kind, l.name, p.name AS "plan?", v.version AS "version?", l.price, l.meter,
                  l.period_start, l.period_end, l.quantity, i.currency, l.amount_minor, l.discount_minor, l.credit_minor, l.tax_minor, l.tax_name, l.tax_rate, l.tax_inclusive,
                  l.amount_minor - l.discount_minor - l.credit_minor - CASE WHEN l.tax_inclusive THEN l.tax_minor ELSE 0 END AS "net!", l.explanation,
                  (l.proof->>'events')::bigint AS proof_events, l.proof->>'hash' AS proof_hash
           FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id
           LEFT JOIN plan_versions v ON v.id = l.plan_version_id LEFT JOIN plans p ON p.id = v.plan_id
           WHERE i.workspace_id = $1 AND i.state <> 'draft'
             AND CASE WHEN $4 THEN i.period_start ELSE i.issued_at END >= $2 AND CASE WHEN $4 THEN i.period_start ELSE i.issued_at END < $3
           ORDER BY i.issued_at, i.id, l.position"#,
        scope.workspace.id.as_str(),
        scope.period.start,
        scope.period.end,
        scope.by_period()
    )
    .fetch(conn);
    let scope = scope.clone();
    found
        .map(move |row| {
            let row = row?;
            let currency = currency(&row.currency)?;
            let money = |minor| Value::from(Money::new(minor, currency));
            Ok(vec![
                row.id.into(),
                row.invoice.into(),
                row.number.into(),
                row.state.into(),
                scope.date(row.issued_at).into(),
                row.consumer_id.into(),
                row.consumer_name.into(),
                row.subscription_id.into(),
                row.position.into(),
                row.kind.into(),
                row.name.into(),
                row.plan.into(),
                row.version.into(),
                row.price.into(),
                row.meter.into(),
                row.period_start.into(),
                row.period_end.into(),
                row.quantity.into(),
                currency.code().into(),
                money(row.amount_minor),
                money(row.discount_minor),
                money(row.credit_minor),
                money(row.net),
                money(row.tax_minor),
                row.tax_name.into(),
                row.tax_rate.into(),
                row.tax_inclusive.into(),
                row.explanation.into(),
                row.proof_events.into(),
                row.proof_hash.into(),
            ])
        })
        .boxed()
}

async fn totals(conn: &mut PgConnection, scope: &Scope) -> Result<Vec<Total>, BillingError> {
    let found = sqlx::query!(
        r#"SELECT i.currency, i.state, count(*) AS "rows!", sum(l.amount_minor) AS "amount!: BigDecimal",
                  sum(l.discount_minor) AS "discount!: BigDecimal", sum(l.credit_minor) AS "credit!: BigDecimal", sum(l.tax_minor) AS "tax!: BigDecimal",
                  sum(l.amount_minor - l.discount_minor - l.credit_minor - CASE WHEN l.tax_inclusive THEN l.tax_minor ELSE 0 END) AS "net!: BigDecimal"
           FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id
           WHERE i.workspace_id = $1 AND i.state <> 'draft'
             AND CASE WHEN $4 THEN i.period_start ELSE i.issued_at END >= $2 AND CASE WHEN $4 THEN i.period_start ELSE i.issued_at END < $3
           GROUP BY i.currency, i.state"#,
        scope.workspace.id.as_str(),
        scope.period.start,
        scope.period.end,
        scope.by_period()
    )
    .fetch_all(conn)
    .await?;
    found
        .into_iter()
        .map(|row| {
            let sums = [("amount", row.amount), ("discount", row.discount), ("credit", row.credit), ("net", row.net), ("tax", row.tax)];
            Total::from_minor(&row.currency, row.state, row.rows, sums)
        })
        .collect()
}
