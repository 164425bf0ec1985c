//! Plans side by side on what really happened: published versions and drafts, by consumer.

mod asked;
mod shown;

use askama::Template;
use axum::extract::{RawForm, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use farebox_billing::calendar;
use farebox_billing::plans::{self, Plan};
use farebox_billing::what_if::{self, MOST_PLANS};
use farebox_core::ids::ConsumerId;
use farebox_core::period::{Period, local_date};
use farebox_metering::consumers;

use super::months;
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Field, Shell};
use crate::{Portal, format, words};
use asked::{Chosen, ask, range};
use shown::{Found, shown};

/// Names that are offered while someone types.
const NAMES: usize = 500;

#[derive(Debug, Clone, Template)]
#[template(path = "console/what_if.html")]
pub struct WhatIfPage {
    pub shell: Shell,
    /// The newest version of each plan on offer; and those that are older, retired or one consumer's own.
    pub offered: Vec<Choice>,
    pub others: Vec<Choice>,
    /// Whether one of the others is chosen.
    pub others_open: bool,
    pub plans_error: Field,
    pub drafts: Vec<Field>,
    pub from: Vec<Choice>,
    pub to: Vec<Choice>,
    pub months_error: Field,
    pub on_plan: Vec<Choice>,
    pub on_plan_error: Field,
    pub consumer: Field,
    pub names: Vec<String>,
    pub found: Option<Found>,
}

#[derive(Debug, Clone)]
pub struct Choice {
    pub value: String,
    pub label: String,
    pub sub: String,
    pub chosen: bool,
}

/// What someone chooses from.
struct Known {
    versions: Vec<Plan>,
    consumers: Vec<(ConsumerId, String)>,
    months: Vec<Period>,
}

async fn known(portal: &Portal, ctx: &Ctx) -> Result<Known, Failure> {
    let mut conn = portal.app.pg.acquire().await?;
    let versions = plans::all_versions(&mut conn, &ctx.workspace.id).await?;
    let mut consumers: Vec<_> =
        consumers::all(&mut conn, &ctx.workspace.id).await?.into_iter().map(|consumer| (consumer.id, consumer.name)).collect();
    consumers.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(Known { versions, consumers, months: months::months(ctx) })
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, RawQuery(query): RawQuery) -> Result<Response, Failure> {
    answer(&portal, &ctx, &Chosen::read(query.unwrap_or_default().as_bytes())).await
}

/// A draft is longer than an address may be.
pub async fn submit(State(portal): State<Portal>, ctx: Ctx, RawForm(body): RawForm) -> Result<Response, Failure> {
    let chosen = Chosen::read(&body);
    if chosen.is_asked() {
        return answer(&portal, &ctx, &chosen).await;
    }
    let mut form = form(&ctx, &known(&portal, &ctx).await?, &chosen);
    form.plans_error.wrong("Choose at least one plan, or write a draft.");
    again(&form)
}

async fn answer(portal: &Portal, ctx: &Ctx, chosen: &Chosen) -> Result<Response, Failure> {
    let known = known(portal, ctx).await?;
    let mut form = form(ctx, &known, chosen);
    if !chosen.is_asked() {
        return page(&form);
    }
    match ask(portal, ctx, &known, chosen).await? {
        Ok(found) => {
            form.found = Some(shown(&found, chosen, ctx));
            page(&form)
        }
        Err(refused) => {
            refused.tell(&mut form, chosen);
            again(&form)
        }
    }
}

pub async fn file(State(portal): State<Portal>, ctx: Ctx, RawForm(body): RawForm) -> Result<Response, Failure> {
    let chosen = Chosen::read(&body);
    let known = known(&portal, &ctx).await?;
    match ask(&portal, &ctx, &known, &chosen).await? {
        Ok(found) => {
            let named = "attachment; filename=\"what-if.csv\"";
            let head = [(header::CONTENT_TYPE, "text/csv; charset=utf-8"), (header::CONTENT_DISPOSITION, named)];
            Ok((head, what_if::csv(&found)?).into_response())
        }
        Err(refused) => {
            let mut form = form(&ctx, &known, &chosen);
            refused.tell(&mut form, &chosen);
            again(&form)
        }
    }
}

/// The form once more, with what is wrong with it.
fn again(form: &WhatIfPage) -> Result<Response, Failure> {
    let mut response = page(form)?;
    *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
    Ok(response)
}

fn form(ctx: &Ctx, known: &Known, chosen: &Chosen) -> WhatIfPage {
    let (mut offered, mut others) = (Vec::new(), Vec::new());
    for (n, plan) in known.versions.iter().enumerate() {
        let newest = known.versions.get(n + 1).is_none_or(|next| next.name != plan.name);
        let value = format!("{}@{}", plan.name, plan.version);
        let mut sub = words::headline(&plan.definition, plan.free, ctx.workspace.currency);
        for (is, what) in [(plan.retired, "retired"), (plan.consumer.is_some(), "one consumer's own"), (plan.product != "default", "")] {
            if is {
                sub = format!("{sub} · {}", if what.is_empty() { &plan.product } else { what });
            }
        }
        let is_chosen = chosen.plans.contains(&value) || (newest && chosen.plans.contains(&plan.name));
        let choice = Choice { label: value.clone(), value, sub, chosen: is_chosen };
        if newest && !plan.retired && plan.consumer.is_none() { offered.push(choice) } else { others.push(choice) }
    }
    let mut drafts: Vec<_> = chosen.drafts.iter().map(Field::of).collect();
    if drafts.len() < MOST_PLANS {
        drafts.push(Field::default());
    }
    let (from, to) = range(ctx, known, chosen);
    let month = |chosen: &str| {
        let choice = |month: &Period| {
            let value = calendar::name(*month, ctx.tz());
            let label = format::month(local_date(month.start, ctx.tz()));
            Choice { chosen: value == chosen, value, label, sub: String::new() }
        };
        known.months.iter().map(choice).collect::<Vec<_>>()
    };
    let mut names: Vec<_> = known.versions.iter().map(|plan| plan.name.clone()).collect();
    names.dedup();
    let on_plan =
        names.into_iter().map(|name| Choice { chosen: name == chosen.on_plan, label: name.clone(), value: name, sub: String::new() });
    let name_of = |text: &str| known.consumers.iter().find(|(id, _)| id.as_str() == text).map_or(text.to_owned(), |(_, name)| name.clone());
    WhatIfPage {
        shell: ctx.shell("What-if", "/console/what-if"),
        others_open: others.iter().any(|choice| choice.chosen),
        offered,
        others,
        plans_error: Field::default(),
        drafts,
        from: month(&from),
        to: month(&to),
        months_error: Field::default(),
        on_plan: on_plan.collect(),
        on_plan_error: Field::default(),
        consumer: Field::of(name_of(&chosen.consumer)),
        names: known.consumers.iter().take(NAMES).map(|(_, name)| name.clone()).collect(),
        found: None,
    }
}
