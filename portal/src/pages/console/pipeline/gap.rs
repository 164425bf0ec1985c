//! Calls that were decided and never told of: whose they are, and the choice to bill them from their decisions.

use askama::Template;
use axum::Form;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::{DateTime, Utc};
use farebox_access::gap::{self, Gap, Which};
use farebox_core::period::local_date;
use farebox_core::problem::Problem;
use serde::Deserialize;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Cell, Column, Note, Shell, Table, Tone};
use crate::{Portal, format, words};

#[derive(Debug, Clone, Template)]
#[template(path = "console/gap.html")]
pub struct GapPage {
    pub shell: Shell,
    pub title: String,
    pub note: Option<Note>,
    pub totals: Vec<(String, String)>,
    pub table: Table,
    pub source: String,
    pub hour: String,
    /// What the button says; empty where there is nothing to bill.
    pub button: String,
    pub reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    source: String,
    hour: Option<DateTime<Utc>>,
    reason: String,
}

impl Asked {
    fn which(&self) -> Result<Which, Failure> {
        let hour = self.hour.ok_or_else(|| Failure::not_found("hour"))?;
        Ok(Which { source: self.source.clone(), hour })
    }
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    shown(&portal, &ctx, &asked, None).await
}

async fn shown(portal: &Portal, ctx: &Ctx, asked: &Asked, note: Option<Note>) -> Result<Response, Failure> {
    let which = asked.which()?;
    let found = gap::of(&portal.app, &ctx.workspace.id, &which).await?;
    let note = note.or_else(|| told(&found));
    let names = names(portal, ctx).await?;
    let columns = vec![Column::text("Consumer"), Column::text("API"), Column::number("Calls")];
    let rows = found.by.iter().map(|row| {
        let name = names.iter().find(|(id, _)| *id == row.consumer).map_or(row.consumer.as_str(), |(_, name)| name);
        let api = if row.api.is_empty() { "not registered" } else { &row.api };
        vec![Cell::text(name), Cell::text(api), Cell::text(format::count(row.calls))]
    });
    let at = format!("{} {}", format::day_month(local_date(found.hour, ctx.tz())), format::clock(found.hour, ctx.tz()));
    page(&GapPage {
        shell: ctx.shell("Pipeline", "/console/pipeline"),
        title: format!("{}, {at}", found.source),
        totals: vec![
            ("Decided, and not told of".into(), format::count(found.missing)),
            ("Billed from decisions before".into(), format::count(found.billed_from_decisions)),
            ("Let pass, to a consumer who is known".into(), format::count(found.billable)),
        ],
        table: Table::new("Calls that were let pass and never told of", columns).dense().rows(rows),
        source: found.source.clone(),
        hour: found.hour.to_rfc3339(),
        button: if found.complete && found.billable > 0 {
            format!("Bill {} from decisions", format::count(found.billable))
        } else {
            String::new()
        },
        reason: asked.reason.clone(),
        note,
    })
}

async fn names(portal: &Portal, ctx: &Ctx) -> Result<Vec<(String, String)>, Failure> {
    let mut conn = portal.app.pg.acquire().await?;
    let all = farebox_metering::consumers::all(&mut conn, &ctx.workspace.id).await?;
    Ok(all.into_iter().map(|consumer| (consumer.id.to_string(), consumer.name)).collect())
}

fn told(gap: &Gap) -> Option<Note> {
    (!gap.complete).then(|| {
        Note::new(
            Tone::Warn,
            "This hour is not finished.",
            "Events may still be under way. It can be billed once they have surely arrived.",
        )
    })
}

pub async fn submit(State(portal): State<Portal>, ctx: Ctx, Form(asked): Form<Asked>) -> Result<Response, Failure> {
    let which = asked.which()?;
    let actor = ctx.session()?.person.id.to_string();
    match gap::bill(&portal.app, &ctx.workspace.id, &which, &asked.reason, &actor).await {
        Ok(_) => Ok(Redirect::to("/console/pipeline#wi").into_response()),
        Err(problem) if problem.status < 500 => {
            let why = problem.errors.first().map_or_else(|| problem.detail.clone(), |error| format!("The reason {}.", error.detail));
            shown(&portal, &ctx, &asked, Some(Note::new(Tone::Warn, "Not billed.", words::sentence(&why)))).await
        }
        Err(problem) => Err(Problem::into(problem)),
    }
}
