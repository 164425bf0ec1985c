//! The revenue waterfall: invoices by the month they were issued in, across the months their revenue is earned in. Months
//! ahead show what is still deferred.

use bigdecimal::BigDecimal;
use farebox_core::money::Money;
use futures::StreamExt;
use futures::stream::BoxStream;
use sqlx::PgConnection;

use super::manifest::Total;
use super::scope::{Scope, currency};
use super::table::{Column, Kind, Row, column, group, sum};
use crate::BillingError;

pub const COLUMNS: &[Column] = &[
    column("issued_month", Kind::Date),
    column("earned_month", Kind::Date),
    group("state"),
    super::table::currency(),
    column("invoices", Kind::Integer),
    sum("revenue"),
];

pub fn rows<'c>(conn: &'c mut PgConnection, scope: &Scope) -> BoxStream<'c, Result<Row, BillingError>> {
    sqlx::query!(
        r#"SELECT date_trunc('month', i.issued_at AT TIME ZONE $4)::date AS "issued_month!", date_trunc('month', j.booked_on)::date AS "earned_month!",
                  CASE WHEN j.booked_on <= $5 THEN 'earned' ELSE 'deferred' END AS "state!", p.currency,
                  count(DISTINCT i.id) AS "invoices!", -sum(p.amount_minor)::bigint AS "revenue!"
           FROM invoices i JOIN ledger_postings p ON p.invoice_id = i.id AND p.account = 'revenue' JOIN ledger_journals j ON j.id = p.journal_id
           WHERE i.workspace_id = $1 AND i.issued_at >= $2 AND i.issued_at < $3
           GROUP BY 1, 2, 3, 4 ORDER BY 4, 1, 2, 3"#,
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
            row.state.into(),
            currency.code().into(),
            row.invoices.into(),
            Money::new(row.revenue, currency).into(),
        ])
    })
    .boxed()
}

pub async fn totals(conn: &mut PgConnection, scope: &Scope) -> Result<Vec<Total>, BillingError> {
    let found = sqlx::query!(
        r#"SELECT p.currency, CASE WHEN j.booked_on <= $5 THEN 'earned' ELSE 'deferred' END AS "state!", -sum(p.amount_minor) AS "revenue!: BigDecimal",
                  count(DISTINCT (date_trunc('month', i.issued_at AT TIME ZONE $4), date_trunc('month', j.booked_on))) AS "rows!"
           FROM invoices i JOIN ledger_postings p ON p.invoice_id = i.id AND p.account = 'revenue' JOIN ledger_journals j ON j.id = p.journal_id
           WHERE i.workspace_id = $1 AND i.issued_at >= $2 AND i.issued_at < $3
           GROUP BY 1, 2"#,
        scope.workspace.id.as_str(),
        scope.period.start,
        scope.period.end,
        scope.workspace.time_zone.name(),
        scope.date(scope.workspace.clock.now())
    )
    .fetch_all(conn)
    .await?;
    let row = |currency, state, rows, sum| Total::from_minor(currency, state, rows, [("revenue", sum)]);
    found.into_iter().map(|found| Ok(row(currency(&found.currency)?, found.state, found.rows, found.revenue))).collect()
}
