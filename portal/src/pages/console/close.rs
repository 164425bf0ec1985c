use askama::Template;
use axum::Form;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use farebox_billing::invoices::State as InvoiceState;
use farebox_billing::stripe::settings;
use farebox_billing::{calendar, close, summary};
use farebox_core::audit_log;
use farebox_core::money::Money;
use farebox_core::period::{Period, local_date};
use farebox_core::problem::Problem;
use farebox_metering::completeness;
use farebox_metering::dimension::Dimension;
use farebox_metering::usage::{self, UsageQuery};
use serde::Deserialize;
use serde_json::json;

use super::months::{choose, months};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::people::Role;
use crate::view::{Cell, Column, Equation, Note, Shell, StepState, Table, Term, Tone};
use crate::{Portal, format, words};

/// The close of a month as a checklist: what is done, what waits, and why.
#[derive(Debug, Clone, Template)]
#[template(path = "console/close.html")]
pub struct ClosePage {
    pub shell: Shell,
    pub title: String,
    pub subtitle: String,
    pub months: Vec<(String, String, bool)>,
    pub note: Option<Note>,
    pub steps: Vec<CloseStep>,
    pub aside_title: String,
    pub amount: String,
    pub amount_note: String,
    pub totals: Vec<(String, String)>,
    pub sum: (String, String),
    pub aside_note: String,
    /// `2026-10` when it may be closed now by this person.
    pub closable: Option<String>,
    pub button: String,
}

#[derive(Debug, Clone)]
pub struct CloseStep {
    pub state: StepState,
    pub title: String,
    pub when: String,
    pub text: String,
    pub equation: Option<Equation>,
    pub table: Option<Table>,
}

/// Before closing: what it does, to whom, and for how much.
#[derive(Debug, Clone, Template)]
#[template(path = "console/close_confirm.html")]
pub struct CloseConfirmPage {
    pub shell: Shell,
    pub month: String,
    pub title: String,
    pub totals: Vec<(String, String)>,
    pub confirm: String,
    pub note: Option<Note>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    month: String,
    confirm: String,
}

/// Where a month stands.
struct Standing {
    month: Period,
    name: String,
    over: bool,
    arrived: bool,
    complete_until: chrono::DateTime<chrono::Utc>,
    /// Subscriptions with something still to close.
    open: usize,
    issued: Option<summary::PeriodSummary>,
    run: Option<summary::CloseRun>,
}

async fn standing(portal: &Portal, ctx: &Ctx, month: Period) -> Result<Standing, Failure> {
    let (app, workspace, now) = (&portal.app, &ctx.workspace.id, ctx.now());
    let known = completeness::of(app, workspace).await?;
    let mut conn = app.pg.acquire().await?;
    let open = close::open_subscriptions(&mut conn, workspace, month.end).await?.len();
    let issued =
        summary::by_period(&mut conn, workspace, ctx.workspace.currency, month.start).await?.into_iter().find(|p| p.start == month.start);
    let run = summary::last_close(&mut conn, workspace, month).await?;
    let ahead = now > farebox_core::clock::now() + chrono::Duration::minutes(1);
    Ok(Standing {
        name: format::month(local_date(month.start, ctx.tz())),
        over: now >= month.end,
        arrived: now >= month.end && (known.complete_until >= month.end || now >= close::grace_end(app, month) || ahead),
        complete_until: known.complete_until,
        open,
        issued,
        run,
        month,
    })
}

/// What happened in the month: everything, and what of it counts.
async fn counted(portal: &Portal, ctx: &Ctx, month: Period) -> Result<(Equation, bool), Failure> {
    let workspace = &ctx.workspace.id;
    let all = usage::query(&portal.app, &UsageQuery::new(workspace, "calls", month)).await?;
    let all = all.rows.into_iter().next().map(|row| row.value).unwrap_or_default();
    let by_reason = usage::query(&portal.app, &UsageQuery::new(workspace, "calls", month).by(Dimension::Reason)).await?;
    let (mut billable, mut not, mut why) = (bigdecimal::BigDecimal::from(0), bigdecimal::BigDecimal::from(0), Vec::new());
    for row in by_reason.rows {
        match row.group.get("reason").map(String::as_str).unwrap_or_default() {
            "" => billable += row.value,
            reason => {
                why.push(format!("{} {}", format::quantity(&row.value), reason.replace('_', " ")));
                not += row.value;
            }
        }
    }
    let difference = &all - &billable - &not;
    let agrees = difference == bigdecimal::BigDecimal::from(0);
    let equation = Equation {
        terms: vec![
            Term::new("", "Requests", format::quantity(&all), "in the month, each once"),
            Term::new("=", "Billable", format::quantity(&billable), ""),
            Term::new("+", "Not billable, by rule", format::quantity(&not), why.join(", ")),
        ],
        difference: Some(Term::new("", "Difference", format::quantity(&difference), "")),
    };
    Ok((equation, agrees))
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let months = months(&ctx);
    let (tz, now) = (ctx.tz(), ctx.now());
    // The last month that is over is the one to close; the running one can be looked at.
    let asked_month = if asked.month.is_empty() { months.get(1).map(|m| calendar::name(*m, tz)).unwrap_or_default() } else { asked.month };
    let (month, choices) = choose(&months, &asked_month, &ctx);
    let s = standing(&portal, &ctx, month).await?;
    let (equation, agrees) = counted(&portal, &ctx, month).await?;
    let mut conn = portal.app.pg.acquire().await?;
    let states = summary::by_state(&mut conn, &ctx.workspace.id, ctx.workspace.currency, now).await?;
    let stripe = settings::status(&mut conn, &ctx.workspace.id).await?;
    drop(conn);

    let closed = s.over && s.open == 0;
    let mut open = true;
    let mut next = |done: bool, stop: bool| {
        let state = if done {
            StepState::Done
        } else if open && stop {
            StepState::Stopped
        } else if open {
            StepState::Now
        } else {
            StepState::Later
        };
        open = open && done;
        state
    };
    let step =
        |state, title: &str, when: String, text: String| CloseStep { state, title: title.into(), when, text, equation: None, table: None };
    let mut steps = vec![
        step(
            next(s.over, false),
            "The month is over",
            format::instant(month.end, tz),
            if s.over {
                "What happens from now on belongs to the next month.".into()
            } else {
                format!("It ends {}.", format::relative(month.end, now))
            },
        ),
        step(
            next(s.arrived, false),
            "Its events have arrived",
            if s.arrived {
                String::new()
            } else {
                format!("waits until {} at most", format::instant(close::grace_end(&portal.app, month), tz))
            },
            format!("Usage is complete until {}.", format::instant(s.complete_until, tz)),
        ),
    ];
    steps.push(CloseStep {
        equation: Some(equation),
        ..step(next(s.over && agrees, !agrees), "Counts agree", String::new(), String::new())
    });
    let problems = s.run.as_ref().map(|run| run.problems.as_slice()).unwrap_or_default();
    let issued = s.issued.as_ref().map_or(0, |p| p.invoices);
    let mut issue = step(
        next(closed, !problems.is_empty()),
        "Issue invoices",
        s.run.as_ref().map_or_else(
            || "not started".to_owned(),
            |run| run.finished_at.map_or_else(|| "running".to_owned(), |at| format::instant(at, tz)),
        ),
        if closed {
            format!("{} issued.", format::counted(issued, "invoice", "invoices"))
        } else {
            format!(
                "{} with something to close. They close by themselves when the grace time is over, or when you say so.",
                format::counted(i64::try_from(s.open).unwrap_or(i64::MAX), "subscription", "subscriptions")
            )
        },
    );
    if !problems.is_empty() {
        let columns = vec![Column::text("Subscription"), Column::text("Why it could not be closed")];
        issue.table = Some(
            Table::new("Could not be closed", columns)
                .dense()
                .rows(problems.iter().map(|(subscription, why)| vec![Cell::mono(subscription), Cell::text(why)])),
        );
    }
    steps.push(issue);
    let at_stripe = stripe.invoices.queued == 0 && stripe.invoices.blocked == 0;
    steps.push(step(
        next(closed && (at_stripe || !stripe.configured), stripe.invoices.blocked > 0),
        "At Stripe, with equal totals",
        String::new(),
        if stripe.configured {
            format!(
                "{} on the way, {} held back, {} there.",
                format::count(stripe.invoices.queued),
                format::count(stripe.invoices.blocked),
                format::count(stripe.invoices.done)
            )
        } else {
            "Stripe is not set up; invoices are only issued here.".into()
        },
    ));
    let paid_all = s.issued.as_ref().is_some_and(|p| p.paid_invoices == p.invoices);
    steps.push(step(
        next(closed && paid_all, false),
        "Paid",
        String::new(),
        s.issued.as_ref().map_or_else(String::new, |p| {
            format!(
                "{} of {} invoices, {} of {} with tax.",
                format::count(p.paid_invoices),
                format::count(p.invoices),
                format::money(p.paid),
                format::money(p.total)
            )
        }),
    ));

    let zero = Money::zero(ctx.workspace.currency);
    let net = |p: &summary::PeriodSummary| p.total.checked_sub(p.tax).unwrap_or(p.total);
    let late = states.iter().find(|s| s.state == InvoiceState::Issued).map_or(0, |s| s.late);
    let may = ctx.is(&[Role::Owner, Role::Admin, Role::Finance]);
    let closable = (may && s.arrived && s.open > 0).then(|| calendar::name(month, tz));
    page(&ClosePage {
        shell: ctx.shell(&format!("Close {}", s.name), "/console/close"),
        title: format!("Close {}", s.name),
        subtitle: format!("{}, {}.", format::date_long(local_date(now, tz)), format::clock(now, tz)),
        months: choices,
        note: (late > 0).then(|| {
            Note::new(Tone::Warn, format!("{} past the due date.", format::counted(late, "invoice is", "invoices are")), "Of all months.")
                .with("Open", "/console/invoices?state=issued")
        }),
        steps,
        aside_title: if closed { "Issued".into() } else { "Issued so far".into() },
        amount: format::money(s.issued.as_ref().map_or(zero, net)),
        amount_note: format!("{}, before tax", format::counted(issued, "invoice", "invoices")),
        totals: s.issued.as_ref().map_or_else(Vec::new, |p| {
            vec![
                ("Subscriptions".into(), format::money(p.fees)),
                ("Usage".into(), format::money(p.usage)),
                ("Minimums, caps, carried over".into(), format::money(p.other)),
                ("Tax".into(), format::money(p.tax)),
            ]
        }),
        sum: ("With tax".into(), format::money(s.issued.as_ref().map_or(zero, |p| p.total))),
        aside_note: "An issued invoice never changes; corrections are new documents.".into(),
        button: format!("Close {}\u{2026}", s.name),
        closable,
    })
}

async fn asked_period(portal: &Portal, ctx: &Ctx, month: &str) -> Result<Standing, Failure> {
    standing(portal, ctx, calendar::parse(month, ctx.tz())?).await
}

pub async fn confirm(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let s = asked_period(&portal, &ctx, &asked.month).await?;
    page(&confirm_page(&ctx, &s, None))
}

fn confirm_page(ctx: &Ctx, s: &Standing, note: Option<Note>) -> CloseConfirmPage {
    let name = calendar::name(s.month, ctx.tz());
    CloseConfirmPage {
        shell: ctx.shell("Close", "/console/close"),
        title: format!("Close {}", s.name),
        totals: vec![
            ("Subscriptions with something to close".into(), format::count(i128::try_from(s.open).unwrap_or(0))),
            ("Invoices issued before".into(), format::count(s.issued.as_ref().map_or(0, |p| p.invoices))),
            ("Usage is complete until".into(), format::instant(s.complete_until, ctx.tz())),
        ],
        confirm: name.clone(),
        month: name,
        note,
    }
}

pub async fn submit(State(portal): State<Portal>, ctx: Ctx, Form(asked): Form<Asked>) -> Result<Response, Failure> {
    let s = asked_period(&portal, &ctx, &asked.month).await?;
    if asked.confirm.trim() != asked.month {
        let note = Note::new(Tone::Warn, "Not closed.", format!("Type {} to confirm.", asked.month));
        return page(&confirm_page(&ctx, &s, Some(note)));
    }
    let actor = ctx.session()?.person.id.as_str();
    audit_log::record(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, actor, "period.close", &asked.month, &json!({})).await?;
    match close::close_period(&portal.app, &ctx.workspace.id, s.month).await {
        Ok(_) => Ok(Redirect::to(&format!("/console/close?month={}&done=issued", asked.month)).into_response()),
        Err(error) => {
            let problem = Problem::from(error);
            if problem.status >= 500 {
                return Err(problem.into());
            }
            page(&confirm_page(&ctx, &s, Some(Note::new(Tone::Warn, "Not closed.", words::sentence(&problem.detail)))))
        }
    }
}
