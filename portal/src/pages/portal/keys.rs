use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use chrono::{DateTime, Utc};
use farebox_access::keys::{self, Credential};
use farebox_core::audit_log;
use serde::Deserialize;
use serde_json::json;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::pages::portal::start;
use crate::view::{Badge, Cell, Code, Column, Facts, Field, Note, Shell, Table, Tone};
use crate::{Portal, activity, format};

#[derive(Debug, Clone, Template)]
#[template(path = "portal/keys.html")]
pub struct KeysPage {
    pub shell: Shell,
    pub live: usize,
    pub revoked: usize,
    pub showing_revoked: bool,
    pub table: Table,
    pub may_change: bool,
}

/// The form for a new key: a page of its own, which the list also shows as a dialog.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/key_new.html")]
pub struct NewKeyPage {
    pub shell: Shell,
    pub name: Field,
    pub problem: Option<Note>,
}

/// The one time a key is shown.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/key_made.html")]
pub struct KeyMadePage {
    pub shell: Shell,
    pub key: Code,
    pub facts: Facts,
    pub command: Code,
}

/// What revoking means, before it is done.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/key_revoke.html")]
pub struct RevokeKeyPage {
    pub shell: Shell,
    pub id: String,
    pub name: String,
    pub facts: Facts,
    pub warning: Option<Note>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Show {
    show: String,
}

pub async fn list(State(portal): State<Portal>, ctx: Ctx, Query(query): Query<Show>) -> Result<Response, Failure> {
    let keys = keys::list(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, ctx.consumer()?).await?;
    let (now, showing_revoked) = (ctx.now(), query.show == "revoked");
    let (working, gone): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| works(key, now));
    let used = activity::last_used(&portal, &ctx, ctx.consumer()?).await?;
    let shown = if showing_revoked { &gone } else { &working };
    page(&KeysPage {
        shell: ctx.shell("Keys", "/keys"),
        live: working.len(),
        revoked: gone.len(),
        showing_revoked,
        table: table(shown, &used, &ctx, !showing_revoked),
        may_change: true,
    })
}

fn works(key: &Credential, now: DateTime<Utc>) -> bool {
    key.revoked_at.is_none() && key.expires_at.is_none_or(|at| now < at)
}

/// Keys with what tells them apart, for their owner and for the provider.
pub fn table(keys: &[Credential], used: &activity::LastUsed, ctx: &Ctx, actions: bool) -> Table {
    let (now, tz) = (ctx.now(), ctx.tz());
    let mut columns =
        vec![Column::text("Name"), Column::text("Key"), Column::text("Last used"), Column::text("Made"), Column::text("Status")];
    if actions {
        columns.push(Column::actions());
    }
    Table::new("Keys", columns).rows(keys.iter().map(|key| {
        let name = if key.environment == "production" { Cell::text(&key.name) } else { Cell::text(&key.name).sub(&key.environment) };
        let last = used.of(&key.id).map_or_else(|| "Not yet".to_owned(), |at| format::relative(at, now));
        let made = format::date(key.created_at.with_timezone(&tz).date_naive());
        let mut row = vec![name, Cell::mono(&key.hint), Cell::text(last), Cell::text(made), status(key, now).into()];
        if actions {
            row.push(Cell::button("Revoke", &key.name, format!("/keys/{}/revoke", key.id)));
        }
        row
    }))
}

fn status(key: &Credential, now: DateTime<Utc>) -> Badge {
    match (key.revoked_at, key.expires_at) {
        (Some(at), _) => Badge::plain(format!("Revoked {}", format::relative(at, now))),
        (None, Some(at)) if at <= now => Badge::plain("Expired"),
        (None, Some(at)) if at - now < chrono::Duration::days(14) => {
            Badge::new(Tone::Warn, format!("Expires {}", format::relative(at, now)))
        }
        _ => Badge::plain("Active"),
    }
}

pub async fn new(ctx: Ctx) -> Result<Response, Failure> {
    page(&NewKeyPage { shell: ctx.shell("Create a key", "/keys"), name: Field::default(), problem: None })
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct NewKey {
    name: String,
}

pub async fn create(State(portal): State<Portal>, ctx: Ctx, Form(form): Form<NewKey>) -> Result<Response, Failure> {
    let name = form.name.trim();
    if name.is_empty() || name.chars().count() > 100 {
        let mut field = Field::of(&form.name);
        field.wrong("Give it a name of at most 100 characters.");
        let mut response = page(&NewKeyPage { shell: ctx.shell("Create a key", "/keys"), name: field, problem: None })?;
        *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
        return Ok(response);
    }
    let mut tx = portal.app.pg.begin().await?;
    let (workspace, consumer, session) = (&ctx.workspace, ctx.consumer()?, ctx.session()?);
    let (credential, secret) = keys::issue(&mut tx, &portal.app.config, workspace, consumer, name).await?;
    audit_log::record(&mut tx, &workspace.id, session.person.id.as_str(), "key.create", credential.id.as_str(), &json!({"name": name}))
        .await?;
    tx.commit().await?;
    page(&KeyMadePage {
        shell: ctx.shell("Your new key", "/keys"),
        key: Code::secret("New key", secret.reveal()),
        facts: Facts::default()
            .with("Name", &credential.name)
            .with("Works", "within seconds")
            .with("Expires", "never, until you revoke it"),
        command: Code::new("the command", start::command(&portal, &ctx, secret.reveal()).await?),
    })
}

async fn find(portal: &Portal, ctx: &Ctx, id: &str) -> Result<Credential, Failure> {
    let keys = keys::list(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, ctx.consumer()?).await?;
    keys.into_iter().find(|key| key.id.as_str() == id).ok_or_else(|| Failure::not_found("key"))
}

pub async fn confirm_revoke(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let key = find(&portal, &ctx, &id).await?;
    if key.revoked_at.is_some() {
        return Ok(Redirect::to("/keys?show=revoked").into_response());
    }
    let now = ctx.now();
    let last = activity::last_used(&portal, &ctx, ctx.consumer()?).await?.of(&key.id);
    let recent = last.is_some_and(|at| now - at < chrono::Duration::hours(24));
    page(&RevokeKeyPage {
        shell: ctx.shell("Revoke a key", "/keys"),
        id,
        name: key.name.clone(),
        facts: Facts::default()
            .cell("Key", Cell::mono(&key.hint))
            .with("Made", format::instant(key.created_at, ctx.tz()))
            .with("Last used", last.map_or_else(|| "Not yet".to_owned(), |at| format::relative(at, now))),
        warning: recent
            .then(|| Note::new(Tone::Warn, "This key was used in the last 24 hours.", "Make sure that nothing needs it any more.")),
    })
}

pub async fn revoke(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let key = find(&portal, &ctx, &id).await?;
    let mut tx = portal.app.pg.begin().await?;
    let (workspace, session) = (&ctx.workspace, ctx.session()?);
    keys::revoke(&mut tx, &workspace.id, ctx.consumer()?, &key.id).await?;
    audit_log::record(&mut tx, &workspace.id, session.person.id.as_str(), "key.revoke", key.id.as_str(), &json!({"name": key.name}))
        .await?;
    tx.commit().await?;
    Ok(Redirect::to("/keys?done=key-revoked").into_response())
}
