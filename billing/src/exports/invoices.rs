//! Invoices, one a row. Drafts are left out: they are not yet in the books.

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
    name: "invoices",
    about: "issued invoices, one a row, with who owes what",
    source: Source::Documents,
    columns: COLUMNS,
    rows,
    totals: |conn, scope| totals(conn, scope).boxed(),
};

const COLUMNS: &[Column] = &[
    text("invoice"),
    text("number"),
    group("state"),
    text("kind"),
    text("consumer"),
    text("consumer_name"),
    text("consumer_country"),
    text("consumer_tax_id"),
    text("subscription"),
    column("period_from", Kind::Instant),
    column("period_to", Kind::Instant),
    column("issued_at", Kind::Instant),
    column("issued_on", Kind::Date),
    column("due_on", Kind::Date),
    column("paid_at", Kind::Instant),
    super::table::currency(),
    sum("subtotal"),
    sum("tax"),
    sum("total"),
    sum("open"),
    column("carried", Kind::Boolean),
    text("carried_into"),
    text("collected"),
    text("stripe_id"),
];

fn rows<'c>(conn: &'c mut PgConnection, scope: &Scope) -> Rows<'c> {
    let found = sqlx::query!(
        r#"SELECT id, number AS "number!", state, kind, consumer_id, buyer->>'name' AS consumer_name,
                  coalesce(buyer->>'country', buyer->'address'->>'country') AS country, buyer->>'tax_id' AS tax_id,
                  (SELECT string_agg(p.subscription_id, ' ' ORDER BY p.subscription_id) FROM invoice_parts p WHERE p.invoice_id = invoices.id)
                      AS "subscriptions!",
                  period_start, period_end, issued_at AS "issued_at!", due_at, paid_at, currency,
                  subtotal_minor, tax_minor, total_minor, carried, carried_into, collect, stripe_id,
                  CASE WHEN state IN ('issued', 'uncollectible') AND NOT carried THEN total_minor - credited_minor ELSE 0 END AS "open!"
           FROM invoices
           WHERE workspace_id = $1 AND state <> 'draft'
             AND CASE WHEN $4 THEN period_start ELSE issued_at END >= $2 AND CASE WHEN $4 THEN period_start ELSE issued_at END < $3
           ORDER BY issued_at, id"#,
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
                row.number.into(),
                row.state.into(),
                row.kind.into(),
                row.consumer_id.into(),
                row.consumer_name.into(),
                row.country.into(),
                row.tax_id.into(),
                row.subscriptions.into(),
                row.period_start.into(),
                row.period_end.into(),
                row.issued_at.into(),
                scope.date(row.issued_at).into(),
                row.due_at.map(|at| scope.date(at)).into(),
                row.paid_at.into(),
                currency.code().into(),
                money(row.subtotal_minor),
                money(row.tax_minor),
                money(row.total_minor),
                money(row.open),
                row.carried.into(),
                row.carried_into.into(),
                row.collect.into(),
                row.stripe_id.into(),
            ])
        })
        .boxed()
}

async fn totals(conn: &mut PgConnection, scope: &Scope) -> Result<Vec<Total>, BillingError> {
    let found = sqlx::query!(
        r#"SELECT currency, state, count(*) AS "rows!", sum(subtotal_minor) AS "subtotal!: BigDecimal", sum(tax_minor) AS "tax!: BigDecimal",
                  sum(total_minor) AS "total!: BigDecimal",
                  coalesce(sum(total_minor - credited_minor) FILTER (WHERE state IN ('issued', 'uncollectible') AND NOT carried), 0) AS "open!: BigDecimal"
           FROM invoices
           WHERE workspace_id = $1 AND state <> 'draft'
             AND CASE WHEN $4 THEN period_start ELSE issued_at END >= $2 AND CASE WHEN $4 THEN period_start ELSE issued_at END < $3
           GROUP BY currency, state"#,
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
            let sums = [("subtotal", row.subtotal), ("tax", row.tax), ("total", row.total), ("open", row.open)];
            Total::from_minor(&row.currency, row.state, row.rows, sums)
        })
        .collect()
}
