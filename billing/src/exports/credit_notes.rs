//! Lines of issued credit notes, one a row, each naming the invoice and line it takes back. Placed by when the note was issued.

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
    name: "credit-notes",
    about: "lines of credit notes, each with the invoice that it corrects",
    source: Source::Documents,
    columns: COLUMNS,
    rows,
    totals: |conn, scope| totals(conn, scope).boxed(),
};

const COLUMNS: &[Column] = &[
    text("credit_note"),
    text("number"),
    column("issued_on", Kind::Date),
    text("invoice"),
    text("invoice_number"),
    text("consumer"),
    text("consumer_name"),
    text("reason"),
    text("memo"),
    group("settles"),
    text("line"),
    text("kind"),
    text("name"),
    text("price"),
    text("meter"),
    column("period_from", Kind::Instant),
    column("period_to", Kind::Instant),
    super::table::currency(),
    sum("net"),
    sum("tax"),
    text("tax_name"),
    column("tax_rate", Kind::Quantity),
    text("stripe_id"),
];

fn rows<'c>(conn: &'c mut PgConnection, scope: &Scope) -> Rows<'c> {
    let found = sqlx::query!(
        r#"SELECT n.id, n.number AS "number!", n.issued_at AS "issued_at!", n.invoice_id, i.number AS "invoice_number!", n.consumer_id,
                  i.buyer->>'name' AS consumer_name, n.reason, n.memo, n.settles, l.id AS line, l.kind, l.name, l.price, l.meter,
                  l.period_start, l.period_end, n.currency, p.tax_minor, l.tax_name, l.tax_rate, n.stripe_id,
                  p.amount_minor - CASE WHEN l.tax_inclusive THEN p.tax_minor ELSE 0 END AS "net!"
           FROM credit_notes n JOIN invoices i ON i.id = n.invoice_id
           JOIN credit_note_lines p ON p.credit_note_id = n.id JOIN invoice_lines l ON l.id = p.invoice_line_id
           WHERE n.workspace_id = $1 AND n.state = 'issued' AND n.issued_at >= $2 AND n.issued_at < $3
           ORDER BY n.issued_at, n.id, p.position"#,
        scope.workspace.id.as_str(),
        scope.period.start,
        scope.period.end
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
                scope.date(row.issued_at).into(),
                row.invoice_id.into(),
                row.invoice_number.into(),
                row.consumer_id.into(),
                row.consumer_name.into(),
                row.reason.into(),
                row.memo.into(),
                row.settles.into(),
                row.line.into(),
                row.kind.into(),
                row.name.into(),
                row.price.into(),
                row.meter.into(),
                row.period_start.into(),
                row.period_end.into(),
                currency.code().into(),
                money(row.net),
                money(row.tax_minor),
                row.tax_name.into(),
                row.tax_rate.into(),
                row.stripe_id.into(),
            ])
        })
        .boxed()
}

async fn totals(conn: &mut PgConnection, scope: &Scope) -> Result<Vec<Total>, BillingError> {
    let found = sqlx::query!(
        r#"SELECT n.currency, n.settles, count(*) AS "rows!", sum(p.tax_minor) AS "tax!: BigDecimal",
                  sum(p.amount_minor - CASE WHEN l.tax_inclusive THEN p.tax_minor ELSE 0 END) AS "net!: BigDecimal"
           FROM credit_notes n JOIN credit_note_lines p ON p.credit_note_id = n.id JOIN invoice_lines l ON l.id = p.invoice_line_id
           WHERE n.workspace_id = $1 AND n.state = 'issued' AND n.issued_at >= $2 AND n.issued_at < $3
           GROUP BY 1, 2"#,
        scope.workspace.id.as_str(),
        scope.period.start,
        scope.period.end
    )
    .fetch_all(conn)
    .await?;
    found.into_iter().map(|row| Total::from_minor(&row.currency, row.settles, row.rows, [("net", row.net), ("tax", row.tax)])).collect()
}
