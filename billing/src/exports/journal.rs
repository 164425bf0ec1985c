//! The ledger's postings. Debits equal credits in each journal and currency.

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
    name: "journal",
    about: "postings of the revenue ledger, by the day they are booked on",
    source: Source::Ledger,
    columns: COLUMNS,
    rows,
    totals: |conn, scope| totals(conn, scope).boxed(),
};

const COLUMNS: &[Column] = &[
    column("journal", Kind::Integer),
    column("booked_on", Kind::Date),
    text("kind"),
    text("description"),
    group("account"),
    super::table::currency(),
    sum("debit"),
    sum("credit"),
    text("consumer"),
    text("invoice"),
    text("line"),
    text("key"),
    column("recorded_at", Kind::Instant),
];

fn rows<'c>(conn: &'c mut PgConnection, scope: &Scope) -> Rows<'c> {
    let (first, next) = scope.days();
    sqlx::query!(
        r#"SELECT j.id, j.booked_on, j.kind, j.description, p.account, p.currency, p.amount_minor, j.consumer_id, p.invoice_id, p.line_id, j.key,
                  j.recorded_at
           FROM ledger_journals j JOIN ledger_postings p ON p.journal_id = j.id
           WHERE j.workspace_id = $1 AND j.booked_on >= $2 AND j.booked_on < $3
           ORDER BY j.booked_on, j.id, p.position"#,
        scope.workspace.id.as_str(),
        first,
        next
    )
    .fetch(conn)
    .map(|row| {
        let row = row?;
        let currency = currency(&row.currency)?;
        let positive = |amount: i64| Value::from(Money::new(amount.max(0), currency));
        let credit = row.amount_minor.checked_neg().ok_or(farebox_core::money::MoneyError::Overflow(currency))?;
        Ok(vec![
            row.id.into(),
            row.booked_on.into(),
            row.kind.into(),
            row.description.into(),
            row.account.into(),
            currency.code().into(),
            positive(row.amount_minor),
            positive(credit),
            row.consumer_id.into(),
            row.invoice_id.into(),
            row.line_id.into(),
            row.key.into(),
            row.recorded_at.into(),
        ])
    })
    .boxed()
}

async fn totals(conn: &mut PgConnection, scope: &Scope) -> Result<Vec<Total>, BillingError> {
    let (first, next) = scope.days();
    let found = sqlx::query!(
        r#"SELECT p.currency, p.account, count(*) AS "rows!", coalesce(sum(p.amount_minor) FILTER (WHERE p.amount_minor > 0), 0) AS "debit!: BigDecimal",
                  coalesce(-sum(p.amount_minor) FILTER (WHERE p.amount_minor < 0), 0) AS "credit!: BigDecimal"
           FROM ledger_journals j JOIN ledger_postings p ON p.journal_id = j.id
           WHERE j.workspace_id = $1 AND j.booked_on >= $2 AND j.booked_on < $3
           GROUP BY p.currency, p.account"#,
        scope.workspace.id.as_str(),
        first,
        next
    )
    .fetch_all(conn)
    .await?;
    let total = found
        .into_iter()
        .map(|row| Total::from_minor(&row.currency, row.account, row.rows, [("debit", row.debit), ("credit", row.credit)]));
    total.collect()
}
