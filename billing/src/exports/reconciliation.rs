//! Every invoice here against Stripe, as it was when last compared; the period does not narrow it.

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
    name: "reconciliation",
    about: "every invoice here against Stripe, as last compared; not by period",
    source: Source::Documents,
    columns: COLUMNS,
    rows,
    totals: |conn, scope| totals(conn, scope).boxed(),
};

const COLUMNS: &[Column] = &[
    text("invoice"),
    text("number"),
    text("stripe_id"),
    text("state"),
    text("stripe_state"),
    super::table::currency(),
    sum("total"),
    column("stripe_total_units", Kind::Integer),
    column("stripe_paid_units", Kind::Integer),
    group("result"),
    text("difference"),
];

fn rows<'c>(conn: &'c mut PgConnection, scope: &Scope) -> Rows<'c> {
    sqlx::query!(
        r#"SELECT invoice_id, number, stripe_id, our_state, stripe_state, currency, our_minor, stripe_minor, stripe_paid, difference
           FROM reconciliation_rows WHERE workspace_id = $1 ORDER BY position"#,
        scope.workspace.id.as_str()
    )
    .fetch(conn)
    .map(|row| {
        let row = row?;
        let currency = currency(&row.currency)?;
        Ok(vec![
            row.invoice_id.into(),
            row.number.into(),
            row.stripe_id.into(),
            row.our_state.into(),
            row.stripe_state.into(),
            currency.code().into(),
            Money::new(row.our_minor.unwrap_or(0), currency).into(),
            row.stripe_minor.into(),
            row.stripe_paid.into(),
            if row.difference.is_some() { "different" } else { "equal" }.into(),
            row.difference.into(),
        ])
    })
    .boxed()
}

async fn totals(conn: &mut PgConnection, scope: &Scope) -> Result<Vec<Total>, BillingError> {
    let found = sqlx::query!(
        r#"SELECT currency, CASE WHEN difference IS NULL THEN 'equal' ELSE 'different' END AS "result!", count(*) AS "rows!",
                  coalesce(sum(our_minor), 0) AS "total!: BigDecimal"
           FROM reconciliation_rows WHERE workspace_id = $1 GROUP BY 1, 2"#,
        scope.workspace.id.as_str()
    )
    .fetch_all(conn)
    .await?;
    found.into_iter().map(|row| Total::from_minor(&row.currency, row.result, row.rows, [("total", row.total)])).collect()
}
