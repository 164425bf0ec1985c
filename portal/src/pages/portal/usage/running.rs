//! The running total by day, against the stretch before.

use std::collections::BTreeMap;

use bigdecimal::{BigDecimal, Zero};
use chrono::NaiveDate;
use farebox_core::ids::ConsumerId;
use farebox_core::money::plain;
use farebox_core::period::{Period, Window, local_date};
use farebox_metering::usage::{self, UsageQuery};

use super::Range;
use crate::context::Ctx;
use crate::failure::Failure;
use crate::view::{Chart, ChartColumn, ChartKind, ChartRow};
use crate::{Portal, format, words};

/// Usage of a meter by day; days without any are left out.
pub type Days = BTreeMap<NaiveDate, BigDecimal>;

pub async fn by_day(portal: &Portal, ctx: &Ctx, consumer: &ConsumerId, meter: &str, period: Period) -> Result<Days, Failure> {
    let query = UsageQuery::new(&ctx.workspace.id, meter, period).windows(Window::Day, ctx.tz()).of_consumer(consumer);
    let answer = usage::query(&portal.app, &query).await?;
    Ok(answer.rows.into_iter().map(|row| (local_date(row.window.start, ctx.tz()), row.value)).collect())
}

/// From `days`, which reach from the beginning of what the range is compared with to its end.
pub fn running(ctx: &Ctx, range: &Range, meter: &str, cap: Option<&BigDecimal>, days: &Days) -> Chart {
    let today = local_date(ctx.now(), ctx.tz());
    let mut previous = range.before.0.iter_days().take_while(|day| *day < range.before.1);
    let (mut sum, mut sum_before, mut before_here) = (BigDecimal::zero(), BigDecimal::zero(), BigDecimal::zero());
    let mut rows = Vec::new();
    for day in range.days() {
        let then = previous.next().map(|then| {
            sum_before += days.get(&then).cloned().unwrap_or_default();
            sum_before.clone()
        });
        let here = (day <= today).then(|| {
            sum += days.get(&day).cloned().unwrap_or_default();
            before_here.clone_from(&sum_before);
            format::quantity(&sum)
        });
        rows.push(ChartRow {
            label: format::day_month(day),
            cells: vec![here.unwrap_or_default(), then.map(|then| format::quantity(&then)).unwrap_or_default()],
            now: day == today,
        });
    }
    let name = words::meter(meter);
    if sum.is_zero() && sum_before.is_zero() {
        rows.clear();
    }
    let running = range.until > today;
    let so_far = if running { " so far" } else { "" };
    let against = format::change(&sum, &before_here)
        .map_or_else(String::new, |change| format!(", {change} against {} at this point", range.before_words()));
    Chart {
        caption: format!(
            "{} added up by day, {}.{}",
            words::title(meter),
            range.words(),
            if running { " Today is in progress." } else { "" }
        ),
        columns: vec![
            ChartColumn::new(if range.name == "month" { "This month" } else { "This range" }, 1),
            ChartColumn::new(words::title(&range.before_words()), 6),
        ],
        rows,
        csv: Some(format!("/usage.csv?by=day&{}", range.query())),
        cap: cap.map(plain),
        tall: true,
        live: running,
        ..Chart::new(
            "running",
            ChartKind::Cumulative,
            format!("{}, running total", words::title(meter)),
            format!("{} {name}{so_far}{against}.", format::quantity(&sum)),
        )
    }
}
