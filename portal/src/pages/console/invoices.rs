use std::collections::HashMap;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use farebox_billing::audit;
use farebox_billing::credit_notes;
use farebox_billing::invoices::{self, Invoice, InvoiceFilter, State as InvoiceState};
use farebox_billing::stripe::{push, settings};
use farebox_billing::summary;
use farebox_core::audit_log;
use farebox_core::ids::InvoiceId;
use farebox_core::money::Money;
use farebox_metering::consumers;
use serde::Deserialize;
use serde_json::json;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::pages::portal::invoices::{InvoiceView, LIST_HEAD, document, list_row};
use crate::people::Role;
use crate::view::{Badge, Cell, Column, Facts, Note, Shell, Stat, Stats, Table, Tone};
use crate::{Portal, bill, csv, format, words};

#[derive(Debug, Clone, Template)]
#[template(path = "console/invoices.html")]
pub struct InvoicesPage {
    pub shell: Shell,
    pub subtitle: String,
    pub tabs: Vec<(String, String, String, bool)>,
    pub stats: Stats,
    pub table: Table,
    pub next: Option<String>,
    pub csv: String,
}

#[derive(Debug, Clone, Template)]
#[template(path = "console/invoice.html")]
pub struct InvoicePage {
    pub shell: Shell,
    pub title: String,
    pub subtitle: String,
    pub note: Option<Note>,
    pub csv: Option<String>,
    pub pdf: Option<String>,
    pub invoice: InvoiceView,
    pub stripe: Facts,
    pub stripe_events: Table,
    pub audit: Option<Audit>,
    pub audit_action: String,
    pub credit_notes: Table,
    /// Where it can be credited; empty where it cannot.
    pub credit: String,
    /// Where a push that is held back is tried again; empty when none is.
    pub retry_action: String,
}

/// What re-deriving every line from the raw events came to.
#[derive(Debug, Clone)]
pub struct Audit {
    pub verdict: Badge,
    pub when: String,
    pub table: Table,
}

const PAGE: i64 = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    state: String,
    after: String,
}

impl Asked {
    fn state(&self) -> Option<InvoiceState> {
        STATES.iter().find(|(_, state)| state.as_str() == self.state).map(|(_, state)| *state)
    }
}

const STATES: [(&str, InvoiceState); 5] = [
    ("Open", InvoiceState::Issued),
    ("Paid", InvoiceState::Paid),
    ("Given up", InvoiceState::Uncollectible),
    ("Void", InvoiceState::Void),
    ("Drafts", InvoiceState::Draft),
];

pub async fn list(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let (workspace, currency, tz) = (&ctx.workspace.id, ctx.workspace.currency, ctx.tz());
    let mut conn = portal.app.pg.acquire().await?;
    let filter = InvoiceFilter { state: asked.state(), ..InvoiceFilter::default() };
    let mut found = invoices::list(&mut conn, workspace, &filter, PAGE + 1, &asked.after).await?;
    let states = summary::by_state(&mut conn, workspace, currency, ctx.now()).await?;
    let ids: Vec<String> = found.iter().map(|invoice| invoice.consumer.to_string()).collect();
    let names: HashMap<String, String> =
        consumers::by_ids(&mut conn, workspace, &ids).await?.into_iter().map(|c| (c.id.to_string(), c.name)).collect();
    let stripe = settings::status(&mut conn, workspace).await?;
    drop(conn);
    let more = found.len() > usize::try_from(PAGE).unwrap_or(100);
    found.truncate(usize::try_from(PAGE).unwrap_or(100));

    let of = |state: InvoiceState| states.iter().find(|s| s.state == state);
    let count = |state| of(state).map_or(0, |s| s.invoices);
    let total = |state| of(state).map_or(Money::zero(currency), |s| s.total);
    let open = of(InvoiceState::Issued);
    let late = open.map_or((0, Money::zero(currency)), |s| (s.late, s.late_total));
    let stats = vec![
        Stat::new("Paid", format::money(total(InvoiceState::Paid)), format::counted(count(InvoiceState::Paid), "invoice", "invoices")),
        Stat::new("Open", format::money(total(InvoiceState::Issued)), format::counted(count(InvoiceState::Issued), "invoice", "invoices")),
        Stat::new("Of these late", format::money(late.1), format::counted(late.0, "invoice", "invoices")),
        Stat::new(
            "At Stripe",
            format::count(stripe.invoices.done),
            format!("{} on the way, {} held back", format::count(stripe.invoices.queued), format::count(stripe.invoices.blocked)),
        ),
    ];
    let all: i64 = states.iter().map(|s| s.invoices).sum();
    let mut tabs = vec![("/console/invoices".to_owned(), "All".to_owned(), format::count(all), asked.state().is_none())];
    tabs.extend(STATES.iter().map(|(label, state)| {
        (
            format!("/console/invoices?state={}", state.as_str()),
            (*label).to_owned(),
            format::count(count(*state)),
            asked.state() == Some(*state),
        )
    }));
    let columns = vec![
        Column::text("Invoice"),
        Column::text("Consumer"),
        Column::text("Period"),
        Column::text("Issued"),
        Column::text("Stripe"),
        Column::text("State"),
        Column::number("Total"),
    ];
    let table = Table::new("Invoices", columns).rows(found.iter().map(|invoice| {
        let consumer = names.get(invoice.consumer.as_str()).cloned().unwrap_or_else(|| invoice.consumer.to_string());
        let issued = invoice.issued_at.map_or_else(|| "–".to_owned(), |at| format::date(at.with_timezone(&tz).date_naive()));
        let blocked = stripe.invoices.blocked_invoices.iter().any(|b| b.invoice == invoice.id.as_str());
        vec![
            Cell::link(bill::name(invoice), format!("/console/invoices/{}", invoice.id)),
            Cell::link(consumer, format!("/console/consumers/{}", invoice.consumer)),
            Cell::text(format::period(invoice.period.start, invoice.period.end, tz)),
            Cell::text(issued),
            if blocked { Badge::new(Tone::Bad, "Held back").into() } else { Cell::text(stripe_word(invoice)) },
            bill::badge(invoice, &ctx).into(),
            Cell::text(format::money(invoice.total)),
        ]
    }));
    let next = found.last().filter(|_| more).map(|last| format!("/console/invoices?state={}&after={}", asked.state, last.id));
    page(&InvoicesPage {
        shell: ctx.shell("Invoices", "/console/invoices"),
        subtitle: format!("All in {currency}, tax included; the newest first."),
        tabs,
        stats: Stats { stats },
        table,
        next,
        csv: format!("/console/invoices.csv?state={}", asked.state().map_or("", InvoiceState::as_str)),
    })
}

fn stripe_word(invoice: &Invoice) -> &'static str {
    match (&invoice.stripe_id, invoice.state) {
        (Some(_), _) => "There",
        (None, InvoiceState::Draft) => "–",
        (None, _) if invoice.carried || invoice.total.minor <= 0 => "Nothing to collect",
        (None, _) => "On its way",
    }
}

pub async fn file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let filter = InvoiceFilter { state: asked.state(), ..InvoiceFilter::default() };
    let found = invoices::list(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, &filter, 100_000, "").await?;
    let head: Vec<&str> = LIST_HEAD.into_iter().chain(["currency", "consumer", "id"]).collect();
    Ok(csv::file(
        "invoices",
        &head,
        found.iter().map(|invoice| {
            let mut row = list_row(invoice);
            row.extend([invoice.currency.code().to_owned(), invoice.consumer.to_string(), invoice.id.to_string()]);
            row
        }),
    ))
}

async fn find(portal: &Portal, ctx: &Ctx, id: &str) -> Result<Invoice, Failure> {
    let missing = || Failure::not_found("invoice");
    let id: InvoiceId = id.parse().map_err(|_| missing())?;
    invoices::get(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, &id).await?.ok_or_else(missing)
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let invoice = find(&portal, &ctx, &id).await?;
    page(&invoice_page(&portal, &ctx, &invoice, None).await?)
}

async fn invoice_page(portal: &Portal, ctx: &Ctx, invoice: &Invoice, audit: Option<Audit>) -> Result<InvoicePage, Failure> {
    let mut conn = portal.app.pg.acquire().await?;
    let consumer = consumers::get(&mut conn, &ctx.workspace.id, &invoice.consumer).await?;
    let status = settings::status(&mut conn, &ctx.workspace.id).await?;
    let notes = credit_notes::of_invoice(&mut conn, &ctx.workspace.id, &invoice.id).await?;
    let creditable = credit_notes::creditable(&mut conn, &ctx.workspace.id, invoice).await.is_ok();
    drop(conn);
    let blocked = status.invoices.blocked_invoices.iter().find(|b| b.invoice == invoice.id.as_str());
    let note =
        blocked.map(|b| Note::new(Tone::Bad, "Held back: it is not at Stripe.", format!("{} Remove the cause, then try again.", b.reason)));
    let mut stripe = Facts::default();
    if let Some(at_stripe) = &invoice.stripe_id {
        // A push is finalised only when Stripe's totals equal ours.
        stripe = stripe
            .cell("Invoice", Cell::mono(at_stripe))
            .with("Total there", format!("{}, equal to ours to the minor unit", format::money(invoice.total)));
    } else if invoice.state != InvoiceState::Draft {
        stripe = stripe.with("State", stripe_word(invoice));
    }
    if let Some(url) = &invoice.hosted_url {
        stripe = stripe.cell("Payment page", Cell::link("Open at Stripe", url));
    }
    let name = consumer.map_or_else(|| invoice.consumer.to_string(), |c| c.name);
    let title = format!("Invoice {}", bill::name(invoice));
    Ok(InvoicePage {
        shell: ctx.shell(&title, "/console/invoices"),
        subtitle: format!("{name}, {}", format::period(invoice.period.start, invoice.period.end, ctx.tz())),
        note,
        csv: Some(format!("/console/invoices/{}/lines.csv", invoice.id)),
        pdf: Some(format!("/console/invoices/{}/document.pdf", invoice.id)),
        invoice: bill::view(invoice, ctx),
        stripe,
        stripe_events: Table::default(),
        audit,
        credit_notes: if notes.is_empty() { Table::default() } else { super::credit_notes::table(&notes, None, ctx) },
        credit: if creditable && ctx.may_post("/console/invoices/{id}/credit") {
            format!("/console/invoices/{}/credit", invoice.id)
        } else {
            String::new()
        },
        audit_action: if invoice.state == InvoiceState::Draft { String::new() } else { format!("/console/invoices/{}/audit", invoice.id) },
        retry_action: if blocked.is_some() && ctx.is(&[Role::Owner, Role::Admin, Role::Finance]) {
            format!("/console/invoices/{}/retry", invoice.id)
        } else {
            String::new()
        },
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

/// Derives every line again from the raw events, as `farebox audit invoice` does, and shows what comes out.
pub async fn audit(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let invoice = find(&portal, &ctx, &id).await?;
    let report = audit::invoice(&portal.app, &ctx.workspace.id, &invoice.id).await?;
    let columns = vec![
        Column::text("Line"),
        Column::number("Billed"),
        Column::number("Derived again"),
        Column::number("Amount billed"),
        Column::number("Amount derived"),
        Column::number("Events"),
        Column::text("Result"),
    ];
    let rows = report.lines.iter().map(|line| {
        let again = line.rederived.as_ref();
        let events = line.billed.events.map_or_else(|| "–".to_owned(), format::count);
        let badge = if line.equal { Badge::plain("Equal") } else { Badge::new(Tone::Bad, "Differs") };
        let name = Cell::text(&line.name);
        vec![
            if line.differences.is_empty() { name } else { name.sub(line.differences.join(" ")) },
            Cell::text(format::quantity(&line.billed.quantity)),
            Cell::text(again.map_or_else(|| "–".to_owned(), |f| format::quantity(&f.quantity))),
            Cell::text(format::money(line.billed.amount)),
            Cell::text(again.map_or_else(|| "–".to_owned(), |f| format::money(f.amount))),
            Cell::text(events),
            badge.into(),
        ]
    });
    let verdict = if report.equal { Badge::new(Tone::Ok, "No difference") } else { Badge::new(Tone::Bad, "Differences found") };
    let mut when = format!("Derived again from raw events, {}.", format::instant(ctx.now(), ctx.tz()));
    for difference in &report.differences {
        when.push(' ');
        when.push_str(&words::sentence(difference));
    }
    let audit = Audit { verdict, when, table: Table::new("Audit", columns).dense().rows(rows) };
    let actor = ctx.session()?.person.id.as_str();
    let mut conn = portal.app.pg.acquire().await?;
    audit_log::record(&mut conn, &ctx.workspace.id, actor, "invoice.audit", invoice.id.as_str(), &json!({"equal": report.equal})).await?;
    drop(conn);
    page(&invoice_page(&portal, &ctx, &invoice, Some(audit)).await?)
}

/// Once more to Stripe, after its cause was removed.
pub async fn retry(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let invoice = find(&portal, &ctx, &id).await?;
    let mut tx = portal.app.pg.begin().await?;
    push::retry(&mut tx, &ctx.workspace.id, &invoice.id).await?;
    let actor = ctx.session()?.person.id.as_str();
    audit_log::record(&mut tx, &ctx.workspace.id, actor, "invoice.retry_push", invoice.id.as_str(), &json!({})).await?;
    tx.commit().await?;
    Ok(Redirect::to(&format!("/console/invoices/{}?done=retried", invoice.id)).into_response())
}
