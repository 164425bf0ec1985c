use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use bigdecimal::{BigDecimal, Zero};
use chrono::{DateTime, Duration, NaiveDate, Utc};
use farebox_billing::invoices::State as InvoiceState;
use farebox_billing::stripe::settings;
use farebox_billing::{calendar, revenue, subscriptions, summary};
use farebox_core::money::Money;
use farebox_core::period::{Period, Window, local_date};
use farebox_ingest::dead_letters;
use farebox_insights::calendar::Interval;
use farebox_insights::kpis::{self, ActivationParams, Common, FunnelParams};
use farebox_metering::dimension::Dimension;
use farebox_metering::usage::{self, UsageQuery};
use farebox_metering::{consumers, pipeline};
use serde::Deserialize;

use super::kpis::{funnel_table, percent};
use super::pipeline::{agreement, stages, up_to};
use crate::account;
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::people::Role;
use crate::view::{
    Action, Badge, Cell, Chart, ChartColumn, ChartKind, ChartRow, Column, Direction, Equation, Icon, Shell, Stat, Stats, Table,
};
use crate::{Portal, format, words};

#[derive(Debug, Clone, Template)]
#[template(path = "console/overview.html")]
pub struct OverviewPage {
    pub shell: Shell,
    pub now: String,
    pub months: Vec<(String, String, bool)>,
    pub stats: Stats,
    pub needs: Vec<Need>,
    pub agreement: Agreement,
    pub traffic: Chart,
    pub revenue: Chart,
    pub stages: Table,
    pub stages_note: String,
    pub funnel: Table,
    pub funnel_note: String,
    pub top: Table,
}

/// Something that waits for a person.
#[derive(Debug, Clone)]
pub struct Need {
    pub icon: Icon,
    pub class: &'static str,
    pub title: String,
    pub text: String,
    pub action: Action,
}

#[derive(Debug, Clone)]
pub struct Agreement {
    pub title: String,
    pub verdict: Badge,
    pub equation: Equation,
    pub note: String,
}

/// Months one can look back to, and draw.
const MONTHS: usize = 12;
const TOP: usize = 8;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    month: String,
}

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

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let (app, workspace, tz, now) = (&portal.app, &ctx.workspace.id, ctx.tz(), ctx.now());
    let months = months(&ctx);
    let (month, choices) = choose(&months, &asked.month, &ctx);
    let before = account::month_before(&ctx, month);
    let money = ctx.is(&[Role::Owner, Role::Admin, Role::Finance]);

    let (this, then) = tokio::try_join!(by_day(&portal, &ctx, month), by_day(&portal, &ctx, before))?;
    let activation = ActivationParams { common: weeks(), ..ActivationParams::default() };
    let funnel = FunnelParams { common: weeks(), ..FunnelParams::default() };
    let status = pipeline::status(app, workspace).await?;
    let (stored, counts, activation, funnel) = tokio::join!(
        pipeline::stored(app, workspace, status.until),
        dead_letters::counts(app, workspace),
        kpis::activation(app, workspace, &activation),
        kpis::funnel(app, workspace, &funnel),
    );
    let (stored, counts, activation, funnel) = (stored?, counts?, activation?, funnel?);
    let agreed = agreement(&status, stored);
    let (stages, stages_note) = stages(&portal, &ctx, &status).await?;

    let mut conn = app.pg.acquire().await?;
    let currency = ctx.workspace.currency;
    let since = months.last().map_or(month.start, |month| month.start);
    let periods = summary::by_period(&mut conn, workspace, currency, since).await?;
    let states = summary::by_state(&mut conn, workspace, currency, now).await?;
    let stretches = revenue::stretches(&mut conn, workspace).await?;
    let stripe = settings::status(&mut conn, workspace).await?;
    let agreed_now = subscriptions::list(&mut conn, workspace, None, i64::MAX, "").await?;
    drop(conn);

    let mrr = recurring(&stretches, now, currency)?;
    let mrr_before = recurring(&stretches, now - Duration::days(30), currency)?;
    let in_force = agreed_now.iter().filter(|s| s.at(now).is_some()).count();
    let total: BigDecimal = this.values().sum();
    let today = local_date(now, tz);
    let running = month.end > now;
    let comparable = same_days(&then, month, before, running.then_some(today), tz);
    let mut requests = Stat::new("Requests", format::quantity(&total), format!("on {}", words_of(before, &ctx)));
    if let Some(change) = format::change(&total, &comparable) {
        let direction = if total >= comparable { Direction::Better } else { Direction::Worse };
        requests = requests.change(change, direction);
        if running {
            requests.note = format!("on the same days of {}", words_of(before, &ctx));
        }
    } else {
        requests.note = if running { "this month so far".into() } else { words_of(month, &ctx) };
    }
    let mut stats = vec![requests];
    if money {
        let mut stat = Stat::new(
            "MRR",
            format::money(mrr),
            format::counted(i64::try_from(in_force).unwrap_or(i64::MAX), "subscription", "subscriptions"),
        );
        if let Ok(moved) = mrr.checked_sub(mrr_before)
            && !moved.is_zero()
        {
            let sign = if moved.minor > 0 { "+" } else { "" };
            stat = stat.change(
                format!("{sign}{} in 30 days,", format::money(moved)),
                if moved.minor > 0 { Direction::Better } else { Direction::Worse },
            );
        }
        stats.push(stat);
        let invoiced = periods.iter().find(|p| p.start == month.start).or(periods.last());
        stats.push(match invoiced {
            Some(p) => Stat::new(
                "Usage revenue",
                format::money(p.usage),
                format!("invoiced for {}, before tax", format::month(local_date(p.start, tz))),
            ),
            None => Stat::new("Usage revenue", "–", "no month is closed yet"),
        });
    }
    let t = &activation.total;
    stats.push(
        Stat::new(
            "Activation",
            percent(t.rate),
            format!("{} of {} new consumers within 7 days", format::count(t.converted.min(t.mature)), format::count(t.mature)),
        )
        .href("/console/activation"),
    );

    page(&OverviewPage {
        shell: ctx.shell("Overview", "/console"),
        now: format!("{}, {}", format::date_long(today), format::clock(now, tz)),
        months: choices,
        stats: Stats { stats },
        needs: needs(&ctx, &states, &stripe, counts.iter().map(|c| c.outstanding).sum(), agreed.agrees, money),
        agreement: Agreement {
            title: "Does it add up?".into(),
            verdict: agreed.verdict,
            equation: agreed.equation,
            note: up_to(&status, tz),
        },
        traffic: traffic(&this, &then, month, before, today, &ctx),
        revenue: earned(&periods, money, &ctx),
        stages,
        stages_note,
        funnel: if funnel.steps.first().is_some_and(|s| s.count == 0) { Table::default() } else { funnel_table(&funnel) },
        funnel_note: format!("Consumers who signed up since {}, so far.", format::date(local_date(funnel.about.from, tz))),
        top: top(&portal, &ctx, month, before, &agreed_now).await?,
    })
}

fn weeks() -> Common {
    Common { interval: Some(Interval::Week), ..Common::default() }
}

fn words_of(month: Period, ctx: &Ctx) -> String {
    format::month(local_date(month.start, ctx.tz())).split(' ').next().unwrap_or_default().to_owned()
}

/// Every call by day.
async fn by_day(portal: &Portal, ctx: &Ctx, month: Period) -> Result<BTreeMap<NaiveDate, BigDecimal>, Failure> {
    let query = UsageQuery::new(&ctx.workspace.id, "calls", month).windows(Window::Day, ctx.tz());
    let answer = usage::query(&portal.app, &query).await?;
    Ok(answer.rows.into_iter().map(|row| (local_date(row.window.start, ctx.tz()), row.value)).collect())
}

/// The sum of the month before, over as many days as the running month has had.
fn same_days(
    then: &BTreeMap<NaiveDate, BigDecimal>,
    month: Period,
    before: Period,
    today: Option<NaiveDate>,
    tz: chrono_tz::Tz,
) -> BigDecimal {
    let days = today.map(|today| (today - local_date(month.start, tz)).num_days() + 1);
    let first = local_date(before.start, tz);
    then.iter().filter(|(day, _)| days.is_none_or(|days| (**day - first).num_days() < days)).map(|(_, value)| value).sum()
}

/// What recurs each month, of all subscriptions in force at an instant.
fn recurring(stretches: &[revenue::Stretch], at: DateTime<Utc>, currency: farebox_core::money::Currency) -> Result<Money, Failure> {
    let in_force = stretches.iter().filter(|s| !s.trial && s.monthly.currency == currency && s.from <= at && s.to.is_none_or(|to| at < to));
    Money::sum(in_force.map(|s| s.monthly), currency).map_err(|e| Failure::internal(&e))
}

fn needs(ctx: &Ctx, states: &[summary::StateSummary], stripe: &settings::Status, letters: u64, agrees: bool, money: bool) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut need = |icon, class, title: String, text: String, label: &str, href: &str| {
        needs.push(Need { icon, class, title, text, action: Action::new(label, href) });
    };
    if !agrees {
        need(
            Icon::CircleAlert,
            "bad",
            "Stored and counted events differ.".into(),
            "If it stays for more than a moment, look at the pipeline.".into(),
            "Open",
            "/console/pipeline",
        );
    }
    if stripe.invoices.blocked > 0 && money {
        need(
            Icon::CircleAlert,
            "bad",
            format!("{} held back from Stripe.", format::counted(stripe.invoices.blocked, "invoice is", "invoices are")),
            "Each says why.".into(),
            "Open",
            "/console/invoices?state=issued",
        );
    }
    let failed = states.iter().find(|s| s.state == InvoiceState::Uncollectible);
    if let Some(failed) = failed.filter(|s| s.invoices > 0 && money) {
        need(
            Icon::CircleAlert,
            "bad",
            format!("{} could not be collected,", format::counted(failed.invoices, "invoice", "invoices")),
            format!("{} together.", format::money(failed.total)),
            "Open",
            "/console/invoices?state=uncollectible",
        );
    }
    let open = states.iter().find(|s| s.state == InvoiceState::Issued);
    if let Some(open) = open.filter(|s| s.late > 0 && money) {
        need(
            Icon::Clock,
            "warn",
            format!("{} past the due date,", format::counted(open.late, "invoice is", "invoices are")),
            format!("{} together.", format::money(open.late_total)),
            "Open",
            "/console/invoices?state=issued",
        );
    }
    if letters > 0 {
        let count = i64::try_from(letters).unwrap_or(i64::MAX);
        need(
            Icon::TriangleAlert,
            "warn",
            format!("{} in the dead letters.", format::counted(count, "event is", "events are")),
            "Each was rejected for a reason that can be repaired; then they are replayed.".into(),
            "Open",
            "/console/pipeline#dead",
        );
    }
    if !stripe.configured && ctx.is(&[Role::Owner, Role::Admin]) {
        need(
            Icon::CreditCard,
            "warn",
            "Stripe is not set up.".into(),
            "Invoices are issued, and nobody can pay them by card.".into(),
            "Set up",
            "/console/settings#stripe",
        );
    }
    needs
}

fn traffic(
    this: &BTreeMap<NaiveDate, BigDecimal>,
    then: &BTreeMap<NaiveDate, BigDecimal>,
    month: Period,
    before: Period,
    today: NaiveDate,
    ctx: &Ctx,
) -> Chart {
    let tz = ctx.tz();
    let (first, end, first_before) = (local_date(month.start, tz), local_date(month.end, tz), local_date(before.start, tz));
    let end_before = local_date(before.end, tz);
    let rows = first.iter_days().take_while(|day| *day < end && *day <= today).enumerate().map(|(i, day)| {
        let twin = first_before + Duration::days(i64::try_from(i).unwrap_or(0));
        let value = |of: &BTreeMap<NaiveDate, BigDecimal>, day| format::quantity(&of.get(&day).cloned().unwrap_or_else(BigDecimal::zero));
        ChartRow {
            label: format::day_month(day),
            cells: vec![value(this, day), if twin < end_before { value(then, twin) } else { String::new() }],
            now: day == today,
        }
    });
    let mut tick = ChartColumn::new(format!("{}, same day", words_of(before, ctx)), 6);
    tick.tick = true;
    let running = month.end > ctx.now();
    Chart {
        caption: format!("Every request by day, {}", format::days(first, end)),
        columns: vec![ChartColumn::new(words_of(month, ctx), 1), tick],
        rows: if this.is_empty() && then.is_empty() { Vec::new() } else { rows.collect() },
        live: running,
        ..Chart::new(
            "traffic",
            ChartKind::Stacked,
            "Traffic",
            if running { "Requests per day. Today is still running." } else { "Requests per day." },
        )
    }
}

/// Sign of a currency before each value of a chart, where it has one.
fn unit(currency: farebox_core::money::Currency) -> String {
    let zero = format::money_short(Money::zero(currency));
    zero.trim_end_matches('0').to_owned()
}

fn earned(periods: &[summary::PeriodSummary], money: bool, ctx: &Ctx) -> Chart {
    let rows = periods.iter().map(|p| ChartRow {
        label: format::month(local_date(p.start, ctx.tz())),
        cells: vec![format::money(p.fees), format::money(p.usage), format::money(p.other)],
        now: false,
    });
    Chart {
        first: "Month",
        caption: "Invoiced by month, before tax".into(),
        unit: unit(ctx.workspace.currency),
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

async fn top(portal: &Portal, ctx: &Ctx, month: Period, before: Period, agreed: &[subscriptions::Subscription]) -> Result<Table, Failure> {
    let (app, workspace) = (&portal.app, &ctx.workspace.id);
    let by_consumer = async |period| {
        let query = UsageQuery::new(workspace, "calls", period).by(Dimension::Consumer);
        let answer = usage::query(app, &query).await?;
        Ok::<_, Failure>(
            answer.rows.into_iter().filter_map(|row| Some((row.group.get("consumer")?.clone(), row.value))).collect::<BTreeMap<_, _>>(),
        )
    };
    let (this, then) = (by_consumer(month).await?, by_consumer(before).await?);
    let all: BigDecimal = this.values().sum();
    let mut busiest: Vec<_> = this.iter().filter(|(who, _)| !who.is_empty()).collect();
    busiest.sort_by(|a, b| b.1.cmp(a.1));
    busiest.truncate(TOP);
    let ids: Vec<String> = busiest.iter().map(|(who, _)| (*who).clone()).collect();
    let names: BTreeMap<String, String> =
        consumers::by_ids(&mut *app.pg.acquire().await?, workspace, &ids).await?.into_iter().map(|c| (c.id.to_string(), c.name)).collect();
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
        Column::number(format!("On all of {}", words_of(before, ctx))),
    ];
    Ok(Table::new("Top consumers", columns).rows(busiest.into_iter().map(|(who, value)| {
        let change = then.get(who).and_then(|then| format::change(value, then));
        vec![
            Cell::link(names.get(who).cloned().unwrap_or_else(|| who.clone()), format!("/console/consumers/{who}")),
            Cell::text(plan(who)),
            Cell::text(format::quantity(value)),
            Cell::text(format::percent(value, &all).unwrap_or_default()),
            Cell::text(change.unwrap_or_else(|| "new".into())),
        ]
    })))
}
