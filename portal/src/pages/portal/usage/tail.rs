//! The latest requests, one by one, and why those that failed did.

use std::collections::HashMap;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use chrono::Duration;
use farebox_core::ids::ConsumerId;
use farebox_core::period::local_date;
use farebox_metering::{credentials, latest};

use super::{Asked, Range};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Badge, Tone};
use crate::{Portal, format, words};

const TAIL: usize = 20;

#[derive(Debug, Clone)]
pub struct Call {
    pub time: String,
    pub request: String,
    pub status: Badge,
    pub took: String,
    pub key: String,
    pub counts: String,
    /// Why it ended like this and what to do; empty for calls that went well.
    pub why_title: String,
    pub why: String,
}

/// The latest requests; asks for itself again while live.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/usage_tail.html")]
pub struct TailPart {
    pub calls: Vec<Call>,
    pub live: bool,
    pub zone: String,
    /// The query that keeps the page's filters.
    pub query: String,
}

impl askama::filters::HtmlSafe for TailPart {}

pub async fn tail(portal: &Portal, ctx: &Ctx, consumer: &ConsumerId, range: &Range, live: bool) -> Result<TailPart, Failure> {
    let keys = credentials::list(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, consumer).await?;
    let names: HashMap<&str, &str> = keys.iter().map(|key| (key.id.as_str(), key.name.as_str())).collect();
    let mut period = range.period(ctx);
    period.end = period.end.min(ctx.now() + Duration::minutes(5)).max(period.start);
    let today = local_date(ctx.now(), ctx.tz());
    let calls = if period.is_empty() { Vec::new() } else { latest::calls(&portal.app, &ctx.workspace.id, consumer, period, TAIL).await? };
    let calls = calls.into_iter().map(|call| {
        let (why_title, why) = why(&call);
        let day = local_date(call.at, ctx.tz());
        let clock = format::clock_millis(call.at, ctx.tz());
        Call {
            time: if day == today { clock } else { format!("{} {clock}", format::day_month(day)) },
            request: words::call(&call.method, &call.route),
            status: status_badge(&call),
            took: format::took(call.latency_us.into()),
            key: names.get(call.credential.as_str()).map_or_else(|| "–".to_owned(), |name| (*name).to_owned()),
            counts: if call.reason.is_empty() { "1 request".into() } else { "Not counted".into() },
            why_title,
            why,
        }
    });
    Ok(TailPart {
        calls: calls.collect(),
        live: live && range.until > today,
        zone: format::zone(ctx.now(), ctx.tz()),
        query: range.query(),
    })
}

fn status_badge(call: &latest::Call) -> Badge {
    let word = match call.status {
        400 => " bad request",
        401 => " no valid key",
        402 => " unpaid",
        403 => " not in your plan",
        404 => " not found",
        429 => " too fast",
        500..=599 => " our fault",
        _ => "",
    };
    let tone = match call.status {
        429 | 401..=403 => Tone::Warn,
        500..=599 => Tone::Bad,
        _ => Tone::Plain,
    };
    Badge::new(tone, format!("{}{word}", call.status))
}

/// Why a call that did not succeed ended so, and what to do.
fn why(call: &latest::Call) -> (String, String) {
    let counts = if call.reason.is_empty() { "An answer is an answer: it counts as one request." } else { "It does not count." };
    let text = match call.status {
        ..=399 => return (String::new(), String::new()),
        401 => "The key is missing, mistyped, revoked or expired. Send a key that works in x-api-key.",
        402 => "An invoice is unpaid for too long. Pay it, and calls are let through again.",
        403 => "Your plan does not include this route. Change to one that does.",
        404 if call.route.is_empty() => "No route of the API fits this address. Check the path and the method.",
        404 => "The API has nothing under this address.",
        429 => {
            "Your plan's limit was reached. Wait for the time in Retry-After, then try again; if bursts are normal for you, choose a plan with a higher limit."
        }
        400..=499 => "The API could not take the request as it was sent. Its answer says what to change.",
        500..=599 => "The API failed. Try again; if it goes on, tell whoever runs it.",
        _ => "The answer had an unusual status.",
    };
    (format!("Why {}, and what to do", call.status), format!("{text} {counts}"))
}

/// The tail alone, while it is live.
pub async fn tail_part(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let range = Range::of(&ctx, &asked);
    page(&tail(&portal, &ctx, ctx.consumer()?, &range, true).await?)
}
