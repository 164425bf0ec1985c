//! What a consumer wants to be told about its own usage.

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use farebox_billing::BillingError;
use farebox_billing::alerts::{self, Alert, FiringFilter, For, Kind, NewAlert};
use farebox_core::audit_log;
use farebox_core::ids::AlertId;
use farebox_core::money::{BigDecimal, Currency, decimal};
use serde::Deserialize;
use serde_json::json;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Cell, Column, Field, Shell, Table};
use crate::{Portal, account, format, words};

/// Shown of what was told.
const MOST: i64 = 50;

#[derive(Debug, Clone, Template)]
#[template(path = "portal/alerts.html")]
pub struct AlertsPage {
    pub shell: Shell,
    pub email: String,
    /// Whether the plan holds an allowance of which a share could be told.
    pub has_allowance: bool,
    pub currency: String,
    pub kind: String,
    pub threshold: Field,
    pub alerts: Vec<Set>,
    pub told: Table,
}

/// One that is set.
#[derive(Debug, Clone)]
pub struct Set {
    pub id: String,
    pub says: String,
    pub to: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct NewForm {
    kind: String,
    threshold: String,
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    page(&alerts_page(&portal, &ctx, NewForm::default()).await?)
}

async fn alerts_page(portal: &Portal, ctx: &Ctx, form: NewForm) -> Result<AlertsPage, Failure> {
    let (consumer, tz) = (ctx.consumer()?, ctx.tz());
    let mut conn = portal.app.pg.acquire().await?;
    let agreements = account::in_force(&mut conn, ctx, consumer).await?;
    let set = alerts::list_own(&mut conn, &ctx.workspace.id, consumer).await?;
    let filter = FiringFilter { eyes: For::Consumer, consumer: Some(consumer), without_amounts: false };
    let told = alerts::firings(&mut conn, &ctx.workspace.id, &filter, MOST, "").await?;
    drop(conn);
    let has_allowance = agreements.iter().any(|a| words::allowance(&a.plan.definition, a.plan.free).is_some());
    let columns = vec![Column::text("When"), Column::text("What"), Column::text("Period")];
    let rows = told.into_iter().map(|firing| {
        vec![
            Cell::text(format::instant(firing.fired_at, tz)),
            Cell::text(words::sentence(&firing.detail)),
            Cell::text(format::period(firing.period.start, firing.period.end, tz)),
        ]
    });
    let kind = if form.kind.is_empty() { if has_allowance { "allowance" } else { "spend" }.to_owned() } else { form.kind };
    Ok(AlertsPage {
        shell: ctx.shell("Alerts", "/usage"),
        email: ctx.session()?.person.email.clone(),
        has_allowance,
        currency: currency_of(ctx, &agreements),
        kind,
        threshold: Field::of(form.threshold),
        alerts: set.iter().map(|alert| Set { id: alert.id.to_string(), says: says(alert), to: alert.emails.join(", ") }).collect(),
        told: Table::new("What you were told", columns).dense().rows(rows),
    })
}

/// Of what is billed now; the workspace's without a plan.
fn currency_of(ctx: &Ctx, agreements: &[account::Agreement]) -> String {
    agreements.first().map_or_else(|| ctx.workspace.currency.code().to_owned(), |a| a.subscription.currency.clone())
}

/// `80 % of the allowance`; `$500 on the next invoice`.
pub fn says(alert: &Alert) -> String {
    let number = format::quantity(&alert.threshold);
    let meter = words::meter(alert.meter.as_deref().unwrap_or_default());
    match alert.kind {
        Kind::Allowance => format!("{number} % of the allowance"),
        Kind::Usage => format!("{number} {meter} in a period"),
        Kind::Spend => {
            let currency = alert.currency.as_deref().and_then(|code| code.parse::<Currency>().ok());
            let amount = currency.map_or(number, |currency| format::unit_price(&alert.threshold, currency));
            format!("{amount} on the next invoice, without tax")
        }
        Kind::Anomaly => format!("{number} times the {meter} that the hour usually has, or as little"),
    }
}

fn read(form: &NewForm, currency: &str) -> Result<(Kind, BigDecimal, Option<String>), &'static str> {
    let number = decimal(form.threshold.trim().trim_end_matches('%').trim()).map_err(|_| "Enter a number, such as 80.")?;
    match form.kind.as_str() {
        "allowance" => Ok((Kind::Allowance, number, None)),
        "spend" => Ok((Kind::Spend, number, Some(currency.to_owned()))),
        _ => Err("Choose what you want to be told about."),
    }
}

pub async fn add(State(portal): State<Portal>, ctx: Ctx, Form(form): Form<NewForm>) -> Result<Response, Failure> {
    let (workspace, consumer, person) = (&ctx.workspace.id, ctx.consumer()?, &ctx.session()?.person);
    let mut tx = portal.app.pg.begin().await?;
    let agreements = account::in_force(&mut tx, &ctx, consumer).await?;
    let wrong = async |form: NewForm, why: String| {
        let mut again = alerts_page(&portal, &ctx, form).await?;
        again.threshold.wrong(why);
        let mut response = page(&again)?;
        *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
        Ok(response)
    };
    let (kind, threshold, currency) = match read(&form, &currency_of(&ctx, &agreements)) {
        Ok(read) => read,
        Err(why) => return wrong(form, why.to_owned()).await,
    };
    let new = NewAlert {
        name: "own".to_owned(),
        kind,
        meter: None,
        threshold,
        currency,
        at_least: None,
        consumer: None,
        plan: None,
        emails: vec![person.email.clone()],
        mail_consumer: false,
    };
    let alert = match alerts::create_own(&mut tx, workspace, consumer, &new).await {
        Ok(alert) => alert,
        Err(BillingError::Invalid { detail, .. } | BillingError::Conflict { detail, .. }) => {
            return wrong(form, words::sentence(&detail)).await;
        }
        Err(error) => return Err(error.into()),
    };
    audit_log::record(&mut tx, workspace, person.id.as_str(), "alert.create", alert.id.as_str(), &json!({ "says": says(&alert) })).await?;
    tx.commit().await?;
    Ok(Redirect::to("/usage/alerts?done=alert-set").into_response())
}

pub async fn remove(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let id: AlertId = id.parse().map_err(|_| Failure::not_found("alert"))?;
    let mut tx = portal.app.pg.begin().await?;
    if !alerts::remove_own(&mut tx, &ctx.workspace.id, ctx.consumer()?, &id).await? {
        return Err(Failure::not_found("alert"));
    }
    let actor = ctx.session()?.person.id.as_str();
    audit_log::record(&mut tx, &ctx.workspace.id, actor, "alert.remove", id.as_str(), &json!({})).await?;
    tx.commit().await?;
    Ok(Redirect::to("/usage/alerts?done=alert-removed").into_response())
}
