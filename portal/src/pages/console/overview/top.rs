use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use farebox_billing::subscriptions::Subscription;
use farebox_core::period::{Period, Window};
use farebox_metering::consumers;
use farebox_metering::dimension::Dimension;
use farebox_metering::usage::{self, UsageQuery};

use crate::context::Ctx;
use crate::failure::Failure;
use crate::pages::console::months;
use crate::view::{Cell, Column, Table};
use crate::{Portal, format, words};

const TOP: usize = 8;

/// Calls by consumer, of a month and of the one before.
pub struct Callers {
    this: BTreeMap<String, BigDecimal>,
    then: BTreeMap<String, BigDecimal>,
    names: BTreeMap<String, String>,
}

pub async fn callers(portal: &Portal, ctx: &Ctx, month: Period, before: Period) -> Result<Callers, Failure> {
    let both = Period { start: before.start, end: month.end };
    let query = UsageQuery::new(&ctx.workspace.id, "calls", both).windows(Window::Month, ctx.tz()).by(Dimension::Consumer);
    let (mut this, mut then) = (BTreeMap::new(), BTreeMap::new());
    for mut row in usage::query(&portal.app, &query).await?.rows {
        let of = if row.window.start < month.start { &mut then } else { &mut this };
        of.insert(row.group.remove("consumer").unwrap_or_default(), row.value);
    }
    let ids: Vec<String> = busiest(&this).into_iter().map(|(who, _)| who.clone()).collect();
    let named = consumers::by_ids(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, &ids).await?;
    Ok(Callers { this, then, names: named.into_iter().map(|c| (c.id.to_string(), c.name)).collect() })
}

/// Those known, the one that calls most first.
fn busiest(of: &BTreeMap<String, BigDecimal>) -> Vec<(&String, &BigDecimal)> {
    let mut busiest: Vec<_> = of.iter().filter(|(who, _)| !who.is_empty()).collect();
    busiest.sort_by(|a, b| b.1.cmp(a.1));
    busiest.truncate(TOP);
    busiest
}

pub fn table(callers: &Callers, ctx: &Ctx, before: Period, agreed: &[Subscription]) -> Table {
    let Callers { this, then, names } = callers;
    let all: BigDecimal = this.values().sum();
    let now = ctx.now();
    let plan = |who: &str| {
        agreed
            .iter()
            .filter(|s| s.consumer.as_str() == who)
            .find_map(|s| s.at(now))
            .map_or_else(|| "–".to_owned(), |p| words::title(&p.plan))
    };
    let columns = vec![
        Column::text("Consumer"),
        Column::text("Plan"),
        Column::number("Requests"),
        Column::number("Of all"),
        Column::number(format!("On all of {}", months::name(before, ctx))),
    ];
    Table::new("Top consumers", columns).rows(busiest(this).into_iter().map(|(who, value)| {
        let change = then.get(who).and_then(|then| format::change(value, then));
        vec![
            Cell::link(names.get(who).cloned().unwrap_or_else(|| who.clone()), format!("/console/consumers/{who}")),
            Cell::text(plan(who)),
            Cell::text(format::quantity(value)),
            Cell::text(format::percent(value, &all).unwrap_or_default()),
            Cell::text(change.unwrap_or_else(|| "new".into())),
        ]
    }))
}
