use std::collections::HashMap;

use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use bigdecimal::BigDecimal;
use chrono::{DateTime, Duration, Utc};
use chrono_tz::Tz;
use farebox_billing::settings::{self, ConsumerBilling, TaxStatus};
use farebox_billing::subscriptions;
use farebox_core::audit_log;
use farebox_core::ids::ConsumerId;
use farebox_core::money::plain;
use farebox_core::period::Period;
use farebox_metering::activity as calls;
use farebox_metering::consumers::{self, Consumer};
use farebox_metering::credentials;
use farebox_metering::dimension::Dimension;
use farebox_metering::usage::{self, UsageQuery};
use serde::Deserialize;
use serde_json::json;

use super::settings::OncePage;
use crate::account::{self, Agreement};
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::pages::portal::usage::Range;
use crate::pages::portal::{self, invoices, keys};
use crate::people::{self, Role, link};
use crate::view::{Badge, Cell, Chart, Code, Column, Facts, Happening, Note, Shell, Table};
use crate::{Portal, activity, csv, format, words};

#[derive(Debug, Clone, Template)]
#[template(path = "console/consumers.html")]
pub struct ConsumersPage {
    pub shell: Shell,
    pub subtitle: String,
    pub search: String,
    pub table: Table,
    pub next: Option<String>,
    pub csv: String,
}

#[derive(Debug, Clone, Template)]
#[template(path = "console/consumer.html")]
pub struct ConsumerPage {
    pub shell: Shell,
    pub name: String,
    pub subtitle: String,
    pub badges: Vec<Badge>,
    pub note: Option<Note>,
    pub facts: Facts,
    pub subscription: Facts,
    /// `None` for those who may not see amounts.
    pub billing: Option<Billing>,
    pub usage: Chart,
    pub routes: Chart,
    pub keys: Table,
    /// `None` for those who may not see amounts.
    pub invoices: Option<Table>,
    pub people: Table,
    pub story: Vec<Happening>,
    /// Where a sign-in link for their portal is made; empty for those who may not.
    pub link_action: String,
}

/// On how many invoices a consumer's subscriptions are.
#[derive(Debug, Clone)]
pub struct Billing {
    pub facts: Facts,
    /// One for all.
    pub together: bool,
    /// Where that is changed; empty for those who may not.
    pub action: String,
    /// Where other plans are compared on its usage; empty for those who may not.
    pub what_if: String,
}

/// Rows on a page.
const PAGE: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    q: String,
    from: usize,
}

struct Row {
    consumer: Consumer,
    plan: String,
    requests: BigDecimal,
}

/// Everybody who fits the search, the busiest of the month first.
async fn rows(portal: &Portal, ctx: &Ctx, search: &str) -> Result<Vec<Row>, Failure> {
    let (workspace, now) = (&ctx.workspace.id, ctx.now());
    let month = account::month_of(ctx, now);
    let query = UsageQuery::new(workspace, "requests", month).by(Dimension::Consumer);
    let answer = usage::query(&portal.app, &query).await?;
    let mut requests: HashMap<String, BigDecimal> =
        answer.rows.into_iter().filter_map(|row| Some((row.group.get("consumer")?.clone(), row.value))).collect();
    let mut conn = portal.app.pg.acquire().await?;
    let all = consumers::all(&mut conn, workspace).await?;
    let agreed = subscriptions::list(&mut conn, workspace, None, i64::MAX, "").await?;
    drop(conn);
    let mut plans: HashMap<&str, String> = HashMap::new();
    for subscription in &agreed {
        if let Some(phase) = subscription.at(now) {
            let name = words::title(&phase.plan);
            plans.entry(subscription.consumer.as_str()).and_modify(|known| *known = format!("{known}, {name}")).or_insert(name);
        }
    }
    let wanted = search.trim().to_lowercase();
    let fits = |c: &Consumer| {
        wanted.is_empty()
            || c.name.to_lowercase().contains(&wanted)
            || c.email.as_ref().is_some_and(|e| e.to_lowercase().contains(&wanted))
            || c.id.as_str() == wanted
    };
    let mut rows: Vec<_> = all
        .into_iter()
        .filter(fits)
        .map(|consumer| Row {
            plan: plans.get(consumer.id.as_str()).cloned().unwrap_or_default(),
            requests: requests.remove(consumer.id.as_str()).unwrap_or_default(),
            consumer,
        })
        .collect();
    rows.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.consumer.name.cmp(&b.consumer.name)));
    Ok(rows)
}

pub async fn list(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let rows = rows(&portal, &ctx, &asked.q).await?;
    let (count, called) = (rows.len(), rows.iter().filter(|row| row.requests > BigDecimal::from(0)).count());
    let columns = vec![
        Column::text("Consumer"),
        Column::text("Plan"),
        Column::text("Signed up"),
        Column::number("Requests this month"),
        Column::text("State"),
    ];
    let table = Table::new("Consumers", columns).rows(rows.iter().skip(asked.from).take(PAGE).map(|row| {
        let c = &row.consumer;
        let name = Cell::link(&c.name, format!("/console/consumers/{}", c.id));
        let quiet = row.requests == BigDecimal::from(0);
        vec![
            match &c.email {
                Some(email) => name.sub(email),
                None => name,
            },
            Cell::text(if row.plan.is_empty() { "–" } else { &row.plan }),
            Cell::text(format::date(c.signed_up_at.with_timezone(&ctx.tz()).date_naive())),
            Cell::text(format::quantity(&row.requests)),
            Badge::plain(if quiet { "Quiet this month" } else { "Active" }).into(),
        ]
    }));
    let subtitle = format!(
        "{}, {} called this month.",
        format::counted(i64::try_from(count).unwrap_or(i64::MAX), "consumer", "consumers"),
        format::count(i128::try_from(called).unwrap_or(0))
    );
    let search: String = url::form_urlencoded::byte_serialize(asked.q.as_bytes()).collect();
    page(&ConsumersPage {
        shell: ctx.shell("Consumers", "/console/consumers"),
        subtitle,
        table: if table.is_empty() { Table::default() } else { table },
        next: (asked.from + PAGE < count).then(|| format!("/console/consumers?q={search}&from={}", asked.from + PAGE)),
        csv: format!("/console/consumers.csv?q={search}"),
        search: asked.q,
    })
}

pub async fn file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let rows = rows(&portal, &ctx, &asked.q).await?.into_iter().map(|row| {
        let c = row.consumer;
        vec![c.id.to_string(), c.name, c.email.unwrap_or_default(), row.plan, c.signed_up_at.to_rfc3339(), plain(&row.requests)]
    });
    Ok(csv::file("consumers", &["id", "name", "email", "plan", "signed_up_at", "requests_this_month"], rows))
}

async fn find(portal: &Portal, ctx: &Ctx, id: &str) -> Result<Consumer, Failure> {
    let missing = || Failure::not_found("consumer");
    let id: ConsumerId = id.parse().map_err(|_| missing())?;
    consumers::get(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id, &id).await?.ok_or_else(missing)
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let consumer = find(&portal, &ctx, &id).await?;
    let (workspace, tz, now, range) = (&ctx.workspace.id, ctx.tz(), ctx.now(), Range::this_month(&ctx));
    let mut conn = portal.app.pg.acquire().await?;
    let agreements = account::in_force(&mut conn, &ctx, &consumer.id).await?;
    let held = credentials::list(&mut conn, workspace, &consumer.id).await?;
    let people = people::of_consumer(&mut conn, workspace, &consumer.id).await?;
    let billing = settings::of_consumer(&mut conn, workspace, &consumer.id).await?;
    drop(conn);
    let (used, first, billed, days, routes, subscription) = tokio::try_join!(
        activity::last_used(&portal, &ctx, &consumer.id),
        first_call(&portal, &ctx, &consumer),
        invoices::of_consumer(&portal, &ctx, consumer.id.as_str()),
        portal::usage::by_day(&portal, &ctx, &consumer.id, "requests", range.compared(&ctx)),
        portal::usage::routes(&portal, &ctx, &consumer.id, &range),
        subscription_facts(&portal, &ctx, &agreements),
    )?;
    let chart = portal::usage::running(&ctx, &range, "requests", None, &days);

    let after = |at: DateTime<Utc>| {
        let gap = at - consumer.signed_up_at;
        if gap < Duration::zero() {
            format::instant(at, tz)
        } else {
            format!("{}, {} after sign-up", format::instant(at, tz), format::span(gap))
        }
    };
    let first_key = held.iter().map(|key| key.created_at).min();
    let activated = first.is_some_and(|at| at - consumer.signed_up_at <= Duration::days(7));
    let facts = Facts::default()
        .with("E-mail", consumer.email.clone().unwrap_or_else(|| "–".into()))
        .with("Country", consumer.country.clone().unwrap_or_else(|| "–".into()))
        .with("Signed up", format::instant(consumer.signed_up_at, tz))
        .with("First key", first_key.map_or_else(|| "Not yet".into(), after))
        .with("First qualifying call", first.map_or_else(|| "Not yet".into(), after))
        .with("Last call", used.any.map_or_else(|| "Never".into(), |at| format::relative(at, now)))
        .cell("Id", Cell::mono(consumer.id.as_str()));
    let mut badges = vec![Badge::plain(match used.any {
        Some(at) if now - at < Duration::days(14) => "Active".to_owned(),
        Some(at) => format!("Quiet for {}", format::span(now - at)),
        None => "Never called".to_owned(),
    })];
    if activated {
        badges.push(Badge::plain("Activated"));
    }
    page(&ConsumerPage {
        shell: ctx.shell(&consumer.name, "/console/consumers"),
        name: consumer.name.clone(),
        subtitle: consumer.email.clone().unwrap_or_default(),
        badges,
        note: None,
        facts,
        subscription,
        billing: ctx.may_open("/console/invoices").then(|| billing_of(&ctx, &consumer, &billing)),
        usage: Chart { csv: None, ..chart },
        routes: Chart { csv: None, ..routes },
        keys: keys::table(&held, &used, &ctx, false).dense(),
        invoices: ctx.may_open("/console/invoices").then(|| invoices::table(&billed, &ctx, "/console")),
        people: portal::account::people_table(&people),
        story: story(&consumer, first_key, first, &agreements, tz),
        link_action: if ctx.is(&[Role::Owner, Role::Admin, Role::Support]) {
            format!("/console/consumers/{}/link", consumer.id)
        } else {
            String::new()
        },
    })
}

fn billing_of(ctx: &Ctx, consumer: &Consumer, billing: &ConsumerBilling) -> Billing {
    let currency = billing.currency.unwrap_or(ctx.workspace.currency);
    let tax = match billing.tax_status {
        TaxStatus::Taxable => "As the workspace's rates say",
        TaxStatus::Exempt => "Exempt",
        TaxStatus::ReverseCharge => "The buyer accounts for it (reverse charge)",
    };
    let mut facts = Facts::default()
        .with("Invoices", if billing.consolidated { "One for all subscriptions" } else { "One for each subscription" })
        .with("Currency", currency.code())
        .with("Tax", tax);
    if let Some(reason) = &billing.tax_reason {
        facts = facts.with("Because", reason);
    }
    if let Some(id) = &billing.tax_id {
        facts = facts.with("Tax number", id);
    }
    let path = format!("/console/consumers/{}/billing", consumer.id);
    Billing {
        facts,
        together: billing.consolidated,
        action: if ctx.may_post("/console/consumers/{id}/billing") { path } else { String::new() },
        what_if: if ctx.may_open("/console/what-if") { format!("/console/what-if?consumer={}", consumer.id) } else { String::new() },
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct BillingForm {
    consolidated: bool,
}

/// One invoice for all, or one for each, from the next one on.
pub async fn save_billing(
    State(portal): State<Portal>,
    ctx: Ctx,
    Path(id): Path<String>,
    Form(form): Form<BillingForm>,
) -> Result<Response, Failure> {
    let consumer = find(&portal, &ctx, &id).await?;
    let workspace = &ctx.workspace.id;
    let mut tx = portal.app.pg.begin().await?;
    let before = settings::of_consumer(&mut tx, workspace, &consumer.id).await?;
    settings::set_consumer(&mut tx, workspace, &consumer.id, &ConsumerBilling { consolidated: form.consolidated, ..before }).await?;
    let actor = ctx.session()?.person.id.as_str();
    let detail = json!({ "consolidated": form.consolidated });
    audit_log::record(&mut tx, workspace, actor, "consumer.billing", consumer.id.as_str(), &detail).await?;
    tx.commit().await?;
    Ok(Redirect::to(&format!("/console/consumers/{}?done=billing-saved", consumer.id)).into_response())
}

async fn subscription_facts(portal: &Portal, ctx: &Ctx, agreements: &[Agreement]) -> Result<Facts, Failure> {
    let (tz, mut facts) = (ctx.tz(), Facts::default());
    for a in agreements {
        let definition = &a.plan.definition;
        facts = facts
            .with("Plan", format!("{}, version {}", words::title(&a.plan.name), a.plan.version))
            .with("Price", words::headline(definition, a.plan.free, ctx.workspace.currency))
            .with("Since", format::instant(a.phase.from, tz));
        if let (true, Some(to)) = (a.phase.trial, a.phase.to) {
            facts = facts.with("Free trial until", format::instant(to, tz));
        }
        if let Some(at) = a.subscription.ended_at {
            facts = facts.with("Ends", format::instant(at, tz));
        }
        if ctx.may_open("/console/invoices") {
            let next = invoices::gathering(portal, ctx, a).await?;
            facts = facts.with("Invoice that is gathering", format!("{} so far, {}", next.amount, next.title));
        }
        facts = facts.cell("Id", Cell::mono(a.subscription.id.as_str()));
    }
    Ok(facts)
}

/// What happened, the newest first.
fn story(
    consumer: &Consumer,
    first_key: Option<DateTime<Utc>>,
    first_call: Option<DateTime<Utc>>,
    agreements: &[Agreement],
    tz: Tz,
) -> Vec<Happening> {
    let mut found = vec![(consumer.signed_up_at, "Signed up".to_owned())];
    found.extend(first_key.map(|at| (at, "Took the first key".to_owned())));
    found.extend(first_call.map(|at| (at, "Made the first qualifying call".to_owned())));
    for phase in agreements.iter().flat_map(|a| &a.subscription.phases) {
        let trial = if phase.trial { ", as a free trial" } else { "" };
        found.push((phase.from, format!("Subscribed to {}{trial}", words::title(&phase.plan))));
    }
    found.extend(agreements.iter().filter_map(|a| Some((a.subscription.ended_at?, "The subscription ends".to_owned()))));
    found.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    found.into_iter().map(|(at, what)| Happening { when: format::instant(at, tz), what: Cell::text(what) }).collect()
}

async fn first_call(portal: &Portal, ctx: &Ctx, consumer: &Consumer) -> Result<Option<DateTime<Utc>>, Failure> {
    let period = Period { start: consumer.signed_up_at - Duration::days(1), end: ctx.now() + Duration::minutes(5) };
    let asked = calls::Calls {
        workspace: ctx.workspace.id.clone(),
        unit: calls::Unit::Consumer,
        period,
        api: None,
        api_version: None,
        route: None,
    };
    let since = [(consumer.id.to_string(), period.start)];
    Ok(calls::first_since(&portal.app, &asked, &since).await?.into_iter().map(|(_, at)| at).next())
}

/// A link that signs one of the consumer's people in once: for those who lost their password, or never had one.
pub async fn make_link(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let consumer = find(&portal, &ctx, &id).await?;
    let (workspace, back) = (&ctx.workspace.id, format!("/console/consumers/{}", consumer.id));
    let mut tx = portal.app.pg.begin().await?;
    let person = match (people::of_consumer(&mut tx, workspace, &consumer.id).await?.into_iter().next(), &consumer.email) {
        (Some(person), _) => person,
        (None, Some(email)) => crate::entry::consumer_user(&mut tx, workspace, &consumer.id, email, &consumer.name).await?,
        (None, None) => {
            return Err(farebox_core::problem::Problem::conflict(
                "no-email",
                "This consumer has no e-mail address. Give it one through the API first.",
            )
            .into());
        }
    };
    let link = link::create(&mut tx, &person, false, link::ONCE_FOR).await?;
    let actor = ctx.session()?.person.id.as_str();
    audit_log::record(&mut tx, workspace, actor, "login_link.create", person.id.as_str(), &json!({"consumer": consumer.id.as_str()}))
        .await?;
    tx.commit().await?;
    page(&OncePage {
        shell: ctx.shell("Sign-in link", "/console/consumers"),
        title: format!("A sign-in link for {}", person.name),
        text: "It works once. Send it to them by a way you trust; whoever opens it signs in as them.".into(),
        secret: Code::secret("the link", format!("{}{}", ctx.base_url(&portal), link.path)),
        facts: Facts::default().with("For", &person.email).with("Good until", format::instant(link.expires_at, ctx.tz())),
        more: None,
        back,
    })
}
