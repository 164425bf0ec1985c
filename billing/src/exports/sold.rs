//! Issued lines in the shapes that other systems import: Xero, QuickBooks Online, NetSuite, FOCUS. Void invoices are left
//! out. A line has quantity 1 at its net amount, since our amounts are final; the metered quantity is in its description.

use bigdecimal::BigDecimal;
use chrono::{DateTime, NaiveDate, Utc};
use farebox_core::money::{Money, plain};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::Value as Json;
use sqlx::PgConnection;

use super::manifest::Total;
use super::scope::{Scope, currency};
use super::table::{Column, Kind, Role, Row, Value, column, text};
use super::{Report, focus};
use crate::BillingError;

/// A line with what its invoice says.
pub struct Sold {
    pub line: String,
    pub number: String,
    pub invoice: String,
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

const fn amount(name: &'static str) -> Column {
    Column { name, kind: Kind::Money, role: Role::Sum }
}

const CURRENCY: Column = Column { name: "Currency", kind: Kind::Text, role: Role::Currency };

/// Xero's template for sales invoices; amounts exclude tax, which is to be chosen when the file is imported.
pub const XERO: &[Column] = &[
    text("*ContactName"),
    text("EmailAddress"),
    text("POAddressLine1"),
    text("POAddressLine2"),
    text("POCity"),
    text("PORegion"),
    text("POPostalCode"),
    text("POCountry"),
    text("*InvoiceNumber"),
    text("Reference"),
    text("*InvoiceDate"),
    text("*DueDate"),
    text("InventoryItemCode"),
    text("*Description"),
    column("*Quantity", Kind::Integer),
    amount("*UnitAmount"),
    text("*AccountCode"),
    text("*TaxType"),
    amount("TaxAmount"),
    CURRENCY,
];

/// The columns that QuickBooks Online's import recognises by itself.
pub const QUICKBOOKS: &[Column] = &[
    text("*InvoiceNo"),
    text("*Customer"),
    text("*InvoiceDate"),
    text("*DueDate"),
    text("Terms"),
    text("Memo"),
    text("Item(Product/Service)"),
    text("ItemDescription"),
    column("ItemQuantity", Kind::Integer),
    amount("ItemRate"),
    amount("*ItemAmount"),
    text("ItemTaxCode"),
    amount("ItemTaxAmount"),
    CURRENCY,
    text("Service Date"),
];

/// For NetSuite's import assistant, record type invoice with its items; one external id an invoice and a line.
pub const NETSUITE: &[Column] = &[
    text("External ID"),
    text("Customer External ID"),
    text("Customer"),
    text("Invoice Number"),
    column("Date", Kind::Date),
    column("Due Date", Kind::Date),
    CURRENCY,
    text("Memo"),
    text("Line ID"),
    text("Item"),
    text("Description"),
    column("Quantity", Kind::Integer),
    amount("Rate"),
    amount("Amount"),
    text("Account"),
    text("Tax Code"),
    amount("Tax Amount"),
    column("Start Date", Kind::Date),
    column("End Date", Kind::Date),
];

pub fn rows<'c>(conn: &'c mut PgConnection, scope: &Scope, report: Report) -> BoxStream<'c, Result<Row, BillingError>> {
    let found = sqlx::query!(
        r#"SELECT l.id, i.number AS "number!", i.id AS invoice, i.consumer_id, i.buyer, i.seller, i.subscription_id,
                  i.issued_at AS "issued_at!", i.due_at, i.period_start AS invoice_start, i.period_end AS invoice_end, l.period_start, l.period_end,
                  l.kind, l.name, l.price, l.meter, l.quantity, l.explanation, i.currency, l.tax_minor, l.tax_name, l.tax_rate,
                  l.amount_minor - l.discount_minor - l.credit_minor - CASE WHEN l.tax_inclusive THEN l.tax_minor ELSE 0 END AS "net!"
           FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id
           WHERE i.workspace_id = $1 AND i.state NOT IN ('draft', 'void')
             AND CASE WHEN $4 THEN i.period_start ELSE i.issued_at END >= $2 AND CASE WHEN $4 THEN i.period_start ELSE i.issued_at END < $3
           ORDER BY i.issued_at, i.id, l.position"#,
        scope.workspace.id.as_str(),
        scope.period.start,
        scope.period.end,
        scope.by_period()
    )
    .fetch(conn);
    let scope = scope.clone();
    found
        .map(move |row| -> Result<Vec<Row>, BillingError> {
            let row = row?;
            let currency = currency(&row.currency)?;
            let sold = Sold {
                line: row.id,
                number: row.number,
                invoice: row.invoice,
                consumer: row.consumer_id,
                buyer: row.buyer,
                seller: row.seller,
                subscription: row.subscription_id,
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
                net: Money::new(row.net, currency),
                tax: Money::new(row.tax_minor, currency),
                tax_name: row.tax_name,
                tax_rate: row.tax_rate,
            };
            Ok(match report {
                Report::Quickbooks => vec![quickbooks(&sold, &scope)],
                Report::Netsuite => vec![netsuite(&sold, &scope)],
                Report::Focus => focus::rows(&sold),
                _ => vec![xero(&sold, &scope)],
            })
        })
        .flat_map(|rows| match rows {
            Ok(rows) => futures::stream::iter(rows.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => futures::stream::iter(vec![Err(error)]),
        })
        .boxed()
}

pub async fn totals(conn: &mut PgConnection, scope: &Scope, report: Report) -> Result<Vec<Total>, BillingError> {
    let found = sqlx::query!(
        r#"SELECT i.currency, count(*) AS "rows!", count(*) FILTER (WHERE l.tax_minor <> 0) AS "taxed!", sum(l.tax_minor) AS "tax!: BigDecimal",
                  sum(l.amount_minor - l.discount_minor - l.credit_minor - CASE WHEN l.tax_inclusive THEN l.tax_minor ELSE 0 END) AS "net!: BigDecimal"
           FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id
           WHERE i.workspace_id = $1 AND i.state NOT IN ('draft', 'void')
             AND CASE WHEN $4 THEN i.period_start ELSE i.issued_at END >= $2 AND CASE WHEN $4 THEN i.period_start ELSE i.issued_at END < $3
           GROUP BY i.currency"#,
        scope.workspace.id.as_str(),
        scope.period.start,
        scope.period.end,
        scope.by_period()
    )
    .fetch_all(conn)
    .await?;
    let sums = |net: BigDecimal, tax: BigDecimal| match report {
        Report::Quickbooks => vec![("ItemRate", net.clone()), ("*ItemAmount", net), ("ItemTaxAmount", tax)],
        Report::Netsuite => vec![("Rate", net.clone()), ("Amount", net), ("Tax Amount", tax)],
        Report::Focus => focus::SUMS.iter().map(|name| (*name, &net + &tax)).collect(),
        _ => vec![("*UnitAmount", net), ("TaxAmount", tax)],
    };
    found
        .into_iter()
        .map(|row| {
            let rows = if report == Report::Focus { row.rows + row.taxed } else { row.rows };
            Ok(Total::from_minor(currency(&row.currency)?, String::new(), rows, sums(row.net, row.tax)))
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

fn xero(sold: &Sold, scope: &Scope) -> Row {
    vec![
        buyer_name(sold).into(),
        said(&sold.buyer, "/email").into(),
        said(&sold.buyer, "/address/line1").into(),
        said(&sold.buyer, "/address/line2").into(),
        said(&sold.buyer, "/address/city").into(),
        said(&sold.buyer, "/address/state").into(),
        said(&sold.buyer, "/address/postal_code").into(),
        said(&sold.buyer, "/address/country").into(),
        sold.number.clone().into(),
        sold.subscription.clone().into(),
        local(scope.date(sold.issued_at), sold).into(),
        local(scope.date(due(sold)), sold).into(),
        Value::Nothing,
        description(sold, scope).into(),
        1_i64.into(),
        sold.net.into(),
        scope.codes.account(&sold.kind).into(),
        scope.codes.tax(sold.tax_name.as_deref(), sold.tax_rate.as_ref()).into(),
        sold.tax.into(),
        sold.net.currency.code().into(),
    ]
}

fn quickbooks(sold: &Sold, scope: &Scope) -> Row {
    vec![
        sold.number.clone().into(),
        buyer_name(sold).into(),
        local(scope.date(sold.issued_at), sold).into(),
        local(scope.date(due(sold)), sold).into(),
        Value::Nothing,
        sold.invoice.clone().into(),
        scope.codes.item.as_str().into(),
        description(sold, scope).into(),
        1_i64.into(),
        sold.net.into(),
        sold.net.into(),
        scope.codes.tax(sold.tax_name.as_deref(), sold.tax_rate.as_ref()).into(),
        sold.tax.into(),
        sold.net.currency.code().into(),
        local(scope.date(sold.start), sold).into(),
    ]
}

fn netsuite(sold: &Sold, scope: &Scope) -> Row {
    vec![
        sold.invoice.clone().into(),
        sold.consumer.clone().into(),
        buyer_name(sold).into(),
        sold.number.clone().into(),
        scope.date(sold.issued_at).into(),
        scope.date(due(sold)).into(),
        sold.net.currency.code().into(),
        sold.subscription.clone().into(),
        sold.line.clone().into(),
        scope.codes.item.as_str().into(),
        description(sold, scope).into(),
        1_i64.into(),
        sold.net.into(),
        sold.net.into(),
        scope.codes.account(&sold.kind).into(),
        scope.codes.tax(sold.tax_name.as_deref(), sold.tax_rate.as_ref()).into(),
        sold.tax.into(),
        scope.date(sold.start).into(),
        scope.date((sold.end - chrono::TimeDelta::microseconds(1)).max(sold.start)).into(),
    ]
}
