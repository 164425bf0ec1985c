//! Before any page: which provider this is, who asks, whether they may, and whether a form is theirs. One place, so
//! that no route can forget it; the routes' table says who may see what.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use farebox_core::ids::ConsumerId;
use farebox_core::problem::Problem;
use farebox_core::workspace::{self, Workspace};

use crate::failure::{Failure, Said};
use crate::pages::message::MessagePage;
use crate::people::session::{self, Session};
use crate::people::{Role, Side};
use crate::view::{Action, Shell};
use crate::{Portal, routes};

/// Largest form. A key's name, not a file.
const MAX_FORM: usize = 64 << 10;

/// Who may see a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Anyone; a session of the side is looked up, for pages that differ for those who are signed in.
    Anyone(Side),
    /// Those with one of these roles, all of one side.
    Roles(&'static [Role]),
}

impl Who {
    pub fn side(self) -> Side {
        match self {
            Self::Anyone(side) => side,
            Self::Roles(roles) => roles.first().map_or(Side::Console, |role| role.side()),
        }
    }
}

/// What a page knows about its request.
#[derive(Debug, Clone)]
pub struct Ctx {
    pub workspace: Workspace,
    pub session: Option<Session>,
    pub side: Side,
    /// Where the request came from.
    pub address: String,
    pub browser: String,
    /// What just happened, for a note at the foot of the page.
    pub done: Option<String>,
}

impl Ctx {
    pub fn now(&self) -> DateTime<Utc> {
        self.workspace.clock.now()
    }

    pub fn tz(&self) -> Tz {
        self.workspace.time_zone
    }

    /// Who asks. Present on every route that names roles.
    pub fn session(&self) -> Result<&Session, Failure> {
        self.session.as_ref().ok_or(Failure::SignIn { side: self.side, next: "/".into() })
    }

    /// Whose portal it is. Present on every route of consumers' roles.
    pub fn consumer(&self) -> Result<&ConsumerId, Failure> {
        self.session()?.person.consumer.as_ref().ok_or_else(|| Problem::forbidden("This page belongs to a consumer's account.").into())
    }

    pub fn is(&self, roles: &[Role]) -> bool {
        self.session.as_ref().is_some_and(|session| roles.contains(&session.person.role))
    }

    /// Whether who asks may open the page at `path`.
    pub fn may_open(&self, path: &str) -> bool {
        self.session.as_ref().is_some_and(|session| routes::may_open(path, session.person.role))
    }

    /// Whether who asks may send the form at `path`.
    pub fn may_post(&self, path: &str) -> bool {
        self.session.as_ref().is_some_and(|session| routes::may_post(path, session.person.role))
    }

    /// Where this portal is reached, without a trailing slash: its own host, else the instance's address.
    pub fn base_url(&self, portal: &Portal) -> String {
        match &self.workspace.portal_host {
            Some(host) if portal.secure => format!("https://{host}"),
            _ => portal.app.config.http.public_url.clone(),
        }
    }

    /// The frame of a page on this side, signed in or not.
    pub fn shell(&self, title: &str, here: &str) -> Shell {
        let provider = self.workspace.display_name.as_str();
        let mut frame = match (self.side, &self.session) {
            (_, None) => Shell::gate(title, provider),
            (Side::Portal, Some(_)) => Shell::portal(title, provider, here),
            (Side::Console, Some(_)) => Shell::console(title, provider, here),
        };
        if let Some(session) = &self.session {
            for group in &mut frame.nav {
                group.items.retain(|item| routes::may_open(item.href, session.person.role));
            }
            frame.nav.retain(|group| !group.items.is_empty());
        }
        Shell {
            who: self.session.as_ref().map(|session| session.person.name.clone()),
            csrf: self.session.as_ref().map(Session::csrf).unwrap_or_default(),
            toast: self.done.as_deref().and_then(crate::done::note),
            zone: crate::format::zone(self.now(), self.tz()),
            ..frame
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Ctx {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().expect("every route of the table is behind the guard"))
    }
}

/// Stands before one route.
pub async fn guard(State((portal, who)): State<(Portal, Who)>, request: Request, next: Next) -> Response {
    let htmx = request.headers().contains_key("hx-request");
    let mut named = None;
    let response = match admit(&portal, who, request).await {
        Ok(request) => {
            named = request.extensions().get::<Ctx>().map(|ctx| ctx.workspace.display_name.clone());
            next.run(request).await
        }
        Err((failure, name)) => {
            named = named.or(name);
            failure.into_response()
        }
    };
    finish(response, who.side(), named.as_deref().unwrap_or("Farebox"), htmx)
}

async fn admit(portal: &Portal, who: Who, request: Request) -> Result<Request, (Failure, Option<String>)> {
    let host = host(request.headers());
    let mut conn = portal.app.pg.acquire().await.map_err(|e| (e.into(), None))?;
    let workspace = workspace::by_portal_host(&mut conn, host).await.map_err(|e| (Failure::internal(&e), None))?;
    let Some(workspace) = workspace else { return Err((Failure::NoPortal, None)) };
    let name = workspace.display_name.clone();
    let named = |failure: Failure| (failure, Some(name.clone()));

    let side = who.side();
    let session = match session::token_in(request.headers(), side, portal.secure) {
        Some(token) => session::find(&mut conn, &workspace.id, side, token).await.map_err(|e| named(e.into()))?,
        None => None,
    };
    drop(conn);
    if let Who::Roles(roles) = who {
        match &session {
            None => return Err(named(Failure::SignIn { side, next: next_of(&request) })),
            Some(session) if !roles.contains(&session.person.role) => {
                let role = session.person.role.label().to_lowercase();
                let detail =
                    format!("Your role ({role}) does not include this page. Someone who administers the account can change your role.");
                return Err(named(Problem::forbidden(detail).into()));
            }
            Some(_) => {}
        }
    }
    let browser = request.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let ctx = Ctx { workspace, session, side, address: address(&request), browser, done: query_value(&request, "done") };
    let mut request = if request.method() == Method::POST { own_form(request, who, &ctx).await.map_err(named)? } else { request };
    request.extensions_mut().insert(ctx);
    Ok(request)
}

fn host(headers: &HeaderMap) -> &str {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name)
}

fn address(request: &Request) -> String {
    request.extensions().get::<ConnectInfo<SocketAddr>>().map_or_else(|| "unknown".to_owned(), |info| info.0.ip().to_string())
}

fn query_value(request: &Request, name: &str) -> Option<String> {
    let query = request.uri().query()?;
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Where to go after signing in: the page asked for, when asking again does no harm.
fn next_of(request: &Request) -> String {
    if request.method() == Method::GET {
        request.uri().path_and_query().map(ToString::to_string).unwrap_or_default()
    } else {
        String::new()
    }
}

/// A form must come from a page of ours, and, where it acts in someone's name, from a page of this very session.
async fn own_form(request: Request, who: Who, ctx: &Ctx) -> Result<Request, Failure> {
    if !same_origin(request.headers()) {
        return Err(Failure::Forged);
    }
    let (Who::Roles(_), Some(session)) = (who, &ctx.session) else { return Ok(request) };
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, MAX_FORM).await.map_err(|_| Problem::too_large(MAX_FORM))?;
    let accepted = url::form_urlencoded::parse(&bytes).any(|(key, value)| key == "csrf" && session.accepts(&value));
    if !accepted {
        return Err(Failure::Forged);
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// By `Sec-Fetch-Site`, which pages cannot set, else by `Origin` against `Host`. A client that sends neither is no
/// browser, and has no cookies but its own.
fn same_origin(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
    origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(|(_, authority)| !host.is_empty() && authority == host)
}

/// Turns what was said into a page, and a redirect of a part of a page into one of the whole page.
fn finish(mut response: Response, side: Side, provider: &str, htmx: bool) -> Response {
    if htmx
        && response.status() == StatusCode::SEE_OTHER
        && let Some(to) = response.headers().get(header::LOCATION).cloned()
    {
        let mut whole = StatusCode::NO_CONTENT.into_response();
        whole.headers_mut().insert("hx-redirect", to);
        return whole;
    }
    let Some(said) = response.extensions_mut().remove::<Said>() else { return response };
    let home = if side == Side::Console { ("To the overview", "/console") } else { ("To the start", "/") };
    let actions = said.back.map_or_else(|| vec![Action::new(home.0, home.1)], |(label, href)| vec![Action::new(label, href)]);
    let page = MessagePage { shell: Shell::gate(&said.title, provider), title: said.title, text: said.text, actions };
    let (mut parts, _) = response.into_parts();
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(askama::Template::render(&page).unwrap_or_default()))
}

/// A rendered page.
pub fn page(template: &impl askama::Template) -> Result<Response, Failure> {
    Ok(Html(template.render().map_err(|e| Failure::internal(&e))?).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (header::HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn a_form_from_another_site_is_told_by_what_pages_cannot_set() {
        assert!(same_origin(&headers(&[("sec-fetch-site", "same-origin"), ("origin", "null")])));
        assert!(!same_origin(&headers(&[("sec-fetch-site", "cross-site"), ("origin", "http://a.example"), ("host", "a.example")])));
        assert!(!same_origin(&headers(&[("sec-fetch-site", "same-site")])));
        assert!(same_origin(&headers(&[("origin", "http://a.example:8080"), ("host", "a.example:8080")])));
        assert!(!same_origin(&headers(&[("origin", "http://b.example"), ("host", "a.example")])));
        assert!(!same_origin(&headers(&[("origin", "null"), ("host", "a.example")])));
        assert!(same_origin(&headers(&[("host", "a.example")])));
    }

    #[test]
    fn the_host_is_taken_without_its_port() {
        assert_eq!(host(&headers(&[("host", "a.example:8080")])), "a.example");
        assert_eq!(host(&headers(&[("host", "a.example")])), "a.example");
        assert_eq!(host(&headers(&[("host", "[::1]:80")])), "[::1]");
    }
}
