use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use farebox_core::audit_log;
use serde::Deserialize;
use serde_json::json;
use sqlx::PgConnection;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::pages::message::MessagePage;
use crate::people::link::{self, Found};
use crate::people::session::{self, Token};
use crate::people::{self, Person, Side, password, throttle};
use crate::view::{Action, Field, Note, Shell, Tone};
use crate::{Portal, format};

#[derive(Debug, Clone)]
pub struct Agreement {
    pub title: String,
    pub lines: Vec<(String, String)>,
    pub difference: String,
}

/// Signing in, on either side.
#[derive(Debug, Clone, Template)]
#[template(path = "sign_in.html")]
pub struct SignInPage {
    pub shell: Shell,
    /// Where the form goes: `/sign-in` or `/console/sign-in`.
    pub action: &'static str,
    pub to: String,
    pub email: Field,
    pub problem: Option<Note>,
    /// Where to go afterwards; a path of this side.
    pub next: String,
    /// Whether people may register themselves here.
    pub open: bool,
    pub agreement: Option<Agreement>,
}

/// Behind a one-time link: choose a password, or go on with the one there is.
#[derive(Debug, Clone, Template)]
#[template(path = "welcome.html")]
pub struct WelcomePage {
    pub shell: Shell,
    pub action: String,
    pub name: String,
    pub email: String,
    pub has_password: bool,
    pub until: String,
    pub password: Field,
    pub agreement: Option<Agreement>,
}

#[derive(Debug, Deserialize)]
pub struct NextQuery {
    #[serde(default)]
    next: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Credentials {
    email: String,
    password: String,
    next: String,
}

pub async fn show(ctx: Ctx, Query(query): Query<NextQuery>) -> Result<Response, Failure> {
    if ctx.session.is_some() {
        return Ok(Redirect::to(&after(ctx.side, &query.next)).into_response());
    }
    page(&sign_in_page(&ctx, String::new(), query.next, None))
}

fn sign_in_page(ctx: &Ctx, email: String, next: String, problem: Option<Note>) -> SignInPage {
    let portal = ctx.side == Side::Portal;
    SignInPage {
        shell: ctx.shell("Sign in", ""),
        action: if portal { "/sign-in" } else { "/console/sign-in" },
        to: if portal { "to your account".into() } else { format!("to {}", ctx.workspace.display_name) },
        email: Field::of(email),
        problem,
        next,
        open: portal,
        agreement: None,
    }
}

pub async fn submit(State(portal): State<Portal>, ctx: Ctx, Form(form): Form<Credentials>) -> Result<Response, Failure> {
    let account = format!("{}/{:?}/{}", ctx.workspace.id, ctx.side, form.email.trim().to_lowercase());
    let found = {
        let mut conn = portal.app.pg.acquire().await?;
        if let Some(wait_s) = throttle::wait_s(&mut conn, &account, &ctx.address).await? {
            return Err(Failure::TooMany { wait_s });
        }
        people::find_by_email(&mut conn, &ctx.workspace.id, ctx.side, &form.email).await?
    };
    let (person, hash) = found.map_or((None, None), |(person, hash)| (Some(person), hash));
    let fits = password::verify(form.password, hash).await.map_err(|e| Failure::internal(&e))?;
    let mut tx = portal.app.pg.begin().await?;
    let Some(person) = person.filter(|_| fits) else {
        throttle::failed(&mut tx, &account, &ctx.address).await?;
        tx.commit().await?;
        let problem = Note::new(Tone::Bad, "That did not work.", "The e-mail or the password is wrong.");
        let mut response = page(&sign_in_page(&ctx, form.email, form.next, Some(problem)))?;
        *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
        return Ok(response);
    };
    throttle::succeeded(&mut tx, &account, &ctx.address).await?;
    let response = signed_in(&portal, &ctx, &mut tx, &person, &after(ctx.side, &form.next)).await?;
    tx.commit().await?;
    Ok(response)
}

/// Starts a session and goes on to `to`.
pub async fn signed_in(portal: &Portal, ctx: &Ctx, conn: &mut PgConnection, person: &Person, to: &str) -> Result<Response, Failure> {
    let token = session::start(conn, &person.id, &ctx.address, &ctx.browser).await?;
    let mut response = Redirect::to(to).into_response();
    response.headers_mut().append(header::SET_COOKIE, session::set_cookie(ctx.side, portal.secure, &token));
    Ok(response)
}

/// Only ever a page of this side of this host.
fn after(side: Side, next: &str) -> String {
    let own = next.starts_with('/') && !next.starts_with("//") && !next.contains('\\') && !next.contains(|c: char| c.is_control());
    let in_console = next == "/console" || next.starts_with("/console/") || next.starts_with("/console?");
    match side {
        Side::Console if own && in_console => next.to_owned(),
        Side::Console => "/console".to_owned(),
        Side::Portal if own && !in_console && next.len() > 1 => next.to_owned(),
        Side::Portal => "/usage".to_owned(),
    }
}

pub async fn sign_out(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    session::end(&mut *portal.app.pg.acquire().await?, &ctx.session()?.token).await?;
    let to = if ctx.side == Side::Console { "/console/sign-in" } else { "/" };
    let mut response = Redirect::to(to).into_response();
    response.headers_mut().append(header::SET_COOKIE, session::clear_cookie(ctx.side, portal.secure));
    Ok(response)
}

/// Opening a link. One that may be used again signs in at once; one that works once waits for the click on its page.
pub async fn welcome(State(portal): State<Portal>, ctx: Ctx, Path(token): Path<String>) -> Result<Response, Failure> {
    let mut conn = portal.app.pg.acquire().await?;
    let Some((token, found)) = find_link(&mut conn, &ctx, &token).await? else { return spent(&ctx) };
    if found.reusable && link::consume(&mut conn, &token).await? {
        return signed_in(&portal, &ctx, &mut conn, &found.person, &after(ctx.side, "")).await;
    }
    page(&welcome_page(&ctx, &token, &found, Field::default()))
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct NewPassword {
    password: String,
}

pub async fn enter(
    State(portal): State<Portal>,
    ctx: Ctx,
    Path(token): Path<String>,
    Form(form): Form<NewPassword>,
) -> Result<Response, Failure> {
    let found = find_link(&mut *portal.app.pg.acquire().await?, &ctx, &token).await?;
    let Some((token, found)) = found else { return spent(&ctx) };
    let keeps = form.password.is_empty() && found.person.has_password;
    let hash = if keeps {
        None
    } else {
        if let Err(error) = password::check(&form.password, &found.person.email) {
            let mut field = Field::default();
            field.wrong(error.to_string());
            return page(&welcome_page(&ctx, &token, &found, field));
        }
        Some(password::hash(form.password).await.map_err(|e| Failure::internal(&e))?)
    };
    let mut tx = portal.app.pg.begin().await?;
    if !link::consume(&mut tx, &token).await? {
        return spent(&ctx);
    }
    if let Some(hash) = hash {
        people::set_password(&mut tx, &found.person.id, &hash).await?;
    }
    let person = &found.person;
    audit_log::record(&mut tx, &person.workspace, person.id.as_str(), "person.sign_in_by_link", person.id.as_str(), &json!({})).await?;
    let response = signed_in(&portal, &ctx, &mut tx, person, &after(ctx.side, "")).await?;
    tx.commit().await?;
    Ok(response)
}

async fn find_link(conn: &mut PgConnection, ctx: &Ctx, token: &str) -> Result<Option<(Token, Found)>, Failure> {
    let Some(token) = Token::parse(token) else { return Ok(None) };
    let found = link::find(conn, &ctx.workspace.id, ctx.side, &token).await?;
    Ok(found.map(|found| (token, found)))
}

fn welcome_page(ctx: &Ctx, token: &Token, found: &Found, password: Field) -> WelcomePage {
    let base = if ctx.side == Side::Console { "/console/welcome" } else { "/welcome" };
    WelcomePage {
        shell: ctx.shell("Welcome", ""),
        action: format!("{base}/{}", token.reveal()),
        name: found.person.name.clone(),
        email: found.person.email.clone(),
        has_password: found.person.has_password,
        until: format::instant(found.expires_at, ctx.tz()),
        password,
        agreement: None,
    }
}

fn spent(ctx: &Ctx) -> Result<Response, Failure> {
    let (sign_in, text) = match ctx.side {
        Side::Console => {
            ("/console/sign-in", "It works once and for a day. Run `farebox login-link` for a fresh one, or sign in with your password.")
        }
        Side::Portal => ("/sign-in", "It works once and for a day. Ask for a fresh one, or sign in with your password."),
    };
    let mut response = page(&MessagePage {
        shell: Shell::gate("Link", ctx.workspace.display_name.as_str()),
        title: "This link was used, or is too old".into(),
        text: text.into(),
        actions: vec![Action::new("Sign in", sign_in)],
    })?;
    *response.status_mut() = StatusCode::GONE;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_leads_only_to_pages_of_the_same_side() {
        for (next, portal, console) in [
            ("/keys", "/keys", "/console"),
            ("/console/invoices?x=1", "/usage", "/console/invoices?x=1"),
            ("//evil.example", "/usage", "/console"),
            ("/\\evil.example", "/usage", "/console"),
            ("https://evil.example", "/usage", "/console"),
            ("/a\r\nSet-Cookie: x", "/usage", "/console"),
            ("", "/usage", "/console"),
        ] {
            assert_eq!(after(Side::Portal, next), portal, "{next}");
            assert_eq!(after(Side::Console, next), console, "{next}");
        }
    }
}
