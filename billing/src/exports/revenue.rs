//! Revenue as it is earned: a line and a month, a row.

use bigdecimal::BigDecimal;
use farebox_core::money::Money;
use futures::StreamExt;
use futures::stream::BoxStream;
use sqlx::PgConnection;

use super::manifest::Total;
use super::scope::{Scope, currency};
use super::table::{Column, Kind, Row, column, group, sum, text};
use crate::BillingError;

pub const COLUMNS: &[Column] = &[
    column("earned_on", Kind::Date),
    text("consumer"),
    text("consumer_name"),
    text("subscription"),
    text("invoice"),
    text("number"),
    text("line"),
    group("line_kind"),
    text("name"),
    text("plan"),
    text("price"),
    text("meter"),
    text("cause"),
    super::table::currency(),
    sum("revenue"),
];

pub fn rows<'c>(conn: &'c mut PgConnection, scope: &Scope) -> BoxStream<'c, Result<Row, BillingError>> {
    let (first, next) = scope.days();
    sqlx::query!(
        r#"SELECT j.booked_on, j.consumer_id, i.buyer->>'name' AS consumer_name, i.subscription_id AS "subscription?", p.invoice_id, i.number, p.line_id,
                  coalesce(l.kind, '') AS "kind!", l.name AS "name?", v.name AS "plan?", l.price, l.meter, j.kind AS cause, p.currency,
                  -p.amount_minor AS "amount!"
           FROM ledger_journals j JOIN ledger_postings p ON p.journal_id = j.id
           LEFT JOIN invoices i ON i.id = p.invoice_id LEFT JOIN invoice_lines l ON l.id = p.line_id
           LEFT JOIN LATERAL (SELECT plans.name FROM plan_versions pv JOIN plans ON plans.id = pv.plan_id WHERE pv.id = l.plan_version_id) v ON true
           WHERE j.workspace_id = $1 AND j.booked_on >= $2 AND j.booked_on < $3 AND p.account = 'revenue'
           ORDER BY j.booked_on, j.id, p.position"#,
        scope.workspace.id.as_str(),
        first,
        next
    )
    .fetch(conn)
    .map(|row| {
        let row = row?;
        let currency = currency(&row.currency)?;
        Ok(vec![
            row.booked_on.into(),
            row.consumer_id.into(),
            row.consumer_name.into(),
            row.subscription.into(),
            row.invoice_id.into(),
            row.number.into(),
            row.line_id.into(),
            row.kind.into(),
            row.name.into(),
            row.plan.into(),
            row.price.into(),
            row.meter.into(),
            row.cause.into(),
            currency.code().into(),
            Money::new(row.amount, currency).into(),
        ])
    })
    .boxed()
}

pub async fn totals(conn: &mut PgConnection, scope: &Scope) -> Result<Vec<Total>, BillingError> {
    let (first, next) = scope.days();
    let found = sqlx::query!(
        r#"SELECT p.currency, coalesce(l.kind, '') AS "kind!", count(*) AS "rows!", -sum(p.amount_minor) AS "revenue!: BigDecimal"
           FROM ledger_journals j JOIN ledger_postings p ON p.journal_id = j.id LEFT JOIN invoice_lines l ON l.id = p.line_id
           WHERE j.workspace_id = $1 AND j.booked_on >= $2 AND j.booked_on < $3 AND p.account = 'revenue'
           GROUP BY p.currency, coalesce(l.kind, '')"#,
        scope.workspace.id.as_str(),
        first,
        next
    )
    .fetch_all(conn)
    .await?;
    let row = |currency, kind, rows, sum| Total::from_minor(currency, kind, rows, [("revenue", sum)]);
    found.into_iter().map(|found| Ok(row(currency(&found.currency)?, found.kind, found.rows, found.revenue))).collect()
}
