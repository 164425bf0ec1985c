//! Usage by route, the busiest first.

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use farebox_core::ids::ConsumerId;
use farebox_core::period::Period;
use farebox_metering::dimension::Dimension;
use farebox_metering::usage::{self, UsageQuery};

use super::Range;
use crate::context::Ctx;
use crate::failure::Failure;
use crate::view::{Chart, ChartColumn, ChartKind, ChartRow};
use crate::{Portal, format};

/// Routes drawn one by one; the others are summed.
const ROUTES: usize = 10;

pub async fn by_route(portal: &Portal, ctx: &Ctx, consumer: &ConsumerId, period: Period) -> Result<Vec<(String, BigDecimal)>, Failure> {
    let query = UsageQuery::new(&ctx.workspace.id, "requests", period).by(Dimension::Method).by(Dimension::Route).of_consumer(consumer);
    let answer = usage::query(&portal.app, &query).await?;
    let mut routes: Vec<_> = answer.rows.into_iter().map(|row| (route_name(&row.group), row.value)).collect();
    routes.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(routes)
}

fn route_name(group: &BTreeMap<String, String>) -> String {
    let part = |name: &str| group.get(name).map(String::as_str).unwrap_or_default();
    match (part("method"), part("route")) {
        (method, "") => format!("{method} (no route)").trim_start().to_owned(),
        (method, route) if route.starts_with(method) => route.to_owned(),
        (method, route) => format!("{method} {route}"),
    }
}

pub async fn routes(portal: &Portal, ctx: &Ctx, consumer: &ConsumerId, range: &Range) -> Result<Chart, Failure> {
    let mut routes = by_route(portal, ctx, consumer, range.period(ctx)).await?;
    let count = routes.len();
    let total: BigDecimal = routes.iter().map(|route| &route.1).sum();
    if count > ROUTES {
        let others: BigDecimal = routes.drain(ROUTES - 1..).map(|route| route.1).sum();
        routes.push((format!("{} others", count - ROUTES + 1), others));
    }
    let rows = routes.iter().map(|(name, value)| ChartRow {
        label: name.clone(),
        cells: vec![format::quantity(value), format::percent(value, &total).unwrap_or_default()],
        now: false,
    });
    Ok(Chart {
        first: "Route",
        caption: format!("Requests that count, by route, {}", range.words()),
        columns: vec![ChartColumn::new("Requests", 1), ChartColumn::new("Share", 0)],
        rows: rows.collect(),
        total: vec![format::quantity(&total), "100\u{a0}%".into()],
        csv: Some(format!("/usage.csv?by=route&{}", range.query())),
        live: true,
        ..Chart::new(
            "routes",
            ChartKind::Bars,
            "By route",
            format!(
                "{}, {} requests that count.",
                format::counted(i64::try_from(count).unwrap_or(i64::MAX), "route", "routes"),
                format::quantity(&total)
            ),
        )
    })
}
