//! Cohorts by sign-up: what activation and conversion have in common.

use farebox_insights::calendar::Interval;
use farebox_insights::kpis::{ConversionAnswer, ConversionRow};

use super::{Part, Sheet, percent, took, unit};
use crate::format;
use crate::view::{Cell, Chart, ChartColumn, ChartKind, ChartRow, Column, Table};

/// The rate as a chart, then each cohort as a row.
pub fn parts(answer: &ConversionAnswer, title: &str, goal: &str, interval: Interval) -> Vec<Part> {
    let table = Sheet {
        id: "cohorts".into(),
        title: "By cohort".into(),
        note: String::new(),
        table: cohort_table(answer, goal, interval),
        empty: "Nobody has signed up in this range.",
    };
    vec![Part::Chart(rate_chart(answer, title, interval)), Part::Sheet(table)]
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
