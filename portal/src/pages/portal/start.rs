use askama::Template;

use crate::view::{Badge, Code, Meter, Shell, StepState, Tone};

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
