//! What routes and consumers bring, and what their calls cost.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use bigdecimal::{BigDecimal, RoundingMode};
use farebox_billing::margin::{self, By, Margin, MarginRow};
use farebox_core::money::{Money, plain};
use farebox_core::period::Period;
use serde::Deserialize;

use super::months;
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Cell, Column, Equation, Note, Shell, Table, Term, Tone};
use crate::{Portal, csv, format};

/// Rows of a table; the file has all.
const SHOWN: usize = 50;

#[derive(Debug, Clone, Template)]
#[template(path = "console/margin.html")]
pub struct MarginPage {
    pub shell: Shell,
    pub months: Vec<(String, String, bool)>,
    pub month: String,
    pub formula: String,
    pub equation: Equation,
    pub note: Option<Note>,
    pub routes: Table,
    pub consumers: Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    month: String,
    by: String,
}

async fn asked_for(portal: &Portal, ctx: &Ctx, month: Period, route: bool) -> Result<Margin, Failure> {
    Ok(margin::margin(&portal.app, &ctx.workspace.id, month, By { route, consumer: !route }).await?)
}

/// The month asked for; the last that is over unless given.
fn month(ctx: &Ctx, asked: &Asked) -> (Period, Vec<(String, String, bool)>) {
    let all = months::months(ctx);
    let last = all.get(1).map(|month| farebox_billing::calendar::name(*month, ctx.tz())).unwrap_or_default();
    months::choose(&all, if asked.month.is_empty() { &last } else { &asked.month }, ctx)
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let (chosen, months) = month(&ctx, &asked);
    let (by_route, by_consumer) = tokio::try_join!(asked_for(&portal, &ctx, chosen, true), asked_for(&portal, &ctx, chosen, false))?;
    let total = &by_route.total;
    let note = if !by_route.left_out.is_empty() {
        let text = format!("{} pay in another currency than {}, in which costs are kept.", by_route.left_out.join(", "), by_route.currency);
        Some(Note::new(Tone::Warn, "Some revenue is not in it.", text))
    } else if total.calls_without_cost > 0 {
        let text = format!(
            "{} of {} calls are of routes without a cost. List it under costs in the catalogue.",
            format::count(total.calls_without_cost),
            format::count(total.calls)
        );
        Some(Note::new(Tone::Warn, "Some calls count as free.", text))
    } else {
        None
    };
    page(&MarginPage {
        shell: ctx.shell("Margin", "/console/margin"),
        month: farebox_billing::calendar::name(chosen, ctx.tz()),
        months,
        formula: by_route.formula.clone(),
        equation: equation(total),
        note,
        routes: table("By route", "Route", &by_route, |row| {
            if row.route.is_empty() {
                Cell::text("Of no route").sub("fees, minimums, service credits")
            } else {
                Cell::mono(&row.route).sub(&row.api)
            }
        }),
        consumers: table("By consumer", "Consumer", &by_consumer, |row| match &row.consumer {
            Some(consumer) if !consumer.id.is_empty() => Cell::link(&consumer.name, format!("/console/consumers/{}", consumer.id)),
            _ => Cell::text("Nobody known"),
        }),
    })
}

fn equation(total: &MarginRow) -> Equation {
    let calls = format!("{} calls", format::count(total.calls));
    Equation {
        terms: vec![
            Term::new("", "Revenue", format::money(total.revenue), "invoiced, without tax"),
            Term::new("−", "Cost of calls", exact(&total.cost, total.revenue), calls),
            Term::new("=", "Margin", exact(&total.margin, total.revenue), ""),
        ],
        difference: None,
    }
}

/// An exact amount as the currency is written; costs finer than its minor unit are rounded here, and only here.
fn exact(amount: &BigDecimal, like: Money) -> String {
    Money::round(amount, like.currency).map_or_else(|_| plain(amount), format::money)
}

fn table(caption: &str, first: &str, report: &Margin, head: impl Fn(&MarginRow) -> Cell) -> Table {
    let columns = vec![
        Column::text(first),
        Column::number("Calls"),
        Column::number("Revenue"),
        Column::number("Cost"),
        Column::number("Margin"),
        Column::number("Of revenue"),
    ];
    let cells = |head: Cell, row: &MarginRow| {
        let share = format::percent(&row.margin, &row.revenue.to_decimal()).unwrap_or_else(|| "–".to_owned());
        let cost =
            if row.calls_without_cost == row.calls && row.calls > 0 { "not listed".to_owned() } else { exact(&row.cost, row.revenue) };
        vec![
            head,
            Cell::text(format::count(row.calls)),
            Cell::text(format::money(row.revenue)),
            Cell::text(cost),
            Cell::text(exact(&row.margin, row.revenue)),
            Cell::text(share),
        ]
    };
    let rows = report.rows.iter().take(SHOWN).map(|row| cells(head(row), row));
    Table::new(caption, columns).dense().rows(rows).foot(cells(Cell::text("All"), &report.total))
}

pub async fn file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let (chosen, _) = month(&ctx, &asked);
    let report = asked_for(&portal, &ctx, chosen, asked.by != "consumer").await?;
    let rows = report.rows.iter().map(|row| {
        let consumer = row.consumer.as_ref().map(|c| c.name.clone()).unwrap_or_default();
        let mut cells = vec![row.api.clone(), row.route.clone(), consumer, row.calls.to_string(), row.revenue.to_string()];
        cells.extend([
            plain(&row.cost.with_scale_round(12, RoundingMode::HalfEven)),
            plain(&row.margin),
            row.calls_without_cost.to_string(),
        ]);
        cells
    });
    let name = format!("margin-{}", farebox_billing::calendar::name(chosen, ctx.tz()));
    Ok(csv::file(&name, &["api", "route", "consumer", "calls", "revenue", "cost", "margin", "calls_without_cost"], rows))
}
