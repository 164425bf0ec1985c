use askama::Template;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use farebox_billing::invoices::{self, Invoice, InvoiceFilter, State as InvoiceState};
use farebox_billing::preview::Preview;
use farebox_billing::rating::LineKind;
use farebox_billing::{BillingError, credits, documents, units};
use farebox_core::ids::{ConsumerId, InvoiceId};
use farebox_core::money::Money;

use super::credit_notes;
use crate::account;
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Action, Badge, Cell, Code, Column, Facts, Note, Shell, Table, Tone};
use crate::{Portal, bill, csv, format};

#[derive(Debug, Clone, Template)]
#[template(path = "portal/invoices.html")]
pub struct InvoicesPage {
    pub shell: Shell,
    pub next: Option<Next>,
    /// What is prepaid and not used up.
    pub credits: Table,
    pub table: Table,
    pub credit_notes: Table,
    pub csv: String,
}

/// What the current period comes to so far.
#[derive(Debug, Clone)]
pub struct Next {
    pub title: String,
    pub amount: String,
    pub note: String,
    pub lines: Vec<Line>,
    /// What is not billed.
    pub left_out: Option<String>,
}

/// A line: the amount, its sentence, and what it opens to.
#[derive(Debug, Clone)]
pub struct Line {
    pub name: String,
    pub amount: String,
    pub explanation: String,
    pub proof: Option<Proof>,
}

/// How a line was counted, sealed with the invoice.
#[derive(Debug, Clone)]
pub struct Proof {
    pub title: String,
    pub days: Option<Table>,
    pub facts: Facts,
    pub query: Code,
}

/// The invoice with its stub, the same for the one who pays and the one who sent it.
#[derive(Debug, Clone)]
pub struct InvoiceView {
    pub lines: Vec<Line>,
    /// What is not billed.
    pub left_out: Option<String>,
    pub verify: Option<Code>,
    pub sealed: Facts,
    pub total: String,
    pub state: Badge,
    pub totals: Vec<(String, String)>,
    pub sum: (String, String),
    pub after: Vec<(String, String)>,
    pub payment: Facts,
    pub parties: Facts,
    pub pay: Option<Action>,
}

#[derive(Debug, Clone, Template)]
#[template(path = "portal/invoice.html")]
pub struct InvoicePage {
    pub shell: Shell,
    pub title: String,
    pub subtitle: String,
    pub csv: Option<String>,
    pub pdf: Option<String>,
    pub note: Option<Note>,
    pub invoice: InvoiceView,
    pub credit_notes: Table,
}

/// More invoices than a consumer has in twenty years of months.
const ALL: i64 = 500;

/// A consumer's issued invoices, the newest first. Drafts are the provider's own business.
pub async fn of_consumer(portal: &Portal, ctx: &Ctx, consumer: &str) -> Result<Vec<Invoice>, Failure> {
    let filter = InvoiceFilter { consumer: Some(consumer.to_owned()), ..InvoiceFilter::default() };
    let mut found = invoices::list(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, &filter, ALL, "").await?;
    found.retain(|invoice| invoice.state != InvoiceState::Draft);
    Ok(found)
}

pub fn table(found: &[Invoice], ctx: &Ctx, base: &str) -> Table {
    let tz = ctx.tz();
    let columns =
        vec![Column::text("Invoice"), Column::text("Period"), Column::text("Issued"), Column::text("State"), Column::number("Total")];
    Table::new("Invoices", columns).rows(found.iter().map(|invoice| {
        let issued = invoice.issued_at.map_or_else(|| "–".to_owned(), |at| format::date(at.with_timezone(&tz).date_naive()));
        vec![
            Cell::link(bill::name(invoice), format!("{base}/invoices/{}", invoice.id)),
            Cell::text(format::period(invoice.period.start, invoice.period.end, tz)),
            Cell::text(issued),
            bill::badge(invoice, ctx).into(),
            Cell::text(format::money(invoice.total)),
        ]
    }))
}

pub async fn list(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    let consumer = ctx.consumer()?;
    let found = of_consumer(&portal, &ctx, consumer.as_str()).await?;
    let agreements = account::in_force(&mut *portal.app.pg.acquire().await?, &ctx, consumer).await?;
    let next = match agreements.first() {
        None => None,
        Some(agreement) => Some(gathering(&portal, &ctx, agreement).await?),
    };
    let credits = prepaid(&portal, &ctx, consumer).await?;
    let shell = ctx.shell("Invoices", "/invoices");
    let notes = credit_notes::of_consumer(&portal, &ctx, None).await?;
    page(&InvoicesPage {
        shell,
        next,
        credits,
        table: table(&found, &ctx, ""),
        credit_notes: credit_notes::table(&notes, true, &ctx),
        csv: "/invoices.csv".into(),
    })
}

/// Prepaid credits and units with something left, in the order of use.
async fn prepaid(portal: &Portal, ctx: &Ctx, consumer: &ConsumerId) -> Result<Table, Failure> {
    let mut conn = portal.app.pg.acquire().await?;
    let money = credits::list(&mut conn, &ctx.workspace.id, Some(consumer)).await?;
    let units = units::list(&mut conn, &ctx.workspace.id, Some(consumer)).await?;
    let until = |at: Option<chrono::DateTime<chrono::Utc>>| at.map_or_else(|| "no end".to_owned(), |at| format::instant(at, ctx.tz()));
    let of = |left: String, all: String| if left == all { Cell::text(left) } else { Cell::text(left).sub(format!("of {all}")) };
    let mut rows = Vec::new();
    for grant in money.into_iter().filter(|grant| !grant.balance.is_zero()) {
        let left = of(format::money(grant.balance), format::money(grant.amount));
        rows.push((grant.priority, grant.expires_at, vec![Cell::text(grant.name), Cell::text(until(grant.expires_at)), left]));
    }
    for grant in units.into_iter().filter(|grant| grant.balance > bigdecimal::BigDecimal::from(0)) {
        let meter = crate::words::meter(&grant.meter);
        let left = of(format!("{} {meter}", format::quantity(&grant.balance)), format!("{} {meter}", format::quantity(&grant.units)));
        rows.push((grant.priority, grant.expires_at, vec![Cell::text(grant.name), Cell::text(until(grant.expires_at)), left]));
    }
    rows.sort_by_key(|(priority, until, _)| (*priority, until.is_none(), *until));
    let columns = vec![Column::text("Prepaid"), Column::text("Valid until"), Column::number("Left")];
    Ok(Table::new("Prepaid credits", columns).rows(rows.into_iter().map(|(_, _, row)| row)))
}

/// The invoice that is gathering.
pub async fn gathering(portal: &Portal, ctx: &Ctx, agreement: &account::Agreement) -> Result<Next, Failure> {
    let preview = farebox_billing::preview::preview(&portal.app, &ctx.workspace.id, &agreement.subscription.id).await?;
    let so_far = before_tax(&preview)?;
    let before = if so_far == preview.subtotal { "Before tax." } else { "Before tax, and before credits that are used after it." };
    let left_out = preview.left_out.sentence();
    let lines = preview.lines.into_iter().map(|line| {
        let left = line.amount.minor - line.discount.minor - line.credit.minor;
        Line {
            name: line.name,
            amount: format::money(Money::new(left, line.amount.currency)),
            explanation: bill::with_taken(line.explanation, line.discount, line.credit),
            proof: None,
        }
    });
    Ok(Next {
        title: format::period(preview.period.start, preview.period.end, ctx.tz()),
        amount: format::money(so_far),
        note: format!("{before} It is issued after {}, when all usage has arrived.", format::instant(preview.period.end, ctx.tz())),
        lines: lines.collect(),
        left_out,
    })
}

/// Credits that are used after tax pay it, too: less them, what is before tax would be below nothing.
fn before_tax(preview: &Preview) -> Result<Money, BillingError> {
    let after_tax = preview.lines.iter().filter(|line| line.kind == LineKind::Credit).map(|line| line.amount);
    Ok(preview.subtotal.checked_sub(Money::sum(after_tax, preview.currency)?)?)
}

async fn find(portal: &Portal, ctx: &Ctx, id: &str) -> Result<Invoice, Failure> {
    let missing = || Failure::not_found("invoice");
    let id: InvoiceId = id.parse().map_err(|_| missing())?;
    let invoice = invoices::get(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, &id).await?.ok_or_else(missing)?;
    if invoice.consumer != *ctx.consumer()? || invoice.state == InvoiceState::Draft {
        return Err(missing());
    }
    Ok(invoice)
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let invoice = find(&portal, &ctx, &id).await?;
    let late = invoice.state == InvoiceState::Issued && !invoice.carried && invoice.due_at.is_some_and(|due| due < ctx.now());
    let title = format!("Invoice {}", bill::name(&invoice));
    let notes = credit_notes::of_consumer(&portal, &ctx, Some(invoice.id.as_str())).await?;
    page(&InvoicePage {
        shell: ctx.shell(&title, "/invoices"),
        subtitle: format::period(invoice.period.start, invoice.period.end, ctx.tz()),
        csv: Some(format!("/invoices/{}/lines.csv", invoice.id)),
        pdf: Some(format!("/invoices/{}/document.pdf", invoice.id)),
        note: late.then(|| {
            Note::new(Tone::Warn, "This invoice is late.", "Check the card on file, or pay it at Stripe.").with("Payment", "/payment")
        }),
        invoice: bill::view(&invoice, &ctx),
        credit_notes: credit_notes::table(&notes, false, &ctx),
        title,
    })
}

pub async fn lines_file(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let invoice = find(&portal, &ctx, &id).await?;
    Ok(csv::file(&format!("invoice-{}", bill::name(&invoice)), &bill::CSV_HEAD, bill::csv_rows(&invoice)))
}

pub async fn pdf(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    document(&portal, &ctx, &find(&portal, &ctx, &id).await?.id).await
}

/// The invoice as a document: the same bytes for both sides.
pub async fn document(portal: &Portal, ctx: &Ctx, id: &InvoiceId) -> Result<Response, Failure> {
    let file = documents::get(&portal.app, &ctx.workspace, id, documents::Medium::Pdf).await?;
    Ok(file.ok_or_else(|| Failure::not_found("invoice"))?.into_response())
}

pub async fn file(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    let found = of_consumer(&portal, &ctx, ctx.consumer()?.as_str()).await?;
    Ok(csv::file("invoices", &LIST_HEAD, found.iter().map(list_row)))
}

pub const LIST_HEAD: [&str; 9] = ["invoice", "state", "from", "to", "issued", "paid", "subtotal", "tax", "total"];

pub fn list_row(invoice: &Invoice) -> Vec<String> {
    let at = |at: Option<chrono::DateTime<chrono::Utc>>| at.map(|at| at.to_rfc3339()).unwrap_or_default();
    vec![
        bill::name(invoice),
        invoice.state.as_str().to_owned(),
        invoice.period.start.to_rfc3339(),
        invoice.period.end.to_rfc3339(),
        at(invoice.issued_at),
        at(invoice.paid_at),
        invoice.subtotal.to_string(),
        invoice.tax.to_string(),
        invoice.total.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use farebox_billing::left_out::LeftOut;
    use farebox_billing::preview::PreviewLine;
    use farebox_core::ids::SubscriptionId;
    use farebox_core::period::Period;

    /// A fee of 49.00 with 19 %, all of it paid by credits for money already taxed.
    #[test]
    fn what_is_before_tax_is_not_below_nothing_where_credits_pay_the_tax() {
        let usd = |minor| Money::new(minor, "USD".parse().expect("a currency"));
        let at = chrono::DateTime::UNIX_EPOCH;
        let period = Period { start: at, end: at + chrono::TimeDelta::days(1) };
        let line = |kind, minor| PreviewLine {
            kind,
            name: String::new(),
            meter: None,
            period,
            quantity: "1".to_owned(),
            amount: usd(minor),
            discount: usd(0),
            credit: usd(0),
            explanation: String::new(),
        };
        let preview = |lines: Vec<PreviewLine>, subtotal: i64, tax: i64| Preview {
            subscription: SubscriptionId::new(),
            period,
            as_of: at,
            currency: usd(0).currency,
            lines,
            left_out: LeftOut::default(),
            credits: Vec::new(),
            units: Vec::new(),
            subtotal: usd(subtotal),
            tax: usd(tax),
            total: usd(subtotal + tax),
        };
        let fee = line(LineKind::Fee, 4900);
        assert_eq!(before_tax(&preview(vec![fee.clone()], 4900, 931)).expect("in range"), usd(4900));
        assert_eq!(before_tax(&preview(vec![fee, line(LineKind::Credit, -5831)], -931, 931)).expect("in range"), usd(4900));
    }
}
