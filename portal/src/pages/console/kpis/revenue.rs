use axum::extract::{Query, State};
use axum::response::Response;
use farebox_core::money::Money;
use farebox_insights::calendar::Interval;
use farebox_insights::kpis::{self, Common, RevenueAnswer, RevenueParams, RevenueRow};

use super::{Asked, KpiPage, Part, Sheet, definition, file, filter, interval_name, ratio_text, unit};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Cell, Chart, ChartColumn, ChartKind, ChartRow, Column, Direction, Stat, Stats, Table};
use crate::{Portal, format};

const INTERVALS: [(&str, &str); 2] = [("month", "Month"), ("week", "Week")];

fn interval(asked: &Asked) -> Interval {
    if asked.interval == "week" { Interval::Week } else { Interval::Month }
}

async fn asked_for(portal: &Portal, ctx: &Ctx, asked: &Asked) -> Result<RevenueAnswer, Failure> {
    let params = RevenueParams { common: Common { interval: Some(interval(asked)), ..Common::default() }, currency: None };
    Ok(kpis::revenue(&portal.app, &ctx.workspace.id, &params).await?)
}

pub async fn revenue(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let answer = asked_for(&portal, &ctx, &asked).await?;
    let interval = interval(&asked);
    // From the first interval in which anything recurred or was invoiced.
    let nothing = |row: &&RevenueRow| row.start.is_zero() && row.mrr.is_zero() && row.usage_revenue.is_none_or(Money::is_zero);
    let rows: Vec<_> = answer.rows.iter().skip_while(nothing).collect();
    page(&KpiPage {
        shell: ctx.shell("Revenue", "/console/revenue"),
        title: "Revenue".into(),
        subtitle: "What recurs each month, how it moves, and what usage brings beside it.".into(),
        csv: format!("/console/revenue.csv?{}", asked.query()),
        definition: definition(
            &answer.about,
            "MRR",
            &format!(
                "is the recurring fees in force, in {}, normalised to a month; usage and one-off charges stand beside it.",
                answer.currency
            ),
            &ctx,
        ),
        filters: vec![filter("interval", "By", &INTERVALS, &asked.interval)],
        stats: Stats { stats: stats(&rows) },
        parts: vec![
            Part::Chart(movements(&rows, interval, &answer)),
            Part::Sheet(Sheet {
                id: "movement".into(),
                title: format!("Movement by {}", unit(interval)),
                note: "What it starts with, and each change up to what it ends with.".into(),
                table: movement_table(&rows, interval),
                empty: "Nothing recurs yet: no paid subscription is in force.",
            }),
            Part::Sheet(Sheet {
                id: "rates".into(),
                title: "Churn and retention of revenue".into(),
                note: "Of what recurred when the interval began.".into(),
                table: rate_table(&rows, interval),
                empty: "Nothing recurs yet: no paid subscription is in force.",
            }),
        ],
    })
}

fn stats(rows: &[&RevenueRow]) -> Vec<Stat> {
    let Some(now) = rows.last() else { return vec![Stat::new("MRR", "–", "nothing recurs yet")] };
    let mut mrr = Stat::new("MRR", format::money(now.mrr), "now");
    if let Ok(moved) = now.mrr.checked_sub(now.start)
        && !moved.is_zero()
    {
        let (sign, direction) = if moved.minor > 0 { ("+", Direction::Better) } else { ("", Direction::Worse) };
        mrr.note = "in the running interval".into();
        mrr = mrr.change(format!("{sign}{}", format::money(moved)), direction);
    }
    let whole = rows.iter().rfind(|row| row.complete);
    let share = |of: fn(&RevenueRow) -> &Option<String>| ratio_text(whole.and_then(|row| of(row).as_deref()));
    vec![
        mrr,
        Stat::new("ARR", format::money(now.arr), "12 times MRR"),
        Stat::new(
            "ARPA",
            now.arpa.map_or_else(|| "–".into(), format::money),
            format::counted(i64::try_from(now.payers).unwrap_or(i64::MAX), "payer", "payers"),
        ),
        Stat::new(
            "Net revenue retention",
            share(|row| &row.nrr),
            format!("gross churn {}, last whole interval", share(|row| &row.gross_churn)),
        ),
    ]
}

fn movements(rows: &[&RevenueRow], interval: Interval, answer: &RevenueAnswer) -> Chart {
    let negative = |amount: Money| format::money(Money { minor: -amount.minor, ..amount });
    let rows = rows.iter().map(|row| ChartRow {
        label: interval_name(row.period, interval),
        cells: vec![
            format::money(row.new),
            format::money(row.expansion),
            format::money(row.reactivation),
            negative(row.contraction),
            negative(row.churn),
        ],
        now: !row.complete,
    });
    Chart {
        first: "Interval",
        caption: format!("Change of MRR by movement and {}", unit(interval)),
        unit: format::currency_sign(answer.currency),
        columns: vec![
            ChartColumn::new("New", 1),
            ChartColumn::new("Expansion", 4),
            ChartColumn::new("Reactivation", 3),
            ChartColumn::new("Contraction", 2),
            ChartColumn::new("Churn", 5),
        ],
        rows: rows.collect(),
        ..Chart::new(
            "movements",
            ChartKind::Stacked,
            "How MRR moved",
            "Above the line what was won, below it what was lost. Hatched is not finished.",
        )
    }
}

fn movement_table(rows: &[&RevenueRow], interval: Interval) -> Table {
    let columns = vec![
        Column::text(format!("By {}", unit(interval))),
        Column::number("Start"),
        Column::number("New"),
        Column::number("Expansion"),
        Column::number("Reactivation"),
        Column::number("Contraction"),
        Column::number("Churn"),
        Column::number("End"),
    ];
    Table::new("Movement of MRR", columns).dense().rows(rows.iter().rev().map(|row| {
        let minus = |amount: Money| Money { minor: -amount.minor, ..amount };
        let amounts = [row.start, row.new, row.expansion, row.reactivation, minus(row.contraction), minus(row.churn), row.mrr];
        let mut line = vec![heading(row, interval)];
        line.extend(amounts.map(|amount| Cell::text(format::money(amount))));
        line
    }))
}

fn rate_table(rows: &[&RevenueRow], interval: Interval) -> Table {
    let columns = vec![
        Column::text(format!("By {}", unit(interval))),
        Column::number("Gross churn"),
        Column::number("Net churn"),
        Column::number("GRR"),
        Column::number("NRR"),
        Column::number("Payers"),
        Column::number("ARPA"),
        Column::number("Usage revenue"),
    ];
    Table::new("Churn and retention of revenue", columns).dense().rows(rows.iter().rev().map(|row| {
        let mut line = vec![heading(row, interval)];
        line.extend([&row.gross_churn, &row.net_churn, &row.grr, &row.nrr].map(|share| Cell::text(ratio_text(share.as_deref()))));
        line.push(Cell::text(format::count(row.payers)));
        line.extend([row.arpa, row.usage_revenue].map(|amount| Cell::text(amount.map_or_else(|| "–".into(), format::money))));
        line
    }))
}

fn heading(row: &RevenueRow, interval: Interval) -> Cell {
    let heading = Cell::text(interval_name(row.period, interval));
    if row.complete { heading } else { heading.sub("not finished") }
}

pub async fn revenue_file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    Ok(file("revenue", &asked_for(&portal, &ctx, &asked).await?))
}
