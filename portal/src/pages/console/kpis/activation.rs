use axum::extract::{Query, State};
use axum::response::Response;
use farebox_insights::kpis::{self, ActivationParams, ConversionAnswer, FunnelParams};

use super::{Asked, INTERVALS, KpiPage, cohorts, definition, file, filter, funnel, of, percent, since, took};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Stat, Stats};
use crate::{Portal, format};

async fn activated(portal: &Portal, ctx: &Ctx, asked: &Asked) -> Result<ConversionAnswer, Failure> {
    let params = ActivationParams { common: asked.common(), ..ActivationParams::default() };
    Ok(kpis::activation(&portal.app, &ctx.workspace.id, &params).await?)
}

pub async fn activation(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let steps = FunnelParams { common: asked.common(), ..FunnelParams::default() };
    let steps = async { Ok::<_, Failure>(kpis::funnel(&portal.app, &ctx.workspace.id, &steps).await?) };
    let (answer, steps) = tokio::try_join!(activated(&portal, &ctx, &asked), steps)?;
    let total = &answer.total;
    let stats = vec![
        Stat::new(
            "Activation",
            percent(total.rate),
            format!("{} whose 7 days are over", of(total.converted.min(total.mature), total.mature)),
        ),
        Stat::new("Time to first call", took(total.median_seconds), format!("median; 9 of 10 within {}", took(total.p90_seconds))),
        Stat::new("Signed up", format::count(total.size), since(&answer.about, &ctx)),
    ];
    let mut parts = vec![funnel::sheet(&steps)];
    parts.extend(cohorts::parts(&answer, "Activation rate", "Activated", asked.interval()));
    page(&KpiPage {
        shell: ctx.shell("Activation", "/console/activation"),
        title: "Activation".into(),
        subtitle: "From sign-up to the first call, and on to the first paid invoice.".into(),
        csv: format!("/console/activation.csv?{}", asked.query()),
        definition: definition(&answer.about, "Activated", "means a first qualifying call within 7 days of signing up.", &ctx),
        filters: vec![filter("interval", "Cohorts by", &INTERVALS, &asked.interval)],
        stats: Stats { stats },
        parts,
    })
}

pub async fn activation_file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    Ok(file("activation", &activated(&portal, &ctx, &asked).await?))
}
