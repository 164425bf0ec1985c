//! Voiding a credit note, after a question.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use farebox_billing::credit_notes::{self, CreditNote};
use farebox_core::problem::Problem;

use super::{find, name};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Facts, Note, Shell, Tone};
use crate::{Portal, format, words};

#[derive(Debug, Clone, Template)]
#[template(path = "console/credit_void.html")]
pub struct VoidPage {
    pub shell: Shell,
    pub id: String,
    pub title: String,
    pub note: Option<Note>,
    pub facts: Facts,
}

pub async fn confirm(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let note = find(&portal, &ctx, &id).await?;
    page(&question(&ctx, &note, None))
}

fn question(ctx: &Ctx, note: &CreditNote, said: Option<Note>) -> VoidPage {
    VoidPage {
        shell: ctx.shell("Void", "/console/credit-notes"),
        id: note.id.to_string(),
        title: format!("Void {}", name(note)),
        note: said,
        facts: Facts::default().with("Corrects", &note.invoice_number).with("To be paid again, with tax", format::money(note.total)),
    }
}

pub async fn submit(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let note = find(&portal, &ctx, &id).await?;
    let actor = ctx.session()?.person.id.as_str();
    match credit_notes::void(&portal.app, &ctx.workspace.id, &note.id, actor).await.map_err(Problem::from) {
        Ok(_) => Ok(Redirect::to(&format!("/console/credit-notes/{}?done=voided", note.id)).into_response()),
        Err(problem) if problem.status < 500 => {
            let said = Note::new(Tone::Warn, "It was not voided.", words::sentence(&problem.detail));
            page(&question(&ctx, &note, Some(said)))
        }
        Err(problem) => Err(problem.into()),
    }
}
