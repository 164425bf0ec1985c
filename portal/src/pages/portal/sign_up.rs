use askama::Template;
use axum::Form;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use farebox_billing::subscriptions;
use farebox_core::audit_log;
use farebox_metering::MeteringError;
use farebox_metering::consumers::{self, NewConsumer};
use serde::Deserialize;
use serde_json::json;

use super::landing::offered;
use super::sign_in::signed_in;
use crate::Portal;
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::people::{self, NewPerson, PeopleError, Role, normal_email, password, throttle};
use crate::view::{Field, Note, PlanCard, Shell, Tone};

#[derive(Debug, Clone, Template)]
#[template(path = "portal/sign_up.html")]
pub struct SignUpPage {
    pub shell: Shell,
    pub problem: Option<Note>,
    pub plans: Vec<PlanCard>,
    /// `value` of the chosen plan; empty when none was chosen.
    pub chosen: String,
    pub name: Field,
    pub company: Field,
    pub email: Field,
    pub password: Field,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct PlanQuery {
    plan: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct SignUp {
    plan: String,
    name: String,
    company: String,
    email: String,
    password: String,
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Query(query): Query<PlanQuery>) -> Result<Response, Failure> {
    if ctx.session.is_some() {
        return Ok(Redirect::to("/plan").into_response());
    }
    let mut sign_up = sign_up_page(&portal, &ctx, &SignUp { plan: query.plan, ..SignUp::default() }).await?;
    if sign_up.chosen.is_empty() {
        sign_up.chosen = sign_up.plans.first().map(|plan| plan.value.clone()).unwrap_or_default();
    }
    page(&sign_up)
}

async fn sign_up_page(portal: &Portal, ctx: &Ctx, form: &SignUp) -> Result<SignUpPage, Failure> {
    Ok(SignUpPage {
        shell: ctx.shell("Sign up", ""),
        problem: None,
        plans: offered(portal, ctx, &[]).await?,
        chosen: form.plan.clone(),
        name: Field::of(&form.name),
        company: Field::of(&form.company),
        email: Field::of(&form.email),
        password: Field::default(),
    })
}

/// Consumer, person and subscription come into being together, or not at all; then the person is signed in.
pub async fn submit(State(portal): State<Portal>, ctx: Ctx, Form(form): Form<SignUp>) -> Result<Response, Failure> {
    let mut again = sign_up_page(&portal, &ctx, &form).await?;
    for (field, what) in [(&mut again.name, "your name"), (&mut again.company, "a name for your account")] {
        let length = field.value.trim().chars().count();
        if length == 0 || length > 200 {
            field.wrong(format!("Enter {what}, of at most 200 characters."));
        }
    }
    if normal_email(&form.email).is_err() {
        again.email.wrong("Enter an e-mail address, such as dev@example.com.");
    }
    if let Err(error) = password::check(&form.password, &form.email) {
        again.password.wrong(error.to_string());
    }
    if !again.plans.is_empty() && !again.plans.iter().any(|plan| plan.value == form.plan) {
        again.problem = Some(Note::new(Tone::Bad, "Choose a plan.", "The one that was chosen is no longer offered."));
    }
    if again.problem.is_some() || [&again.name, &again.company, &again.email, &again.password].iter().any(|field| field.is_wrong()) {
        return refused(&again);
    }
    {
        let mut conn = portal.app.pg.acquire().await?;
        if let Some(wait_s) = throttle::sign_up(&mut conn, &ctx.workspace.id, &ctx.address).await? {
            return Err(Failure::TooMany { wait_s });
        }
    }
    let hash = password::hash(form.password).await.map_err(|e| Failure::internal(&e))?;
    let mut tx = portal.app.pg.begin().await?;
    let (workspace, now) = (&ctx.workspace.id, ctx.now());
    let new = NewConsumer {
        name: form.company.trim().to_owned(),
        email: Some(normal_email(&form.email)?),
        signed_up_at: now,
        country: None,
        address: json!({}),
        subjects: Vec::new(),
    };
    let consumer = match consumers::create(&mut tx, workspace, new).await {
        Ok(consumer) => consumer,
        Err(MeteringError::Conflict { .. }) => {
            again.company.wrong("There is an account of this name. If it is yours, sign in; else choose another name.");
            return refused(&again);
        }
        Err(error) => return Err(error.into()),
    };
    let new = NewPerson {
        workspace,
        consumer: Some(&consumer.id),
        email: &form.email,
        name: &form.name,
        role: Role::ConsumerAdmin,
        password_hash: Some(hash),
    };
    let person = match people::create(&mut tx, new).await {
        Ok(person) => person,
        Err(PeopleError::EmailTaken) => {
            again.email.wrong("Someone signs in with this e-mail already. Sign in instead.");
            return refused(&again);
        }
        Err(error) => return Err(error.into()),
    };
    if !form.plan.is_empty() && !again.plans.is_empty() {
        subscriptions::subscribe(&mut tx, workspace, &consumer.id, &form.plan, now).await?;
    }
    let detail = json!({"plan": form.plan, "person": person.as_str()});
    audit_log::record(&mut tx, workspace, person.as_str(), "consumer.sign_up", consumer.id.as_str(), &detail).await?;
    let person = people::find(&mut tx, workspace, &person).await?.ok_or_else(|| Failure::not_found("person"))?;
    let response = signed_in(&portal, &ctx, &mut tx, &person, "/start").await?;
    tx.commit().await?;
    Ok(response)
}

fn refused(again: &SignUpPage) -> Result<Response, Failure> {
    let mut response = page(again)?;
    *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
    Ok(response)
}
