//! What a person does about a month. Whatever issues documents or cannot be undone is asked about first.

use askama::Template;
use axum::extract::{Query, RawForm, State};
use axum::response::{IntoResponse, Redirect, Response};
use farebox_billing::close;
use farebox_billing::close::checklist::{self, ACCEPTABLE, Checklist, StepName, StepState as Stands};
use farebox_core::audit_log;
use farebox_core::period::{Period, local_date};
use farebox_core::problem::Problem;
use serde_json::json;

use super::{Asked, month_asked, steps};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Note, Shell, Tone};
use crate::{Portal, format, words};

/// Before something final: what it does, to whom, and for how much.
#[derive(Debug, Clone, Template)]
#[template(path = "console/close_confirm.html")]
pub struct CloseConfirmPage {
    pub shell: Shell,
    pub month: String,
    pub act: &'static str,
    pub title: String,
    pub totals: Vec<(&'static str, String)>,
    pub warning: (&'static str, &'static str),
    /// Findings that may stay as they are if somebody says so: name, title, how it stands.
    pub findings: Vec<(String, &'static str, String)>,
    pub note: Option<Note>,
}

/// What can be asked for. Steps that only look again need no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Close,
    /// Issues documents for what came late.
    Late,
    Hard,
    Count,
    Compare,
}

impl Act {
    fn read(name: &str) -> Result<Self, Failure> {
        Ok(match name {
            "close" => Self::Close,
            "late" => Self::Late,
            "hard" => Self::Hard,
            "counted" => Self::Count,
            "compared" => Self::Compare,
            _ => return Err(Problem::invalid_field("act", "is none of close, late, hard, counted, compared").into()),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Late => "late",
            Self::Hard => "hard",
            Self::Count => "counted",
            Self::Compare => "compared",
        }
    }

    fn is_final(self) -> bool {
        matches!(self, Self::Close | Self::Late | Self::Hard)
    }

    /// What the page says when it is done; see [`crate::done`].
    fn done(self) -> &'static str {
        match self {
            Self::Close => "issued",
            Self::Late => "corrected",
            Self::Hard => "closed",
            Self::Count => "counted",
            Self::Compare => "compared",
        }
    }
}

pub async fn confirm(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let (month, act) = (month_asked(&ctx, &asked.month)?, Act::read(&asked.act)?);
    question(&portal, &ctx, month, act, None).await
}

pub async fn submit(State(portal): State<Portal>, ctx: Ctx, RawForm(form): RawForm) -> Result<Response, Failure> {
    let given: Vec<(String, String)> = url::form_urlencoded::parse(&form).into_owned().collect();
    let value = |name: &str| given.iter().find(|(key, _)| key == name).map(|(_, value)| value.trim()).unwrap_or_default();
    let (month, act) = (month_asked(&ctx, value("month"))?, Act::read(value("act"))?);
    if act.is_final() && value("confirm") != value("month") {
        let note = Note::new(Tone::Warn, "Nothing was done.", format!("Type {} to confirm.", value("month")));
        return question(&portal, &ctx, month, act, Some(note)).await;
    }
    let accepted: Vec<StepName> =
        ACCEPTABLE.iter().filter(|step| given.iter().any(|(key, value)| key == "accept" && *value == step.name())).copied().collect();
    match carry_out(&portal, &ctx, month, act, &accepted).await {
        Ok(()) => Ok(Redirect::to(&format!("/console/close?month={}&done={}", value("month"), act.done())).into_response()),
        Err(Failure::Problem(problem)) if act.is_final() && problem.status < 500 => {
            let note = Note::new(Tone::Warn, "Nothing was done.", words::sentence(&problem.detail));
            question(&portal, &ctx, month, act, Some(note)).await
        }
        Err(failure) => Err(failure),
    }
}

async fn carry_out(portal: &Portal, ctx: &Ctx, month: Period, act: Act, accepted: &[StepName]) -> Result<(), Failure> {
    let (app, workspace, actor) = (&portal.app, &ctx.workspace.id, ctx.session()?.person.id.as_str());
    let (action, detail) = match act {
        Act::Close => ("period.close", json!({})),
        Act::Hard => ("close.hard", json!({ "accept": accepted })),
        Act::Late | Act::Count | Act::Compare => ("close.step", json!({ "step": act.name() })),
    };
    let name = farebox_billing::calendar::name(month, ctx.tz());
    audit_log::record(&mut *app.pg.acquire().await?, workspace, actor, action, &name, &detail).await?;
    match act {
        Act::Close => drop(close::close_period(app, workspace, month).await?),
        Act::Hard => drop(checklist::hard_close(app, workspace, month, accepted, actor).await?),
        Act::Late => drop(checklist::run_step(app, workspace, month, StepName::Late).await?),
        Act::Count => drop(checklist::run_step(app, workspace, month, StepName::Counted).await?),
        Act::Compare => drop(checklist::run_step(app, workspace, month, StepName::Compared).await?),
    }
    Ok(())
}

async fn question(portal: &Portal, ctx: &Ctx, month: Period, act: Act, note: Option<Note>) -> Result<Response, Failure> {
    let list = checklist::checklist(&portal.app, &ctx.workspace.id, month).await?;
    let name = format::month(local_date(month.start, ctx.tz()));
    let stands = |wanted: StepName| list.steps.iter().find(|step| step.step == wanted).map(|step| step.detail.clone()).unwrap_or_default();
    let (title, totals, warning) = match act {
        Act::Late => (
            format!("Correct late usage of {name}"),
            vec![("Late usage", stands(StepName::Late))],
            ("Each difference becomes an invoice of its own.", "Otherwise the next regular invoices correct it."),
        ),
        Act::Hard => (
            format!("Close {name} for good"),
            vec![("Issued", stands(StepName::Issued)), ("Paid", stands(StepName::Paid))],
            ("This cannot be taken back.", "What comes late for the month is not corrected any more."),
        ),
        Act::Close | Act::Count | Act::Compare => (
            format!("Close {name}"),
            vec![("To invoice", stands(StepName::Drafted)), ("Issued", stands(StepName::Issued)), ("Events", stands(StepName::Arrived))],
            ("An issued invoice never changes.", "What turns out wrong later is corrected with a new document."),
        ),
    };
    page(&CloseConfirmPage {
        shell: ctx.shell("Close", "/console/close"),
        findings: if act == Act::Hard { findings(&list) } else { Vec::new() },
        month: list.period,
        act: act.name(),
        title,
        totals,
        warning,
        note,
    })
}

fn findings(list: &Checklist) -> Vec<(String, &'static str, String)> {
    let open = list.steps.iter().filter(|step| step.state != Stands::Done && ACCEPTABLE.contains(&step.step));
    open.map(|step| (step.step.name(), steps::title(step.step), step.detail.clone())).collect()
}
