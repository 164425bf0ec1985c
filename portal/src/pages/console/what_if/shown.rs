//! The answer: what each plan comes to in all, and for each consumer.

use bigdecimal::BigDecimal;
use farebox_billing::what_if::WhatIf;
use farebox_core::money::{Currency, Money};

use super::asked::Chosen;
use crate::context::Ctx;
use crate::view::{Cell, Column, Table};
use crate::{format, words};

/// Rows of a table; the file has all.
const SHOWN: usize = 25;

/// The answer: in all and by consumer, for each currency.
#[derive(Debug, Clone)]
pub struct Found {
    pub heading: String,
    pub sentence: String,
    pub currencies: Vec<Currencies>,
    pub unpriced: Table,
}

#[derive(Debug, Clone)]
pub struct Currencies {
    pub code: String,
    pub totals: Table,
    pub rows: Table,
    /// What the bars and the length of the table mean.
    pub legend: String,
}

pub fn shown(found: &WhatIf, chosen: &Chosen, ctx: &Ctx) -> Found {
    let mut currencies: Vec<Currency> = found.rows.iter().map(|row| row.currency).collect();
    currencies.sort_by_key(|currency| currency.code());
    currencies.dedup();
    let several = currencies.len() > 1;
    let subscriptions = i64::try_from(found.rows.len()).unwrap_or(i64::MAX);
    let who = if chosen.on_plan.is_empty() { String::new() } else { format!(" that had {}", chosen.on_plan) };
    let columns = vec![Column::text("Consumer"), Column::text("Plan"), Column::text("Why not")];
    let unpriced = found
        .plans
        .iter()
        .flat_map(|plan| plan.unpriced.iter().map(|own| (own, plan.label.as_str())))
        .chain(found.unpriced.iter().map(|own| (own, "as it was")));
    let unpriced = unpriced.map(|(own, plan)| vec![Cell::text(&own.name), Cell::text(plan), Cell::text(words::sentence(&own.detail))]);
    Found {
        heading: format::period(found.from, found.to, ctx.tz()),
        sentence: format!("{}{who}, by the rules that invoices use.", format::counted(subscriptions, "subscription", "subscriptions")),
        currencies: currencies.into_iter().map(|currency| in_currency(found, currency, several)).collect(),
        unpriced: Table::new("Whom a plan cannot price", columns).dense().rows(unpriced.take(SHOWN)),
    }
}

fn in_currency(found: &WhatIf, currency: Currency, several: bool) -> Currencies {
    let rows: Vec<_> = found.rows.iter().filter(|row| row.currency == currency).collect();
    let longest = rows.iter().flat_map(|row| row.on.iter().flatten()).map(|on| on.difference.minor.unsigned_abs()).max().unwrap_or(0);
    let mut columns = vec![Column::text("Consumer"), Column::number("As it was")];
    columns.extend(found.plans.iter().map(|plan| Column::number(&plan.label)));
    let table = rows.iter().take(SHOWN).map(|row| {
        let name = Cell::link(&row.name, format!("/console/consumers/{}", row.consumer)).sub(row.plans.join(", "));
        let mut cells = vec![name, Cell::text(format::money(row.actual))];
        cells.extend(row.on.iter().map(|on| {
            on.map_or_else(
                || Cell::text("–").sub("not priced"),
                |on| Cell::text(format::money(on.simulated)).sub(signed(on.difference)).share(bar(on.difference, longest)),
            )
        }));
        cells
    });
    let of = |place: usize| found.plans[place].totals.iter().find(|total| total.currency == currency);
    let actual = Money::sum(rows.iter().map(|row| row.actual), currency).map_or_else(|_| "–".to_owned(), format::money);
    let mut foot = vec![Cell::text("All"), Cell::text(&actual)];
    foot.extend((0..found.plans.len()).map(|place| {
        of(place).map_or_else(|| Cell::text("–"), |total| Cell::text(format::money(total.simulated)).sub(signed(total.difference)))
    }));
    let named = |what: &str| if several { format!("{what}, {}", currency.code()) } else { what.to_owned() };
    let more = if rows.len() > SHOWN { format!(" The {SHOWN} greatest differences are shown; the file has all.") } else { String::new() };
    Currencies {
        code: currency.code().to_owned(),
        totals: totals(found, currency, rows.len(), &actual, &named("Each plan in all")),
        rows: Table::new(named("By consumer"), columns).dense().rows(table).foot(foot),
        legend: format!(
            "Below each amount what it differs by: to the left of the middle they would pay less, to the right more; the longest bar is {}.{more}",
            format::money(Money { minor: i64::try_from(longest).unwrap_or(i64::MAX), currency })
        ),
    }
}

fn totals(found: &WhatIf, currency: Currency, everybody: usize, actual: &str, caption: &str) -> Table {
    let columns = vec![
        Column::text("Plan"),
        Column::number("Amount"),
        Column::number("Difference"),
        Column::number("Pay less"),
        Column::number("Pay more"),
        Column::number("The same"),
        Column::number("Not priced"),
    ];
    let mut rows = vec![vec![Cell::text("As it was"), Cell::text(actual)]];
    rows[0].resize_with(columns.len(), || Cell::text("–"));
    let longest = found.plans.iter().flat_map(|plan| &plan.totals).filter(|total| total.currency == currency);
    let longest = longest.map(|total| total.difference.minor.unsigned_abs()).max().unwrap_or(0);
    for plan in &found.plans {
        let name = Cell::text(&plan.label);
        let name = if plan.draft { name.sub("not published") } else { name };
        let Some(total) = plan.totals.iter().find(|total| total.currency == currency) else {
            let mut row = vec![name];
            row.resize_with(columns.len() - 1, || Cell::text("–"));
            row.push(Cell::text(format::count(count(everybody))));
            rows.push(row);
            continue;
        };
        let priced = total.winners + total.losers + total.unchanged;
        let share = format::change(&total.simulated.to_decimal(), &total.actual.to_decimal());
        let difference = match share.filter(|_| !total.difference.is_zero()) {
            Some(share) => Cell::text(signed(total.difference)).sub(share),
            None => Cell::text(signed(total.difference)),
        };
        let difference = difference.share(bar(total.difference, longest));
        let mut row = vec![name, Cell::text(format::money(total.simulated)), difference];
        row.extend([total.winners, total.losers, total.unchanged, everybody - priced].map(|n| Cell::text(format::count(count(n)))));
        rows.push(row);
    }
    Table::new(caption, columns).dense().rows(rows)
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// `+$12.00`, `−$3.00`, `no difference`.
fn signed(difference: Money) -> String {
    match difference.minor {
        0 => "no difference".to_owned(),
        1.. => format!("+{}", format::money(difference)),
        _ => format::money(difference),
    }
}

/// From the middle: half of the bar is the longest difference.
fn bar(difference: Money, longest: u64) -> String {
    let side = if difference.minor < 0 { "less" } else { "more" };
    let class = format::share_class(&BigDecimal::from(difference.minor.unsigned_abs()), &(BigDecimal::from(longest) * BigDecimal::from(2)));
    format!("{class} {side}")
}
