//! KPI pages. Each asks insights for one answer and shows it as stats, charts and tables, under its definition and with
//! the same numbers as CSV beside it.

mod activation;
mod cohorts;
mod compared;
mod conversion;
mod funnel;
mod lifecycle;
mod retention;
mod revenue;
mod stickiness;
mod usage;
mod versions;

use askama::Template;
use axum::response::Response;
use bigdecimal::BigDecimal;
use chrono::{Duration, NaiveDate};
use farebox_core::period::local_date;
use farebox_insights::calendar::Interval;
use farebox_insights::kpis::{About, Common, Tabular, Unit};
use farebox_insights::ratio::Ratio;
use serde::Deserialize;

pub use activation::{activation, activation_file};
pub use conversion::{conversion, conversion_file};
pub use funnel::{funnel, funnel_file, shown as funnel_shown};
pub use lifecycle::{lifecycle, lifecycle_file};
pub use retention::{retention, retention_file};
pub use revenue::{revenue, revenue_file};
pub use stickiness::{stickiness, stickiness_file};
pub use usage::{usage, usage_file};
pub use versions::{versions, versions_file};

use crate::context::Ctx;
use crate::view::{Chart, Shell, Stats, Table};
use crate::{csv, format};

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

/// Most KPI pages: what it means, its filters, figures, then charts and tables in order.
#[derive(Debug, Clone, Template)]
#[template(path = "console/kpi.html")]
pub struct KpiPage {
    pub shell: Shell,
    pub title: String,
    pub subtitle: String,
    pub csv: String,
    pub definition: Definition,
    pub filters: Vec<Filter>,
    pub stats: Stats,
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone)]
pub enum Part {
    Chart(Chart),
    Sheet(Sheet),
}

/// A table with its title; when it is empty, the sentence says why.
#[derive(Debug, Clone)]
pub struct Sheet {
    pub id: String,
    pub title: String,
    pub note: String,
    pub table: Table,
    pub empty: &'static str,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    interval: String,
    mode: String,
    cohort: String,
    window: String,
    goal: String,
    steps: String,
    unit: String,
    api: String,
    /// Two versions of the API to compare.
    base: String,
    canary: String,
    /// The cell someone looks into: the cohort's first day and the column.
    of: String,
    n: Option<u32>,
}

const INTERVALS: [(&str, &str); 3] = [("week", "Week"), ("month", "Month"), ("day", "Day")];

const UNITS: [(&str, &str); 2] = [("consumer", "Consumers"), ("credential", "Keys")];

impl Asked {
    fn interval(&self) -> Interval {
        match self.interval.as_str() {
            "day" => Interval::Day,
            "month" => Interval::Month,
            _ => Interval::Week,
        }
    }

    fn common(&self) -> Common {
        let unit = if self.unit == "credential" { Unit::Credential } else { Unit::Consumer };
        Common { interval: Some(self.interval()), unit, ..Common::default() }
    }

    /// The window in days.
    fn days(&self, default: i64) -> i64 {
        self.window.parse().ok().filter(|days| (1..=400).contains(days)).unwrap_or(default)
    }

    /// What keeps these choices in a link.
    fn query(&self) -> String {
        let mut out = url::form_urlencoded::Serializer::new(String::new());
        let all = [
            ("interval", &self.interval),
            ("mode", &self.mode),
            ("cohort", &self.cohort),
            ("window", &self.window),
            ("goal", &self.goal),
            ("steps", &self.steps),
            ("unit", &self.unit),
            ("api", &self.api),
            ("base", &self.base),
            ("canary", &self.canary),
        ];
        for (name, value) in all {
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

fn window_words(window: &str) -> String {
    window
        .strip_suffix('d')
        .and_then(|days| days.parse().ok())
        .map_or_else(|| window.to_owned(), |days| format::counted(days, "day", "days"))
}

/// `13 Jun`, or `June 2026` for months.
fn interval_name(first_day: NaiveDate, interval: Interval) -> String {
    if interval == Interval::Month { format::month(first_day) } else { format::day_month(first_day) }
}

/// `since 3 August 2026`.
fn since(about: &About, ctx: &Ctx) -> String {
    format!("since {}", format::date(local_date(about.from, ctx.tz())))
}

/// A decimal such as `-0.083333` as `−8.3 %`.
fn growth(decimal: &str) -> String {
    let one = BigDecimal::from(1);
    let grown: Option<BigDecimal> = decimal.parse().ok();
    grown.and_then(|grown| format::change(&(&one + grown), &one)).unwrap_or_else(|| "–".to_owned())
}

/// A share that was given as a decimal: `0.2` as `20 %`.
fn ratio_text(decimal: Option<&str>) -> String {
    let share: Option<BigDecimal> = decimal.and_then(|decimal| decimal.parse().ok());
    share.and_then(|share| format::percent(&share, &BigDecimal::from(1))).unwrap_or_else(|| "–".to_owned())
}

fn file(name: &str, answer: &impl Tabular) -> Response {
    let table = answer.table();
    csv::file(name, &table.header, table.rows)
}
