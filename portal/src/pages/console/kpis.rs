use askama::Template;

use crate::view::{Chart, Shell, Stats, Table};

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
