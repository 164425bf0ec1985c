use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use farebox_billing::plans;
use farebox_billing::stripe::{self, settings as keys};
use farebox_core::audit_log;
use farebox_core::auth::{self, Scope};
use farebox_core::problem::Problem;
use farebox_metering::sources;
use serde::Deserialize;
use serde_json::json;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::pages::portal::account::people_table;
use crate::people::{self, NewPerson, PeopleError, Role, Side, link};
use crate::view::{Badge, Cell, Code, Column, Facts, Field, Note, Shell, Table, Tone};
use crate::{Portal, format, settings, words};

#[derive(Debug, Clone, Template)]
#[template(path = "console/settings.html")]
pub struct SettingsPage {
    pub shell: Shell,
    pub note: Option<Note>,
    pub workspace: Facts,
    pub display_name: Field,
    pub portal_host: Field,
    pub example_url: Field,
    pub stripe: StripeSettings,
    pub sources: Table,
    pub source_formats: Vec<String>,
    pub members: Table,
    pub roles: Vec<(&'static str, &'static str)>,
    pub may_change: bool,
    pub plans: Table,
}

/// What is known of the Stripe account. The secrets themselves never come back to a page.
#[derive(Debug, Clone)]
pub struct StripeSettings {
    pub state: Badge,
    pub facts: Facts,
    pub problem: Option<Note>,
    pub webhook: Code,
}

/// What another token for a source means, before it is made.
#[derive(Debug, Clone, Template)]
#[template(path = "console/new_token.html")]
pub struct NewTokenPage {
    pub shell: Shell,
    pub id: String,
    pub name: String,
}

/// A secret shown once: a source's token, or a colleague's sign-in link.
#[derive(Debug, Clone, Template)]
#[template(path = "console/once.html")]
pub struct OncePage {
    pub shell: Shell,
    pub title: String,
    pub text: String,
    pub secret: Code,
    pub facts: Facts,
    pub more: Option<Code>,
    pub back: String,
}

/// What a source may send, as ingest knows it.
const FORMATS: [&str; 3] = ["cloudevents", "envoy", "apisix"];

const ADMINS: &[Role] = &[Role::Owner, Role::Admin];

pub async fn show(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    page(&settings_page(&portal, &ctx).await?)
}

async fn settings_page(portal: &Portal, ctx: &Ctx) -> Result<SettingsPage, Failure> {
    let mut conn = portal.app.pg.acquire().await?;
    let workspace = &ctx.workspace;
    let sources = sources::list(&mut conn, &workspace.id).await?;
    let members = people::members(&mut conn, &workspace.id).await?;
    let offered = plans::list_published(&mut conn, &workspace.id).await?;
    let status = keys::status(&mut conn, &workspace.id).await?;
    let example = settings::example_url(&mut conn, &workspace.id).await?;
    let tokens = auth::list_tokens(&mut conn, &workspace.id).await?;
    drop(conn);
    let may_change = ctx.is(ADMINS);
    let facts = Facts::default()
        .with("Workspace", &workspace.name)
        .with("Currency", workspace.currency.code())
        .with("Time zone", workspace.time_zone.name())
        .with(
            "Kind",
            if workspace.test_mode { format!("test; its clock shows {}", format::instant(ctx.now(), ctx.tz())) } else { "live".into() },
        );
    let address = format!("{}/stripe/webhooks/{}", portal.app.config.http.public_url, workspace.id);
    let stripe_facts = if status.configured {
        let mut facts = Facts::default()
            .cell("Key", Cell::mono(status.key_hint.clone().unwrap_or_default()))
            .with("Mode", status.mode.clone().unwrap_or_default())
            .with("Webhook secrets", format::count(status.webhook_secrets))
            .with("Endpoint", status.webhook_url.clone().unwrap_or_else(|| "not registered: changes are asked for instead".into()));
        if let Some(at) = status.updated_at {
            facts = facts.with("Saved", format::instant(at, ctx.tz()));
        }
        facts
    } else {
        Facts::default()
    };
    let columns = vec![Column::text("Name"), Column::text("Format"), Column::text("Kafka topic"), Column::text("Token"), Column::actions()];
    let source_rows = sources.iter().map(|source| {
        let token = tokens.iter().find(|t| t.name == token_name(&source.name)).map_or_else(|| "none".to_owned(), |t| t.hint.clone());
        let action = if may_change {
            Cell::button("New token", format!("for {}", source.name), format!("/console/settings/sources/{}/token", source.id))
        } else {
            Cell::default()
        };
        vec![
            Cell::text(&source.name),
            Cell::text(&source.format),
            Cell::text(source.kafka_topic.clone().unwrap_or_else(|| "–".into())),
            Cell::mono(token),
            action,
        ]
    });
    let plan_rows = offered.iter().map(|plan| {
        vec![
            Cell::text(words::title(&plan.name)),
            Cell::text(format!("version {}", plan.version)),
            Cell::text(words::headline(&plan.definition, plan.free, workspace.currency)),
            Cell::text(&plan.product),
        ]
    });
    Ok(SettingsPage {
        shell: ctx.shell("Settings", "/console/settings"),
        note: None,
        workspace: facts,
        display_name: Field::of(&workspace.display_name),
        portal_host: Field::of(workspace.portal_host.clone().unwrap_or_default()),
        example_url: Field::of(example.unwrap_or_default()),
        stripe: StripeSettings {
            state: if status.configured { Badge::plain("Connected") } else { Badge::new(Tone::Warn, "Not set up") },
            facts: stripe_facts,
            problem: None,
            webhook: Code::new("webhook address", address),
        },
        sources: Table::new("Sources", columns).rows(source_rows),
        source_formats: FORMATS.map(Into::into).into(),
        members: people_table(&members),
        roles: Role::ALL
            .into_iter()
            .filter(|r| r.side() == Side::Console && (*r != Role::Owner || ctx.is(&[Role::Owner])))
            .map(|r| (r.as_str(), r.label()))
            .rev()
            .collect(),
        may_change,
        plans: Table::new("Plans", vec![Column::text("Plan"), Column::text("Version"), Column::text("Price"), Column::text("Product")])
            .dense()
            .rows(plan_rows),
    })
}

fn token_name(source: &str) -> String {
    format!("source {source}")
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct PortalForm {
    display_name: String,
    portal_host: String,
    example_url: String,
}

pub async fn save_portal(State(portal): State<Portal>, ctx: Ctx, Form(form): Form<PortalForm>) -> Result<Response, Failure> {
    let mut again = settings_page(&portal, &ctx).await?;
    (again.display_name, again.portal_host, again.example_url) =
        (Field::of(form.display_name.trim()), Field::of(form.portal_host.trim().to_lowercase()), Field::of(form.example_url.trim()));
    if again.display_name.value.is_empty() || again.display_name.value.chars().count() > 100 {
        again.display_name.wrong("Give it a name of at most 100 characters.");
    }
    let host = &again.portal_host.value;
    if !host.is_empty() && (host.len() > 253 || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')) {
        again.portal_host.wrong("Only the name, such as developers.example.com.");
    }
    if !again.example_url.value.is_empty()
        && url::Url::parse(&again.example_url.value).map_or(true, |url| !matches!(url.scheme(), "http" | "https"))
    {
        again.example_url.wrong("An address that begins with https://.");
    }
    if again.display_name.is_wrong() || again.portal_host.is_wrong() || again.example_url.is_wrong() {
        return page(&again);
    }
    let optional = |text: &str| if text.is_empty() { None } else { Some(text.to_owned()) };
    let mut tx = portal.app.pg.begin().await?;
    let workspace = &ctx.workspace.id;
    let saved = farebox_core::workspace::update_portal(
        &mut tx,
        workspace,
        &again.display_name.value,
        optional(&again.portal_host.value).as_deref(),
    )
    .await;
    if let Err(error) = saved {
        if error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation) {
            again.portal_host.wrong("Another workspace's portal has this name.");
            return page(&again);
        }
        return Err(error.into());
    }
    settings::set_example_url(&mut tx, workspace, optional(&again.example_url.value).as_deref()).await?;
    let actor = ctx.session()?.person.id.as_str();
    audit_log::record(
        &mut tx,
        workspace,
        actor,
        "portal.update",
        workspace.as_str(),
        &json!({"display_name": again.display_name.value, "host": again.portal_host.value}),
    )
    .await?;
    tx.commit().await?;
    Ok(Redirect::to("/console/settings?done=settings-saved").into_response())
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct StripeForm {
    secret_key: String,
    webhook_secret: String,
}

/// Asks Stripe whether it takes the key, and only then keeps it.
pub async fn save_stripe(State(portal): State<Portal>, ctx: Ctx, Form(form): Form<StripeForm>) -> Result<Response, Failure> {
    let (app, workspace) = (&portal.app, &ctx.workspace.id);
    let (key, secret) = (form.secret_key.trim(), form.webhook_secret.trim());
    let refused = async |detail: String| {
        let mut again = settings_page(&portal, &ctx).await?;
        again.stripe.problem = Some(Note::new(Tone::Bad, "The keys were not saved.", words::sentence(&detail)));
        page(&again)
    };
    if let Err(error) = keys::probe(app, workspace, key).await {
        let problem = Problem::from(error);
        return if problem.status >= 500 { Err(problem.into()) } else { refused(problem.detail).await };
    }
    let mut tx = app.pg.begin().await?;
    let actor = ctx.session()?.person.id.as_str();
    let secret = Some(secret).filter(|secret| !secret.is_empty());
    if let Err(error) = keys::set(&mut tx, &app.config.billing, workspace, key, secret, actor).await {
        let problem = Problem::from(error);
        return if problem.status >= 500 { Err(problem.into()) } else { refused(problem.detail).await };
    }
    tx.commit().await?;
    if secret.is_none() {
        // Registers the endpoint where Stripe can reach it; where not, Farebox asks Stripe for changes.
        if let Err(error) = stripe::register_webhook(app, workspace).await {
            tracing::warn!(workspace = %workspace, "the webhook endpoint could not be registered at Stripe: {error}");
        }
    }
    Ok(Redirect::to("/console/settings?done=stripe-saved#stripe").into_response())
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct SourceForm {
    name: String,
    format: String,
}

pub async fn add_source(State(portal): State<Portal>, ctx: Ctx, Form(form): Form<SourceForm>) -> Result<Response, Failure> {
    let name = form.name.trim();
    let plain = !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !plain || !FORMATS.contains(&form.format.as_str()) {
        let mut again = settings_page(&portal, &ctx).await?;
        again.note =
            Some(Note::new(Tone::Bad, "The source was not added.", "Its name has small letters, digits and hyphens, such as edge-eu."));
        return page(&again);
    }
    let mut tx = portal.app.pg.begin().await?;
    let workspace = &ctx.workspace.id;
    if sources::by_name(&mut tx, workspace, name).await?.is_none() {
        sources::upsert(&mut tx, workspace, name, &form.format, None, false).await?;
    }
    let actor = ctx.session()?.person.id.as_str();
    audit_log::record(&mut tx, workspace, actor, "source.create", name, &json!({"format": form.format})).await?;
    let shown = issue_token(&portal, &ctx, &mut tx, name).await?;
    tx.commit().await?;
    page(&shown)
}

/// Before another token is made for a source, what that means.
pub async fn confirm_token(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let source = find_source(&portal, &ctx, &id).await?;
    page(&NewTokenPage { shell: ctx.shell("New token", "/console/settings"), id, name: source.name })
}

pub async fn new_token(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let source = find_source(&portal, &ctx, &id).await?;
    let mut tx = portal.app.pg.begin().await?;
    let shown = issue_token(&portal, &ctx, &mut tx, &source.name).await?;
    tx.commit().await?;
    page(&shown)
}

async fn find_source(portal: &Portal, ctx: &Ctx, id: &str) -> Result<sources::Source, Failure> {
    let all = sources::list(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id).await?;
    all.into_iter().find(|source| source.id.as_str() == id).ok_or_else(|| Failure::not_found("source"))
}

/// Makes a source's token and takes the ones before back, in one step.
async fn issue_token(portal: &Portal, ctx: &Ctx, conn: &mut sqlx::PgConnection, source: &str) -> Result<OncePage, Failure> {
    let (workspace, name) = (&ctx.workspace, token_name(source));
    for old in auth::list_tokens(conn, &workspace.id).await?.into_iter().filter(|token| token.name == name) {
        auth::revoke_token(conn, &workspace.id, &old.id).await?;
    }
    let (id, secret) = auth::create_token(conn, &workspace.id, &name, &[Scope::Ingest, Scope::Decide], workspace.test_mode, None).await?;
    let actor = ctx.session()?.person.id.as_str();
    audit_log::record(conn, &workspace.id, actor, "token.create", id.as_str(), &json!({"source": source})).await?;
    let url = &portal.app.config.http.public_url;
    Ok(OncePage {
        shell: ctx.shell("Token", "/console/settings"),
        title: format!("Token for {source}. Copy it now."),
        text: "This is the only time it is shown. An earlier token of this source no longer works.".into(),
        secret: Code::secret("the token", secret.reveal()),
        facts: Facts::default()
            .with("Sent as", "the header X-Farebox-Token")
            .with("Allows", "sending events and asking for decisions")
            .with("Events to", format!("{url}/v1/events, {url}/v1/logs"))
            .with("Decisions from", format!("{url}/v1/decide/{source}")),
        more: None,
        back: "/console/settings#sources".into(),
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct MemberForm {
    name: String,
    email: String,
    role: String,
}

/// Adds a colleague, or finds the one of this address, and makes a link that lets them in once.
pub async fn invite(State(portal): State<Portal>, ctx: Ctx, Form(form): Form<MemberForm>) -> Result<Response, Failure> {
    let refused = async |text: &str| {
        let mut again = settings_page(&portal, &ctx).await?;
        again.note = Some(Note::new(Tone::Bad, "No link was made.", text));
        page(&again)
    };
    let Some(role) = Role::parse(Side::Console, &form.role) else { return refused("Choose a role.").await };
    if role == Role::Owner && !ctx.is(&[Role::Owner]) {
        return refused("Only an owner makes owners.").await;
    }
    if form.name.trim().is_empty() || form.name.chars().count() > 200 {
        return refused("Enter a name of at most 200 characters.").await;
    }
    let mut tx = portal.app.pg.begin().await?;
    let workspace = &ctx.workspace.id;
    let person = match people::find_by_email(&mut tx, workspace, Side::Console, &form.email).await? {
        // A link lets whoever holds it in as that person: nobody gets one for more than they may themselves.
        Some((person, _)) if person.role == Role::Owner && !ctx.is(&[Role::Owner]) => {
            return refused("Only an owner makes a link for an owner.").await;
        }
        Some((person, _)) => person,
        None => {
            let new = NewPerson { workspace, consumer: None, email: &form.email, name: &form.name, role, password_hash: None };
            let id = match people::create(&mut tx, new).await {
                Ok(id) => id,
                Err(PeopleError::EmailInvalid) => return refused("Enter an e-mail address, such as ada@example.com.").await,
                Err(error) => return Err(error.into()),
            };
            people::find(&mut tx, workspace, &id).await?.ok_or_else(|| Failure::not_found("person"))?
        }
    };
    let link = link::create(&mut tx, &person, false, link::ONCE_FOR).await?;
    let actor = ctx.session()?.person.id.as_str();
    audit_log::record(&mut tx, workspace, actor, "member.invite", person.id.as_str(), &json!({"role": person.role.as_str()})).await?;
    tx.commit().await?;
    page(&OncePage {
        shell: ctx.shell("Sign-in link", "/console/settings"),
        title: format!("A sign-in link for {}", person.name),
        text: "It works once and lets them choose a password. Send it by a way you trust.".into(),
        secret: Code::secret("the link", format!("{}{}", ctx.base_url(&portal), link.path)),
        facts: Facts::default()
            .with("For", &person.email)
            .with("Role", person.role.label())
            .with("Good until", format::instant(link.expires_at, ctx.tz())),
        more: None,
        back: "/console/settings#members".into(),
    })
}
