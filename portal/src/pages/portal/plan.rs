use askama::Template;
use axum::Form;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use farebox_billing::plans;
use farebox_billing::subscriptions::{self, When};
use farebox_billing::what_if::{self, Comparison};
use farebox_core::audit_log;
use farebox_core::money::Money;
use farebox_core::period::Period;
use serde::Deserialize;
use serde_json::json;

use super::landing::offered;
use crate::account::{self, Agreement};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::people::Role;
use crate::view::{Cell, Column, Facts, Note, PlanCard, Shell, Table, Tone};
use crate::{Portal, format, words};

/// The plan in force, what it allows, and the others.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/plan.html")]
pub struct PlanPage {
    pub shell: Shell,
    pub current: Option<CurrentPlan>,
    pub plans: Vec<PlanCard>,
    pub may_change: bool,
    pub note: Option<Note>,
    /// What the last months cost, and would have cost on each plan.
    pub compared: Option<Table>,
}

#[derive(Debug, Clone)]
pub struct CurrentPlan {
    pub name: String,
    pub price: String,
    pub facts: Facts,
    pub prices: Table,
}

/// What changing would mean, before it is done.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/plan_change.html")]
pub struct PlanChangePage {
    pub shell: Shell,
    pub plan: PlanCard,
    pub heading: String,
    pub effect: Vec<String>,
    pub facts: Facts,
    pub warning: Option<Note>,
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    let agreements = account::in_force(&mut *portal.app.pg.acquire().await?, &ctx, ctx.consumer()?).await?;
    let names: Vec<_> = agreements.iter().map(|a| a.plan.name.clone()).collect();
    let note = agreements.first().and_then(|a| {
        let at = a.subscription.ended_at?;
        Some(Note::new(Tone::Warn, "Your plan ends.", format!("{}. Choose a plan to go on.", format::instant(at, ctx.tz()))))
    });
    let months = last_months(&ctx);
    let listed = plans::list_published(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id).await?;
    let compared = what_if::compare(&portal.app, &ctx.workspace.id, ctx.consumer()?, &listed, &months).await?;
    page(&PlanPage {
        shell: ctx.shell("Plan", "/plan"),
        compared: compared.map(|compared| comparison(&compared, &names, &ctx)),
        current: agreements.first().map(|a| current(a, &ctx)),
        plans: offered(&portal, &ctx, &names).await?,
        may_change: ctx.is(&[Role::ConsumerAdmin]),
        note,
    })
}

/// The three months that are over, the oldest first.
fn last_months(ctx: &Ctx) -> Vec<Period> {
    let mut months = vec![account::month_before(ctx, account::month_of(ctx, ctx.now()))];
    while months.len() < 3 {
        months.push(account::month_before(ctx, months[months.len() - 1]));
    }
    months.reverse();
    months
}

/// The plan in force first, then by what would have been paid in all.
fn comparison(compared: &Comparison, in_force: &[String], ctx: &Ctx) -> Table {
    let sum = |months: &[Money]| Money::sum(months.iter().copied(), compared.currency).ok();
    let mut columns = vec![Column::text("Plan")];
    columns.extend(compared.months.iter().map(|month| Column::number(format::month(month.start.with_timezone(&ctx.tz()).date_naive()))));
    columns.extend([Column::number("Together"), Column::number("Difference")]);
    let row = |name: Cell, months: &[Money], difference: Cell| {
        let mut row = vec![name];
        row.extend(months.iter().map(|amount| Cell::text(format::money(*amount))));
        row.extend([Cell::text(sum(months).map_or_else(|| "–".to_owned(), format::money)), difference]);
        row
    };
    let was = sum(&compared.actual);
    let mut rows = vec![row(Cell::text("As it was"), &compared.actual, Cell::text("–"))];
    let mut plans: Vec<_> = compared.plans.iter().collect();
    plans.sort_by_key(|plan| (plan.months.as_deref().and_then(sum).map_or(i64::MAX, |sum| sum.minor), plan.plan.clone()));
    for plan in plans {
        let name = Cell::text(words::title(&plan.plan));
        let name = if in_force.contains(&plan.plan) { name.sub("your plan") } else { name };
        let Some(months) = &plan.months else {
            let mut row = vec![name.sub(format!("has no price in {} for what you use", compared.currency))];
            row.resize_with(columns.len(), || Cell::text("–"));
            rows.push(row);
            continue;
        };
        let difference = sum(months).zip(was).and_then(|(would, was)| would.checked_sub(was).ok());
        let cell = difference.map_or_else(
            || Cell::text("–"),
            |d| {
                let sign = if d.minor > 0 { "+" } else { "" };
                Cell::text(format!("{sign}{}", format::money(d)))
            },
        );
        rows.push(row(name, months, cell));
    }
    Table::new("What the last months would have cost", columns).dense().rows(rows)
}

fn current(a: &Agreement, ctx: &Ctx) -> CurrentPlan {
    let (currency, tz, definition) = (ctx.workspace.currency, ctx.tz(), &a.plan.definition);
    let month = account::month_of(ctx, ctx.now());
    let mut facts = Facts::default()
        .with("Since", format::date(a.phase.from.with_timezone(&tz).date_naive()))
        .with("This period", format::period(month.start, month.end, tz))
        .with("Version", a.plan.version.to_string());
    if let (true, Some(to)) = (a.phase.trial, a.phase.to) {
        facts = facts.with("Free trial until", format::instant(to, tz));
    }
    let included = words::included(definition, currency);
    if !included.is_empty() {
        facts = facts.with("Comes with", included.join(", "));
    }
    let columns = vec![Column::text("Price"), Column::text("How it is charged")];
    let prices = Table::new("Prices of your plan", columns).dense().rows(
        definition.prices.iter().map(|price| vec![Cell::text(&price.name), Cell::text(words::price(price, currency, definition.interval))]),
    );
    CurrentPlan { name: words::title(&a.plan.name), price: words::headline(definition, a.plan.free, currency), facts, prices }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct To {
    to: String,
}

pub async fn confirm(State(portal): State<Portal>, ctx: Ctx, Query(query): Query<To>) -> Result<Response, Failure> {
    let mut conn = portal.app.pg.acquire().await?;
    let plan = plans::find(&mut conn, &ctx.workspace.id, &query.to, None).await?.ok_or_else(|| Failure::not_found("plan"))?;
    let agreements = account::in_force(&mut conn, &ctx, ctx.consumer()?).await?;
    drop(conn);
    let now = agreements.iter().find(|a| a.plan.product == plan.product);
    let (currency, tz) = (ctx.workspace.currency, ctx.tz());
    let name = words::title(&plan.name);
    let month = account::month_of(&ctx, ctx.now());
    let mut effect = vec![format!("{name} is in force at once, from {}.", format::instant(ctx.now(), tz))];
    match now {
        Some(a) => {
            effect.push(format!("{} ends at the same minute. Nothing is interrupted, and your keys stay.", words::title(&a.plan.name)));
            effect
                .push("Fees of both plans are charged for the time each was in force; usage is charged by the plan of its minute.".into());
        }
        None => {
            if let Some(trial) = &plan.definition.trial {
                effect.push(format!("The first {} are free.", format::counted(trial.days.into(), "day", "days")));
            }
            effect.push(format!(
                "Usage is charged by it from now on; {} ends {}.",
                format::month(month.start.with_timezone(&tz).date_naive()),
                format::instant(month.end, tz)
            ));
        }
    }
    let heading = if now.is_some() { format!("Change to {name}") } else { format!("Choose {name}") };
    page(&PlanChangePage {
        shell: ctx.shell(&heading, "/plan"),
        plan: words::card(&plan, currency, false),
        heading,
        effect,
        facts: Facts::default(),
        warning: None,
    })
}

pub async fn change(State(portal): State<Portal>, ctx: Ctx, Form(form): Form<To>) -> Result<Response, Failure> {
    let mut tx = portal.app.pg.begin().await?;
    let (workspace, consumer) = (&ctx.workspace.id, ctx.consumer()?);
    let plan = plans::find(&mut tx, workspace, &form.to, None).await?.ok_or_else(|| Failure::not_found("plan"))?;
    let now = account::in_force(&mut tx, &ctx, consumer).await?.into_iter().find(|a| a.plan.product == plan.product);
    let (subscription, done) = match now {
        Some(a) => (subscriptions::change(&mut tx, workspace, &a.subscription.id, &plan.name, When::Now).await?, "plan-changed"),
        None => (subscriptions::subscribe(&mut tx, workspace, consumer, &plan.name, ctx.now()).await?, "plan-chosen"),
    };
    let actor = ctx.session()?.person.id.as_str();
    audit_log::record(&mut tx, workspace, actor, "subscription.change", subscription.id.as_str(), &json!({"plan": plan.name})).await?;
    tx.commit().await?;
    Ok(Redirect::to(&format!("/plan?done={done}")).into_response())
}
