//! What QuickBooks Online's imports of invoices and of credit memos recognise by themselves. Credit memos have an import of their
//! own, and so positive amounts: Intuit's help on importing credit notes,
//! <https://quickbooks.intuit.com/learn-support/en-us/help-articles/how-to-import-credit-notes/00/332855>.

use futures::FutureExt;

use super::{CURRENCY, Shape, Sold, amount, buyer_name, description, due, local, rows, totals};
use crate::exports::scope::Scope;
use crate::exports::table::{Column, Kind, Row, Value, column, text};
use crate::exports::{Report, Source};

pub const REPORT: Report = Report {
    name: "quickbooks",
    about: "lines as QuickBooks Online imports invoices",
    source: Source::System("quickbooks"),
    columns: COLUMNS,
    rows: |conn, scope| rows(conn, scope, &INVOICES),
    totals: |conn, scope| totals(conn, scope, &INVOICES).boxed(),
};

pub const CREDIT_MEMOS: Report = Report {
    name: "quickbooks-credit-memos",
    about: "lines of credit notes as QuickBooks Online imports credit memos",
    source: Source::System("quickbooks"),
    columns: CREDIT_MEMO,
    rows: |conn, scope| rows(conn, scope, &MEMOS),
    totals: |conn, scope| totals(conn, scope, &MEMOS).boxed(),
};

const INVOICES: Shape = Shape {
    invoices: true,
    credit_notes: false,
    negative: false,
    row,
    tax_row: None,
    net: &["ItemRate", "*ItemAmount"],
    tax: &["ItemTaxAmount"],
};

const MEMOS: Shape = Shape { invoices: false, credit_notes: true, row: credit_memo, ..INVOICES };

const COLUMNS: &[Column] = &[
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

const CREDIT_MEMO: &[Column] = &[
    text("*CreditMemoNo"),
    text("*Customer"),
    text("*CreditMemoDate"),
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

fn row(sold: &Sold, scope: &Scope) -> Row {
    vec![
        sold.number.clone().into(),
        buyer_name(sold).into(),
        local(scope.date(sold.issued_at), sold).into(),
        local(scope.date(due(sold)), sold).into(),
        Value::Nothing,
        sold.document.clone().into(),
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

/// Amounts are positive; which invoice it corrects is in its memo.
fn credit_memo(sold: &Sold, scope: &Scope) -> Row {
    vec![
        sold.number.clone().into(),
        buyer_name(sold).into(),
        local(scope.date(sold.issued_at), sold).into(),
        sold.corrects.as_ref().map(|of| format!("Corrects {}", of.number)).into(),
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
