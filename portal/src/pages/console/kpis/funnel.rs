use axum::extract::{Query, State};
use axum::response::Response;
use chrono::Duration;
use farebox_insights::action::{self, Action};
use farebox_insights::kpis::{self, FunnelAnswer, FunnelParams};

use super::{Asked, INTERVALS, KpiPage, Part, Sheet, definition, file, filter, percent, share, since, took, window_words};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Cell, Chart, ChartColumn, ChartKind, ChartRow, Column, Stat, Stats, Table};
use crate::{Portal, format};

const STEPS: [(&str, &str); 3] = [
    ("signup,key,call,paid", "Sign-up, key, call, paid"),
    ("signup,call,activated,paid", "Sign-up, call, activated, paid"),
    ("key,call,paid", "Key, call, paid"),
];
const WINDOWS: [(&str, &str); 4] = [("60", "60 days"), ("14", "14 days"), ("30", "30 days"), ("90", "90 days")];

fn step_name(action: &str) -> String {
    match action {
        "signup" => "Signed up".into(),
        "key" => "Took a key".into(),
        "call" => "First call that succeeded".into(),
        "activated" => "Activated (within 7 days)".into(),
        "paid" => "First invoice paid".into(),
        other => other.to_owned(),
    }
}

/// The steps with a bar for how many came so far.
fn funnel_table(answer: &FunnelAnswer) -> Table {
    let columns = vec![
        Column::text("Step"),
        Column::number("Consumers"),
        Column::number("Of all"),
        Column::number("Of the step before"),
        Column::number("Median time"),
    ];
    Table::new("Funnel", columns).rows(answer.steps.iter().enumerate().map(|(i, step)| {
        vec![
            Cell::text(step_name(&step.name)).share(share(step.conversion_from_start)),
            Cell::text(format::count(step.count)),
            Cell::text(percent(step.conversion_from_start)),
            Cell::text(if i == 0 { String::new() } else { percent(step.conversion_from_previous) }),
            Cell::text(if i == 0 { String::new() } else { took(step.median_seconds) }),
        ]
    }))
}

/// Nobody entered: no table, so that the page says so.
pub fn shown(answer: &FunnelAnswer) -> Table {
    if answer.steps.first().is_some_and(|step| step.count == 0) { Table::default() } else { funnel_table(answer) }
}

pub fn sheet(answer: &FunnelAnswer) -> Part {
    let so_far = if answer.steps.iter().all(|step| step.complete) { "" } else { ", so far" };
    Part::Sheet(Sheet {
        id: "steps".into(),
        title: format!("Funnel, within {} of the first step{so_far}", window_words(&answer.window)),
        note: String::new(),
        table: shown(answer),
        empty: "Nobody has entered in this range.",
    })
}

async fn asked_for(portal: &Portal, ctx: &Ctx, asked: &Asked) -> Result<FunnelAnswer, Failure> {
    let default = FunnelParams::default();
    let known = STEPS.iter().any(|(steps, _)| *steps == asked.steps);
    let steps: Vec<Action> = if known { action::list(&asked.steps).unwrap_or(default.steps) } else { default.steps };
    let params = FunnelParams { common: asked.common(), steps, window: Duration::days(asked.days(60)) };
    Ok(kpis::funnel(&portal.app, &ctx.workspace.id, &params).await?)
}

pub async fn funnel(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let answer = asked_for(&portal, &ctx, &asked).await?;
    let (first, last) = (answer.steps.first(), answer.steps.last());
    let count = |step: Option<&kpis::FunnelStep>| format::count(step.map_or(0, |step| step.count));
    let biggest = answer.steps.windows(2).max_by_key(|pair| pair[0].count.saturating_sub(pair[1].count));
    let mut stats = vec![
        Stat::new("Entered", count(first), since(&answer.about, &ctx)),
        Stat::new("Reached the end", count(last), format!("{} of all", percent(last.and_then(|step| step.conversion_from_start)))),
    ];
    if let Some([before, after]) = biggest {
        let lost = before.count.saturating_sub(after.count);
        stats.push(Stat::new("Most are lost before", step_name(&after.name), format!("{} did not get there", format::count(lost))));
    }
    let rows =
        answer.steps.iter().map(|step| ChartRow { label: step_name(&step.name), cells: vec![format::count(step.count)], now: false });
    let chart = Chart {
        first: "Step",
        caption: "How many came to each step".into(),
        columns: vec![ChartColumn::new("Consumers", 1)],
        rows: if first.is_some_and(|step| step.count > 0) { rows.collect() } else { Vec::new() },
        ..Chart::new("funnel", ChartKind::Bars, "Steps", "How many came to each step.")
    };
    page(&KpiPage {
        shell: ctx.shell("Funnel", "/console/funnel"),
        title: "Funnel".into(),
        subtitle: "How far consumers come, and where they stop.".into(),
        csv: format!("/console/funnel.csv?{}", asked.query()),
        definition: definition(
            &answer.about,
            "Each step",
            &format!("is the first one not before the step before it, within {} of the first.", window_words(&answer.window)),
            &ctx,
        ),
        filters: vec![
            filter("steps", "Steps", &STEPS, &asked.steps),
            filter("interval", "Range in", &INTERVALS, &asked.interval),
            filter("window", "Within", &WINDOWS, &asked.window),
        ],
        stats: Stats { stats },
        parts: vec![Part::Chart(chart), sheet(&answer)],
    })
}

pub async fn funnel_file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    Ok(file("funnel", &asked_for(&portal, &ctx, &asked).await?))
}
