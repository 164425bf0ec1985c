//! One webhook: what it was sent, and what can be done about it.

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use farebox_billing::BillingError;
use farebox_billing::webhooks::{self, Changes, Delivery, NewWebhook, Sender, Webhook};
use farebox_core::audit_log;
use farebox_core::ids::WebhookId;
use farebox_core::seal::Revealed;
use serde::Deserialize;
use serde_json::json;

use super::alerts::{CHOICES, alerts_page, state, what};
use super::settings::OncePage;
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Badge, Cell, Code, Column, Facts, Field, Note, Shell, Table, Tone};
use crate::{Portal, format, words};

/// Shown of what was sent.
const MOST: i64 = 100;

#[derive(Debug, Clone, Template)]
#[template(path = "console/webhook.html")]
pub struct WebhookPage {
    pub shell: Shell,
    pub id: String,
    pub url: String,
    pub facts: Facts,
    pub note: Option<Note>,
    pub on: bool,
    pub deliveries: Table,
}

fn id_of(text: &str) -> Result<WebhookId, Failure> {
    text.parse().map_err(|_| Failure::not_found("webhook"))
}

fn sender(portal: &Portal) -> Result<Sender, Failure> {
    Sender::new(&portal.app.config.webhooks).map_err(|e| Failure::internal(&e))
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let (id, ws, tz) = (id_of(&id)?, &ctx.workspace.id, ctx.tz());
    let mut conn = portal.app.pg.acquire().await?;
    let hook = webhooks::get(&mut conn, ws, &id).await?.ok_or_else(|| Failure::not_found("webhook"))?;
    let sent = webhooks::deliveries(&mut conn, ws, &id, None, MOST, None).await?;
    drop(conn);
    let mut facts = Facts::default().with("Is told", what(&hook)).cell("State", Cell::badge(state(&hook)));
    if let Some(until) = hook.rotating_until {
        facts = facts.with("Both secrets sign until", format::instant(until, tz));
    }
    let note = hook.disabled_reason.as_ref().map(|why| Note::new(Tone::Warn, "Nothing is sent to it.", words::sentence(why)));
    let columns = vec![
        Column::text("Event"),
        Column::text("Happened"),
        Column::text("State"),
        Column::number("Attempts"),
        Column::text("Last answer"),
    ];
    let rows = sent.iter().map(|delivery| {
        vec![
            Cell::text(&delivery.r#type).sub(&delivery.event),
            Cell::text(format::instant(delivery.at, tz)),
            outcome(delivery).into(),
            Cell::text(format::count(delivery.attempts)),
            answer(delivery, &ctx),
        ]
    });
    page(&WebhookPage {
        shell: ctx.shell("Webhook", "/console/alerts"),
        id: hook.id.to_string(),
        url: hook.url.clone(),
        facts,
        note,
        on: hook.disabled_at.is_none(),
        deliveries: Table::new("Deliveries", columns).dense().rows(rows),
    })
}

fn outcome(delivery: &Delivery) -> Badge {
    match (delivery.state.as_str(), delivery.attempts) {
        ("delivered", _) => Badge::plain("Delivered"),
        ("failed", _) => Badge::new(Tone::Bad, "Given up"),
        (_, 0) => Badge::plain("Waiting"),
        _ => Badge::new(Tone::Warn, "Is sent again"),
    }
}

fn answer(delivery: &Delivery, ctx: &Ctx) -> Cell {
    let took = delivery.took_ms.map_or_else(String::new, |ms| format!(" in {}", format::took(u64::try_from(ms).unwrap_or(0) * 1000)));
    let cell = match (&delivery.error, delivery.status) {
        (Some(error), _) => Cell::text(words::sentence(error)),
        (None, Some(status)) => Cell::text(format!("{status}{took}")),
        (None, None) => Cell::text("–"),
    };
    match delivery.next_at {
        Some(at) => cell.sub(format!("again {}", format::relative(at, farebox_core::clock::now()))),
        None => delivery.tried_at.map_or(cell.clone(), |at| cell.sub(format::instant(at, ctx.tz()))),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct NewForm {
    url: String,
    what: String,
}

pub async fn create(State(portal): State<Portal>, ctx: Ctx, Form(form): Form<NewForm>) -> Result<Response, Failure> {
    let events = CHOICES.iter().find(|(value, _, _)| *value == form.what).map_or(&[][..], |(_, _, events)| events);
    let new = NewWebhook {
        url: form.url.trim().to_owned(),
        description: String::new(),
        events: events.iter().map(|kind| (*kind).to_owned()).collect(),
    };
    let mut tx = portal.app.pg.begin().await?;
    let (hook, secret) = match webhooks::create(&mut tx, &portal.app.config, &sender(&portal)?, &ctx.workspace.id, &new).await {
        Ok(made) => made,
        Err(BillingError::Invalid { detail, .. } | BillingError::Conflict { detail, .. }) => {
            let mut url = Field::of(form.url);
            url.wrong(words::sentence(&format!("it {detail}")));
            let mut response = page(&alerts_page(&portal, &ctx, url).await?)?;
            *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
            return Ok(response);
        }
        Err(error) => return Err(error.into()),
    };
    let actor = ctx.session()?.person.id.as_str();
    let detail = json!({ "url": hook.url, "events": hook.events });
    audit_log::record(&mut tx, &ctx.workspace.id, actor, "webhook.create", hook.id.as_str(), &detail).await?;
    tx.commit().await?;
    page(&once(&ctx, &hook, &secret))
}

fn once(ctx: &Ctx, hook: &Webhook, secret: &Revealed) -> OncePage {
    OncePage {
        shell: ctx.shell("Signing secret", "/console/alerts"),
        title: "The signing secret. Copy it now.".into(),
        text: "This is the only time it is shown. Your program checks with it that what arrives is from here.".into(),
        secret: Code::secret("the signing secret", secret.reveal()),
        facts: Facts::default()
            .with("Address", &hook.url)
            .with("Is told", what(hook))
            .with("Checked with", "the headers webhook-id, webhook-timestamp and webhook-signature, by Standard Webhooks"),
        more: None,
        back: format!("/console/webhooks/{}", hook.id),
    }
}

pub async fn rotate(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let id = id_of(&id)?;
    let mut tx = portal.app.pg.begin().await?;
    let (hook, secret) = webhooks::rotate(&mut tx, &portal.app.config, &ctx.workspace.id, &id).await?;
    let actor = ctx.session()?.person.id.as_str();
    audit_log::record(&mut tx, &ctx.workspace.id, actor, "webhook.rotate", id.as_str(), &json!({})).await?;
    tx.commit().await?;
    page(&once(&ctx, &hook, &secret))
}

pub async fn test(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let id = id_of(&id)?;
    let mut tx = portal.app.pg.begin().await?;
    webhooks::test(&mut tx, &ctx.workspace.id, &id).await?;
    tx.commit().await?;
    Ok(Redirect::to(&format!("/console/webhooks/{id}?done=webhook-tested")).into_response())
}

/// Off when it is on, and the other way round.
pub async fn switch(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let (id, ws) = (id_of(&id)?, &ctx.workspace.id);
    let mut tx = portal.app.pg.begin().await?;
    let hook = webhooks::get(&mut tx, ws, &id).await?.ok_or_else(|| Failure::not_found("webhook"))?;
    let changes = Changes { enabled: Some(hook.disabled_at.is_some()), ..Changes::default() };
    webhooks::update(&mut tx, &sender(&portal)?, ws, &id, &changes).await?;
    let actor = ctx.session()?.person.id.as_str();
    audit_log::record(&mut tx, ws, actor, "webhook.update", id.as_str(), &json!({ "enabled": changes.enabled })).await?;
    tx.commit().await?;
    Ok(Redirect::to(&format!("/console/webhooks/{id}?done=webhook-saved")).into_response())
}

#[derive(Debug, Clone, Template)]
#[template(path = "console/webhook_remove.html")]
pub struct RemovePage {
    pub shell: Shell,
    pub id: String,
    pub facts: Facts,
    pub on: bool,
}

/// Asks before it is gone: what was not delivered yet never will be.
pub async fn confirm_remove(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let (id, ws) = (id_of(&id)?, &ctx.workspace.id);
    let mut conn = portal.app.pg.acquire().await?;
    let hook = webhooks::get(&mut conn, ws, &id).await?.ok_or_else(|| Failure::not_found("webhook"))?;
    let waiting = webhooks::deliveries(&mut conn, ws, &id, None, MOST, None).await?;
    let waiting = waiting.iter().filter(|delivery| delivery.next_at.is_some()).count();
    page(&RemovePage {
        shell: ctx.shell("Remove a webhook", "/console/alerts"),
        id: hook.id.to_string(),
        facts: Facts::default().with("Address", &hook.url).with("Is told", what(&hook)).with(
            "Still to be delivered",
            if waiting == 0 { "nothing".to_owned() } else { format::counted(i64::try_from(waiting).unwrap_or(MOST), "event", "events") },
        ),
        on: hook.disabled_at.is_none(),
    })
}

pub async fn remove(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let (id, ws) = (id_of(&id)?, &ctx.workspace.id);
    let mut tx = portal.app.pg.begin().await?;
    if !webhooks::remove(&mut tx, ws, &id).await? {
        return Err(Failure::not_found("webhook"));
    }
    let actor = ctx.session()?.person.id.as_str();
    audit_log::record(&mut tx, ws, actor, "webhook.remove", id.as_str(), &json!({})).await?;
    tx.commit().await?;
    Ok(Redirect::to("/console/alerts?done=webhook-removed#webhooks").into_response())
}
