//! What a consumer used, by day, route and status, against what the plan holds.

mod allowance;
mod range;
mod routes;
mod running;
mod statuses;
mod tail;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use chrono::Duration;
use farebox_billing::alerts;
use farebox_core::money::plain;
use farebox_core::period::{Period, local_date};

use allowance::{Allowance, allowance};
pub use range::{Asked, Range};
pub use routes::routes;
pub use running::{by_day, running};
use tail::TailPart;
pub use tail::tail_part;

use super::alerts::says;
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Chart, Shell};
use crate::{Portal, account, csv, format, words};

#[derive(Debug, Clone, Template)]
#[template(path = "portal/usage.html")]
pub struct UsagePage {
    pub shell: Shell,
    pub subtitle: String,
    pub ranges: Vec<RangeChoice>,
    pub from: String,
    pub to: String,
    pub allowance: Allowance,
    /// What this consumer has set to be told; empty for nothing.
    pub told_at: String,
    pub running: Chart,
    pub routes: Chart,
    pub statuses: Chart,
    pub tail: TailPart,
}

#[derive(Debug, Clone)]
pub struct RangeChoice {
    pub value: String,
    pub label: String,
    pub selected: bool,
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let consumer = ctx.consumer()?;
    let range = Range::of(&ctx, &asked);
    let mut conn = portal.app.pg.acquire().await?;
    let agreements = account::in_force(&mut conn, &ctx, consumer).await?;
    let alerts = alerts::list_own(&mut conn, &ctx.workspace.id, consumer).await?;
    drop(conn);
    let agreement = agreements.first();
    let included = agreement.and_then(|a| words::allowance(&a.plan.definition, a.plan.free));
    let meter = included.as_ref().map_or("requests", |a| a.meter.as_str());
    let cap = included.as_ref().filter(|_| range.name == "month").map(|a| &a.units);
    // The days of the range, of what it is compared with, and of the running month, asked for once.
    let (month, compared) = (account::month_of(&ctx, ctx.now()), range.compared(&ctx));
    let all = Period { start: compared.start.min(month.start), end: compared.end.max(month.end) };
    let (days, routes, statuses, tail) = tokio::try_join!(
        running::by_day(&portal, &ctx, consumer, meter, all),
        routes::routes(&portal, &ctx, consumer, &range),
        statuses::statuses(&portal, &ctx, consumer, &range),
        tail::tail(&portal, &ctx, consumer, &range, asked.live != "off"),
    )?;
    let ranges =
        range::RANGES.map(|(value, label)| RangeChoice { value: value.into(), label: label.into(), selected: value == range.name });
    page(&UsagePage {
        shell: ctx.shell("Usage", "/usage"),
        subtitle: format!("{}, all keys. Updated {}.", range.words(), format::clock(ctx.now(), ctx.tz())),
        ranges: ranges.into(),
        from: range.from.to_string(),
        to: (range.until - Duration::days(1)).to_string(),
        allowance: allowance(&ctx, agreement, meter, &days),
        told_at: alerts.iter().map(says).collect::<Vec<_>>().join("; "),
        running: running(&ctx, &range, meter, cap, &days),
        routes,
        statuses,
        tail,
    })
}

/// The numbers behind a chart. Plain decimals, ISO dates.
pub async fn file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let (range, consumer) = (Range::of(&ctx, &asked), ctx.consumer()?);
    let name = format!("usage-{}-{}-{}", if asked.by.is_empty() { "day" } else { &asked.by }, range.from, range.until - Duration::days(1))
        .replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "");
    match asked.by.as_str() {
        "route" => {
            let routes = routes::by_route(&portal, &ctx, consumer, range.period(&ctx)).await?;
            Ok(csv::file(&name, &["route", "requests"], routes.into_iter().map(|(route, value)| vec![route, plain(&value)])))
        }
        "status" => {
            let rows = statuses::by_status(&portal, &ctx, consumer, range.period(&ctx)).await?.into_iter().map(|row| {
                let part = |name: &str| row.group.get(name).cloned().unwrap_or_default();
                vec![local_date(row.window.start, ctx.tz()).to_string(), part("status"), part("counted"), plain(&row.value)]
            });
            Ok(csv::file(&name, &["day", "status", "counts", "calls"], rows))
        }
        _ => {
            let days = running::by_day(&portal, &ctx, consumer, "requests", range.period(&ctx)).await?;
            Ok(csv::file(&name, &["day", "requests"], days.into_iter().map(|(day, value)| vec![day.to_string(), plain(&value)])))
        }
    }
}
