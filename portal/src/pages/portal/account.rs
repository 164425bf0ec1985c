use askama::Template;
use axum::Form;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use farebox_core::audit_log;
use farebox_metering::consumers;
use serde::Deserialize;
use serde_json::json;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::people::session::{self, Seen};
use crate::people::{self, Person, Side, password, throttle};
use crate::view::{Cell, Column, Facts, Field, Note, Shell, Table, Tone};
use crate::{Portal, format};

/// Who you are and how you sign in; on the developers' side also whose account it is and who else is in it.
#[derive(Debug, Clone, Template)]
#[template(path = "account.html")]
pub struct AccountPage {
    pub shell: Shell,
    /// `` or `/console`.
    pub base: &'static str,
    pub email: String,
    pub person: Facts,
    pub organisation: Option<Facts>,
    pub people: Option<Table>,
    pub sessions: Table,
    pub password: Field,
    pub problem: Option<Note>,
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    page(&account_page(&portal, &ctx, Field::default(), None).await?)
}

async fn account_page(portal: &Portal, ctx: &Ctx, password: Field, problem: Option<Note>) -> Result<AccountPage, Failure> {
    let mut conn = portal.app.pg.acquire().await?;
    let (session, tz) = (ctx.session()?, ctx.tz());
    let person = &session.person;
    let (organisation, people) = match &person.consumer {
        None => (None, None),
        Some(id) => {
            let consumer = consumers::get(&mut conn, &ctx.workspace.id, id).await?.ok_or_else(|| Failure::not_found("consumer"))?;
            let facts = Facts::default()
                .with("Name", &consumer.name)
                .with("Since", format::date(consumer.signed_up_at.with_timezone(&tz).date_naive()))
                .cell("Payment", Cell::link("Payment method", "/payment"));
            let people = people::of_consumer(&mut conn, &ctx.workspace.id, id).await?;
            (Some(facts), Some(people_table(&people)))
        }
    };
    let sessions = session::list(&mut conn, session).await?;
    Ok(AccountPage {
        shell: ctx.shell("Account", ""),
        base: if ctx.side == Side::Console { "/console" } else { "" },
        email: person.email.clone(),
        person: Facts::default().with("Name", &person.name).with("E-mail", &person.email).with("Role", person.role.label()),
        organisation,
        people,
        sessions: sessions_table(&sessions, ctx),
        password,
        problem,
    })
}

/// Who signs in, with their role and when they were last here.
pub fn people_table(people: &[Person]) -> Table {
    let columns = vec![Column::text("Name"), Column::text("Role"), Column::text("Last sign-in")];
    Table::new("People", columns).rows(people.iter().map(|person| {
        let last = person.last_sign_in_at.map_or_else(|| "Not yet".into(), |at| format::relative(at, farebox_core::clock::now()));
        vec![Cell::text(&person.name).sub(&person.email), Cell::text(person.role.label()), Cell::text(last)]
    }))
}

fn sessions_table(sessions: &[Seen], ctx: &Ctx) -> Table {
    let now = farebox_core::clock::now();
    let columns = vec![Column::text("Since"), Column::text("Last seen"), Column::text("From")];
    Table::new("Sessions", columns).dense().rows(sessions.iter().map(|seen| {
        let since = Cell::text(format::instant(seen.created_at, ctx.tz()));
        let since = if seen.this { since.sub("this one") } else { since };
        vec![since, Cell::text(format::relative(seen.last_seen_at, now)), Cell::text(&seen.address).sub(browser(&seen.browser))]
    }))
}

/// Enough of a browser's name to recognise it by.
fn browser(agent: &str) -> &str {
    ["Firefox", "Edg", "OPR", "Chrome", "Safari", "curl"].into_iter().find(|name| agent.contains(name)).map_or("another program", |name| {
        match name {
            "Edg" => "Edge",
            "OPR" => "Opera",
            name => name,
        }
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Passwords {
    current: String,
    new: String,
}

pub async fn change_password(State(portal): State<Portal>, ctx: Ctx, Form(form): Form<Passwords>) -> Result<Response, Failure> {
    let session = ctx.session()?;
    let account = format!("{}/change/{}", ctx.workspace.id, session.person.id);
    let hash = {
        let mut conn = portal.app.pg.acquire().await?;
        if let Some(wait_s) = throttle::wait_s(&mut conn, &account, &ctx.address).await? {
            return Err(Failure::TooMany { wait_s });
        }
        people::find_by_email(&mut conn, &ctx.workspace.id, ctx.side, &session.person.email).await?.and_then(|(_, hash)| hash)
    };
    if !password::verify(form.current, hash).await.map_err(|e| Failure::internal(&e))? {
        throttle::failed(&mut *portal.app.pg.acquire().await?, &account, &ctx.address).await?;
        let problem = Note::new(Tone::Bad, "Nothing was changed.", "The password you have now is another one.");
        return page(&account_page(&portal, &ctx, Field::default(), Some(problem)).await?);
    }
    if let Err(error) = password::check(&form.new, &session.person.email) {
        let mut field = Field::default();
        field.wrong(error.to_string());
        return page(&account_page(&portal, &ctx, field, None).await?);
    }
    let hash = password::hash(form.new).await.map_err(|e| Failure::internal(&e))?;
    let mut tx = portal.app.pg.begin().await?;
    let person = &session.person;
    people::set_password(&mut tx, &person.id, &hash).await?;
    session::end_others(&mut tx, &person.id, &session.token).await?;
    audit_log::record(&mut tx, &person.workspace, person.id.as_str(), "person.change_password", person.id.as_str(), &json!({})).await?;
    tx.commit().await?;
    let base = if ctx.side == Side::Console { "/console" } else { "" };
    Ok(Redirect::to(&format!("{base}/account?done=password-changed")).into_response())
}
