//! Xero's template for sales invoices; amounts exclude tax, which is to be chosen when the file is imported. The same template
//! takes credit notes, as invoices with negative amounts: Xero's help on importing invoices, bills and credit notes,
//! <http://help.xero.com/Help/Accounts_InvoiceImport.htm>.

use futures::FutureExt;

use super::{CURRENCY, Shape, Sold, amount, buyer_name, description, due, local, rows, said, totals};
use crate::exports::scope::Scope;
use crate::exports::table::{Column, Kind, Row, Value, column, text};
use crate::exports::{Report, Source};

pub const REPORT: Report = Report {
    name: "xero",
    about: "lines as Xero imports sales invoices",
    source: Source::System("xero"),
    columns: COLUMNS,
    rows: |conn, scope| rows(conn, scope, &INVOICES),
    totals: |conn, scope| totals(conn, scope, &INVOICES).boxed(),
};

pub const CREDIT_NOTES: Report = Report {
    name: "xero-credit-notes",
    about: "lines of credit notes as Xero imports them",
    source: Source::System("xero"),
    columns: COLUMNS,
    rows: |conn, scope| rows(conn, scope, &NOTES),
    totals: |conn, scope| totals(conn, scope, &NOTES).boxed(),
};

const INVOICES: Shape =
    Shape { invoices: true, credit_notes: false, negative: false, row, tax_row: None, net: &["*UnitAmount"], tax: &["TaxAmount"] };

const NOTES: Shape = Shape { invoices: false, credit_notes: true, negative: true, ..INVOICES };

const COLUMNS: &[Column] = &[
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

/// Of a credit note with negative amounts, referring to its invoice.
fn row(sold: &Sold, scope: &Scope) -> Row {
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
        sold.corrects.as_ref().map_or(&sold.subscription, |of| &of.number).clone().into(),
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
