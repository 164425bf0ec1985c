use bigdecimal::BigDecimal;
use chrono::{DateTime, Duration, Utc};
use farebox_billing::{revenue, subscriptions, summary};
use farebox_core::money::{Currency, Money};
use farebox_core::period::{Period, local_date};
use farebox_insights::kpis::ConversionAnswer;

use super::{Days, MONEY};
use crate::context::Ctx;
use crate::failure::Failure;
use crate::pages::console::kpis::percent;
use crate::pages::console::months;
use crate::view::{Direction, Stat};
use crate::{account, format};

/// Calls of the month, against as much of the month before.
pub fn requests(days: &Days, month: Period, before: Period, ctx: &Ctx) -> Stat {
    let (tz, running) = (ctx.tz(), month.end > ctx.now());
    let (first, end) = (local_date(month.start, tz), local_date(month.end, tz));
    let total: BigDecimal = days.range(first..end).map(|(_, value)| value).sum();
    let gone = (local_date(ctx.now(), tz) - first).num_days() + 1;
    let first_before = local_date(before.start, tz);
    let end_before = if running { (first_before + Duration::days(gone)).min(first) } else { first };
    let comparable: BigDecimal = days.range(first_before..end_before).map(|(_, value)| value).sum();
    let stat = Stat::new("Requests", format::quantity(&total), "");
    let then = months::name(before, ctx);
    let (note, change) = match (format::change(&total, &comparable), running) {
        (Some(change), true) => (format!("on the same days of {then}"), Some(change)),
        (Some(change), false) => (format!("on {then}"), Some(change)),
        (None, true) => ("this month so far".into(), None),
        (None, false) => (months::name(month, ctx), None),
    };
    let stat = Stat { note, ..stat };
    match change {
        Some(change) => stat.change(change, if total >= comparable { Direction::Better } else { Direction::Worse }),
        None => stat,
    }
}

/// What recurs, and what usage brought: for those who may see money.
pub fn money(
    month: Period,
    stretches: &[revenue::Stretch],
    agreed: &[subscriptions::Subscription],
    periods: &[summary::PeriodSummary],
    ctx: &Ctx,
) -> Result<Vec<Stat>, Failure> {
    if !ctx.is(MONEY) {
        return Ok(Vec::new());
    }
    let (now, currency) = (ctx.now(), ctx.workspace.currency);
    let in_force = agreed.iter().filter(|s| s.at(now).is_some()).count();
    let mrr = recurring(stretches, now, currency)?;
    let note = format::counted(i64::try_from(in_force).unwrap_or(i64::MAX), "subscription", "subscriptions");
    let mut recurs = Stat::new("MRR", format::money(mrr), note).href("/console/revenue");
    if let Ok(moved) = mrr.checked_sub(recurring(stretches, now - Duration::days(30), currency)?)
        && !moved.is_zero()
    {
        let (sign, direction) = if moved.minor > 0 { ("+", Direction::Better) } else { ("", Direction::Worse) };
        recurs = recurs.change(format!("{sign}{} in 30 days,", format::money(moved)), direction);
    }
    // Usage is invoiced when its month is over.
    let running = account::month_of(ctx, now);
    let usage = match periods.iter().rfind(|p| p.start < month.end && p.start < running.start) {
        Some(p) => {
            let note = format!("invoiced for {}, before tax", format::month(local_date(p.start, ctx.tz())));
            Stat::new("Usage revenue", format::money(p.usage), note)
        }
        None => Stat::new("Usage revenue", "–", "no month is closed yet"),
    };
    Ok(vec![recurs, usage])
}

/// What recurs each month, of all subscriptions in force at an instant.
fn recurring(stretches: &[revenue::Stretch], at: DateTime<Utc>, currency: Currency) -> Result<Money, Failure> {
    let in_force = stretches.iter().filter(|s| !s.trial && s.monthly.currency == currency && s.from <= at && s.to.is_none_or(|to| at < to));
    Money::sum(in_force.map(|s| s.monthly), currency).map_err(|e| Failure::internal(&e))
}

pub fn activation(answer: &ConversionAnswer) -> Stat {
    let t = &answer.total;
    let note = format!("{} of {} new consumers within 7 days", format::count(t.converted.min(t.mature)), format::count(t.mature));
    Stat::new("Activation", percent(t.rate), note).href("/console/activation")
}
