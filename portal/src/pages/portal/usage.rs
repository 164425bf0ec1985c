use std::collections::{BTreeMap, HashMap};

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use bigdecimal::{BigDecimal, Zero};
use chrono::{Duration, NaiveDate};
use farebox_core::ids::ConsumerId;
use farebox_core::money::plain;
use farebox_core::period::{Period, Window, local_date, start_of_day};
use farebox_metering::dimension::Dimension;
use farebox_metering::usage::{self, UsageQuery};
use farebox_metering::{credentials, latest};
use serde::Deserialize;

use crate::account::{self, Agreement};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Badge, Chart, ChartColumn, ChartKind, ChartRow, Facts, Meter, Note, RulerMark, Shell, Tone};
use crate::{Portal, csv, format, words};

/// What is used, by day, route and status, against what the plan holds.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/usage.html")]
pub struct UsagePage {
    pub shell: Shell,
    pub subtitle: String,
    pub ranges: Vec<RangeChoice>,
    pub from: String,
    pub to: String,
    pub allowance: Allowance,
    pub running: Chart,
    pub routes: Chart,
    pub statuses: Chart,
    pub tail: TailPart,
}

#[derive(Debug, Clone)]
pub struct RangeChoice {
    pub value: String,
    pub label: String,
    pub selected: bool,
}

#[derive(Debug, Clone)]
pub struct Allowance {
    pub heading: String,
    pub figure: String,
    pub unit: String,
    pub facts: Facts,
    pub meter: Option<Meter>,
    pub note: Option<Note>,
}

#[derive(Debug, Clone)]
pub struct Call {
    pub time: String,
    pub request: String,
    pub status: Badge,
    pub took: String,
    pub key: String,
    pub counts: String,
    /// Why it ended like this and what to do; empty for calls that went well.
    pub why_title: String,
    pub why: String,
}

/// The latest requests; asks for itself again while live.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/usage_tail.html")]
pub struct TailPart {
    pub calls: Vec<Call>,
    pub live: bool,
    pub zone: String,
    /// The query that keeps the page's filters.
    pub query: String,
}

impl askama::filters::HtmlSafe for TailPart {}

/// Routes drawn one by one; the others are summed.
const ROUTES: usize = 10;
const TAIL: usize = 20;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    range: String,
    from: String,
    to: String,
    live: String,
    by: String,
}

/// What is looked at: whole days of the workspace's zone.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub name: &'static str,
    pub from: NaiveDate,
    pub until: NaiveDate,
    /// What it is compared with: as long, right before.
    pub before: (NaiveDate, NaiveDate),
}

const RANGES: [(&str, &str); 5] =
    [("month", "This month"), ("last", "Last month"), ("7d", "Last 7 days"), ("30d", "Last 30 days"), ("custom", "Days below")];

impl Range {
    pub fn this_month(ctx: &Ctx) -> Self {
        Self::of(ctx, &Asked::default())
    }

    fn of(ctx: &Ctx, asked: &Asked) -> Self {
        let tz = ctx.tz();
        let today = local_date(ctx.now(), tz);
        let day = |at| local_date(at, tz);
        let month = account::month_of(ctx, ctx.now());
        let last = account::month_before(ctx, month);
        let back = |days: i64| {
            let from = today - Duration::days(days - 1);
            Self {
                name: if days == 7 { "7d" } else { "30d" },
                from,
                until: today + Duration::days(1),
                before: (from - Duration::days(days), from),
            }
        };
        let this = Self { name: "month", from: day(month.start), until: day(month.end), before: (day(last.start), day(last.end)) };
        match asked.range.as_str() {
            "last" => {
                let before = account::month_before(ctx, last);
                Self { name: "last", from: day(last.start), until: day(last.end), before: (day(before.start), day(before.end)) }
            }
            "7d" => back(7),
            "30d" => back(30),
            "custom" => match (asked.from.parse::<NaiveDate>(), asked.to.parse::<NaiveDate>()) {
                (Ok(from), Ok(to)) if from <= to && (to - from).num_days() < 400 => {
                    let until = to + Duration::days(1);
                    Self { name: "custom", from, until, before: (from - (until - from), from) }
                }
                _ => this,
            },
            _ => this,
        }
    }

    pub fn period(&self, ctx: &Ctx) -> Period {
        Period { start: start_of_day(self.from, ctx.tz()), end: start_of_day(self.until, ctx.tz()) }
    }

    fn before_period(&self, ctx: &Ctx) -> Period {
        Period { start: start_of_day(self.before.0, ctx.tz()), end: start_of_day(self.before.1, ctx.tz()) }
    }

    fn words(&self) -> String {
        format::days(self.from, self.until)
    }

    fn before_words(&self) -> String {
        match self.name {
            "month" => "last month".into(),
            "last" => "the month before".into(),
            _ => format::days(self.before.0, self.before.1),
        }
    }

    fn query(&self) -> String {
        format!("range={}&from={}&to={}", self.name, self.from, self.until - Duration::days(1))
    }

    fn days(&self) -> impl Iterator<Item = NaiveDate> {
        self.from.iter_days().take_while(|day| *day < self.until)
    }
}

/// A meter of a consumer by day.
async fn by_day(
    portal: &Portal,
    ctx: &Ctx,
    consumer: &ConsumerId,
    meter: &str,
    period: Period,
) -> Result<BTreeMap<NaiveDate, BigDecimal>, Failure> {
    let query = UsageQuery::new(&ctx.workspace.id, meter, period).windows(Window::Day, ctx.tz()).of_consumer(consumer);
    let answer = usage::query(&portal.app, &query).await?;
    Ok(answer.rows.into_iter().map(|row| (local_date(row.window.start, ctx.tz()), row.value)).collect())
}

/// Running total by day against the stretch before.
pub async fn running(
    portal: &Portal,
    ctx: &Ctx,
    consumer: &ConsumerId,
    range: &Range,
    meter: &str,
    cap: Option<&BigDecimal>,
) -> Result<(Chart, BigDecimal), Failure> {
    let (now, before) = tokio::try_join!(
        by_day(portal, ctx, consumer, meter, range.period(ctx)),
        by_day(portal, ctx, consumer, meter, range.before_period(ctx)),
    )?;
    let today = local_date(ctx.now(), ctx.tz());
    let mut previous = range.before.0.iter_days().take_while(|day| *day < range.before.1);
    let (mut sum, mut sum_before, mut before_here) = (BigDecimal::zero(), BigDecimal::zero(), BigDecimal::zero());
    let mut rows = Vec::new();
    for day in range.days() {
        let then = previous.next().map(|then| {
            sum_before += before.get(&then).cloned().unwrap_or_default();
            sum_before.clone()
        });
        let here = (day <= today).then(|| {
            sum += now.get(&day).cloned().unwrap_or_default();
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
    let chart = Chart {
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
    };
    Ok((chart, sum))
}

/// Usage by route, the busiest first.
async fn by_route(portal: &Portal, ctx: &Ctx, consumer: &ConsumerId, period: Period) -> Result<Vec<(String, BigDecimal)>, Failure> {
    let query = UsageQuery::new(&ctx.workspace.id, "requests", period).by(Dimension::Method).by(Dimension::Route).of_consumer(consumer);
    let answer = usage::query(&portal.app, &query).await?;
    let mut routes: Vec<_> = answer.rows.into_iter().map(|row| (route_name(&row.group), row.value)).collect();
    routes.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(routes)
}

fn route_name(group: &BTreeMap<String, String>) -> String {
    let part = |name: &str| group.get(name).map(String::as_str).unwrap_or_default();
    match (part("method"), part("route")) {
        (method, "") => format!("{method} (no route)").trim_start().to_owned(),
        (method, route) if route.starts_with(method) => route.to_owned(),
        (method, route) => format!("{method} {route}"),
    }
}

pub async fn routes(portal: &Portal, ctx: &Ctx, consumer: &ConsumerId, range: &Range) -> Result<Chart, Failure> {
    let mut routes = by_route(portal, ctx, consumer, range.period(ctx)).await?;
    let count = routes.len();
    let total: BigDecimal = routes.iter().map(|route| &route.1).sum();
    if count > ROUTES {
        let others: BigDecimal = routes.drain(ROUTES - 1..).map(|route| route.1).sum();
        routes.push((format!("{} others", count - ROUTES + 1), others));
    }
    let rows = routes.iter().map(|(name, value)| ChartRow {
        label: name.clone(),
        cells: vec![format::quantity(value), format::percent(value, &total).unwrap_or_default()],
        now: false,
    });
    Ok(Chart {
        first: "Route",
        caption: format!("Requests that count, by route, {}", range.words()),
        columns: vec![ChartColumn::new("Requests", 1), ChartColumn::new("Share", 0)],
        rows: rows.collect(),
        total: vec![format::quantity(&total), "100\u{a0}%".into()],
        csv: Some(format!("/usage.csv?by=route&{}", range.query())),
        live: true,
        ..Chart::new(
            "routes",
            ChartKind::Bars,
            "By route",
            format!(
                "{}, {} requests that count.",
                format::counted(i64::try_from(count).unwrap_or(i64::MAX), "route", "routes"),
                format::quantity(&total)
            ),
        )
    })
}

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

async fn statuses(portal: &Portal, ctx: &Ctx, consumer: &ConsumerId, range: &Range) -> Result<Chart, Failure> {
    let period = range.period(ctx);
    let query = UsageQuery::new(&ctx.workspace.id, "calls", period)
        .windows(Window::Day, ctx.tz())
        .by(Dimension::Status)
        .by(Dimension::Counted)
        .of_consumer(consumer);
    let answer = usage::query(&portal.app, &query).await?;
    let (mut all, mut good, mut free) = (BigDecimal::zero(), BigDecimal::zero(), BigDecimal::zero());
    let mut days: BTreeMap<NaiveDate, [BigDecimal; 6]> = BTreeMap::new();
    let mut totals: [BigDecimal; 6] = Default::default();
    for row in answer.rows {
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

/// What the plan in force includes, and what is used of it in the running month.
async fn allowance(portal: &Portal, ctx: &Ctx, consumer: &ConsumerId, agreement: Option<&Agreement>) -> Result<Allowance, Failure> {
    let month = account::month_of(ctx, ctx.now());
    let (tz, now) = (ctx.tz(), ctx.now());
    let included = agreement.and_then(|a| words::allowance(&a.plan.definition, a.plan.free));
    let meter = included.as_ref().map_or("requests", |a| a.meter.as_str()).to_owned();
    let used = usage::query(&portal.app, &UsageQuery::new(&ctx.workspace.id, &meter, month).of_consumer(consumer)).await?;
    let used = used.rows.into_iter().next().map(|row| row.value).unwrap_or_default();
    let name = words::meter(&meter);
    let resets = format!("{}, {}", format::instant(month.end, tz), format::relative(month.end, now));
    let Some(included) = included else {
        let mut facts = Facts::default().with("Month ends", resets);
        if let Some(a) = agreement {
            facts = facts.with(
                "Plan",
                format!("{}, {}", words::title(&a.plan.name), words::headline(&a.plan.definition, a.plan.free, ctx.workspace.currency)),
            );
        }
        let note = agreement.is_none().then(|| {
            Note::new(Tone::Warn, "No plan is in force.", "Choose one so that your calls are let through.").with("Choose a plan", "/plan")
        });
        return Ok(Allowance { heading: "Used this month".into(), figure: format::quantity(&used), unit: name, facts, meter: None, note });
    };
    let left = (&included.units - &used).max(BigDecimal::zero());
    let forecast = project(&used, month, now);
    let over = used > included.units;
    let mut facts = Facts::default();
    facts = if over {
        facts.with("Beyond", format!("{} {name}", format::quantity(&(&used - &included.units))))
    } else {
        let share = format::percent(&left, &included.units).map_or_else(String::new, |p| format!(" ({p})"));
        facts.with("Left", format!("{} {name}{share}", format::quantity(&left)))
    };
    facts = facts.with("Resets", resets);
    if let Some(forecast) = &forecast {
        let last = local_date(month.end, tz).pred_opt().map_or_else(String::new, format::day_month);
        facts = facts.with(format!("By {last}"), format!("about {} at this pace", format::quantity(forecast)));
    }
    let passes = forecast.as_ref().is_some_and(|f| *f > included.units);
    let what = if included.refused_beyond {
        "Further calls are refused until then."
    } else if included.charged_beyond {
        "Calls keep working and are charged by your plan's prices."
    } else {
        "Calls keep working."
    };
    let note = if over {
        Some(Note::new(Tone::Warn, "Your allowance is used up.", what).with("See your plan", "/plan"))
    } else if passes {
        let text =
            if included.refused_beyond { "At this pace calls will be refused before the month ends.".to_owned() } else { what.to_owned() };
        Some(Note::new(Tone::Warn, "At this pace you will pass your allowance this month.", text).with("See your plan", "/plan"))
    } else if used.is_zero() {
        Some(
            Note::new(Tone::Plain, "No calls this month yet.", "The first one shows up here within seconds.").with("Make a call", "/start"),
        )
    } else {
        None
    };
    Ok(Allowance {
        heading: "Used of your allowance".into(),
        figure: format::quantity(&used),
        unit: format!("of {} {name}", format::quantity(&included.units)),
        facts,
        meter: Some(gauge(&used, &included.units, forecast.as_ref(), &name)),
        note,
    })
}

/// What the month comes to when the rest goes like the part so far; `None` in its first day, which tells little.
fn project(used: &BigDecimal, month: Period, now: chrono::DateTime<chrono::Utc>) -> Option<BigDecimal> {
    let (gone, whole) = ((now - month.start).num_seconds(), (month.end - month.start).num_seconds());
    if gone < 86_400 || gone >= whole || used.is_zero() {
        return None;
    }
    Some((used * BigDecimal::from(whole) / BigDecimal::from(gone)).with_scale_round(0, bigdecimal::RoundingMode::HalfUp))
}

/// The scale ends with the allowance, or beyond it where usage or its forecast does; at most at four times of it.
fn gauge(used: &BigDecimal, units: &BigDecimal, forecast: Option<&BigDecimal>, name: &str) -> Meter {
    let most = forecast.into_iter().chain([used, units]).max().unwrap_or(units);
    let beyond = most > units;
    let scale = if beyond { (most * BigDecimal::from(21) / BigDecimal::from(20)).min(units * BigDecimal::from(4)) } else { units.clone() };
    let at = |value: &BigDecimal| format::share_class(value, &scale);
    let half = units / BigDecimal::from(2);
    let mut ruler = vec![RulerMark { at: "v0".into(), text: "0".into() }];
    if !beyond {
        ruler.push(RulerMark { at: at(&half), text: format::quantity(&half.with_scale_round(0, bigdecimal::RoundingMode::HalfUp)) });
    }
    ruler.push(RulerMark { at: at(units), text: format::quantity(units) });
    let drawn = forecast.filter(|forecast| *forecast > used);
    Meter {
        label: "Used of your allowance".into(),
        now: plain(used),
        max: plain(if beyond { most } else { units }),
        text: format!("{} of {} {name} used", format::quantity(used), format::quantity(units)),
        used: at(used),
        cap: beyond.then(|| at(units)),
        forecast: drawn.map(|forecast| (at(used), at(forecast))),
        thin: false,
        ruler,
    }
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let consumer = ctx.consumer()?;
    let range = Range::of(&ctx, &asked);
    let agreements = account::in_force(&mut *portal.app.pg.acquire().await?, &ctx, consumer).await?;
    let agreement = agreements.first();
    let included = agreement.and_then(|a| words::allowance(&a.plan.definition, a.plan.free));
    let meter = included.as_ref().map_or("requests", |a| a.meter.as_str());
    let cap = included.as_ref().filter(|_| range.name == "month").map(|a| &a.units);
    let (allowance, (running, _), routes, statuses, tail) = tokio::try_join!(
        allowance(&portal, &ctx, consumer, agreement),
        self::running(&portal, &ctx, consumer, &range, meter, cap),
        self::routes(&portal, &ctx, consumer, &range),
        self::statuses(&portal, &ctx, consumer, &range),
        tail(&portal, &ctx, consumer, &range, asked.live != "off"),
    )?;
    let ranges = RANGES.map(|(value, label)| RangeChoice { value: value.into(), label: label.into(), selected: value == range.name });
    page(&UsagePage {
        shell: ctx.shell("Usage", "/usage"),
        subtitle: format!("{}, all keys. Updated {}.", range.words(), format::clock(ctx.now(), ctx.tz())),
        ranges: ranges.into(),
        from: range.from.to_string(),
        to: (range.until - Duration::days(1)).to_string(),
        allowance,
        running,
        routes,
        statuses,
        tail,
    })
}

async fn tail(portal: &Portal, ctx: &Ctx, consumer: &ConsumerId, range: &Range, live: bool) -> Result<TailPart, Failure> {
    let keys = credentials::list(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, consumer).await?;
    let names: HashMap<&str, &str> = keys.iter().map(|key| (key.id.as_str(), key.name.as_str())).collect();
    let mut period = range.period(ctx);
    period.end = period.end.min(ctx.now() + Duration::minutes(5)).max(period.start);
    let today = local_date(ctx.now(), ctx.tz());
    let calls = if period.is_empty() { Vec::new() } else { latest::calls(&portal.app, &ctx.workspace.id, consumer, period, TAIL).await? };
    let calls = calls.into_iter().map(|call| {
        let (why_title, why) = why(&call);
        let day = local_date(call.at, ctx.tz());
        let clock = format::clock_millis(call.at, ctx.tz());
        Call {
            time: if day == today { clock } else { format!("{} {clock}", format::day_month(day)) },
            request: if call.route.is_empty() { format!("{} (no route)", call.method) } else { format!("{} {}", call.method, call.route) },
            status: status_badge(&call),
            took: format::took(call.latency_us.into()),
            key: names.get(call.credential.as_str()).map_or_else(|| "–".to_owned(), |name| (*name).to_owned()),
            counts: if call.reason.is_empty() { "1 request".into() } else { "Not counted".into() },
            why_title,
            why,
        }
    });
    Ok(TailPart {
        calls: calls.collect(),
        live: live && range.until > today,
        zone: format::zone(ctx.now(), ctx.tz()),
        query: range.query(),
    })
}

fn status_badge(call: &latest::Call) -> Badge {
    let word = match call.status {
        400 => " bad request",
        401 => " no valid key",
        402 => " unpaid",
        403 => " not in your plan",
        404 => " not found",
        429 => " too fast",
        500..=599 => " our fault",
        _ => "",
    };
    let tone = match call.status {
        429 | 401..=403 => Tone::Warn,
        500..=599 => Tone::Bad,
        _ => Tone::Plain,
    };
    Badge::new(tone, format!("{}{word}", call.status))
}

/// Why a call that did not succeed ended so, and what to do.
fn why(call: &latest::Call) -> (String, String) {
    let counts = if call.reason.is_empty() { "An answer is an answer: it counts as one request." } else { "It does not count." };
    let text = match call.status {
        ..=399 => return (String::new(), String::new()),
        401 => "The key is missing, mistyped, revoked or expired. Send a key that works in x-api-key.",
        402 => "An invoice is unpaid for too long. Pay it, and calls are let through again.",
        403 => "Your plan does not include this route. Change to one that does.",
        404 if call.route.is_empty() => "No route of the API fits this address. Check the path and the method.",
        404 => "The API has nothing under this address.",
        429 => {
            "Your plan's limit was reached. Wait for the time in Retry-After, then try again; if bursts are normal for you, choose a plan with a higher limit."
        }
        400..=499 => "The API could not take the request as it was sent. Its answer says what to change.",
        500..=599 => "The API failed. Try again; if it goes on, tell whoever runs it.",
        _ => "The answer had an unusual status.",
    };
    (format!("Why {}, and what to do", call.status), format!("{text} {counts}"))
}

/// The tail alone, while it is live.
pub async fn tail_part(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let range = Range::of(&ctx, &asked);
    page(&tail(&portal, &ctx, ctx.consumer()?, &range, true).await?)
}

/// The numbers behind a chart. Plain decimals, ISO dates.
pub async fn file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let (range, consumer) = (Range::of(&ctx, &asked), ctx.consumer()?);
    let name = format!("usage-{}-{}-{}", if asked.by.is_empty() { "day" } else { &asked.by }, range.from, range.until - Duration::days(1))
        .replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "");
    match asked.by.as_str() {
        "route" => {
            let routes = by_route(&portal, &ctx, consumer, range.period(&ctx)).await?;
            Ok(csv::file(&name, &["route", "requests"], routes.into_iter().map(|(route, value)| vec![route, plain(&value)])))
        }
        "status" => {
            let query = UsageQuery::new(&ctx.workspace.id, "calls", range.period(&ctx))
                .windows(Window::Day, ctx.tz())
                .by(Dimension::Status)
                .by(Dimension::Counted)
                .of_consumer(consumer);
            let rows = usage::query(&portal.app, &query).await?.rows.into_iter().map(|row| {
                let part = |name: &str| row.group.get(name).cloned().unwrap_or_default();
                vec![local_date(row.window.start, ctx.tz()).to_string(), part("status"), part("counted"), plain(&row.value)]
            });
            Ok(csv::file(&name, &["day", "status", "counts", "calls"], rows))
        }
        _ => {
            let days = by_day(&portal, &ctx, consumer, "requests", range.period(&ctx)).await?;
            Ok(csv::file(&name, &["day", "requests"], days.into_iter().map(|(day, value)| vec![day.to_string(), plain(&value)])))
        }
    }
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

    #[test]
    fn the_gauge_grows_when_the_allowance_is_passed() {
        let dec = |n: i64| BigDecimal::from(n);
        let within = gauge(&dec(250), &dec(1000), None, "requests");
        assert_eq!((within.used.as_str(), within.cap, within.max.as_str()), ("v25", None, "1000"));
        let beyond = gauge(&dec(2000), &dec(1000), None, "requests");
        assert_eq!((beyond.used.as_str(), beyond.cap.as_deref()), ("v95", Some("v47_5")));
    }
}
