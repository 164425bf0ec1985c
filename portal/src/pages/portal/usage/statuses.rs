//! What did not succeed, by day and kind of status.

use std::collections::BTreeMap;

use bigdecimal::{BigDecimal, Zero};
use chrono::NaiveDate;
use farebox_core::ids::ConsumerId;
use farebox_core::period::{Period, Window, local_date};
use farebox_metering::dimension::Dimension;
use farebox_metering::usage::{self, UsageQuery};

use super::Range;
use crate::context::Ctx;
use crate::failure::Failure;
use crate::view::{Chart, ChartColumn, ChartKind, ChartRow};
use crate::{Portal, format};

/// Statuses that did not succeed, in the columns they are drawn in.
const FAILED: [(&str, u8); 6] =
    [("400 bad request", 2), ("401, 403 refused", 6), ("404 not found", 4), ("429 too fast", 3), ("other 4xx", 1), ("5xx our fault", 5)];

fn failed_column(status: u16) -> Option<usize> {
    match status {
        0..=399 => None,
        400 => Some(0),
        401..=403 => Some(1),
        404 => Some(2),
        429 => Some(3),
        405..=499 => Some(4),
        _ => Some(5),
    }
}

/// Calls by day, status and whether they count.
pub async fn by_status(portal: &Portal, ctx: &Ctx, consumer: &ConsumerId, period: Period) -> Result<Vec<usage::UsageRow>, Failure> {
    let query = UsageQuery::new(&ctx.workspace.id, "calls", period)
        .windows(Window::Day, ctx.tz())
        .by(Dimension::Status)
        .by(Dimension::Counted)
        .of_consumer(consumer);
    Ok(usage::query(&portal.app, &query).await?.rows)
}

pub async fn statuses(portal: &Portal, ctx: &Ctx, consumer: &ConsumerId, range: &Range) -> Result<Chart, Failure> {
    let rows = by_status(portal, ctx, consumer, range.period(ctx)).await?;
    let (mut all, mut good, mut free) = (BigDecimal::zero(), BigDecimal::zero(), BigDecimal::zero());
    let mut days: BTreeMap<NaiveDate, [BigDecimal; 6]> = BTreeMap::new();
    let mut totals: [BigDecimal; 6] = Default::default();
    for row in rows {
        let status: u16 = row.group.get("status").and_then(|s| s.parse().ok()).unwrap_or_default();
        all += &row.value;
        if row.group.get("counted").is_some_and(|c| c == "false") {
            free += &row.value;
        }
        match failed_column(status) {
            None => good += &row.value,
            Some(column) => {
                totals[column] += &row.value;
                days.entry(local_date(row.window.start, ctx.tz())).or_default()[column] += &row.value;
            }
        }
    }
    let used: Vec<usize> = (0..FAILED.len()).filter(|column| !totals[*column].is_zero()).collect();
    let today = local_date(ctx.now(), ctx.tz());
    let rows: Vec<_> = if used.is_empty() {
        Vec::new()
    } else {
        let none: [BigDecimal; 6] = Default::default();
        range
            .days()
            .take_while(|day| *day <= today)
            .map(|day| {
                let counts = days.get(&day).unwrap_or(&none);
                ChartRow {
                    label: format::day_month(day),
                    cells: used.iter().map(|c| format::quantity(&counts[*c])).collect(),
                    now: day == today,
                }
            })
            .collect()
    };
    let share = format::percent(&good, &all).map_or_else(String::new, |p| format!(" ({p})"));
    let uncounted = if free.is_zero() { String::new() } else { format!(" {} did not count, by the rules.", format::quantity(&free)) };
    let summary = if all.is_zero() {
        "No requests in this range.".to_owned()
    } else {
        format!("{} of {} requests succeeded{share}.{uncounted}", format::quantity(&good), format::quantity(&all))
    };
    Ok(Chart {
        caption: format!("Requests that did not succeed, by day, {}", range.words()),
        columns: used.iter().map(|c| ChartColumn::new(FAILED[*c].0, FAILED[*c].1)).collect(),
        total: if used.is_empty() { Vec::new() } else { used.iter().map(|c| format::quantity(&totals[*c])).collect() },
        rows,
        csv: Some(format!("/usage.csv?by=status&{}", range.query())),
        live: true,
        ..Chart::new("statuses", ChartKind::Stacked, "By status: what did not succeed", summary)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failed_status_has_one_column() {
        let columns: Vec<_> = [200, 304, 400, 401, 402, 403, 404, 405, 422, 429, 499, 500, 503, 999].map(failed_column).into();
        assert_eq!(
            columns,
            [None, None, Some(0), Some(1), Some(1), Some(1), Some(2), Some(4), Some(4), Some(3), Some(4), Some(5), Some(5), Some(5)]
        );
    }
}
