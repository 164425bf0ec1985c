use std::collections::BTreeSet;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use bigdecimal::BigDecimal;
use chrono::{Duration, Months, NaiveDate};
use farebox_core::period::{Period, start_of_day};
use farebox_insights::action::Action;
use farebox_insights::arithmetic::retention::Mode;
use farebox_insights::calendar::Interval;
use farebox_insights::kpis::{
    self, About, ActivationParams, Cohorts, Common, ConversionAnswer, ConversionParams, ConversionRow, FunnelAnswer, FunnelParams,
    RetentionAnswer, RetentionParams, Tabular,
};
use farebox_insights::ratio::Ratio;
use farebox_metering::{activity, consumers};
use serde::Deserialize;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Cell, Chart, ChartColumn, ChartKind, ChartRow, Column, Shell, Stat, Stats, Table};
use crate::{Portal, csv, format};

/// A KPI says what it means, in which version and zone, and how far its numbers are complete.
#[derive(Debug, Clone)]
pub struct Definition {
    pub name: String,
    pub text: String,
    pub version: String,
    pub formula: String,
    pub zone: String,
    pub complete: String,
    pub unfinished: String,
}

#[derive(Debug, Clone)]
pub struct Choice {
    pub value: String,
    pub label: String,
    pub selected: bool,
}

#[derive(Debug, Clone)]
pub struct Filter {
    pub name: &'static str,
    pub label: &'static str,
    pub choices: Vec<Choice>,
}

#[derive(Debug, Clone, Template)]
#[template(path = "console/kpi.html")]
pub struct KpiPage {
    pub shell: Shell,
    pub title: String,
    pub subtitle: String,
    pub csv: String,
    pub definition: Definition,
    pub filters: Vec<Filter>,
    pub stats: Option<Stats>,
    pub funnel: Option<(String, Table)>,
    pub chart: Option<Chart>,
    pub cohorts: Option<(String, Table)>,
}

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

#[derive(Debug, Clone)]
pub struct Drill {
    pub title: String,
    pub subtitle: String,
    pub figure: String,
    pub unit: String,
    pub note: String,
    pub table: Table,
    pub close: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    interval: String,
    mode: String,
    cohort: String,
    window: String,
    goal: String,
    /// The cell someone looks into: the cohort's first day and the column.
    of: String,
    n: Option<u32>,
}

const INTERVALS: [(&str, &str); 3] = [("week", "Week"), ("month", "Month"), ("day", "Day")];

impl Asked {
    fn interval(&self) -> Interval {
        match self.interval.as_str() {
            "day" => Interval::Day,
            "month" => Interval::Month,
            _ => Interval::Week,
        }
    }

    fn common(&self) -> Common {
        Common { interval: Some(self.interval()), ..Common::default() }
    }

    /// What keeps these choices in a link.
    fn query(&self) -> String {
        let mut out = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in
            [("interval", &self.interval), ("mode", &self.mode), ("cohort", &self.cohort), ("window", &self.window), ("goal", &self.goal)]
        {
            if !value.is_empty() {
                out.append_pair(name, value);
            }
        }
        out.finish()
    }
}

fn filter(name: &'static str, label: &'static str, choices: &[(&str, &str)], asked: &str) -> Filter {
    let known = choices.iter().any(|(value, _)| *value == asked);
    let choices = choices.iter().enumerate().map(|(i, (value, label))| Choice {
        value: (*value).into(),
        label: (*label).into(),
        selected: if known { *value == asked } else { i == 0 },
    });
    Filter { name, label, choices: choices.collect() }
}

fn unit(interval: Interval) -> &'static str {
    match interval {
        Interval::Day => "day",
        Interval::Week => "week",
        Interval::Month => "month",
    }
}

fn definition(about: &About, name: &str, text: &str, ctx: &Ctx) -> Definition {
    Definition {
        name: name.into(),
        text: text.into(),
        version: about.version.to_string(),
        formula: about.formula.clone(),
        zone: about.time_zone.clone(),
        complete: format!("Complete to {}", format::instant(about.complete_until, ctx.tz())),
        unfinished: "not finished".into(),
    }
}

/// As numbers read elsewhere on the pages: `61 %`, `33.3 %`.
pub fn percent(ratio: Option<Ratio>) -> String {
    ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{}\u{a0}%", ratio.percent()))
}

fn share(ratio: Option<Ratio>) -> String {
    let millionths = ratio.map_or(0, |ratio| ratio.millionths());
    format::share_class(&BigDecimal::from(millionths), &BigDecimal::from(1_000_000))
}

fn took(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "–".to_owned(), |s| format::span(Duration::seconds(i64::try_from(s).unwrap_or(i64::MAX / 1000))))
}

fn of(part: u64, whole: u64) -> String {
    format!("{} of {}", format::count(part), format::count(whole))
}

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
pub fn funnel_table(answer: &FunnelAnswer) -> Table {
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

fn cohort_table(answer: &ConversionAnswer, goal: &str, interval: Interval) -> Table {
    let columns = vec![
        Column::text(format!("Signed up, by {}", unit(interval))),
        Column::number("Size"),
        Column::number(goal),
        Column::number("Rate"),
        Column::number("Median time"),
        Column::number("p90"),
    ];
    let row = |row: &ConversionRow, label: String| {
        let rate = Cell::text(percent(row.rate));
        vec![
            Cell::text(label),
            Cell::text(format::count(row.size)),
            Cell::text(format::count(row.converted)),
            if row.complete { rate } else { rate.sub(format!("of {} so far", format::count(row.mature))) },
            Cell::text(took(row.median_seconds)),
            Cell::text(took(row.p90_seconds)),
        ]
    };
    if answer.total.size == 0 {
        return Table::default();
    }
    Table::new("Cohorts", columns)
        .dense()
        .rows(answer.rows.iter().rev().map(|r| row(r, format::date(r.cohort))))
        .foot(row(&answer.total, "All".into()))
}

fn rate_chart(answer: &ConversionAnswer, title: &str, interval: Interval) -> Chart {
    let rows = answer.rows.iter().map(|row| ChartRow {
        label: format::day_month(row.cohort),
        cells: vec![row.rate.map(|rate| rate.percent()).unwrap_or_default(), format::count(row.size)],
        now: !row.complete,
    });
    Chart {
        first: "Cohort",
        caption: format!("{title}, per cent of those whose time is over, by the {} of sign-up", unit(interval)),
        columns: vec![ChartColumn::new("Rate, %", 1), ChartColumn::new("Size", 0)],
        rows: if answer.total.size == 0 { Vec::new() } else { rows.collect() },
        ..Chart::new("rate", ChartKind::Stacked, title, "Per cent of each cohort. Hatched ones are not finished.")
    }
}

async fn activated(portal: &Portal, ctx: &Ctx, asked: &Asked) -> Result<(ConversionAnswer, FunnelAnswer), Failure> {
    let activation = ActivationParams { common: asked.common(), ..ActivationParams::default() };
    let funnel = FunnelParams { common: asked.common(), ..FunnelParams::default() };
    let (app, workspace) = (&portal.app, &ctx.workspace.id);
    Ok((kpis::activation(app, workspace, &activation).await?, kpis::funnel(app, workspace, &funnel).await?))
}

pub async fn activation(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let (answer, funnel) = activated(&portal, &ctx, &asked).await?;
    let interval = asked.interval();
    let total = &answer.total;
    let stats = vec![
        Stat::new(
            "Activation",
            percent(total.rate),
            format!("{} whose 7 days are over", of(total.converted.min(total.mature), total.mature)),
        ),
        Stat::new("Time to first call", took(total.median_seconds), format!("median; 9 of 10 within {}", took(total.p90_seconds))),
        Stat::new(
            "Signed up",
            format::count(total.size),
            format!("since {}", format::date(answer.about.from.with_timezone(&ctx.tz()).date_naive())),
        ),
    ];
    let so_far = if funnel.steps.iter().all(|step| step.complete) { "" } else { ", so far" };
    page(&KpiPage {
        shell: ctx.shell("Activation", "/console/activation"),
        title: "Activation".into(),
        subtitle: "From sign-up to the first call, and on to the first paid invoice.".into(),
        csv: format!("/console/activation.csv?{}", asked.query()),
        definition: definition(&answer.about, "Activated", "means a first qualifying call within 7 days of signing up.", &ctx),
        filters: vec![filter("interval", "Cohorts by", &INTERVALS, &asked.interval)],
        stats: Some(Stats { stats }),
        funnel: Some((
            format!("Funnel, within {} of signing up{so_far}", window_words(&funnel.window)),
            if funnel.steps.first().is_some_and(|s| s.count == 0) { Table::default() } else { funnel_table(&funnel) },
        )),
        chart: Some(rate_chart(&answer, "Activation rate", interval)),
        cohorts: Some(("By cohort".into(), cohort_table(&answer, "Activated", interval))),
    })
}

fn window_words(window: &str) -> String {
    window
        .strip_suffix('d')
        .and_then(|days| days.parse().ok())
        .map_or_else(|| window.to_owned(), |days| format::counted(days, "day", "days"))
}

pub async fn activation_file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    Ok(file("activation", &activated(&portal, &ctx, &asked).await?.0))
}

fn file(name: &str, answer: &impl Tabular) -> Response {
    let table = answer.table();
    csv::file(name, &table.header, table.rows)
}

const WINDOWS: [(&str, &str); 3] = [("60", "60 days"), ("30", "30 days"), ("90", "90 days")];
const GOALS: [(&str, &str); 2] = [("paid", "First invoice paid"), ("call", "First call")];

async fn converted(portal: &Portal, ctx: &Ctx, asked: &Asked) -> Result<ConversionAnswer, Failure> {
    let days = asked.window.parse().ok().filter(|days| (1..=400).contains(days)).unwrap_or(60);
    let goal = if asked.goal == "call" { Action::call() } else { Action::Paid };
    let params = ConversionParams { common: asked.common(), goal, window: Duration::days(days), ..ConversionParams::default() };
    Ok(kpis::conversion(&portal.app, &ctx.workspace.id, &params).await?)
}

pub async fn conversion(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let answer = converted(&portal, &ctx, &asked).await?;
    let (interval, total) = (asked.interval(), &answer.total);
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
        stats: Some(Stats { stats }),
        funnel: None,
        chart: Some(rate_chart(&answer, "Conversion rate", interval)),
        cohorts: Some(("By cohort".into(), cohort_table(&answer, "Converted", interval))),
    })
}

pub async fn conversion_file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    Ok(file("conversion", &converted(&portal, &ctx, &asked).await?))
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
        CohortRow { label: format::day_month(row.cohort), size: format::count(row.size), cells: cells.collect() }
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

/// The first day of the n-th interval after the one that starts on `day`.
fn later(day: NaiveDate, interval: Interval, n: u32) -> Option<NaiveDate> {
    match interval {
        Interval::Day => day.checked_add_signed(Duration::days(n.into())),
        Interval::Week => day.checked_add_signed(Duration::weeks(n.into())),
        Interval::Month => day.checked_add_months(Months::new(n)),
    }
}

/// Who is behind one cell: of the cohort, those who were not there.
async fn drill(portal: &Portal, ctx: &Ctx, asked: &Asked, answer: &RetentionAnswer) -> Result<Option<Drill>, Failure> {
    let (Ok(cohort), Some(n)) = (asked.of.parse::<NaiveDate>(), asked.n) else { return Ok(None) };
    let Some(row) = answer.rows.iter().find(|row| row.cohort == cohort) else { return Ok(None) };
    let (Some(value), Some(complete)) = (row.values.get(n as usize), row.complete.get(n as usize)) else { return Ok(None) };
    let interval = asked.interval();
    let bounds = || Some((later(cohort, interval, 1)?, later(cohort, interval, n)?, later(cohort, interval, n + 1)?));
    let Some((cohort_end, from, until)) = bounds() else { return Ok(None) };
    let at = |day| start_of_day(day, ctx.tz());
    let end = if answer.mode == "unbounded" { answer.about.to.max(at(until)) } else { at(until) };
    let calls = |start, end| activity::Calls {
        workspace: ctx.workspace.id.clone(),
        unit: activity::Unit::Consumer,
        period: Period { start, end },
        api: None,
        api_version: None,
        route: None,
    };
    let mut started: BTreeSet<String> =
        activity::days(&portal.app, &calls(at(cohort), at(cohort_end)), ctx.tz()).await?.into_iter().map(|d| d.who).collect();
    if answer.cohort == Cohorts::FirstTime {
        let before = calls(at(cohort) - Duration::days(3650), at(cohort));
        for day in activity::days(&portal.app, &before, ctx.tz()).await? {
            started.remove(&day.who);
        }
    }
    let back = activity::days(&portal.app, &calls(at(from), end), ctx.tz()).await?;
    let there: BTreeSet<String> = back.into_iter().map(|d| d.who).collect();
    let gone: Vec<String> = started.difference(&there).cloned().collect();
    let named = consumers::by_ids(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, &gone).await?;
    let name = unit(interval);
    let table = Table::new(format!("Not there in {name} {n}"), vec![Column::text("Consumer"), Column::number("Signed up")])
        .dense()
        .with_caption()
        .rows(named.iter().map(|c| {
            vec![
                Cell::link(&c.name, format!("/console/consumers/{}", c.id)),
                Cell::text(format::day_month(c.signed_up_at.with_timezone(&ctx.tz()).date_naive())),
            ]
        }));
    let mean = answer.mean.get(n as usize).copied().flatten();
    Ok(Some(Drill {
        title: format!("Cohort of {}, {name} {n}", format::day_month(cohort)),
        subtitle: format!("{}{}", format::days(from, until), if *complete { ", complete" } else { ", not finished" }),
        figure: format::count(*value),
        unit: format!("of {} retained, {}", format::count(row.size), percent(Ratio::of(*value, row.size))),
        note: format!("Mean of all complete cohorts in {name} {n}: {}.", percent(mean)),
        table,
        close: format!("/console/retention?{}", asked.query()),
    }))
}
