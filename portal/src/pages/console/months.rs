//! The months one can choose from.

use farebox_billing::calendar;
use farebox_core::period::{Period, local_date};

use crate::context::Ctx;
use crate::{account, format};

/// Months one can look back to, and draw.
const MONTHS: usize = 12;

/// The running month and those before it, the newest first, as far as there is anything.
pub fn months(ctx: &Ctx) -> Vec<Period> {
    let mut months = vec![account::month_of(ctx, ctx.now())];
    while months.len() < MONTHS {
        let Some(last) = months.last().copied() else { break };
        months.push(account::month_before(ctx, last));
    }
    months
}

/// The chosen month of `months`, and all as choices: `2026-10`, `October 2026`.
pub fn choose(months: &[Period], asked: &str, ctx: &Ctx) -> (Period, Vec<(String, String, bool)>) {
    let tz = ctx.tz();
    let chosen = months
        .iter()
        .find(|month| calendar::name(**month, tz) == asked)
        .or(months.first())
        .copied()
        .unwrap_or(Period { start: ctx.now(), end: ctx.now() });
    let label = |month: &Period| format::month(local_date(month.start, tz));
    (chosen, months.iter().map(|month| (calendar::name(*month, tz), label(month), *month == chosen)).collect())
}

/// `October`.
pub fn name(month: Period, ctx: &Ctx) -> String {
    format::month(local_date(month.start, ctx.tz())).split(' ').next().unwrap_or_default().to_owned()
}
