//! Who is behind one cell of the matrix.

use std::collections::BTreeSet;

use chrono::{Duration, Months, NaiveDate};
use farebox_core::period::{Period, start_of_day};
use farebox_insights::calendar::Interval;
use farebox_insights::kpis::{Cohorts, RetentionAnswer};
use farebox_insights::ratio::Ratio;
use farebox_metering::{activity, consumers};

use super::super::{Asked, interval_name, percent, unit};
use crate::context::Ctx;
use crate::failure::Failure;
use crate::view::{Cell, Column, Table};
use crate::{Portal, format};

#[derive(Debug, Clone)]
pub struct Drill {
    pub title: String,
    pub subtitle: String,
    pub figure: String,
    pub unit: String,
    pub note: String,
    pub table: Table,
    pub close: String,
}

/// The first day of the n-th interval after the one that starts on `day`.
fn later(day: NaiveDate, interval: Interval, n: u32) -> Option<NaiveDate> {
    match interval {
        Interval::Day => day.checked_add_signed(Duration::days(n.into())),
        Interval::Week => day.checked_add_signed(Duration::weeks(n.into())),
        Interval::Month => day.checked_add_months(Months::new(n)),
    }
}

/// Who is behind one cell: of the cohort, those who were not there.
pub async fn drill(portal: &Portal, ctx: &Ctx, asked: &Asked, answer: &RetentionAnswer) -> Result<Option<Drill>, Failure> {
    let (Ok(cohort), Some(n)) = (asked.of.parse::<NaiveDate>(), asked.n) else { return Ok(None) };
    let Some(row) = answer.rows.iter().find(|row| row.cohort == cohort) else { return Ok(None) };
    let (Some(value), Some(complete)) = (row.values.get(n as usize), row.complete.get(n as usize)) else { return Ok(None) };
    let interval = asked.interval();
    let bounds = || Some((later(cohort, interval, 1)?, later(cohort, interval, n)?, later(cohort, interval, n + 1)?));
    let Some((cohort_end, from, until)) = bounds() else { return Ok(None) };
    let at = |day| start_of_day(day, ctx.tz());
    let end = if answer.mode == "unbounded" { answer.about.to.max(at(until)) } else { at(until) };
    let calls = |start, end| activity::Calls {
        workspace: ctx.workspace.id.clone(),
        unit: activity::Unit::Consumer,
        period: Period { start, end },
        api: None,
        api_version: None,
        route: None,
    };
    let mut started: BTreeSet<String> =
        activity::days(&portal.app, &calls(at(cohort), at(cohort_end)), ctx.tz()).await?.into_iter().map(|d| d.who).collect();
    if answer.cohort == Cohorts::FirstTime {
        let before = calls(at(cohort) - Duration::days(3650), at(cohort));
        for day in activity::days(&portal.app, &before, ctx.tz()).await? {
            started.remove(&day.who);
        }
    }
    let back = activity::days(&portal.app, &calls(at(from), end), ctx.tz()).await?;
    let there: BTreeSet<String> = back.into_iter().map(|d| d.who).collect();
    let gone: Vec<String> = started.difference(&there).cloned().collect();
    let named = consumers::by_ids(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, &gone).await?;
    let name = unit(interval);
    let table = Table::new(format!("Not there in {name} {n}"), vec![Column::text("Consumer"), Column::number("Signed up")])
        .dense()
        .with_caption()
        .rows(named.iter().map(|c| {
            vec![
                Cell::link(&c.name, format!("/console/consumers/{}", c.id)),
                Cell::text(format::day_month(c.signed_up_at.with_timezone(&ctx.tz()).date_naive())),
            ]
        }));
    let mean = answer.mean.get(n as usize).copied().flatten();
    Ok(Some(Drill {
        title: format!("Cohort of {}, {name} {n}", interval_name(cohort, interval)),
        subtitle: format!("{}{}", format::days(from, until), if *complete { ", complete" } else { ", not finished" }),
        figure: format::count(*value),
        unit: format!("of {} retained, {}", format::count(row.size), percent(Ratio::of(*value, row.size))),
        note: format!("Mean of all complete cohorts in {name} {n}: {}.", percent(mean)),
        table,
        close: format!("/console/retention?{}", asked.query()),
    }))
}
