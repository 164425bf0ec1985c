//! A credit note from an invoice: which lines, then what it comes to, and only then it is issued.

use std::collections::HashMap;

use askama::Template;
use axum::extract::{Path, RawForm, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use farebox_billing::credit_notes::{self, Creditable, NewCreditNote, Preview, Settles, To};
use farebox_billing::invoices::{self, Invoice};
use farebox_core::ids::InvoiceId;
use farebox_core::money::{BigDecimal, Money};
use farebox_core::problem::Problem;

use super::{REASONS, what_it_does};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Cell, Column, Facts, Field, Note, Shell, Table, Tone};
use crate::{Portal, bill, format, words};

/// A line that can be credited.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: String,
    pub name: String,
    pub left: String,
    pub amount: Field,
}

#[derive(Debug, Clone, Template)]
#[template(path = "console/credit_form.html")]
pub struct CreditPage {
    pub shell: Shell,
    pub invoice: String,
    pub title: String,
    pub note: Option<Note>,
    pub rows: Vec<Row>,
    pub left: String,
    /// Value, label, chosen.
    pub reasons: Vec<(&'static str, &'static str, bool)>,
    /// Where the money of a paid invoice goes; none while it is open.
    pub ways: Vec<(&'static str, &'static str, bool)>,
    pub memo: String,
}

/// Before it is issued: what of which line, to what end.
#[derive(Debug, Clone, Template)]
#[template(path = "console/credit_confirm.html")]
pub struct ConfirmPage {
    pub shell: Shell,
    pub title: String,
    pub back: String,
    pub action: String,
    pub note: Option<Note>,
    pub lines: Table,
    pub facts: Facts,
    pub warning: &'static str,
    /// What was chosen, once more.
    pub hidden: Vec<(String, String)>,
    pub button: String,
}

/// What was filled in, by the names of the fields; a line's amount is under its id.
struct Choice(HashMap<String, String>);

impl Choice {
    fn read(encoded: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(encoded).map(|(name, value)| (name.into_owned(), value.trim().to_owned())).collect())
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn to(&self) -> Option<To> {
        WAYS.iter().find(|(value, _, _)| *value == self.text("to")).map(|(_, _, to)| *to)
    }

    /// The note, or what is wrong with which line.
    fn note(&self, invoice: &Invoice, left: Money) -> Result<NewCreditNote, (String, String)> {
        let mut lines = Vec::new();
        for line in &invoice.lines {
            let amount = self.text(line.id.as_str());
            if amount.is_empty() {
                continue;
            }
            let wrong = || (line.id.to_string(), format!("An amount such as {}.", line.left()));
            lines.push((line.id.clone(), Some(amount.parse::<BigDecimal>().map_err(|_| wrong())?)));
        }
        let reason = REASONS.iter().find(|(reason, _)| reason.as_str() == self.text("reason")).map_or(REASONS[0].0, |(reason, _)| *reason);
        let memo = Some(self.text("memo").to_owned()).filter(|memo| !memo.is_empty());
        Ok(NewCreditNote { lines, reason, memo, to: self.to(), left: Some(left), ..NewCreditNote::default() })
    }
}

const WAYS: [(&str, &str, To); 3] = [
    ("refund", "Refund it through Stripe", To::Refund),
    ("balance", "Keep it for the next invoices", To::Balance),
    ("out_of_band", "I pay it back myself", To::OutOfBand),
];

struct About {
    invoice: Invoice,
    creditable: Creditable,
}

async fn about(portal: &Portal, ctx: &Ctx, id: &str) -> Result<About, Failure> {
    let missing = || Failure::not_found("invoice");
    let id: InvoiceId = id.parse().map_err(|_| missing())?;
    let mut conn = portal.app.pg.acquire().await?;
    let invoice = invoices::get(&mut conn, &ctx.workspace.id, &id).await?.ok_or_else(missing)?;
    let creditable = credit_notes::creditable(&mut conn, &ctx.workspace.id, &invoice).await?;
    Ok(About { invoice, creditable })
}

pub async fn ask(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>, RawQuery(query): RawQuery) -> Result<Response, Failure> {
    let about = about(&portal, &ctx, &id).await?;
    page(&form(&ctx, &about, &Choice::read(query.unwrap_or_default().as_bytes()), None, None))
}

fn form(ctx: &Ctx, about: &About, choice: &Choice, note: Option<Note>, wrong: Option<(String, String)>) -> CreditPage {
    let rows = about.creditable.lines.iter().filter_map(|(id, left)| {
        let line = about.invoice.lines.iter().find(|line| line.id == *id)?;
        let mut amount = Field::of(choice.text(id.as_str()));
        if let Some((_, said)) = wrong.as_ref().filter(|(of, _)| of == id.as_str()) {
            amount.wrong(said);
        }
        let name = format!("{}, {}", line.name, format::period(line.period.start, line.period.end, ctx.tz()));
        Some(Row { id: id.to_string(), name, left: format::money(*left), amount })
    });
    let chosen = choice.to().or(about.creditable.ways.first().copied());
    let ways = WAYS.iter().filter(|(_, _, to)| about.creditable.ways.contains(to));
    CreditPage {
        shell: ctx.shell("Credit", "/console/credit-notes"),
        title: format!("Credit {}", bill::name(&about.invoice)),
        invoice: about.invoice.id.to_string(),
        note,
        rows: rows.collect(),
        left: format::money(about.creditable.left),
        reasons: REASONS.iter().map(|(reason, label)| (reason.as_str(), *label, choice.text("reason") == reason.as_str())).collect(),
        ways: ways.map(|(value, label, to)| (*value, *label, chosen == Some(*to))).collect(),
        memo: choice.text("memo").to_owned(),
    }
}

pub async fn confirm(
    State(portal): State<Portal>,
    ctx: Ctx,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let about = about(&portal, &ctx, &id).await?;
    question(&portal, &ctx, &about, &Choice::read(query.unwrap_or_default().as_bytes()), None).await
}

/// The question, or the form once more with what is wrong with it.
async fn question(portal: &Portal, ctx: &Ctx, about: &About, choice: &Choice, note: Option<Note>) -> Result<Response, Failure> {
    let new = match choice.note(&about.invoice, about.creditable.left) {
        Ok(new) => new,
        Err(wrong) => return again(ctx, about, choice, None, Some(wrong)),
    };
    let found = credit_notes::preview(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, &about.invoice, &new).await;
    match found.map_err(Problem::from) {
        Ok(found) => page(&confirm_page(ctx, about, choice, &found, note)),
        Err(problem) if problem.status < 500 => again(ctx, about, choice, Some(refusal(&problem)), line_refused(&problem, &new)),
        Err(problem) => Err(problem.into()),
    }
}

/// The form once more, with what is wrong.
fn again(ctx: &Ctx, about: &About, choice: &Choice, note: Option<Note>, wrong: Option<(String, String)>) -> Result<Response, Failure> {
    let mut response = page(&form(ctx, about, choice, note, wrong))?;
    *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
    Ok(response)
}

fn refusal(problem: &Problem) -> Note {
    let said = match problem.errors.first() {
        Some(error) if error.pointer.starts_with("/lines/") => "See below.".to_owned(),
        Some(error) => words::sentence(&format!("{} {}", error.pointer.trim_start_matches('/'), error.detail)),
        None => words::sentence(&problem.detail),
    };
    Note::new(Tone::Warn, "Nothing was credited.", said)
}

/// A refusal about a line, at that line.
fn line_refused(problem: &Problem, new: &NewCreditNote) -> Option<(String, String)> {
    let error = problem.errors.first()?;
    let index: usize = error.pointer.strip_prefix("/lines/")?.split('/').next()?.parse().ok()?;
    let (line, _) = new.lines.get(index)?;
    Some((line.to_string(), words::sentence(&error.detail)))
}

fn confirm_page(ctx: &Ctx, about: &About, choice: &Choice, preview: &Preview, note: Option<Note>) -> ConfirmPage {
    let name = bill::name(&about.invoice);
    let columns = vec![Column::text("Line"), Column::number("Net"), Column::number("Tax")];
    let line = |id: &farebox_core::ids::InvoiceLineId| about.invoice.lines.iter().find(|line| line.id == *id);
    let rows = preview.parts.iter().map(|part| {
        let name = line(&part.line)
            .map_or_else(Cell::default, |line| Cell::text(&line.name).sub(format::period(line.period.start, line.period.end, ctx.tz())));
        vec![name, Cell::text(format::money(part.net)), Cell::text(format::money(part.tax))]
    });
    let total = format::money(preview.sums.total);
    let left = preview.left.checked_sub(preview.sums.total).unwrap_or(preview.left);
    let facts = Facts::default()
        .with("Credited, with tax", &total)
        .with("What it does", what_it_does(preview.settles))
        .with("Left of the invoice after it", format::money(left));
    let mut hidden: Vec<_> =
        choice.0.iter().filter(|(name, _)| !["left", "csrf"].contains(&name.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect();
    hidden.sort();
    hidden.push(("left".to_owned(), preview.left.to_string()));
    ConfirmPage {
        shell: ctx.shell("Credit", "/console/credit-notes"),
        title: format!("Credit {total} of {name}"),
        back: address(about, "credit", &hidden),
        action: format!("/console/invoices/{}/credit", about.invoice.id),
        note,
        lines: Table::new("What is credited", columns).rows(rows),
        facts,
        warning: match preview.settles {
            Settles::Open => "It can be voided as long as the invoice is not paid.",
            Settles::Refund => "The money goes back to the card at once, and cannot be called back.",
            Settles::Balance => "The next invoices use it by themselves.",
            Settles::OutOfBand => "Nobody but you pays it back.",
        },
        hidden,
        button: format!("Credit {total}"),
    }
}

fn address(about: &About, page: &str, chosen: &[(String, String)]) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(chosen).finish();
    format!("/console/invoices/{}/{page}?{query}", about.invoice.id)
}

pub async fn submit(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>, RawForm(body): RawForm) -> Result<Response, Failure> {
    let (about, choice) = (about(&portal, &ctx, &id).await?, Choice::read(&body));
    // What was left when the question was answered: a form that is sent twice, or late, is asked about again.
    if choice.text("left") != about.creditable.left.to_string() {
        let note = Note::new(Tone::Warn, "Nothing was credited yet.", "Look at what it comes to first.");
        return question(&portal, &ctx, &about, &choice, Some(note)).await;
    }
    let Ok(new) = choice.note(&about.invoice, about.creditable.left) else {
        return question(&portal, &ctx, &about, &choice, None).await;
    };
    let actor = ctx.session()?.person.id.as_str();
    match credit_notes::credit(&portal.app, &ctx.workspace.id, &about.invoice.id, &new, actor).await.map_err(Problem::from) {
        Ok(note) => Ok(Redirect::to(&format!("/console/credit-notes/{}?done=credited", note.id)).into_response()),
        Err(problem) if problem.status < 500 => again(&ctx, &about, &choice, Some(refusal(&problem)), line_refused(&problem, &new)),
        Err(problem) => Err(problem.into()),
    }
}
