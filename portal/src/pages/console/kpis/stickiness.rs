use axum::extract::{Query, State};
use axum::response::Response;
use farebox_insights::calendar::Interval;
use farebox_insights::kpis::{self, Common, StickinessAnswer, StickinessParams};
use farebox_insights::ratio::Ratio;

use super::{Asked, KpiPage, Part, Sheet, UNITS, definition, file, filter, percent, since, unit};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Cell, Chart, ChartColumn, ChartKind, ChartRow, Column, Stat, Stats, Table};
use crate::{Portal, format};

/// Days first: how many of them somebody comes is the question here.
const INTERVALS: [(&str, &str); 3] = [("day", "Day"), ("week", "Week"), ("month", "Month")];

impl Asked {
    fn interval_or_day(&self) -> Interval {
        if self.interval.is_empty() { Interval::Day } else { self.interval() }
    }
}

async fn asked_for(portal: &Portal, ctx: &Ctx, asked: &Asked) -> Result<StickinessAnswer, Failure> {
    let params = StickinessParams { common: Common { interval: Some(asked.interval_or_day()), ..asked.common() } };
    Ok(kpis::stickiness(&portal.app, &ctx.workspace.id, &params).await?)
}

pub async fn stickiness(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let answer = asked_for(&portal, &ctx, &asked).await?;
    let name = unit(asked.interval_or_day());
    let all: u64 = answer.rows.iter().map(|row| row.consumers).sum();
    let often: u64 = answer.rows.iter().map(|row| row.intervals * row.consumers).sum();
    let some = all > 0;
    let rows = answer.rows.iter().filter(|_| some);
    let chart = Chart {
        first: "Active in",
        caption: format!("How many were active in so many {name}s"),
        columns: vec![ChartColumn::new("How many", 1)],
        rows: rows
            .clone()
            .map(|row| ChartRow { label: row.intervals.to_string(), cells: vec![format::count(row.consumers)], now: false })
            .collect(),
        ..Chart::new(
            "stickiness",
            ChartKind::Stacked,
            "How often they come",
            format!("The more at the right, the more {name}s people come back on."),
        )
    };
    let columns = vec![Column::text(format!("Active {name}s")), Column::number("How many"), Column::number("Share")];
    let table = Table::new("Stickiness", columns).dense().rows(rows.map(|row| {
        vec![
            Cell::text(row.intervals.to_string()),
            Cell::text(format::count(row.consumers)),
            Cell::text(percent(Ratio::of(row.consumers, all))),
        ]
    }));
    let mean = Ratio::of(often, all).map_or_else(|| "–".to_owned(), |mean| mean.one_decimal());
    let stats = vec![
        Stat::new("DAU / MAU", percent(answer.dau_over_mau), "mean of daily active over active in 28 days"),
        Stat::new(format!("Active {name}s"), mean, "mean of all who called"),
        Stat::new("Called", format::count(all), since(&answer.about, &ctx)),
    ];
    page(&KpiPage {
        shell: ctx.shell("Stickiness", "/console/stickiness"),
        title: "Stickiness".into(),
        subtitle: "On how many days, weeks or months somebody comes.".into(),
        csv: format!("/console/stickiness.csv?{}", asked.query()),
        definition: definition(&answer.about, "Active", &format!("means a qualifying call in the {name}."), &ctx),
        filters: vec![filter("interval", "By", &INTERVALS, &asked.interval), filter("unit", "Counting", &UNITS, &asked.unit)],
        stats: Stats { stats },
        parts: vec![
            Part::Chart(chart),
            Part::Sheet(Sheet {
                id: "histogram".into(),
                title: "Histogram".into(),
                note: String::new(),
                table,
                empty: "Nobody has called in this range.",
            }),
        ],
    })
}

pub async fn stickiness_file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    Ok(file("stickiness", &asked_for(&portal, &ctx, &asked).await?))
}
