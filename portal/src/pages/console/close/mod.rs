//! The close of a month as its checklist: what is done, what waits, what needs someone, and what each step can do.

mod acts;
mod steps;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use farebox_billing::close::checklist::{self, Checklist, Closed, StepName, StepState as Stands};
use farebox_billing::{calendar, summary};
use farebox_core::money::Money;
use farebox_core::period::{Period, local_date};
use serde::Deserialize;

pub use acts::{confirm, submit};
pub use steps::CloseStep;

use super::months::{choose, months};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Badge, Shell, Tone};
use crate::{Portal, format};

#[derive(Debug, Clone, Template)]
#[template(path = "console/close.html")]
pub struct ClosePage {
    pub shell: Shell,
    pub title: String,
    pub subtitle: String,
    pub months: Vec<(String, String, bool)>,
    pub month: String,
    pub state: Badge,
    pub steps: Vec<CloseStep>,
    pub aside_title: &'static str,
    pub amount: String,
    pub amount_note: String,
    pub totals: Vec<(&'static str, String)>,
    pub sum: (&'static str, String),
    pub aside_note: &'static str,
    /// The one thing to do next, and its address.
    pub next: Option<(String, String)>,
}

/// An address of these pages.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    month: String,
    /// What is to be done; see `acts`.
    act: String,
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let months = months(&ctx);
    let (tz, now, workspace) = (ctx.tz(), ctx.now(), &ctx.workspace.id);
    // The last month that is over is the one to close; the running one can be looked at.
    let asked_month = if asked.month.is_empty() { months.get(1).map(|m| calendar::name(*m, tz)).unwrap_or_default() } else { asked.month };
    let (month, choices) = choose(&months, &asked_month, &ctx);
    let records = async {
        let mut conn = portal.app.pg.acquire().await?;
        let issued = summary::by_period(&mut conn, workspace, ctx.workspace.currency, month.start).await?;
        let run = summary::last_close(&mut conn, workspace, month).await?;
        Ok::<_, Failure>((issued.into_iter().find(|p| p.start == month.start), run))
    };
    let list = async { Ok(checklist::checklist(&portal.app, workspace, month).await?) };
    let (list, counted, (issued, run)) = tokio::try_join!(list, steps::counted(&portal, &ctx, month), records)?;

    let zero = Money::zero(ctx.workspace.currency);
    let net = issued.as_ref().map_or(zero, |p| p.total.checked_sub(p.tax).unwrap_or(p.total));
    let name = format::month(local_date(month.start, tz));
    page(&ClosePage {
        shell: ctx.shell(&format!("Close {name}"), "/console/close"),
        title: format!("Close {name}"),
        subtitle: format!("{}, {}.", format::date_long(local_date(now, tz)), format::clock(now, tz)),
        months: choices,
        month: list.period.clone(),
        state: match list.closed {
            Closed::Open => Badge::new(Tone::Plain, "Open"),
            Closed::Soft => Badge::new(Tone::Ok, "Closed"),
            Closed::Hard => Badge::new(Tone::Ok, "Closed for good"),
        },
        next: next(&list, &name, &ctx),
        aside_title: if list.closed == Closed::Open { "Issued so far" } else { "Issued" },
        amount: format::money(net),
        amount_note: format!(
            "{}, before tax",
            format::counted(issued.as_ref().map_or(0, |p| p.invoices), "invoice for this month", "invoices for this month")
        ),
        totals: issued.as_ref().map_or_else(Vec::new, |p| {
            vec![
                ("Subscriptions", format::money(p.fees)),
                ("Usage", format::money(p.usage)),
                ("Minimums, caps, carried over", format::money(p.other)),
                ("Tax", format::money(p.tax)),
            ]
        }),
        sum: ("With tax", format::money(issued.as_ref().map_or(zero, |p| p.total))),
        aside_note: match list.closed {
            Closed::Hard => "What comes late for this month is not corrected any more.",
            _ => "An issued invoice never changes. What comes late is corrected by a new document, until the month is closed for good.",
        },
        steps: steps::shown(list, counted, run.as_ref(), month, &ctx),
    })
}

/// Closing comes first, closing for good after it.
fn next(list: &Checklist, name: &str, ctx: &Ctx) -> Option<(String, String)> {
    let stands = |wanted: StepName| list.steps.iter().find(|step| step.step == wanted).map(|step| step.state);
    let arrived = stands(StepName::Over) == Some(Stands::Done) && stands(StepName::Arrived) == Some(Stands::Done);
    let (act, label) = match list.closed {
        Closed::Open if arrived => ("close", format!("Close {name}\u{2026}")),
        Closed::Soft => ("hard", "Close for good\u{2026}".to_owned()),
        Closed::Open | Closed::Hard => return None,
    };
    ctx.may_post("/console/close").then(|| (label, address(&list.period, act)))
}

fn address(month: &str, act: &str) -> String {
    format!("/console/close/confirm?month={month}&act={act}")
}

fn month_asked(ctx: &Ctx, month: &str) -> Result<Period, Failure> {
    Ok(calendar::parse(month, ctx.tz())?)
}
