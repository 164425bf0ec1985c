//! Issued lines in the shapes that other systems import: [`xero`], [`quickbooks`], [`netsuite`], [`focus`]; and what credit notes
//! take back of them. What is void is left out. A line has quantity 1 at its net amount, since our amounts are final; the
//! metered quantity is in its description.

pub mod focus;
pub mod netsuite;
pub mod quickbooks;
pub mod xero;

use bigdecimal::BigDecimal;
use chrono::{DateTime, NaiveDate, Utc};
use farebox_core::money::{Money, plain};
use futures::StreamExt;
use serde_json::Value as Json;
use sqlx::PgConnection;

use super::Rows;
use super::manifest::Total;
use super::scope::{Scope, currency};
use super::table::{Column, Kind, Role, Row};
use crate::BillingError;

/// A line with what its document says.
pub struct Sold {
    /// Of the invoice, also where a credit note takes it back.
    pub line: String,
    /// Of the document.
    pub number: String,
    pub document: String,
    /// Of a credit note.
    pub corrects: Option<Corrects>,
    pub consumer: String,
    pub buyer: Json,
    pub seller: Json,
    pub subscription: String,
    pub issued_at: DateTime<Utc>,
    pub due_at: Option<DateTime<Utc>>,
    pub invoice_start: DateTime<Utc>,
    pub invoice_end: DateTime<Utc>,
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
    pub kind: String,
    pub name: String,
    pub price: Option<String>,
    pub meter: Option<String>,
    pub quantity: BigDecimal,
    pub explanation: String,
    pub net: Money,
    pub tax: Money,
    pub tax_name: Option<String>,
    pub tax_rate: Option<BigDecimal>,
}

/// The invoice of a credit note.
pub struct Corrects {
    pub invoice: String,
    pub number: String,
    /// The whole of the note, where it lets less be paid; on its first line only.
    pub applied: Option<Money>,
}

const fn amount(name: &'static str) -> Column {
    Column { name, kind: Kind::Money, role: Role::Sum }
}

const CURRENCY: Column = Column { name: "Currency", kind: Kind::Text, role: Role::Currency };

/// How a report writes lines, and which it is of.
struct Shape {
    invoices: bool,
    credit_notes: bool,
    /// Whether what a credit note takes back is negative.
    negative: bool,
    row: fn(&Sold, &Scope) -> Row,
    /// Where the tax is a row of its own, in the same columns.
    tax_row: Option<fn(&Sold, &Scope) -> Row>,
    /// The columns with the net amount, and those with its tax.
    net: &'static [&'static str],
    tax: &'static [&'static str],
}

fn rows<'c>(conn: &'c mut PgConnection, scope: &Scope, shape: &'static Shape) -> Rows<'c> {
    let found = sqlx::query!(
        r#"SELECT l.id AS "line!", i.number AS "number!", i.id AS "document!", NULL AS corrects, NULL AS corrects_number, NULL::bigint AS applied,
                  i.consumer_id AS "consumer!", i.buyer AS "buyer!", i.seller AS "seller!", coalesce(l.subscription_id, i.subscription_id) AS "subscription!",
                  i.issued_at AS "issued_at!", i.due_at, i.period_start AS "invoice_start!", i.period_end AS "invoice_end!",
                  l.period_start AS "period_start!", l.period_end AS "period_end!", l.kind AS "kind!", l.name AS "name!", l.price, l.meter,
                  l.quantity AS "quantity!", l.explanation AS "explanation!", i.currency AS "currency!", l.tax_minor AS "tax!", l.tax_name, l.tax_rate,
                  l.amount_minor - l.discount_minor - l.credit_minor - CASE WHEN l.tax_inclusive THEN l.tax_minor ELSE 0 END AS "net!",
                  l.position AS "position!"
           FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id
           WHERE $5 AND i.workspace_id = $1 AND i.state NOT IN ('draft', 'void')
             AND CASE WHEN $4 THEN i.period_start ELSE i.issued_at END >= $2 AND CASE WHEN $4 THEN i.period_start ELSE i.issued_at END < $3
           UNION ALL
           SELECT l.id, n.number, n.id, i.id, i.number, CASE WHEN n.settles = 'open' AND p.position = 0 THEN n.total_minor END,
                  i.consumer_id, i.buyer, i.seller, coalesce(l.subscription_id, i.subscription_id),
                  n.issued_at, NULL, i.period_start, i.period_end,
                  l.period_start, l.period_end, l.kind, l.name, l.price, l.meter,
                  l.quantity, l.explanation, i.currency, p.tax_minor * s.sign, l.tax_name, l.tax_rate,
                  (p.amount_minor - CASE WHEN l.tax_inclusive THEN p.tax_minor ELSE 0 END) * s.sign,
                  p.position
           FROM credit_notes n JOIN invoices i ON i.id = n.invoice_id
           JOIN credit_note_lines p ON p.credit_note_id = n.id JOIN invoice_lines l ON l.id = p.invoice_line_id
           CROSS JOIN (SELECT CASE WHEN $7 THEN -1 ELSE 1 END AS sign) s
           WHERE $6 AND n.workspace_id = $1 AND n.state = 'issued'
             AND CASE WHEN $4 THEN i.period_start ELSE n.issued_at END >= $2 AND CASE WHEN $4 THEN i.period_start ELSE n.issued_at END < $3
           ORDER BY 11, 3, 28"#,
        scope.workspace.id.as_str(),
        scope.period.start,
        scope.period.end,
        scope.by_period(),
        shape.invoices,
        shape.credit_notes,
        shape.negative
    )
    .fetch(conn);
    let scope = scope.clone();
    found
        .map(move |row| -> Result<Vec<Row>, BillingError> {
            let row = row?;
            let currency = currency(&row.currency)?;
            let money = |minor| Money::new(minor, currency);
            let corrects = row.corrects.zip(row.corrects_number);
            let corrects = corrects.map(|(invoice, number)| Corrects { invoice, number, applied: row.applied.map(money) });
            let sold = Sold {
                line: row.line,
                number: row.number,
                document: row.document,
                corrects,
                consumer: row.consumer,
                buyer: row.buyer,
                seller: row.seller,
                subscription: row.subscription,
                issued_at: row.issued_at,
                due_at: row.due_at,
                invoice_start: row.invoice_start,
                invoice_end: row.invoice_end,
                start: row.period_start,
                end: row.period_end,
                kind: row.kind,
                name: row.name,
                price: row.price,
                meter: row.meter,
                quantity: row.quantity,
                explanation: row.explanation,
                net: money(row.net),
                tax: money(row.tax),
                tax_name: row.tax_name,
                tax_rate: row.tax_rate,
            };
            let tax = shape.tax_row.filter(|_| !sold.tax.is_zero()).map(|row| row(&sold, &scope));
            Ok([(shape.row)(&sold, &scope)].into_iter().chain(tax).collect())
        })
        .flat_map(|rows| match rows {
            Ok(rows) => futures::stream::iter(rows.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => futures::stream::iter(vec![Err(error)]),
        })
        .boxed()
}

async fn totals(conn: &mut PgConnection, scope: &Scope, shape: &Shape) -> Result<Vec<Total>, BillingError> {
    let found = sqlx::query!(
        r#"WITH sold AS (
               SELECT i.currency, l.tax_minor AS tax,
                      l.amount_minor - l.discount_minor - l.credit_minor - CASE WHEN l.tax_inclusive THEN l.tax_minor ELSE 0 END AS net
               FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id
               WHERE $5 AND i.workspace_id = $1 AND i.state NOT IN ('draft', 'void')
                 AND CASE WHEN $4 THEN i.period_start ELSE i.issued_at END >= $2 AND CASE WHEN $4 THEN i.period_start ELSE i.issued_at END < $3
               UNION ALL
               SELECT i.currency, CASE WHEN $7 THEN -p.tax_minor ELSE p.tax_minor END,
                      CASE WHEN $7 THEN -1 ELSE 1 END * (p.amount_minor - CASE WHEN l.tax_inclusive THEN p.tax_minor ELSE 0 END)
               FROM credit_notes n JOIN invoices i ON i.id = n.invoice_id
               JOIN credit_note_lines p ON p.credit_note_id = n.id JOIN invoice_lines l ON l.id = p.invoice_line_id
               WHERE $6 AND n.workspace_id = $1 AND n.state = 'issued'
                 AND CASE WHEN $4 THEN i.period_start ELSE n.issued_at END >= $2 AND CASE WHEN $4 THEN i.period_start ELSE n.issued_at END < $3
           )
           SELECT currency AS "currency!", count(*) AS "rows!", count(*) FILTER (WHERE tax <> 0) AS "taxed!", sum(tax) AS "tax!: BigDecimal",
                  sum(net) AS "net!: BigDecimal"
           FROM sold GROUP BY currency"#,
        scope.workspace.id.as_str(),
        scope.period.start,
        scope.period.end,
        scope.by_period(),
        shape.invoices,
        shape.credit_notes,
        shape.negative
    )
    .fetch_all(conn)
    .await?;
    found
        .into_iter()
        .map(|row| {
            let both = shape.tax_row.map(|_| &row.net + &row.tax);
            let each = |names: &'static [&'static str], sum: &BigDecimal| {
                let sum = both.clone().unwrap_or_else(|| sum.clone());
                names.iter().map(move |name| (*name, sum.clone()))
            };
            let rows = if shape.tax_row.is_some() { row.rows + row.taxed } else { row.rows };
            let sums = each(shape.net, &row.net).chain(each(shape.tax, &row.tax));
            Total::from_minor(&row.currency, String::new(), rows, sums)
        })
        .collect()
}

pub fn said(json: &Json, path: &str) -> Option<String> {
    json.pointer(path).and_then(Json::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn description(sold: &Sold, scope: &Scope) -> String {
    let last = scope.date((sold.end - chrono::TimeDelta::microseconds(1)).max(sold.start));
    let counted = if sold.meter.is_some() { format!(", {}", plain(&sold.quantity)) } else { String::new() };
    format!("{}{counted}, {} to {last}. {}", sold.name, scope.date(sold.start), sold.explanation)
}

fn buyer_name(sold: &Sold) -> String {
    said(&sold.buyer, "/name").unwrap_or_else(|| sold.consumer.clone())
}

fn due(sold: &Sold) -> DateTime<Utc> {
    sold.due_at.unwrap_or(sold.issued_at)
}

/// As the company's own country writes it, which is what the importers expect.
fn local(on: NaiveDate, sold: &Sold) -> String {
    let american = said(&sold.seller, "/address/country").as_deref() == Some("US");
    on.format(if american { "%m/%d/%Y" } else { "%d/%m/%Y" }).to_string()
}
