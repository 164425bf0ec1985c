//! The revenue waterfall: invoices by the month they were issued in, across the months their revenue is earned in; and prepaid
//! credits and units by the month they were bought in, across the months they are used or expire in. Months ahead show what is still
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
        r#"SELECT date_trunc('month', at AT TIME ZONE $4)::date AS "issued_month!", date_trunc('month', booked_on)::date AS "earned_month!",
                  source AS "source!", CASE WHEN booked_on <= $5 THEN 'earned' ELSE 'deferred' END AS "state!", currency AS "currency!",
                  count(DISTINCT document) AS "documents!", -sum(amount_minor)::bigint AS "revenue!"
           FROM revenue_by_origin($1, $2, $3) GROUP BY 1, 2, 3, 4, 5 ORDER BY 5, 1, 2, 3, 4"#,
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
        r#"SELECT currency AS "currency!", CASE WHEN booked_on <= $5 THEN 'earned' ELSE 'deferred' END AS "state!",
                  -sum(amount_minor) AS "revenue!: BigDecimal",
                  count(DISTINCT (date_trunc('month', at AT TIME ZONE $4), date_trunc('month', booked_on), source)) AS "rows!"
           FROM revenue_by_origin($1, $2, $3) GROUP BY 1, 2"#,
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
