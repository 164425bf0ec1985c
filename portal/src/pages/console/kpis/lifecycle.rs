use axum::extract::{Query, State};
use axum::response::Response;
use farebox_insights::kpis::{self, LifecycleAnswer, LifecycleParams, LifecycleRow};

use super::{Asked, INTERVALS, KpiPage, Part, Sheet, UNITS, definition, file, filter, interval_name, unit};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Cell, Chart, ChartColumn, ChartKind, ChartRow, Column, Stat, Stats, Table};
use crate::{Portal, format};

async fn asked_for(portal: &Portal, ctx: &Ctx, asked: &Asked) -> Result<LifecycleAnswer, Failure> {
    let params = LifecycleParams { common: asked.common() };
    Ok(kpis::lifecycle(&portal.app, &ctx.workspace.id, &params).await?)
}

pub async fn lifecycle(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let answer = asked_for(&portal, &ctx, &asked).await?;
    let interval = asked.interval();
    let name = unit(interval);
    let cells = |row: &LifecycleRow| [row.new, row.returning, row.resurrecting, row.dormant].map(format::count);
    let label = |row: &LifecycleRow| interval_name(row.period, interval);
    let some = answer.rows.iter().any(|row| cells(row).iter().any(|cell| cell != "0"));
    let rows = answer.rows.iter().filter(|_| some);
    let chart = Chart {
        first: "Interval",
        caption: format!("New, returning, resurrecting and dormant by {name}"),
        columns: vec![
            ChartColumn::new("Returning", 1),
            ChartColumn::new("New", 4),
            ChartColumn::new("Resurrecting", 3),
            ChartColumn::new("Dormant", 6),
        ],
        rows: rows
            .clone()
            .map(|row| ChartRow {
                label: label(row),
                cells: [row.returning, row.new, row.resurrecting, row.dormant].map(format::count).to_vec(),
                now: !row.complete,
            })
            .collect(),
        ..Chart::new(
            "lifecycle",
            ChartKind::Stacked,
            "Who came and who went",
            "Below the line: those who were there before and are not now.",
        )
    };
    let columns = vec![
        Column::text(format!("By {name}")),
        Column::number("New"),
        Column::number("Returning"),
        Column::number("Resurrecting"),
        Column::number("Dormant"),
        Column::number("Net"),
    ];
    let table = Table::new("Lifecycle", columns).dense().rows(rows.rev().map(|row| {
        let heading = Cell::text(label(row));
        let mut line = vec![if row.complete { heading } else { heading.sub("not finished") }];
        line.extend(cells(row).map(Cell::text));
        line.push(Cell::text(format::count(row.new + row.resurrecting + row.dormant)));
        line
    }));
    let whole: Vec<_> = answer.rows.iter().filter(|row| row.complete).collect();
    let last = whole.last().copied();
    let before = last.map_or(0, |row| row.returning - row.dormant);
    let stats = vec![
        Stat::new(
            "Active",
            format::count(last.map_or(0, |row| row.new + row.returning + row.resurrecting)),
            format!("in the last whole {name}"),
        ),
        Stat::new(
            "Came back",
            format::count(last.map_or(0, |row| row.returning)),
            format!("of {} in the {name} before", format::count(before)),
        ),
        Stat::new("Went dormant", format::count(last.map_or(0, |row| -row.dormant)), format!("active in the {name} before, not since")),
    ];
    page(&KpiPage {
        shell: ctx.shell("Lifecycle", "/console/lifecycle"),
        title: "Lifecycle".into(),
        subtitle: "Who is new, who stays, who comes back, who goes.".into(),
        csv: format!("/console/lifecycle.csv?{}", asked.query()),
        definition: definition(&answer.about, "Active", &format!("means a qualifying call in the {name}."), &ctx),
        filters: vec![filter("interval", "By", &INTERVALS, &asked.interval), filter("unit", "Counting", &UNITS, &asked.unit)],
        stats: Stats { stats },
        parts: vec![
            Part::Chart(chart),
            Part::Sheet(Sheet {
                id: "intervals".into(),
                title: format!("By {name}"),
                note: String::new(),
                table,
                empty: "Nobody has called in this range.",
            }),
        ],
    })
}

pub async fn lifecycle_file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    Ok(file("lifecycle", &asked_for(&portal, &ctx, &asked).await?))
}
