use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use farebox_billing::plans;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{PlanCard, Shell};
use crate::{Portal, words};

/// What a stranger sees: what it costs, and where to start.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/landing.html")]
pub struct LandingPage {
    pub shell: Shell,
    pub plans: Vec<PlanCard>,
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    if ctx.session.is_some() {
        return Ok(Redirect::to("/usage").into_response());
    }
    page(&LandingPage { shell: ctx.shell("Start", "/"), plans: offered(&portal, &ctx, &[]).await? })
}

/// The plans anyone may choose, the cheapest first; `current` are the names of those in force.
pub async fn offered(portal: &Portal, ctx: &Ctx, current: &[String]) -> Result<Vec<PlanCard>, Failure> {
    let mut plans = plans::list_published(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id).await?;
    let currency = ctx.workspace.currency;
    plans.retain(|plan| farebox_billing::revenue::missing_amounts(&plan.definition, currency).is_empty());
    plans.sort_by_key(|plan| (!plan.free, words::fixed_fee(&plan.definition, currency), plan.name.clone()));
    Ok(plans.iter().map(|plan| words::card(plan, currency, current.contains(&plan.name))).collect())
}
