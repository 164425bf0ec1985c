use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::Duration;
use farebox_billing::stripe::checkout;
use farebox_core::period::Period;
use farebox_metering::{credentials, latest};

use super::payment;
use crate::context::{Ctx, page};
use crate::failure::Failure;

use crate::view::{Badge, Code, Meter, RulerMark, Shell, StepState, Tone};
use crate::{Portal, account, format, settings, words};

/// The way to the first call, with the next step open.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/start.html")]
pub struct StartPage {
    pub shell: Shell,
    pub plan: Option<String>,
    pub plan_note: String,
    pub plan_state: StepState,
    /// Whether the plan has a price, so that a card is a step.
    pub needs_payment: bool,
    pub payment_state: StepState,
    pub payment_note: String,
    pub key_state: StepState,
    pub key_note: String,
    pub call_state: StepState,
    pub command: Code,
    pub waiting: WaitingPart,
    pub allowance_figure: String,
    pub allowance_unit: String,
    pub meter: Option<Meter>,
}

/// Whether the first call has come; asks again until it has.
#[derive(Debug, Clone, Template)]
#[template(
    ext = "html",
    source = r#"<div id="waiting"{% if seen.is_none() && waiting %} hx-get="/start/seen" hx-trigger="every 2s" hx-swap="outerHTML"{% endif %}>{% if let Some(seen) = seen %}<p role="status">{{ Badge::new(Tone::Ok, "Counted") }} {{ seen }}</p><p class="mt-2"><a class="btn primary" href="/usage">See your usage</a></p>{% else if waiting %}<p class="live" role="status">Waiting for your first call</p><p class="small mt-2"><a href="/start">Check again</a></p>{% endif %}</div>"#
)]
pub struct WaitingPart {
    pub seen: Option<String>,
    pub waiting: bool,
}

impl askama::filters::HtmlSafe for WaitingPart {}

pub async fn show(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    let consumer = ctx.consumer()?;
    let mut conn = portal.app.pg.acquire().await?;
    let agreements = account::in_force(&mut conn, &ctx, consumer).await?;
    let keys = credentials::list(&mut conn, &ctx.workspace.id, consumer).await?;
    let paid = checkout::has_payment_method(&mut conn, &ctx.workspace.id, consumer).await?;
    drop(conn);
    let key = keys.iter().find(|key| key.revoked_at.is_none() && key.expires_at.is_none_or(|at| ctx.now() < at));
    let seen = seen(&portal, &ctx).await?;

    let card = if paid { payment::card(&portal, &ctx).await? } else { None };
    let agreement = agreements.first();
    let has_plan = agreement.is_some();
    let needs_payment = agreement.is_some_and(|a| !a.plan.free) && (paid || payment::available(&portal, &ctx).await?);
    let mut open = true;
    let mut next = |done: bool| {
        let state = if done {
            StepState::Done
        } else if open {
            StepState::Now
        } else {
            StepState::Later
        };
        open = open && done;
        state
    };
    let plan_state = next(has_plan);
    // A key works without a card, so the card never stands in the way of the first call.
    let payment_state = if paid { StepState::Done } else { StepState::Later };
    let key_state = next(key.is_some());
    let call_state = next(seen.is_some());

    let allowance = agreement.and_then(|a| words::allowance(&a.plan.definition, a.plan.free));
    let currency = ctx.workspace.currency;
    let (figure, unit, meter) = match &allowance {
        Some(allowance) => {
            let unit = format!("of {} {}", format::quantity(&allowance.units), words::meter(&allowance.meter));
            let meter = Meter {
                label: "Allowance used".into(),
                now: "0".into(),
                max: farebox_core::money::plain(&allowance.units),
                text: format!("0 {unit} used"),
                used: "v0".into(),
                cap: None,
                forecast: None,
                thin: false,
                ruler: vec![
                    RulerMark { at: "v0".into(), text: "0".into() },
                    RulerMark { at: "v100".into(), text: format::quantity(&allowance.units) },
                ],
            };
            ("0".to_owned(), unit, Some(meter))
        }
        None => ("0".to_owned(), "requests so far".to_owned(), None),
    };
    page(&StartPage {
        shell: ctx.shell("Get started", "/start"),
        plan: agreement.map(|a| words::title(&a.plan.name)),
        plan_note: agreement.map_or_else(
            || "It says what you may call and what it costs. You can change it later.".into(),
            |a| format!("{}, {}.", words::title(&a.plan.name), words::headline(&a.plan.definition, a.plan.free, currency)),
        ),
        plan_state,
        needs_payment,
        payment_state,
        payment_note: match &card {
            Some(card) => format!("{}. Invoices are charged to it.", payment::name(card)),
            None if paid => "Invoices are charged to it.".into(),
            None => "Nothing is charged now. Your calls work before you add one.".into(),
        },
        key_state,
        key_note: key.map_or_else(|| "It lets your program call the API.".into(), |key| format!("{}, {}.", key.name, key.hint)),
        call_state,
        command: Code::new("the command", command(&portal, &ctx, "YOUR_KEY").await?),
        waiting: WaitingPart { waiting: key.is_some(), seen },
        allowance_figure: figure,
        allowance_unit: unit,
        meter,
    })
}

/// The part of the page that waits.
pub async fn waiting(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    page(&WaitingPart { seen: seen(&portal, &ctx).await?, waiting: true })
}

/// The newest call as a sentence.
async fn seen(portal: &Portal, ctx: &Ctx) -> Result<Option<String>, Failure> {
    let end = ctx.now() + Duration::minutes(5);
    let period = Period { start: end - Duration::days(90), end };
    let calls = latest::calls(&portal.app, &ctx.workspace.id, ctx.consumer()?, period, 1).await?;
    Ok(calls.first().map(|call| {
        let counts = if call.reason.is_empty() { "it counts" } else { "it does not count" };
        format!("{}, status {}, {}; {counts}.", words::call(&call.method, &call.route), call.status, format::relative(call.at, ctx.now()))
    }))
}

/// A call that can be pasted into a shell.
pub async fn command(portal: &Portal, ctx: &Ctx, key: &str) -> Result<String, Failure> {
    let url = settings::example_url(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id).await?;
    let url = url.map_or_else(|| "\"$API_ADDRESS\"".to_owned(), |url| format!("'{}'", url.replace('\'', "%27")));
    Ok(format!("curl {url} -H 'x-api-key: {key}'"))
}
