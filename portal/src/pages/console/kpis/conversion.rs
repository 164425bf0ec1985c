use axum::extract::{Query, State};
use axum::response::Response;
use chrono::Duration;
use farebox_insights::action::Action;
use farebox_insights::kpis::{self, ConversionAnswer, ConversionParams};

use super::{Asked, INTERVALS, KpiPage, cohorts, definition, file, filter, of, percent, took, window_words};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Stat, Stats};
use crate::{Portal, format};

const WINDOWS: [(&str, &str); 3] = [("60", "60 days"), ("30", "30 days"), ("90", "90 days")];
const GOALS: [(&str, &str); 2] = [("paid", "First invoice paid"), ("call", "First call")];

async fn converted(portal: &Portal, ctx: &Ctx, asked: &Asked) -> Result<ConversionAnswer, Failure> {
    let goal = if asked.goal == "call" { Action::call() } else { Action::Paid };
    let params = ConversionParams { common: asked.common(), goal, window: Duration::days(asked.days(60)), ..ConversionParams::default() };
    Ok(kpis::conversion(&portal.app, &ctx.workspace.id, &params).await?)
}

pub async fn conversion(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let answer = converted(&portal, &ctx, &asked).await?;
    let total = &answer.total;
    let window = window_words(&answer.window);
    let goal = if asked.goal == "call" { "a first qualifying call" } else { "a first paid invoice" };
    let stats = vec![
        Stat::new(
            "Conversion",
            percent(total.rate),
            format!("{} whose {window} are over", of(total.converted.min(total.mature), total.mature)),
        ),
        Stat::new("Time it took", took(total.median_seconds), format!("median; 9 of 10 within {}", took(total.p90_seconds))),
        Stat::new("Converted so far", format::count(total.converted), format!("of {} who signed up", format::count(total.size))),
    ];
    page(&KpiPage {
        shell: ctx.shell("Conversion", "/console/conversion"),
        title: "Conversion".into(),
        subtitle: "From signing up to paying.".into(),
        csv: format!("/console/conversion.csv?{}", asked.query()),
        definition: definition(&answer.about, "Converted", &format!("means {goal} within {window} of signing up."), &ctx),
        filters: vec![
            filter("interval", "Cohorts by", &INTERVALS, &asked.interval),
            filter("goal", "Goal", &GOALS, &asked.goal),
            filter("window", "Within", &WINDOWS, &asked.window),
        ],
        stats: Stats { stats },
        parts: cohorts::parts(&answer, "Conversion rate", "Converted", asked.interval()),
    })
}

pub async fn conversion_file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    Ok(file("conversion", &converted(&portal, &ctx, &asked).await?))
}
