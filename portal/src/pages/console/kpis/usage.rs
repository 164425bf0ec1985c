use axum::extract::{Query, State};
use axum::response::Response;
use farebox_insights::kpis::{self, UsageAnswer, UsageParams};

use super::{Asked, INTERVALS, KpiPage, Part, Sheet, definition, file, filter, growth, interval_name, percent, since, unit};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Cell, Chart, ChartColumn, ChartKind, ChartRow, Column, Stat, Stats, Table};
use crate::{Portal, format};

async fn asked_for(portal: &Portal, ctx: &Ctx, asked: &Asked) -> Result<UsageAnswer, Failure> {
    let params = UsageParams { common: asked.common(), ..UsageParams::default() };
    Ok(kpis::usage(&portal.app, &ctx.workspace.id, &params).await?)
}

pub async fn usage(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let answer = asked_for(&portal, &ctx, &asked).await?;
    let interval = asked.interval();
    let name = unit(interval);
    let some = answer.rows.iter().any(|row| row.calls > 0);
    let rows = answer.rows.iter().filter(|_| some);
    let chart = |id, title: &str, summary: &str, columns: Vec<ChartColumn>, cells: &dyn Fn(&kpis::UsageRow) -> Vec<String>| Chart {
        first: "Interval",
        caption: format!("{title}, by {name}"),
        columns,
        rows: rows
            .clone()
            .map(|row| ChartRow { label: interval_name(row.period, interval), cells: cells(row), now: !row.complete })
            .collect(),
        ..Chart::new(id, ChartKind::Stacked, title, summary)
    };
    let calls = chart(
        "calls",
        "Calls",
        "Every request; those that ended in 4xx and 5xx apart. Hatched is not finished.",
        vec![ChartColumn::new("Went well", 1), ChartColumn::new("4xx", 2), ChartColumn::new("5xx", 5)],
        &|row| [row.calls - row.client_errors - row.server_errors, row.client_errors, row.server_errors].map(format::count).to_vec(),
    );
    let active = chart(
        "active",
        "Active consumers",
        "With at least one qualifying call. Hatched is not finished.",
        vec![ChartColumn::new("Consumers", 1)],
        &|row| vec![format::count(row.consumers)],
    );
    let columns = vec![
        Column::text(format!("By {name}")),
        Column::number("Calls"),
        Column::number("Growth"),
        Column::number("Error rate"),
        Column::number("Consumers"),
        Column::number("Keys"),
    ];
    let table = Table::new("Usage", columns).dense().rows(rows.clone().rev().map(|row| {
        let heading = Cell::text(interval_name(row.period, interval));
        vec![
            if row.complete { heading } else { heading.sub("not finished") },
            Cell::text(format::count(row.calls)),
            Cell::text(row.growth.as_deref().map_or_else(|| "–".to_owned(), growth)),
            Cell::text(percent(row.error_rate)),
            Cell::text(format::count(row.consumers)),
            Cell::text(format::count(row.credentials)),
        ]
    }));
    let top = Table::new("Top consumers", vec![Column::text("Consumer"), Column::number("Calls"), Column::number("Of all")]).dense().rows(
        answer.top.iter().map(|top| {
            vec![
                Cell::link(&top.consumer.name, format!("/console/consumers/{}", top.consumer.id)),
                Cell::text(format::count(top.calls)),
                Cell::text(percent(top.share)),
            ]
        }),
    );
    let whole = answer.rows.iter().rfind(|row| row.complete);
    let figure = |of: fn(&kpis::UsageRow) -> u64| format::count(whole.map_or(0, of));
    let all: u64 = answer.rows.iter().map(|row| row.calls).sum();
    let stats = vec![
        Stat::new(
            "Calls",
            figure(|row| row.calls),
            format!("in the last whole {name}; {} {}", format::count(all), since(&answer.about, &ctx)),
        ),
        Stat::new("Active consumers", figure(|row| row.consumers), format!("in the last whole {name}")),
        Stat::new("Active keys", figure(|row| row.credentials), format!("in the last whole {name}")),
        Stat::new("Error rate", percent(whole.and_then(|row| row.error_rate)), "4xx and 5xx of all calls"),
    ];
    page(&KpiPage {
        shell: ctx.shell("Usage", "/console/usage"),
        title: "Usage".into(),
        subtitle: "How much is called, by whom, and how it ends.".into(),
        csv: format!("/console/usage.csv?{}", asked.query()),
        definition: definition(
            &answer.about,
            "Active",
            "means at least one qualifying call; calls are all requests, whatever became of them.",
            &ctx,
        ),
        filters: vec![filter("interval", "By", &INTERVALS, &asked.interval)],
        stats: Stats { stats },
        parts: vec![
            Part::Chart(calls),
            Part::Chart(active),
            Part::Sheet(Sheet {
                id: "intervals".into(),
                title: format!("By {name}"),
                note: String::new(),
                table,
                empty: "No calls in this range.",
            }),
            Part::Sheet(Sheet {
                id: "top".into(),
                title: "Top consumers".into(),
                note: "Over the whole range.".into(),
                table: top,
                empty: "No consumer has called in this range.",
            }),
        ],
    })
}

pub async fn usage_file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    Ok(file("usage", &asked_for(&portal, &ctx, &asked).await?))
}
