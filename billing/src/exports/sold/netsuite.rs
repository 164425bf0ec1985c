//! For NetSuite's import assistant, record types invoice and credit memo with their items; one external id a document and a
//! line. A credit memo has positive amounts, and is applied to invoices by their internal or external id: Oracle's help on credit
//! memo import, <https://docs.oracle.com/en/cloud/saas/netsuite/ns-online-help/section_N408112.html>.

use futures::FutureExt;

use super::{CURRENCY, Shape, Sold, amount, buyer_name, description, due, rows, totals};
use crate::exports::scope::Scope;
use crate::exports::table::{Column, Kind, Row, column, text};
use crate::exports::{Report, Source};

pub const REPORT: Report = Report {
    name: "netsuite",
    about: "lines as NetSuite imports invoices",
    source: Source::System("netsuite"),
    columns: COLUMNS,
    rows: |conn, scope| rows(conn, scope, &INVOICES),
    totals: |conn, scope| totals(conn, scope, &INVOICES).boxed(),
};

pub const CREDIT_MEMOS: Report = Report {
    name: "netsuite-credit-memos",
    about: "lines of credit notes as NetSuite imports credit memos",
    source: Source::System("netsuite"),
    columns: CREDIT_MEMO,
    rows: |conn, scope| rows(conn, scope, &MEMOS),
    totals: |conn, scope| totals(conn, scope, &MEMOS).boxed(),
};

const INVOICES: Shape =
    Shape { invoices: true, credit_notes: false, negative: false, row, tax_row: None, net: &["Rate", "Amount"], tax: &["Tax Amount"] };

const MEMOS: Shape = Shape { invoices: false, credit_notes: true, row: credit_memo, ..INVOICES };

const COLUMNS: &[Column] = &[
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

const CREDIT_MEMO: &[Column] = &[
    text("External ID"),
    text("Customer External ID"),
    text("Customer"),
    text("Credit Memo Number"),
    column("Date", Kind::Date),
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
    text("Apply External ID"),
    column("Apply Payment", Kind::Money),
];

fn row(sold: &Sold, scope: &Scope) -> Row {
    vec![
        sold.document.clone().into(),
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

/// Amounts are positive. What lets less be paid of an open invoice is applied to it, on the memo's first line alone, since
/// each row of the sublist would apply again.
fn credit_memo(sold: &Sold, scope: &Scope) -> Row {
    let of = sold.corrects.as_ref();
    let applied = of.and_then(|of| of.applied);
    vec![
        sold.document.clone().into(),
        sold.consumer.clone().into(),
        buyer_name(sold).into(),
        sold.number.clone().into(),
        scope.date(sold.issued_at).into(),
        sold.net.currency.code().into(),
        of.map(|of| format!("Corrects {}", of.number)).into(),
        format!("{}/{}", sold.document, sold.line).into(),
        scope.codes.item.as_str().into(),
        description(sold, scope).into(),
        1_i64.into(),
        sold.net.into(),
        sold.net.into(),
        scope.codes.account(&sold.kind).into(),
        scope.codes.tax(sold.tax_name.as_deref(), sold.tax_rate.as_ref()).into(),
        sold.tax.into(),
        applied.and(of).map(|of| of.invoice.clone()).into(),
        applied.into(),
    ]
}
