//! The revenue waterfall: invoices by the month they were issued in, across the months their revenue is earned in; and prepaid
//! credits by the month they were bought in, across the months they are used or expire in. Months ahead show what is still
//! deferred.

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
    name: "waterfall",
    about: "what was issued, by the month it was issued and the months it is earned in, those ahead too",
    source: Source::Ledger,
    columns: COLUMNS,
    rows,
    totals: |conn, scope| totals(conn, scope).boxed(),
};

const COLUMNS: &[Column] = &[
    column("issued_month", Kind::Date),
    column("earned_month", Kind::Date),
    text("source"),
    group("state"),
    super::table::currency(),
    column("documents", Kind::Integer),
    sum("revenue"),
];

fn rows<'c>(conn: &'c mut PgConnection, scope: &Scope) -> Rows<'c> {
    sqlx::query!(
        r#"WITH RECURSIVE bought AS (
               -- What is rolled over was bought when the first of its grants was.
               SELECT id, created_at FROM credit_grants WHERE workspace_id = $1 AND rolled_from IS NULL
               UNION ALL SELECT g.id, b.created_at FROM credit_grants g JOIN bought b ON g.rolled_from = b.id
           ), earned AS (
               SELECT i.issued_at AS at, 'invoice' AS source, i.id AS document, j.booked_on, p.currency, p.amount_minor
               FROM invoices i JOIN ledger_postings p ON p.invoice_id = i.id AND p.account = 'revenue'
               JOIN ledger_journals j ON j.id = p.journal_id AND j.kind <> 'balance'
               WHERE i.workspace_id = $1 AND i.issued_at >= $2 AND i.issued_at < $3
               UNION ALL
               SELECT b.created_at, 'prepaid', b.id, j.booked_on, p.currency, p.amount_minor
               FROM bought b JOIN credit_entries e ON e.grant_id = b.id
               JOIN ledger_journals j ON j.workspace_id = $1 AND j.key = 'credit_entry/' || e.id
               JOIN ledger_postings p ON p.journal_id = j.id AND p.account = 'revenue'
               WHERE b.created_at >= $2 AND b.created_at < $3
           )
           SELECT date_trunc('month', at AT TIME ZONE $4)::date AS "issued_month!", date_trunc('month', booked_on)::date AS "earned_month!",
                  source AS "source!", CASE WHEN booked_on <= $5 THEN 'earned' ELSE 'deferred' END AS "state!", currency AS "currency!",
                  count(DISTINCT document) AS "documents!", -sum(amount_minor)::bigint AS "revenue!"
           FROM earned GROUP BY 1, 2, 3, 4, 5 ORDER BY 5, 1, 2, 3, 4"#,
        scope.workspace.id.as_str(),
        scope.period.start,
        scope.period.end,
        scope.workspace.time_zone.name(),
        scope.date(scope.workspace.clock.now())
    )
    .fetch(conn)
    .map(|row| {
        let row = row?;
        let currency = currency(&row.currency)?;
        Ok(vec![
            row.issued_month.into(),
            row.earned_month.into(),
            row.source.into(),
            row.state.into(),
            currency.code().into(),
            row.documents.into(),
            Money::new(row.revenue, currency).into(),
        ])
    })
    .boxed()
}

async fn totals(conn: &mut PgConnection, scope: &Scope) -> Result<Vec<Total>, BillingError> {
    let found = sqlx::query!(
        r#"WITH RECURSIVE bought AS (
               SELECT id, created_at FROM credit_grants WHERE workspace_id = $1 AND rolled_from IS NULL
               UNION ALL SELECT g.id, b.created_at FROM credit_grants g JOIN bought b ON g.rolled_from = b.id
           ), earned AS (
               SELECT i.issued_at AS at, 'invoice' AS source, j.booked_on, p.currency, p.amount_minor
               FROM invoices i JOIN ledger_postings p ON p.invoice_id = i.id AND p.account = 'revenue'
               JOIN ledger_journals j ON j.id = p.journal_id AND j.kind <> 'balance'
               WHERE i.workspace_id = $1 AND i.issued_at >= $2 AND i.issued_at < $3
               UNION ALL
               SELECT b.created_at, 'prepaid', j.booked_on, p.currency, p.amount_minor
               FROM bought b JOIN credit_entries e ON e.grant_id = b.id
               JOIN ledger_journals j ON j.workspace_id = $1 AND j.key = 'credit_entry/' || e.id
               JOIN ledger_postings p ON p.journal_id = j.id AND p.account = 'revenue'
               WHERE b.created_at >= $2 AND b.created_at < $3
           )
           SELECT currency AS "currency!", CASE WHEN booked_on <= $5 THEN 'earned' ELSE 'deferred' END AS "state!",
                  -sum(amount_minor) AS "revenue!: BigDecimal",
                  count(DISTINCT (date_trunc('month', at AT TIME ZONE $4), date_trunc('month', booked_on), source)) AS "rows!"
           FROM earned GROUP BY 1, 2"#,
        scope.workspace.id.as_str(),
        scope.period.start,
        scope.period.end,
        scope.workspace.time_zone.name(),
        scope.date(scope.workspace.clock.now())
    )
    .fetch_all(conn)
    .await?;
    found.into_iter().map(|row| Total::from_minor(&row.currency, row.state, row.rows, [("revenue", row.revenue)])).collect()
}
