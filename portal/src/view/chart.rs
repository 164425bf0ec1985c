use askama::Template;

use super::Icon;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChartKind {
    /// Running total against last month; columns: this, last, forecast low, forecast high (the last two may miss).
    Cumulative,
    Stacked,
    Bars,
    Lines,
}

impl ChartKind {
    fn name(self) -> &'static str {
        match self {
            Self::Cumulative => "cumulative",
            Self::Stacked => "stacked",
            Self::Bars => "bars",
            Self::Lines => "lines",
        }
    }
}

#[derive(Debug, Clone)]
pub struct ChartColumn {
    pub name: String,
    /// Colour role 1 to 6 of the style sheet; 0 leaves the column out of the drawing.
    pub color: u8,
    /// Drawn as a tick on the bar: the same thing a period ago.
    pub tick: bool,
}

impl ChartColumn {
    pub fn new(name: impl Into<String>, color: u8) -> Self {
        Self { name: name.into(), color, tick: false }
    }
}

#[derive(Debug, Clone)]
pub struct ChartRow {
    pub label: String,
    pub cells: Vec<String>,
    /// The period in progress: hatched.
    pub now: bool,
}

/// A figure. The chart has no data of its own: the script draws what it reads in the table, and without script, or
/// when it fails, the table is there.
#[derive(Debug, Clone, Template)]
#[template(path = "parts/chart.html")]
pub struct Chart {
    pub id: &'static str,
    pub kind: ChartKind,
    pub title: String,
    /// What it shows, as a sentence: also the picture's text alternative.
    pub summary: String,
    pub caption: String,
    pub first: &'static str,
    pub columns: Vec<ChartColumn>,
    pub rows: Vec<ChartRow>,
    /// What stands in place of the picture while there are no rows.
    pub empty: &'static str,
    pub total: Vec<String>,
    pub csv: Option<String>,
    /// Allowance, digits only.
    pub cap: Option<String>,
    /// Sign before each value on the axis.
    pub unit: String,
    pub tall: bool,
    /// Renews itself while it is looked at.
    pub live: bool,
}

impl Chart {
    pub fn new(id: &'static str, kind: ChartKind, title: impl Into<String>, summary: impl Into<String>) -> Self {
        Self {
            id,
            kind,
            title: title.into(),
            summary: summary.into(),
            caption: String::new(),
            first: "Day",
            columns: Vec::new(),
            rows: Vec::new(),
            empty: "Nothing to draw yet.",
            total: Vec::new(),
            csv: None,
            cap: None,
            unit: String::new(),
            tall: false,
            live: false,
        }
    }
}
