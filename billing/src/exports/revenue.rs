//! Revenue as it is earned: a line and a month, a row; prepaid credits as they are used or expire, under the kind `prepaid`.

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
    name: "revenue",
    about: "revenue earned, by line and month",
    source: Source::Ledger,
    columns: COLUMNS,
    rows,
    totals: |conn, scope| totals(conn, scope).boxed(),
};

const COLUMNS: &[Column] = &[
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

fn rows<'c>(conn: &'c mut PgConnection, scope: &Scope) -> Rows<'c> {
    let (first, next) = scope.days();
    sqlx::query!(
        r#"SELECT j.booked_on, j.consumer_id, i.buyer->>'name' AS consumer_name, coalesce(l.subscription_id, i.subscription_id) AS "subscription?", p.invoice_id, i.number, p.line_id,
                  coalesce(l.kind, CASE j.kind WHEN 'balance' THEN 'prepaid' ELSE '' END) AS "kind!",
                  coalesce(l.name, CASE j.kind WHEN 'balance' THEN j.description END) AS name, v.name AS "plan?", l.price, l.meter, j.kind AS cause, p.currency,
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

async fn totals(conn: &mut PgConnection, scope: &Scope) -> Result<Vec<Total>, BillingError> {
    let (first, next) = scope.days();
    let found = sqlx::query!(
        r#"SELECT p.currency, coalesce(l.kind, CASE j.kind WHEN 'balance' THEN 'prepaid' ELSE '' END) AS "kind!", count(*) AS "rows!", -sum(p.amount_minor) AS "revenue!: BigDecimal"
           FROM ledger_journals j JOIN ledger_postings p ON p.journal_id = j.id LEFT JOIN invoice_lines l ON l.id = p.line_id
           WHERE j.workspace_id = $1 AND j.booked_on >= $2 AND j.booked_on < $3 AND p.account = 'revenue'
           GROUP BY 1, 2"#,
        scope.workspace.id.as_str(),
        first,
        next
    )
    .fetch_all(conn)
    .await?;
    found.into_iter().map(|row| Total::from_minor(&row.currency, row.kind, row.rows, [("revenue", row.revenue)])).collect()
}
