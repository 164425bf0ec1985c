mod drill;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use farebox_insights::arithmetic::retention::Mode;
use farebox_insights::kpis::{self, Cohorts, RetentionAnswer, RetentionParams};
use farebox_insights::ratio::Ratio;

use drill::{Drill, drill};

use super::{Asked, Definition, Filter, INTERVALS, definition, file, filter, interval_name, of, share, unit};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::Shell;
use crate::{Portal, format};

#[derive(Debug, Clone, Template)]
#[template(path = "console/retention.html")]
pub struct RetentionPage {
    pub shell: Shell,
    pub subtitle: String,
    pub csv: String,
    pub definition: Definition,
    pub filters: Vec<Filter>,
    pub unit: String,
    pub first: String,
    pub columns: Vec<String>,
    pub rows: Vec<CohortRow>,
    pub mean: Vec<String>,
    pub mean_size: String,
    pub drill: Option<Drill>,
}

#[derive(Debug, Clone)]
pub struct CohortRow {
    pub label: String,
    pub size: String,
    pub cells: Vec<Option<HeatCell>>,
}

#[derive(Debug, Clone)]
pub struct HeatCell {
    /// Class by `format::share_class`.
    pub heat: String,
    pub text: String,
    /// `25 of 41`.
    pub title: String,
    pub href: String,
    pub complete: bool,
    pub chosen: bool,
}

const MODES: [(&str, &str); 2] = [("n_day", "In that interval"), ("unbounded", "In it or later")];
const COHORTS: [(&str, &str); 2] = [("first_time", "First call ever"), ("recurring", "Any call")];

async fn retained(portal: &Portal, ctx: &Ctx, asked: &Asked) -> Result<RetentionAnswer, Failure> {
    let params = RetentionParams {
        common: asked.common(),
        mode: if asked.mode == "unbounded" { Mode::Unbounded } else { Mode::NDay },
        cohort: if asked.cohort == "recurring" { Cohorts::Recurring } else { Cohorts::FirstTime },
        ..RetentionParams::default()
    };
    Ok(kpis::retention(&portal.app, &ctx.workspace.id, &params).await?)
}

pub async fn retention(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let answer = retained(&portal, &ctx, &asked).await?;
    let (interval, query) = (asked.interval(), asked.query());
    let rows = answer.rows.iter().map(|row| {
        let cells = (0..answer.columns.len()).map(|n| {
            let (value, complete) = (*row.values.get(n)?, *row.complete.get(n)?);
            let ratio = Ratio::of(value, row.size);
            let chosen = asked.of == row.cohort.to_string() && asked.n.is_some_and(|asked| asked as usize == n);
            Some(HeatCell {
                heat: share(ratio),
                text: ratio.map_or_else(|| "–".to_owned(), whole),
                title: format!("{}{}", of(value, row.size), if complete { "" } else { " so far" }),
                href: format!("/console/retention?{query}&of={}&n={n}#d", row.cohort),
                complete,
                chosen,
            })
        });
        CohortRow { label: interval_name(row.cohort, interval), size: format::count(row.size), cells: cells.collect() }
    });
    let rows: Vec<_> = rows.filter(|row: &CohortRow| row.size != "0").collect();
    let sizes: u64 = answer.rows.iter().map(|row| row.size).sum();
    let drill = drill(&portal, &ctx, &asked, &answer).await?;
    let name = unit(interval);
    let again =
        if answer.mode == "unbounded" { format!("in the n-th {name} after it, or later") } else { format!("in the n-th {name} after it") };
    let start = if answer.cohort == Cohorts::FirstTime {
        format!("Consumers by the {name} of their first call.")
    } else {
        format!("Consumers by each {name} in which they called.")
    };
    page(&RetentionPage {
        shell: ctx.shell("Retention", "/console/retention"),
        subtitle: start,
        csv: format!("/console/retention.csv?{query}"),
        definition: definition(
            &answer.about,
            &format!("Retained in {name} n"),
            &format!("means at least one qualifying call {again}."),
            &ctx,
        ),
        filters: vec![
            filter("interval", "Cohorts by", &INTERVALS, &asked.interval),
            filter("cohort", "Start", &COHORTS, &asked.cohort),
            filter("mode", "Counting", &MODES, &asked.mode),
        ],
        unit: name.into(),
        first: if answer.cohort == Cohorts::FirstTime { "First call".into() } else { "Called".into() },
        columns: answer.columns.clone(),
        rows,
        mean: answer.mean.iter().map(|mean| mean.map_or_else(|| "–".to_owned(), whole)).collect(),
        mean_size: format::count(sizes),
        drill,
    })
}

/// Whole per cents, half up.
fn whole(ratio: Ratio) -> String {
    format::count(i128::try_from((ratio.millionths() + 5_000) / 10_000).unwrap_or(0))
}

pub async fn retention_file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    Ok(file("retention", &retained(&portal, &ctx, &asked).await?))
}
