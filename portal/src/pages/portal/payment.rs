use askama::Template;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use farebox_billing::stripe::checkout::{self, Card};
use farebox_billing::stripe::{self, settings};
use serde::Deserialize;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::people::Role;
use crate::view::{Facts, Note, Shell, Tone};
use crate::{Portal, words};

/// How invoices are paid. The card itself is only ever typed at Stripe.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/payment.html")]
pub struct PaymentPage {
    pub shell: Shell,
    pub method: Option<Facts>,
    pub note: Option<Note>,
    pub may_change: bool,
    pub available: bool,
}

/// The way to Stripe: a link, because a form of ours may not lead to another host.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/payment_go.html")]
pub struct PaymentGoPage {
    pub shell: Shell,
    pub url: String,
}

/// Whether the provider has given its Stripe keys.
pub async fn available(portal: &Portal, ctx: &Ctx) -> Result<bool, Failure> {
    Ok(settings::status(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id).await?.configured)
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    let has = checkout::has_payment_method(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, ctx.consumer()?).await?;
    let card = if has { card(&portal, &ctx).await? } else { None };
    let may_change = ctx.is(&[Role::ConsumerAdmin]);
    let available = available(&portal, &ctx).await?;
    let note = (!may_change && !has).then(|| Note::new(Tone::Warn, "Ask an administrator of your account.", "Only they can add a card."));
    page(&PaymentPage {
        shell: ctx.shell("Payment", "/plan"),
        method: has.then(|| {
            let facts = Facts::default();
            let facts = match card {
                Some(card) => facts.with("Card", name(&card)).with("Expires", format!("{:02}/{}", card.exp_month, card.exp_year)),
                None => facts,
            };
            facts.with("Kept at", "Stripe").with("Used for", "invoices, when they are issued")
        }),
        note,
        may_change,
        available,
    })
}

/// The card as Stripe knows it; none while Stripe does not answer, for the page says enough without it.
pub async fn card(portal: &Portal, ctx: &Ctx) -> Result<Option<Card>, Failure> {
    match checkout::card(&portal.app, &ctx.workspace.id, ctx.consumer()?).await {
        Ok(card) => Ok(card),
        Err(error) => {
            tracing::warn!(workspace = %ctx.workspace.id, "a card could not be read at Stripe: {error}");
            Ok(None)
        }
    }
}

/// `Visa ending 4242`.
pub fn name(card: &Card) -> String {
    format!("{} ending {}", words::title(&card.brand), card.last4)
}

/// Makes a page at Stripe, and shows the way to it.
pub async fn add(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    let base = ctx.base_url(&portal);
    let back = format!("{base}/payment/return?session={{CHECKOUT_SESSION_ID}}");
    let url = stripe::checkout_setup_url(&portal.app, &ctx.workspace.id, ctx.consumer()?, &back, &format!("{base}/payment")).await?;
    page(&PaymentGoPage { shell: ctx.shell("On to Stripe", "/plan"), url: url.to_string() })
}

#[derive(Debug, Deserialize)]
pub struct Back {
    session: String,
}

/// On the way back. The webhook does the same for those who close the browser at Stripe.
pub async fn back(State(portal): State<Portal>, ctx: Ctx, Query(query): Query<Back>) -> Result<Response, Failure> {
    let whose = stripe::complete_setup(&portal.app, &ctx.workspace.id, &query.session).await?;
    if whose != *ctx.consumer()? {
        return Err(Failure::not_found("checkout session"));
    }
    Ok(Redirect::to("/start?done=card-added").into_response())
}
