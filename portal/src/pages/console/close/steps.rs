use bigdecimal::{BigDecimal, Zero};
use farebox_billing::close::checklist::{Checklist, Closed, Step, StepName, StepState as Stands};
use farebox_billing::summary::CloseRun;
use farebox_core::period::Period;
use farebox_metering::dimension::Dimension;
use farebox_metering::usage::{self, UsageQuery};

use super::address;
use crate::context::Ctx;
use crate::failure::Failure;
use crate::view::{Action, Cell, Column, Equation, StepState, Table, Term};
use crate::{Portal, format};

#[derive(Debug, Clone)]
pub struct CloseStep {
    pub state: StepState,
    /// The first that is not done.
    pub current: bool,
    pub title: &'static str,
    pub when: String,
    pub text: String,
    pub equation: Option<Equation>,
    pub table: Option<Table>,
    /// What can be done about it at once: the form's `act` and the button's words.
    pub run: Option<(&'static str, &'static str)>,
    /// What can be done about it after a question, or where to look.
    pub links: Vec<Action>,
}

/// What happened in the month: everything, and what of it counts.
pub async fn counted(portal: &Portal, ctx: &Ctx, month: Period) -> Result<Equation, Failure> {
    let query = UsageQuery::new(&ctx.workspace.id, "calls", month);
    let (all, by_reason) = (query.clone(), query.by(Dimension::Reason));
    let (all, by_reason) = tokio::try_join!(usage::query(&portal.app, &all), usage::query(&portal.app, &by_reason))?;
    let all = all.rows.into_iter().next().map(|row| row.value).unwrap_or_default();
    let (mut billable, mut not, mut why) = (BigDecimal::zero(), BigDecimal::zero(), Vec::new());
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
    Ok(Equation {
        terms: vec![
            Term::new("", "Requests", format::quantity(&all), "in the month, each once"),
            Term::new("=", "Billable", format::quantity(&billable), ""),
            Term::new("+", "Not billable, by rule", format::quantity(&not), why.join(", ")),
        ],
        difference: Some(Term::new("", "Difference", format::quantity(&difference), "")),
    })
}

pub fn shown(list: Checklist, counted: Equation, run: Option<&CloseRun>, month: Period, ctx: &Ctx) -> Vec<CloseStep> {
    let (tz, now) = (ctx.tz(), ctx.now());
    let may = ctx.may_post("/console/close") && list.closed != Closed::Hard && now >= month.end;
    let mut equation = Some(counted);
    let mut first_open = true;
    let period = list.period;
    let show = |step: Step| {
        let current = first_open && step.state != Stands::Done;
        first_open &= !current;
        let mut shown = CloseStep {
            state: match step.state {
                Stands::Done => StepState::Done,
                Stands::Attention => StepState::Stopped,
                Stands::Waiting if current => StepState::Now,
                Stands::Waiting => StepState::Later,
            },
            current,
            title: title(step.step),
            when: step.ran_at.map(|at| format::instant(at, tz)).unwrap_or_default(),
            text: step.detail,
            equation: None,
            table: None,
            run: None,
            links: Vec::new(),
        };
        let undone = step.state != Stands::Done;
        match step.step {
            StepName::Over => {
                shown.when = format::instant(month.end, tz);
                shown.text = if undone {
                    format!("It ends {}.", format::relative(month.end, now))
                } else {
                    "What happens from now on belongs to the next month.".into()
                };
            }
            StepName::Arrived if !undone => shown.text = "Every source has told of the whole month, or its grace is over.".into(),
            StepName::Counted => {
                if !undone {
                    shown.text = "The same by rollups as by raw events.".into();
                }
                shown.equation = equation.take();
                shown.run = may.then_some(("counted", "Count again"));
            }
            StepName::Unattributed if undone => shown.links.push(Action::new("Consumers", "/console/consumers")),
            StepName::Late if undone && may => shown.links.push(Action::new("Correct now\u{2026}", address(&period, "late"))),
            StepName::Compared => shown.run = may.then_some(("compared", "Derive every invoice again")),
            StepName::Issued => {
                if let Some(run) = run {
                    shown.when = run.finished_at.map_or_else(|| "running".to_owned(), |at| format::instant(at, tz));
                    shown.table = problems(run);
                }
            }
            StepName::Pushed if undone => shown.links.push(Action::new("Invoices", "/console/invoices?state=issued")),
            StepName::Paid if undone => shown.links.push(Action::new("Unpaid invoices", "/console/invoices?state=issued")),
            _ => {}
        }
        shown
    };
    list.steps.into_iter().map(show).collect()
}

pub fn title(step: StepName) -> &'static str {
    match step {
        StepName::Over => "The month is over",
        StepName::Arrived => "Its events have arrived",
        StepName::Counted => "Counts agree",
        StepName::MeterErrors => "Every value could be read",
        StepName::Unattributed => "Every call has a consumer",
        StepName::Late => "Late usage is corrected",
        StepName::Currencies => "Prices exist in every currency",
        StepName::Drafted => "Every subscription is invoiced",
        StepName::Compared => "Invoices derived again from events",
        StepName::Issued => "Issued",
        StepName::Pushed => "At Stripe, with equal totals",
        StepName::Paid => "Paid",
    }
}

fn problems(run: &CloseRun) -> Option<Table> {
    let columns = vec![Column::text("Subscription"), Column::text("Why it could not be closed")];
    let rows = run.problems.iter().map(|(subscription, why)| vec![Cell::mono(subscription), Cell::text(why)]);
    (!run.problems.is_empty()).then(|| Table::new("Could not be closed", columns).dense().rows(rows))
}
