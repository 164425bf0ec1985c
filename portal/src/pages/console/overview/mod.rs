//! Does it add up, what needs someone, how is business. Every question is asked once, and all at the same time.

mod charts;
mod needs;
mod stats;
mod top;

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use bigdecimal::BigDecimal;
use chrono::{DateTime, NaiveDate, Utc};
use farebox_billing::stripe::settings;
use farebox_billing::{revenue, subscriptions, summary};
use farebox_core::period::{Period, Window, local_date};
use farebox_ingest::dead_letters;
use farebox_insights::kpis::{self, ActivationParams, FunnelParams};
use farebox_metering::usage::{self, UsageQuery};
use serde::Deserialize;

pub use needs::Need;

use super::kpis::funnel_shown;
use super::months::{choose, months};
use super::pipeline::{self, up_to};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::people::Role;
use crate::view::{Badge, Chart, Equation, Shell, Stats, Table};
use crate::{Portal, account, format};

/// Who sees amounts.
const MONEY: &[Role] = &[Role::Owner, Role::Admin, Role::Finance];

/// Every call by day.
type Days = BTreeMap<NaiveDate, BigDecimal>;

#[derive(Debug, Clone, Template)]
#[template(path = "console/overview.html")]
pub struct OverviewPage {
    pub shell: Shell,
    pub now: String,
    pub months: Vec<(String, String, bool)>,
    pub stats: Stats,
    pub needs: Vec<Need>,
    pub agreement: Agreement,
    pub traffic: Chart,
    pub revenue: Chart,
    pub stages: Table,
    pub stages_note: String,
    pub funnel: Table,
    pub funnel_note: String,
    pub top: Table,
}

#[derive(Debug, Clone)]
pub struct Agreement {
    pub title: String,
    pub verdict: Badge,
    pub equation: Equation,
    pub note: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    month: String,
}

/// What billing's records say.
struct Records {
    periods: Vec<summary::PeriodSummary>,
    states: Vec<summary::StateSummary>,
    stretches: Vec<revenue::Stretch>,
    agreed: Vec<subscriptions::Subscription>,
    stripe: settings::Status,
}

async fn records(portal: &Portal, ctx: &Ctx, since: DateTime<Utc>) -> Result<Records, Failure> {
    let (workspace, currency) = (&ctx.workspace.id, ctx.workspace.currency);
    let mut conn = portal.app.pg.acquire().await?;
    Ok(Records {
        periods: summary::by_period(&mut conn, workspace, currency, since).await?,
        states: summary::by_state(&mut conn, workspace, currency, ctx.now()).await?,
        stretches: revenue::stretches(&mut conn, workspace).await?,
        agreed: subscriptions::list(&mut conn, workspace, None, i64::MAX, "").await?,
        stripe: settings::status(&mut conn, workspace).await?,
    })
}

async fn by_day(portal: &Portal, ctx: &Ctx, period: Period) -> Result<Days, Failure> {
    let query = UsageQuery::new(&ctx.workspace.id, "calls", period).windows(Window::Day, ctx.tz());
    let answer = usage::query(&portal.app, &query).await?;
    Ok(answer.rows.into_iter().map(|row| (local_date(row.window.start, ctx.tz()), row.value)).collect())
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let (app, workspace, tz) = (&portal.app, &ctx.workspace.id, ctx.tz());
    let months = months(&ctx);
    let (month, choices) = choose(&months, &asked.month, &ctx);
    let before = account::month_before(&ctx, month);
    let since = months.last().map_or(month.start, |month| month.start);
    let activation = ActivationParams::default();
    let funnel = FunnelParams::default();
    let (days, callers, state, letters, activation, funnel, records) = tokio::try_join!(
        by_day(&portal, &ctx, Period { start: before.start, end: month.end }),
        top::callers(&portal, &ctx, month, before),
        pipeline::state(&portal, &ctx),
        async { Ok(dead_letters::counts(app, workspace).await?) },
        async { Ok(kpis::activation(app, workspace, &activation).await?) },
        async { Ok(kpis::funnel(app, workspace, &funnel).await?) },
        records(&portal, &ctx, since),
    )?;
    let agreed = pipeline::agreement(&state);
    let (stages, stages_note) = pipeline::stages(&state, &records.stripe);
    let mut figures = vec![stats::requests(&days, month, before, &ctx)];
    figures.extend(stats::money(month, &records.stretches, &records.agreed, &records.periods, &ctx)?);
    figures.push(stats::activation(&activation));
    page(&OverviewPage {
        shell: ctx.shell("Overview", "/console"),
        now: format!("{}, {}", format::date_long(local_date(ctx.now(), tz)), format::clock(ctx.now(), tz)),
        months: choices,
        stats: Stats { stats: figures },
        needs: needs::needs(&ctx, &records.states, &records.stripe, letters.iter().map(|c| c.outstanding).sum(), agreed.agrees),
        agreement: Agreement {
            title: "Does it add up?".into(),
            verdict: agreed.verdict,
            equation: agreed.equation,
            note: up_to(&state.status, tz),
        },
        traffic: charts::traffic(&days, month, before, &ctx),
        revenue: charts::earned(&records.periods, &ctx),
        stages,
        stages_note,
        funnel: funnel_shown(&funnel),
        funnel_note: format!("Consumers who signed up since {}, so far.", format::date(local_date(funnel.about.from, tz))),
        top: top::table(&callers, &ctx, before, &records.agreed),
    })
}
