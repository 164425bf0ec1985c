use bigdecimal::{BigDecimal, Zero};
use chrono::Duration;
use farebox_billing::summary;
use farebox_core::period::{Period, local_date};

use super::{Days, MONEY};
use crate::context::Ctx;
use crate::format;
use crate::pages::console::months;
use crate::view::{Chart, ChartColumn, ChartKind, ChartRow};

/// Each day of the month beside the same day of the month before.
pub fn traffic(days: &Days, month: Period, before: Period, ctx: &Ctx) -> Chart {
    let tz = ctx.tz();
    let today = local_date(ctx.now(), tz);
    let (first, end, first_before) = (local_date(month.start, tz), local_date(month.end, tz), local_date(before.start, tz));
    let end_before = local_date(before.end, tz);
    let rows = first.iter_days().take_while(|day| *day < end && *day <= today).enumerate().map(|(i, day)| {
        let twin = first_before + Duration::days(i64::try_from(i).unwrap_or(0));
        let value = |day| format::quantity(&days.get(&day).cloned().unwrap_or_else(BigDecimal::zero));
        ChartRow {
            label: format::day_month(day),
            cells: vec![value(day), if twin < end_before { value(twin) } else { String::new() }],
            now: day == today,
        }
    });
    let mut tick = ChartColumn::new(format!("{}, same day", months::name(before, ctx)), 6);
    tick.tick = true;
    let running = month.end > ctx.now();
    Chart {
        caption: format!("Every request by day, {}", format::days(first, end)),
        columns: vec![ChartColumn::new(months::name(month, ctx), 1), tick],
        rows: if days.is_empty() { Vec::new() } else { rows.collect() },
        live: running,
        ..Chart::new(
            "traffic",
            ChartKind::Stacked,
            "Traffic",
            if running { "Requests per day. Today is still running." } else { "Requests per day." },
        )
    }
}

pub fn earned(periods: &[summary::PeriodSummary], ctx: &Ctx) -> Chart {
    let money = ctx.is(MONEY);
    let rows = periods.iter().map(|p| ChartRow {
        label: format::month(local_date(p.start, ctx.tz())),
        cells: vec![format::money(p.fees), format::money(p.usage), format::money(p.other)],
        now: false,
    });
    Chart {
        first: "Month",
        caption: "Invoiced by month, before tax".into(),
        unit: format::currency_sign(ctx.workspace.currency),
        columns: vec![ChartColumn::new("Subscriptions", 1), ChartColumn::new("Usage", 2), ChartColumn::new("Minimums and the like", 0)],
        rows: if money { rows.collect() } else { Vec::new() },
        ..Chart::new(
            "revenue",
            ChartKind::Stacked,
            "Revenue",
            if money {
                "Invoiced by month, before tax. The running month is invoiced when it is over."
            } else {
                "For owners, admins and finance."
            },
        )
    }
}
