use axum::extract::{Query, State};
use axum::response::Response;
use std::collections::{BTreeMap, BTreeSet};

use farebox_core::ids::WorkspaceId;
use farebox_insights::action::CallFilter;
use farebox_insights::kpis::{self, Common, Deprecated, VersionsAnswer, VersionsParams};
use farebox_metering::apis;

use super::{Asked, Filter, INTERVALS, KpiPage, Part, Sheet, compared, definition, file, filter, interval_name, unit};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Cell, Chart, ChartColumn, ChartKind, ChartRow, Column, Stat, Stats, Table};
use crate::{Portal, format};

/// Versions drawn one by one; the others are one colour.
const DRAWN: u8 = 5;

async fn asked_for(portal: &Portal, workspace: &WorkspaceId, asked: &Asked) -> Result<VersionsAnswer, Failure> {
    let api = (!asked.api.is_empty()).then(|| asked.api.clone());
    let params = VersionsParams { common: Common { filter: CallFilter { api, ..CallFilter::default() }, ..asked.common() } };
    Ok(kpis::versions(&portal.app, workspace, &params).await?)
}

pub async fn versions(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let apis = apis::list(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id).await?;
    let answer = asked_for(&portal, &ctx.workspace.id, &asked).await?;
    let names: Vec<_> = apis.iter().map(|api| api.name.as_str()).collect();
    let (asked, called) = two_versions(asked, &answer);
    let (stale, on_it): (Vec<_>, BTreeSet<_>) = (
        answer.deprecated.iter().filter(|d| !d.consumers.is_empty()).collect(),
        answer.deprecated.iter().flat_map(|d| &d.consumers).map(|c| c.consumer.id.as_str()).collect(),
    );
    let next = stale.iter().filter_map(|d| d.sunset).min();
    let stats = vec![
        Stat::new("Deprecated versions in use", format::count(i128::try_from(stale.len()).unwrap_or(0)), "called in this range"),
        Stat::new("Consumers still on one", format::count(i128::try_from(on_it.len()).unwrap_or(0)), "to be contacted"),
        Stat::new("Next sunset", next.map_or_else(|| "–".to_owned(), format::date), "of a version that is still called"),
    ];
    let mut parts = vec![Part::Chart(chart(&answer, &asked))];
    parts.extend(compared::sheets(&portal, &ctx.workspace.id, &asked).await?.into_iter().map(Part::Sheet));
    parts.extend(answer.deprecated.iter().enumerate().map(|(n, version)| Part::Sheet(sheet(n, version))));
    page(&KpiPage {
        shell: ctx.shell("Versions", "/console/versions"),
        title: "Versions".into(),
        subtitle: "Which versions are called, and who is still on one that ends.".into(),
        csv: format!("/console/versions.csv?{}", asked.query()),
        definition: definition(
            &answer.about,
            "Calls",
            "are all requests to a version, as the gateway named it; deprecated is what the catalogue says.",
            &ctx,
        ),
        filters: filters(&names, &called, &asked),
        stats: Stats { stats },
        parts,
    })
}

/// Of an API that is chosen, or the only one that is called: the two versions to compare. Unless they are chosen, those
/// called most, the older name being the base; and all that are called.
fn two_versions(mut asked: Asked, answer: &VersionsAnswer) -> (Asked, Vec<String>) {
    let mut totals: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for row in answer.rows.iter().filter(|row| !row.api.is_empty() && !row.version.is_empty()) {
        *totals.entry((&row.api, &row.version)).or_default() += row.calls;
    }
    let apis: BTreeSet<_> = totals.keys().map(|(api, _)| *api).collect();
    if asked.api.is_empty() && apis.len() == 1 {
        asked.api = apis.first().map(ToString::to_string).unwrap_or_default();
    }
    let mut called: Vec<_> =
        totals.iter().filter(|((api, _), _)| *api == asked.api).map(|((_, version), calls)| (*version, *calls)).collect();
    called.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let mut most: Vec<_> = called.iter().take(2).map(|(version, _)| (*version).to_owned()).collect();
    most.sort();
    let known = |version: &str| called.iter().any(|(name, _)| *name == version);
    if !known(&asked.base) {
        asked.base = most.first().cloned().unwrap_or_default();
    }
    if !known(&asked.canary) || asked.canary == asked.base {
        asked.canary = most.iter().rfind(|version| **version != asked.base).cloned().unwrap_or_default();
    }
    (asked, called.into_iter().map(|(version, _)| version.to_owned()).collect())
}

fn filters(apis: &[&str], called: &[String], asked: &Asked) -> Vec<Filter> {
    let mut filters = vec![filter("interval", "By", &INTERVALS, &asked.interval), api_filter(apis, &asked.api)];
    if called.len() > 1 {
        let choices: Vec<_> = called.iter().map(|version| (version.as_str(), version.as_str())).collect();
        filters.push(filter("base", "Compare", &choices, &asked.base));
        filters.push(filter("canary", "with", &choices, &asked.canary));
    }
    filters
}

fn api_filter(names: &[&str], asked: &str) -> Filter {
    let mut choices = vec![("", "All APIs")];
    choices.extend(names.iter().map(|name| (*name, *name)));
    filter("api", "API", &choices, asked)
}

fn chart(answer: &VersionsAnswer, asked: &Asked) -> Chart {
    let interval = asked.interval();
    let mut totals: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut by_period: BTreeMap<_, BTreeMap<(&str, &str), u64>> = BTreeMap::new();
    let mut unfinished = BTreeSet::new();
    for row in &answer.rows {
        let version = (row.api.as_str(), row.version.as_str());
        *totals.entry(version).or_default() += row.calls;
        *by_period.entry(row.period).or_default().entry(version).or_default() += row.calls;
        if !row.complete {
            unfinished.insert(row.period);
        }
    }
    let mut busiest: Vec<_> = totals.iter().collect();
    busiest.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let mut drawn: Vec<_> = busiest.iter().map(|(version, _)| **version).take(usize::from(DRAWN)).collect();
    drawn.sort_unstable();
    let others = totals.len() > drawn.len();
    let name = |(api, version): &(&str, &str)| format!("{} {version}", if api.is_empty() { "no API" } else { api }).trim_end().to_owned();
    let mut columns: Vec<_> = drawn.iter().zip(1..=DRAWN).map(|(version, color)| ChartColumn::new(name(version), color)).collect();
    if others {
        columns.push(ChartColumn::new("Others", 6));
    }
    let rows = by_period.iter().map(|(period, calls)| {
        let mut cells: Vec<_> = drawn.iter().map(|version| calls.get(version).copied().unwrap_or(0)).collect();
        if others {
            cells.push(calls.values().sum::<u64>() - cells.iter().sum::<u64>());
        }
        ChartRow {
            label: interval_name(*period, interval),
            cells: cells.into_iter().map(format::count).collect(),
            now: unfinished.contains(period),
        }
    });
    Chart {
        first: "Interval",
        caption: format!("Calls by version and {}", unit(interval)),
        columns,
        rows: rows.collect(),
        ..Chart::new("versions", ChartKind::Stacked, "Calls by version", "Hatched is not finished.")
    }
}

fn sheet(n: usize, version: &Deprecated) -> Sheet {
    let columns = vec![Column::text("Consumer"), Column::text("E-mail"), Column::number("Calls"), Column::text("Last call")];
    let rows = version.consumers.iter().map(|c| {
        vec![
            Cell::link(&c.consumer.name, format!("/console/consumers/{}", c.consumer.id)),
            Cell::text(c.email.as_deref().unwrap_or("–")),
            Cell::text(format::count(c.calls)),
            Cell::text(format::date(c.last_call)),
        ]
    });
    let sunset = version.sunset.map_or_else(String::new, |at| format!(", switched off on {}", format::date(at)));
    Sheet {
        id: format!("deprecated-{n}"),
        title: format!("Still on {} {}", version.api, version.version),
        note: format!("Deprecated since {}{sunset}.", format::date(version.deprecated)),
        table: Table::new(format!("Still on {} {}", version.api, version.version), columns).dense().rows(rows),
        empty: "Nobody has called it in this range.",
    }
}

pub async fn versions_file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    Ok(file("versions", &asked_for(&portal, &ctx.workspace.id, &asked).await?))
}
