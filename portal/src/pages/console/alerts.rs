//! What is told when a threshold is reached, what was told, and the programs that are told what happens.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use farebox_billing::alerts::{self, Alert, FiringFilter, For};
use farebox_billing::webhooks::{self, Webhook};
use farebox_metering::consumers;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::pages::portal::alerts::says;
use crate::people::Role;
use crate::routes::may_post;
use crate::view::{Badge, Cell, Column, Field, Shell, Table, Tone};
use crate::{Portal, format, words};

/// Shown of what was told.
const MOST: i64 = 100;
const MONEY: &[Role] = &[Role::Owner, Role::Admin, Role::Finance];

#[derive(Debug, Clone, Template)]
#[template(path = "console/alerts.html")]
pub struct AlertsPage {
    pub shell: Shell,
    pub rules: Table,
    pub told: Table,
    pub webhooks: Table,
    pub may_change: bool,
    pub url: Field,
    pub choices: &'static [(&'static str, &'static str, &'static [&'static str])],
}

/// What an address may be told, as a person chooses it.
pub const CHOICES: &[(&str, &str, &[&str])] = &[
    ("all", "Everything", &["*"]),
    ("alerts", "Alerts", &["alert.fired"]),
    ("invoices", "Invoices", &["invoice.issued", "invoice.paid", "invoice.past_due", "invoice.uncollectible", "invoice.void"]),
    ("subscriptions", "Subscriptions", &["subscription.created", "subscription.changed"]),
    ("keys", "Keys", &["key.created", "key.revoked"]),
];

pub async fn show(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    page(&alerts_page(&portal, &ctx, Field::default()).await?)
}

pub async fn alerts_page(portal: &Portal, ctx: &Ctx, url: Field) -> Result<AlertsPage, Failure> {
    let (ws, tz) = (&ctx.workspace.id, ctx.tz());
    let mut conn = portal.app.pg.acquire().await?;
    let rules = alerts::list(&mut conn, ws).await?;
    let filter = FiringFilter { eyes: For::Provider, consumer: None, without_amounts: !ctx.is(MONEY) };
    let told = alerts::firings(&mut conn, ws, &filter, MOST, "").await?;
    let hooks = webhooks::list(&mut conn, ws).await?;
    let mut ids: Vec<_> =
        told.iter().map(|f| &f.consumer).chain(rules.iter().filter_map(|r| r.consumer.as_ref())).map(ToString::to_string).collect();
    ids.sort_unstable();
    ids.dedup();
    let known = consumers::by_ids(&mut conn, ws, &ids).await?;
    drop(conn);
    let name = |id: &farebox_core::ids::ConsumerId| known.iter().find(|c| c.id == *id).map_or_else(|| id.to_string(), |c| c.name.clone());
    let rule_rows = rules.iter().map(|rule| {
        let whose = match (&rule.consumer, &rule.plan) {
            (Some(consumer), _) => Cell::link(name(consumer), format!("/console/consumers/{consumer}")),
            (None, Some(plan)) => Cell::text(format!("everybody on {}", words::title(plan))),
            (None, None) => Cell::text("everybody"),
        };
        vec![Cell::text(&rule.name), Cell::text(says(rule)), whose, Cell::text(recipients(rule))]
    });
    let told_rows = told.iter().map(|firing| {
        vec![
            Cell::text(format::instant(firing.fired_at, tz)),
            Cell::link(name(&firing.consumer), format!("/console/consumers/{}", firing.consumer)),
            Cell::text(words::sentence(&firing.detail)),
            Cell::text(&firing.name),
        ]
    });
    let may_change = ctx.session().is_ok_and(|session| may_post("/console/webhooks", session.person.role));
    let columns = |names: [&str; 4]| names.map(Column::text).into();
    Ok(AlertsPage {
        shell: ctx.shell("Alerts", "/console/alerts"),
        rules: Table::new("Alerts", columns(["Name", "Told at", "Of", "Told to"])).dense().rows(rule_rows),
        told: Table::new("What was told", columns(["When", "Consumer", "What", "Alert"])).dense().rows(told_rows),
        webhooks: Table::new(
            "Webhooks",
            vec![Column::text("Address"), Column::text("Is told"), Column::text("State"), Column::number("Waiting")],
        )
        .dense()
        .rows(hooks.iter().map(|hook| {
            let address = if may_change { Cell::link(&hook.url, format!("/console/webhooks/{}", hook.id)) } else { Cell::text(host(hook)) };
            vec![address, Cell::text(what(hook)), state(hook).into(), Cell::text(format::count(hook.queued))]
        })),
        may_change,
        url,
        choices: CHOICES,
    })
}

fn recipients(rule: &Alert) -> String {
    let mut to = rule.emails.clone();
    if rule.mail_consumer {
        to.push("the consumer".to_owned());
    }
    to.push("webhooks".to_owned());
    to.join(", ")
}

/// Without the path, which may hold a secret of the receiver's.
fn host(hook: &Webhook) -> String {
    let url: Option<url::Url> = hook.url.parse().ok();
    url.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

pub fn what(hook: &Webhook) -> String {
    if hook.events.iter().any(|kind| kind == webhooks::EVERYTHING) { "everything".to_owned() } else { hook.events.join(", ") }
}

pub fn state(hook: &Webhook) -> Badge {
    match (&hook.disabled_at, hook.rotating_until) {
        (Some(_), _) => Badge::new(Tone::Warn, "Switched off"),
        (None, Some(_)) => Badge::plain("On, two secrets"),
        (None, None) => Badge::plain("On"),
    }
}
