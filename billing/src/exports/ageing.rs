//! Receivables at the end of the period, from the ledger, by how long they have been due: of invoices issued since its
//! beginning.

use bigdecimal::BigDecimal;
use farebox_core::money::Money;
use futures::{FutureExt, StreamExt};
use sqlx::PgConnection;

use super::manifest::Total;
use super::scope::{Scope, currency};
use super::table::{Column, Kind, column, group, sum, text};
use super::{Report, Rows, Source};
use crate::BillingError;

pub const REPORT: Report = Report {
    name: "ageing",
    about: "receivables at the end of the period, by how long they have been due",
    source: Source::Ledger,
    columns: COLUMNS,
    rows,
    totals: |conn, scope| totals(conn, scope).boxed(),
};

const COLUMNS: &[Column] = &[
    text("invoice"),
    text("number"),
    text("consumer"),
    text("consumer_name"),
    column("issued_on", Kind::Date),
    column("due_on", Kind::Date),
    column("days_late", Kind::Integer),
    group("bucket"),
    super::table::currency(),
    sum("open"),
];

fn rows<'c>(conn: &'c mut PgConnection, scope: &Scope) -> Rows<'c> {
    let (first, next) = scope.days();
    let found = sqlx::query!(
        r#"WITH open AS (
               SELECT p.invoice_id, p.currency, sum(p.amount_minor)::bigint AS amount
               FROM ledger_postings p JOIN ledger_journals j ON j.id = p.journal_id
               WHERE p.workspace_id = $1 AND p.account = 'receivable' AND j.booked_on < $3
               GROUP BY p.invoice_id, p.currency HAVING sum(p.amount_minor) <> 0
           ), aged AS (
               SELECT open.*, i.number, i.consumer_id, i.buyer->>'name' AS consumer_name, i.issued_at, i.due_at,
                      greatest(0, $3 - 1 - (i.due_at AT TIME ZONE $4)::date) AS late
               FROM open JOIN invoices i ON i.id = open.invoice_id WHERE (i.issued_at AT TIME ZONE $4)::date >= $2
           )
           SELECT invoice_id AS "invoice!", number AS "number!", consumer_id, consumer_name, issued_at AS "issued_at!", due_at, late AS "late!",
                  CASE WHEN late <= 0 THEN 'not due' WHEN late <= 30 THEN '1-30' WHEN late <= 60 THEN '31-60' WHEN late <= 90 THEN '61-90'
                       ELSE 'over 90' END AS "bucket!", currency, amount AS "amount!"
           FROM aged ORDER BY late DESC, issued_at, invoice_id"#,
        scope.workspace.id.as_str(),
        first,
        next,
        scope.workspace.time_zone.name()
    )
    .fetch(conn);
    let scope = scope.clone();
    found
        .map(move |row| {
            let row = row?;
            let currency = currency(&row.currency)?;
            Ok(vec![
                row.invoice.into(),
                row.number.into(),
                row.consumer_id.into(),
                row.consumer_name.into(),
                scope.date(row.issued_at).into(),
                row.due_at.map(|at| scope.date(at)).into(),
                row.late.into(),
                row.bucket.into(),
                currency.code().into(),
                Money::new(row.amount, currency).into(),
            ])
        })
        .boxed()
}

async fn totals(conn: &mut PgConnection, scope: &Scope) -> Result<Vec<Total>, BillingError> {
    let (first, next) = scope.days();
    let found = sqlx::query!(
        r#"WITH open AS (
               SELECT p.invoice_id, p.currency, sum(p.amount_minor) AS amount
               FROM ledger_postings p JOIN ledger_journals j ON j.id = p.journal_id
               WHERE p.workspace_id = $1 AND p.account = 'receivable' AND j.booked_on < $3
               GROUP BY p.invoice_id, p.currency HAVING sum(p.amount_minor) <> 0
           ), aged AS (
               SELECT open.*, greatest(0, $3 - 1 - (i.due_at AT TIME ZONE $4)::date) AS late
               FROM open JOIN invoices i ON i.id = open.invoice_id WHERE (i.issued_at AT TIME ZONE $4)::date >= $2
           )
           SELECT currency, CASE WHEN late <= 0 THEN 'not due' WHEN late <= 30 THEN '1-30' WHEN late <= 60 THEN '31-60' WHEN late <= 90 THEN '61-90'
                       ELSE 'over 90' END AS "bucket!", count(*) AS "rows!", sum(amount) AS "open!: BigDecimal"
           FROM aged GROUP BY 1, 2"#,
        scope.workspace.id.as_str(),
        first,
        next,
        scope.workspace.time_zone.name()
    )
    .fetch_all(conn)
    .await?;
    found.into_iter().map(|row| Total::from_minor(&row.currency, row.bucket, row.rows, [("open", row.open)])).collect()
}
